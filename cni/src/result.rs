//! Results of ADD, of every version, as one type.
//!
//! From 0.3.1 to 1.1.0 the shape differs little: an address of 0.x carries a `version` of `"4"` or `"6"`, later
//! versions dropped it. The JSON as the plugin wrote it is kept beside the parsed form: DEL and CHECK must hand
//! it back, unknown fields included.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::conf::SpecVersion;

/// What a chain made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkResult {
    /// Links that were made, on the host and in the pod.
    pub interfaces: Vec<Interface>,
    /// Addresses, in the order that the plugins gave.
    pub ips: Vec<Address>,
    /// Routes in the pod.
    pub routes: Vec<Route>,
    /// Name server settings.
    pub dns: Dns,
}

/// A link that was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The path of the namespace it is in; empty on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address with the length of its subnet's prefix.
    pub address: IpNet,
    /// The subnet's gateway.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub gateway: Option<IpAddr>,
    /// The index in `interfaces` of the link that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route in the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; none is the address' gateway.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub gw: Option<IpAddr>,
}

/// Name server settings of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub options: Vec<String>,
}

impl NetworkResult {
    /// Reads a result of any version that we speak.
    pub(crate) fn parse(raw: &Value) -> Result<Self, String> {
        let Value::Object(fields) = raw else {
            return Err("not a JSON object".into());
        };
        match fields.get("cniVersion").and_then(Value::as_str) {
            Some(version) if SpecVersion::parse(version).is_some() || version == "0.3.0" => {}
            Some(version) => return Err(format!("cniVersion {version} is not spoken")),
            None => return Err("cniVersion is missing".into()),
        }
        // Go encodes an empty list as null.
        let filled = fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(k, v)| (k.clone(), v.clone()));
        let result: NetworkResult =
            serde_json::from_value(Value::Object(filled.collect())).map_err(|error| error.to_string())?;
        let dangling = |address: &Address| {
            address
                .interface
                .is_some_and(|index| index >= result.interfaces.len())
        };
        if result.ips.iter().any(dangling) {
            return Err("an address names an interface that is not listed".into());
        }
        Ok(result)
    }

    /// The pod's own addresses, in order: those on a link in a namespace, or on no link in particular.
    pub fn pod_addresses(&self) -> Vec<&Address> {
        let in_pod = |address: &&Address| {
            address
                .interface
                .and_then(|index| self.interfaces.get(index))
                .is_none_or(|link| !link.sandbox.is_empty())
        };
        self.ips.iter().filter(in_pod).collect()
    }

    /// The pod's link of that name.
    pub fn pod_link(&self, name: &str) -> Option<&Interface> {
        self.interfaces
            .iter()
            .find(|link| !link.sandbox.is_empty() && link.name == name)
    }

    /// The host's end of the pod's link: plugins list it last among the links of the host.
    pub fn host_link(&self) -> Option<&Interface> {
        self.interfaces.iter().rev().find(|link| link.sandbox.is_empty())
    }
}

/// The same result in the form of another version.
pub(crate) fn in_version(mut raw: Value, version: SpecVersion) -> Value {
    raw["cniVersion"] = version.as_str().into();
    if let Some(Value::Array(addresses)) = raw.get_mut("ips") {
        for address in addresses.iter_mut().filter_map(Value::as_object_mut) {
            if version >= SpecVersion::V1_0_0 {
                address.remove("version");
            } else {
                let sixth = address
                    .get("address")
                    .and_then(Value::as_str)
                    .is_some_and(|text| text.contains(':'));
                address.insert("version".into(), if sixth { "6" } else { "4" }.into());
            }
        }
    }
    raw
}

/// Some plugins write an absent gateway as an empty text.
fn empty_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    match text.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn old() -> Value {
        json!({
            "cniVersion": "0.4.0",
            "interfaces": [
                {"name": "cni0", "mac": "aa:bb:cc:dd:ee:00"},
                {"name": "veth1", "mac": "aa:bb:cc:dd:ee:01"},
                {"name": "eth0", "mac": "aa:bb:cc:dd:ee:02", "sandbox": "/run/netns/x"}
            ],
            "ips": [
                {"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2},
                {"version": "6", "address": "fd00::5/64", "gateway": "", "interface": 2},
                {"version": "4", "address": "10.1.0.1/16", "interface": 0}
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
            "dns": {"nameservers": null, "search": ["a.b"]}
        })
    }

    #[test]
    fn the_pods_addresses_keep_their_order_and_the_hosts_are_left_out() {
        let result = NetworkResult::parse(&old()).expect("valid");
        let addresses: Vec<String> = result
            .pod_addresses()
            .iter()
            .map(|ip| ip.address.addr().to_string())
            .collect();
        assert_eq!(addresses, ["10.1.0.5", "fd00::5"]);
        assert_eq!(result.ips[1].gateway, None);
        assert_eq!(result.pod_link("eth0").expect("eth0").mac, "aa:bb:cc:dd:ee:02");
        assert_eq!(result.host_link().expect("veth1").name, "veth1");
        assert_eq!(result.dns.search, ["a.b"]);
    }

    #[test]
    fn versions_convert_both_ways() {
        let new = in_version(old(), SpecVersion::V1_1_0);
        assert_eq!(new["cniVersion"], "1.1.0");
        assert_eq!(new["ips"][0].get("version"), None);
        assert_eq!(in_version(new, SpecVersion::V0_4_0), old());
    }

    #[test]
    fn answers_that_are_no_result_are_refused() {
        for (raw, problem) in [
            (json!([]), "not a JSON object"),
            (json!({}), "cniVersion is missing"),
            (json!({"cniVersion": "7.0.0"}), "cniVersion 7.0.0 is not spoken"),
            (
                json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/8", "interface": 3}]}),
                "an address names an interface that is not listed",
            ),
        ] {
            assert_eq!(NetworkResult::parse(&raw).expect_err("refused"), problem);
        }
        assert!(
            NetworkResult::parse(&json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1"}]})).is_err()
        );
        assert!(NetworkResult::parse(&json!({"cniVersion": "1.0.0", "ips": null})).is_ok());
    }
}
