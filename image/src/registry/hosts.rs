//! Where a registry's content is fetched from: the keys `registry.mirrors` and
//! `registry.insecure`, and the folders of `hosts_file`: a host's own before the keys, `_default` after.

use std::net::IpAddr;
use std::path::PathBuf;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use super::tls::Tls;
use super::{RegistryConfig, RegistryError, hosts_file};

/// One place to fetch from.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Ends in `/`, includes `v2/`.
    pub(super) base: Url,
    /// Whether it is the registry itself; a mirror gets no credentials of the request.
    pub(super) upstream: bool,
    /// May be asked for content.
    pub(super) pulls: bool,
    /// May turn a tag into a digest.
    pub(super) resolves: bool,
    /// May be given content.
    pub(super) pushes: bool,
    pub(super) tls: Tls,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Endpoint {
    /// `host[:port]`, the port only when it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// The places for `registry` (as in a reference), in the order they are to be asked.
pub(super) fn endpoints(config: &RegistryConfig, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
    let places = &config.hosts_folders;
    if let Some(folder) = hosts_file::of_host(places, registry) {
        return folder.endpoints(config, registry);
    }
    if !config.mirrors.contains_key(registry)
        && let Some(folder) = hosts_file::of_any(places)
    {
        return folder.endpoints(config, registry);
    }
    let mut endpoints = mirrors(config, registry)?;
    endpoints.extend(upstream(config, registry)?);
    Ok(endpoints)
}

/// Those of the key `registry.mirrors`.
pub(super) fn mirrors(config: &RegistryConfig, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
    let mut endpoints = Vec::new();
    for mirror in config.mirrors.get(registry).into_iter().flatten() {
        let key = || PathBuf::from(format!("registry.mirrors.{registry:?}"));
        let found = server(config, mirror, false);
        endpoints.extend(found.map_err(|problem| RegistryError::Config { file: key(), problem })?);
    }
    Ok(endpoints)
}

/// The registry itself, with no file saying otherwise.
pub(super) fn upstream(config: &RegistryConfig, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
    server(config, host_of(registry), true).map_err(|problem| RegistryError::Config {
        file: PathBuf::from(registry),
        problem,
    })
}

/// Endpoints for a URL or `host[:port]`. An insecure one is tried with unverified TLS first.
fn server(config: &RegistryConfig, text: &str, upstream: bool) -> Result<Vec<Endpoint>, String> {
    if text.contains("://") {
        return endpoint(text, upstream, false).map(|endpoint| vec![endpoint]);
    }
    let insecure = config.insecure.iter().any(|host| host == text);
    if is_loopback(text) {
        return Ok(vec![endpoint(&format!("http://{text}"), upstream, false)?]);
    }
    let mut secure = endpoint(&format!("https://{text}"), upstream, false)?;
    if !insecure {
        return Ok(vec![secure]);
    }
    secure.tls.skip_verify = true;
    Ok(vec![
        secure,
        endpoint(&format!("http://{text}"), upstream, false)?,
    ])
}

pub(super) fn endpoint(text: &str, upstream: bool, override_path: bool) -> Result<Endpoint, String> {
    let mut base = Url::parse(text).map_err(|error| format!("{error}"))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err("the URL must be http or https".into());
    }
    if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
        return Err("the URL must have no user, password or query".into());
    }
    let mut path = base.path().trim_end_matches('/').to_owned();
    if !override_path && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    base.set_path(&format!("{path}/"));
    let none = base.scheme() == "http";
    let direct = base.host_str().is_some_and(is_loopback);
    Ok(Endpoint {
        base,
        upstream,
        pulls: true,
        resolves: true,
        // Mirrors are copies; what is pushed goes to the original unless a file says otherwise.
        pushes: upstream,
        tls: Tls {
            none,
            direct,
            ..Tls::default()
        },
        headers: Vec::new(),
    })
}

/// Whether `host[:port]` is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Where a registry really is.
pub(super) fn host_of(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(config: &RegistryConfig, registry: &str) -> Vec<String> {
        endpoints(config, registry)
            .unwrap()
            .iter()
            .map(|endpoint| endpoint.base.to_string())
            .collect()
    }

    fn without_files() -> RegistryConfig {
        RegistryConfig {
            hosts_folders: Vec::new(),
            ..RegistryConfig::default()
        }
    }

    #[test]
    fn loopback_is_plain_and_the_rest_is_not() {
        let config = RegistryConfig {
            insecure: vec!["old.lan:5000".into()],
            ..without_files()
        };
        assert_eq!(bases(&config, "docker.io"), ["https://registry-1.docker.io/v2/"]);
        assert_eq!(bases(&config, "localhost:5000"), ["http://localhost:5000/v2/"]);
        assert_eq!(bases(&config, "[::1]:5000"), ["http://[::1]:5000/v2/"]);
        assert_eq!(bases(&config, "127.0.0.2"), ["http://127.0.0.2/v2/"]);
        assert_eq!(
            bases(&config, "localhost.evil.example"),
            ["https://localhost.evil.example/v2/"]
        );
        assert_eq!(
            bases(&config, "old.lan:5000"),
            ["https://old.lan:5000/v2/", "http://old.lan:5000/v2/"]
        );
    }

    #[test]
    fn mirrors_come_first_and_are_no_upstream() {
        let mirrors = [(
            "docker.io".to_owned(),
            vec!["https://m.example/prefix".into(), "localhost:1".into()],
        )];
        let config = RegistryConfig {
            mirrors: mirrors.into(),
            ..without_files()
        };
        let found = endpoints(&config, "docker.io").unwrap();
        let shown: Vec<_> = found.iter().map(|e| (e.base.as_str(), e.upstream)).collect();
        assert_eq!(
            shown,
            [
                ("https://m.example/prefix/v2/", false),
                ("http://localhost:1/v2/", false),
                ("https://registry-1.docker.io/v2/", true)
            ]
        );
    }
}
