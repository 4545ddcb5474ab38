//! The pod network's part of the configuration.

use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

use super::{At, Result, seconds};
use crate::config::{Embedded, Network, raw};

/// IFNAMSIZ with its final NUL (netdevice(7)), less the `-hold` of the bridge's permanent port.
const BRIDGE_NAME_MAX: usize = 10;

impl At<'_> {
    pub(super) fn network(&self, network: &raw::Network) -> Result<Network> {
        if network.bin_dirs.is_empty() {
            return Err(self.wrong("network.bin_dirs", "needs at least one directory"));
        }
        Ok(Network {
            conf_dir: self.path("network.conf_dir", &network.conf_dir)?,
            bin_dirs: self.paths("network.bin_dirs", &network.bin_dirs)?,
            chain_timeout: self.duration(
                "network.chain_timeout",
                &network.chain_timeout,
                seconds(1, 3600),
            )?,
            embedded: self.embedded(&network.embedded)?,
        })
    }

    fn embedded(&self, embedded: &raw::Embedded) -> Result<Embedded> {
        let bridge = embedded.bridge.clone();
        let usable = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
        if bridge.is_empty() || bridge.len() > BRIDGE_NAME_MAX || bridge == "." || !bridge.bytes().all(usable)
        {
            let problem =
                format!("{bridge:?} must be 1 to {BRIDGE_NAME_MAX} letters, digits, `-`, `_` or `.`");
            return Err(self.wrong("network.embedded.bridge", problem));
        }
        let subnet6 = match embedded.subnet6.as_str() {
            "" => None,
            text => Some(self.subnet(
                "network.embedded.subnet6",
                text,
                48..=120,
                "IPv6 subnet: write fd00:85::/64",
            )?),
        };
        let mtu = match embedded.mtu {
            0 => None,
            // The smallest that IPv6 works with (RFC 8200, section 5); the largest is that of the loopback link.
            mtu @ 1280..=65_536 => Some(mtu),
            mtu => {
                return Err(self.wrong(
                    "network.embedded.mtu",
                    format!("{mtu} must be 0 or from 1280 to 65536"),
                ));
            }
        };
        Ok(Embedded {
            enabled: embedded.enabled,
            bridge,
            subnet: self.subnet(
                "network.embedded.subnet",
                &embedded.subnet,
                8..=29,
                "IPv4 subnet: write 10.85.0.0/16",
            )?,
            subnet6,
            mtu,
        })
    }

    /// A subnet of one address family with room for pods.
    fn subnet<N: FromStr + Copy + Into<IpNet>>(
        &self,
        key: &str,
        text: &str,
        prefixes: RangeInclusive<u8>,
        what: &str,
    ) -> Result<N> {
        let parsed: N = text
            .parse()
            .map_err(|_| self.wrong(key, format!("{text:?} is no {what}")))?;
        let net: IpNet = parsed.into();
        let (least, most) = (prefixes.start(), prefixes.end());
        if !prefixes.contains(&net.prefix_len()) {
            return Err(self.wrong(key, format!("{text:?} must be from /{least} to /{most}")));
        }
        if net.trunc() != net {
            return Err(self.wrong(
                key,
                format!("{text:?} has bits beyond its prefix: write {}", net.trunc()),
            ));
        }
        let address = net.addr();
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
            return Err(self.wrong(
                key,
                format!("{text:?} holds no addresses for pods: use a private subnet"),
            ));
        }
        Ok(parsed)
    }
}
