//! Where a registry's content is fetched from: the keys `registry.mirrors` and
//! `registry.insecure`, and the `<host>/hosts.toml` files that containerd's users already have
//! (`server`, and per host `capabilities`, `ca`, `client`, `skip_verify`, `override_path`,
//! `header`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use super::tls::Tls;
use super::{RegistryConfig, RegistryError};

/// One place to fetch from.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Ends in `/`, includes `v2/`.
    pub(super) base: Url,
    /// Whether it is the registry itself; a mirror gets no credentials of the request.
    pub(super) upstream: bool,
    /// May turn a tag into a digest.
    pub(super) resolves: bool,
    pub(super) tls: Tls,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// The places for `registry` (as in a reference), in the order they are to be asked.
pub(super) fn endpoints(config: &RegistryConfig, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
    if let Some(folder) = hosts_folder(&config.hosts_folders, registry) {
        let file = folder.join("hosts.toml");
        return HostsFile {
            file: &file,
            folder: &folder,
            registry,
            config,
        }
        .endpoints();
    }
    let mut endpoints = Vec::new();
    for mirror in config.mirrors.get(registry).into_iter().flatten() {
        let key = || PathBuf::from(format!("registry.mirrors.{registry:?}"));
        endpoints.extend(
            server(config, mirror, false)
                .map_err(|problem| RegistryError::Config { file: key(), problem })?,
        );
    }
    endpoints.extend(upstream(config, registry)?);
    Ok(endpoints)
}

/// The registry itself, with no file saying otherwise.
fn upstream(config: &RegistryConfig, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
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

fn endpoint(text: &str, upstream: bool, override_path: bool) -> Result<Endpoint, String> {
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
        resolves: true,
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

/// The folder of the host, or `_default` of the first place that has one.
fn hosts_folder(places: &[PathBuf], registry: &str) -> Option<PathBuf> {
    // A colon is awkward in some file systems, hence the second spelling.
    let spelled = match registry.rsplit_once(':') {
        Some((host, port)) => vec![registry.to_owned(), format!("{host}_{port}_")],
        None => vec![registry.to_owned()],
    };
    let candidates = |name: &str| {
        places
            .iter()
            .map(|place| place.join(name))
            .find(|folder| folder.join("hosts.toml").is_file())
    };
    spelled
        .iter()
        .find_map(|name| candidates(name))
        .or_else(|| candidates("_default"))
}

struct HostsFile<'a> {
    file: &'a Path,
    folder: &'a Path,
    registry: &'a str,
    config: &'a RegistryConfig,
}

impl HostsFile<'_> {
    fn endpoints(&self) -> Result<Vec<Endpoint>, RegistryError> {
        let text = std::fs::read_to_string(self.file).map_err(|error| self.wrong(error))?;
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| self.wrong(error.message()))?;
        let mut endpoints = Vec::new();
        match table.get("host") {
            None => {}
            Some(toml::Value::Table(hosts)) => {
                for (url, settings) in hosts {
                    let settings = settings
                        .as_table()
                        .ok_or_else(|| self.wrong("host must be a table of tables"))?;
                    endpoints.extend(self.host(url, settings)?);
                }
            }
            Some(_) => return Err(self.wrong("host must be a table")),
        }
        let own = match table.get("server") {
            None => upstream(self.config, self.registry)?,
            Some(server) => {
                let server = server
                    .as_str()
                    .ok_or_else(|| self.wrong("server must be a string"))?;
                self.configure(server, &table, true)?.into_iter().collect()
            }
        };
        endpoints.extend(own);
        Ok(endpoints)
    }

    fn host(&self, url: &str, settings: &toml::Table) -> Result<Option<Endpoint>, RegistryError> {
        self.configure(url, settings, false)
    }

    /// `None` when the host may not be pulled from at all.
    fn configure(
        &self,
        url: &str,
        settings: &toml::Table,
        upstream: bool,
    ) -> Result<Option<Endpoint>, RegistryError> {
        let with_scheme = match url {
            _ if url.contains("://") => url.to_owned(),
            _ if is_loopback(url) => format!("http://{url}"),
            _ => format!("https://{url}"),
        };
        let flag = |name: &str| match settings.get(name) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(format_args!("{name} must be true or false"))),
        };
        let mut endpoint = endpoint(&with_scheme, upstream, flag("override_path")?)
            .map_err(|problem| self.wrong(problem))?;
        // The registry itself may be listed as a host to give it settings; it stays itself.
        endpoint.upstream |= authority(&endpoint.base) == host_of(self.registry);
        endpoint.tls.skip_verify = flag("skip_verify")?;
        endpoint.tls.authorities = self.files(settings, "ca")?;
        endpoint.tls.client = self.client(settings)?;
        endpoint.headers = self.headers(settings)?;
        if let Some(capabilities) = settings.get("capabilities") {
            let has = |name| {
                capabilities
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| one.as_str() == Some(name)))
            };
            if !has("pull") {
                return Ok(None);
            }
            endpoint.resolves = has("resolve");
        }
        Ok(Some(endpoint))
    }

    fn files(&self, settings: &toml::Table, key: &str) -> Result<Vec<PathBuf>, RegistryError> {
        let file = |value: &toml::Value| {
            value
                .as_str()
                .map(|name| self.folder.join(name))
                .ok_or_else(|| self.wrong(format_args!("{key} must name files")))
        };
        match settings.get(key) {
            None => Ok(Vec::new()),
            Some(toml::Value::Array(names)) => names.iter().map(file).collect(),
            Some(name) => file(name).map(|file| vec![file]),
        }
    }

    /// `client = "pem"`, or `client = [["cert", "key"]]`; of several the first.
    fn client(&self, settings: &toml::Table) -> Result<Option<(PathBuf, PathBuf)>, RegistryError> {
        let wrong = || self.wrong("client must be a file, or a list of [certificate, key]");
        let text = |value: &toml::Value| {
            value
                .as_str()
                .map(|name| self.folder.join(name))
                .ok_or_else(wrong)
        };
        let pair = |value: &toml::Value| match value {
            toml::Value::Array(pair) if pair.len() == 2 => Ok((text(&pair[0])?, text(&pair[1])?)),
            toml::Value::Array(_) => Err(wrong()),
            single => text(single).map(|file| (file.clone(), file)),
        };
        match settings.get("client") {
            None => Ok(None),
            Some(toml::Value::Array(several)) => several.first().map(pair).transpose(),
            Some(single) => pair(single).map(Some),
        }
    }

    fn headers(&self, settings: &toml::Table) -> Result<Vec<(HeaderName, HeaderValue)>, RegistryError> {
        let Some(headers) = settings.get("header") else {
            return Ok(Vec::new());
        };
        let headers = headers
            .as_table()
            .ok_or_else(|| self.wrong("header must be a table"))?;
        let mut parsed = Vec::new();
        for (name, values) in headers {
            let bad = || self.wrong(format_args!("header {name:?} is malformed"));
            let name = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
            let values = values.as_array().cloned().unwrap_or_else(|| vec![values.clone()]);
            for value in values {
                let mut value = HeaderValue::try_from(value.as_str().ok_or_else(bad)?).map_err(|_| bad())?;
                value.set_sensitive(true);
                parsed.push((name.clone(), value));
            }
        }
        Ok(parsed)
    }

    fn wrong(&self, problem: impl ToString) -> RegistryError {
        RegistryError::Config {
            file: self.file.into(),
            problem: problem.to_string(),
        }
    }
}

fn host_of(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

/// `host[:port]`, the port only when it is not the scheme's own.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
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

    #[test]
    fn reads_hosts_files_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("quay.io_8443_");
        std::fs::create_dir(&host).unwrap();
        let text = r#"
            server = "https://quay.io:8443"
            [host."https://z.example"]
              capabilities = ["pull", "resolve"]
              skip_verify = true
            [host."https://push.example"]
              capabilities = ["push"]
            [host."https://a.example/registry"]
              capabilities = ["pull"]
              override_path = true
              ca = ["ca.pem"]
              [host."https://a.example/registry".header]
                x-custom = ["one"]
        "#;
        std::fs::write(host.join("hosts.toml"), text).unwrap();
        let config = RegistryConfig {
            hosts_folders: vec![folder.path().into()],
            ..RegistryConfig::default()
        };
        let found = endpoints(&config, "quay.io:8443").unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|e| (e.base.as_str(), e.resolves, e.upstream))
            .collect();
        assert_eq!(
            shown,
            [
                ("https://z.example/v2/", true, false),
                ("https://a.example/registry/", false, false),
                ("https://quay.io:8443/v2/", true, true)
            ]
        );
        assert!(found[0].tls.skip_verify);
        assert_eq!(found[1].tls.authorities, [host.join("ca.pem")]);
        assert_eq!(found[1].headers.len(), 1);
        assert_eq!(bases(&config, "other.io"), ["https://other.io/v2/"]);

        std::fs::write(host.join("hosts.toml"), "server = 7").unwrap();
        let refused = endpoints(&config, "quay.io:8443").unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("hosts.toml: server must be a string")
        );
    }
}
