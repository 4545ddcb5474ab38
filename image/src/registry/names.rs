//! Host names to addresses. A static binary cannot load the system's resolver modules, so the two
//! files that matter are read here: `hosts(5)` first, then the name servers of `resolv.conf(5)`.
//!
//! Both are read again when they change. Without a name server a name that `hosts` does not know is
//! an error: nobody is asked whom the administrator did not name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Where the two files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameFiles {
    /// `/etc/hosts`.
    pub hosts: PathBuf,
    /// `/etc/resolv.conf`.
    pub servers: PathBuf,
}

impl Default for NameFiles {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            servers: "/etc/resolv.conf".into(),
        }
    }
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
enum NameError {
    #[error("host name {0:?} is not known")]
    Unknown(String),
    #[error(
        "host name {host:?}: no name server to ask; add one to {}, or the host to {}",
        files.servers.display(), files.hosts.display()
    )]
    NoServer { host: String, files: NameFiles },
    #[error("host name {host:?}: the name servers of {} give no answer", servers.display())]
    NoAnswer { host: String, servers: PathBuf },
}

/// The resolver of one pull's clients. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Names {
    files: NameFiles,
    asking: Arc<Mutex<Option<Asking>>>,
}

/// What asks the name servers.
#[derive(Debug)]
struct Asking {
    /// The text of `resolv.conf` that it was made from.
    text: Vec<u8>,
    resolver: TokioResolver,
}

impl Names {
    pub(super) fn new(files: &NameFiles) -> Self {
        Self {
            files: files.clone(),
            asking: Arc::default(),
        }
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        if is_this_machine(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let hosts = std::fs::read(&self.files.hosts).unwrap_or_default();
        let known = in_hosts(&String::from_utf8_lossy(&hosts), host);
        if !known.is_empty() {
            return Ok(known);
        }
        let resolver = self.resolver().ok_or_else(|| NameError::NoServer {
            host: host.into(),
            files: self.files.clone(),
        })?;
        match resolver.lookup_ip(host).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => {
                Err(NameError::Unknown(host.into()))
            }
            Err(error) => {
                tracing::debug!(host, %error, "name servers give no answer");
                Err(NameError::NoAnswer {
                    host: host.into(),
                    servers: self.files.servers.clone(),
                })
            }
        }
    }

    /// `None` when no server is configured.
    fn resolver(&self) -> Option<TokioResolver> {
        let text = std::fs::read(&self.files.servers).ok()?;
        let mut asking = self
            .asking
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = asking.as_ref().filter(|known| known.text == text) {
            return Some(known.resolver.clone());
        }
        let resolver = match resolver_of(&text, &self.files.servers) {
            Ok(resolver) => resolver,
            Err(error) => {
                tracing::debug!(file = %self.files.servers.display(), %error, "no name servers");
                return None;
            }
        };
        *asking = Some(Asking {
            text,
            resolver: resolver.clone(),
        });
        Some(resolver)
    }
}

fn resolver_of(text: &[u8], file: &Path) -> Result<TokioResolver, NetError> {
    let (config, mut options) = parse_resolv_conf(text)?;
    // Both families: the connection is made to whichever answers first.
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    // `hosts` was looked at already, as it is now and not as it was.
    options.use_hosts_file = ResolveHosts::Never;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    tracing::debug!(file = %file.display(), "name servers read");
    builder.build()
}

/// `localhost` is this machine whatever anybody says (RFC 6761, section 6.3).
fn is_this_machine(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.trim_end_matches('.');
    let line = |line: &str| -> Option<IpAddr> {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words
            .any(|name| name.eq_ignore_ascii_case(host))
            .then_some(address)
    };
    text.lines().filter_map(line).collect()
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = names.addresses(name.as_str()).await?;
            // The port is the caller's to fill in.
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Names {
        Names::new(&NameFiles {
            hosts: folder.join("hosts"),
            servers: folder.join("resolv.conf"),
        })
    }

    #[tokio::test]
    async fn hosts_are_read_again_and_localhost_needs_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(folder.path());
        assert!(
            names
                .addresses("localhost")
                .await
                .unwrap()
                .contains(&Ipv4Addr::LOCALHOST.into())
        );
        let hosts =
            "# registry.lan\n192.0.2.1 other registry.lan # ours\n2001:db8::1 Registry.LAN\nx registry.lan\n";
        std::fs::write(folder.path().join("hosts"), hosts).unwrap();
        let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(names.addresses("registry.lan").await.unwrap(), expected);
        std::fs::write(folder.path().join("hosts"), "192.0.2.2 registry.lan\n").unwrap();
        let expected: IpAddr = "192.0.2.2".parse().unwrap();
        assert_eq!(names.addresses("registry.lan.").await.unwrap(), [expected]);
    }

    #[tokio::test]
    async fn without_a_name_server_nobody_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(folder.path());
        for text in [None, Some(""), Some("search lan\n")] {
            if let Some(text) = text {
                std::fs::write(folder.path().join("resolv.conf"), text).unwrap();
            }
            let refused = names.addresses("registry.example").await.unwrap_err();
            assert!(matches!(refused, NameError::NoServer { .. }), "{refused}");
        }
    }

    #[tokio::test]
    async fn the_configured_server_is_asked_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        // A name server that knows nothing but the name of the first question.
        let mut socket = None;
        // Some addresses are taken, by the node's own or by this test in another process.
        for last in 1..=254 {
            socket = tokio::net::UdpSocket::bind(format!("127.0.53.{last}:53"))
                .await
                .ok();
            if socket.is_some() {
                break;
            }
        }
        let Some(socket) = socket else {
            println!("SKIPPED: port 53 cannot be bound");
            return;
        };
        let server = socket.local_addr().unwrap().ip();
        let serve = tokio::spawn(async move {
            let mut buffer = [0u8; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let answer = answer_a(&buffer[..length]);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        std::fs::write(
            folder.path().join("resolv.conf"),
            format!("nameserver {server}\n"),
        )
        .unwrap();
        let expected: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(
            names(folder.path()).addresses("registry.example").await.unwrap(),
            [expected]
        );
        serve.abort();
    }

    /// 192.0.2.7 for whatever A record is asked for, nothing for other types (RFC 1035, section 4).
    fn answer_a(question: &[u8]) -> Vec<u8> {
        let name_end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
        let is_a = question[name_end..name_end + 2] == [0, 1];
        let mut answer = question[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        answer.extend(&question[12..name_end + 4]);
        if is_a {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        }
        answer
    }
}
