//! What a folder `certs.d/<host>` says of a registry.
//!
//! ```text
//!   <host>/hosts.toml            containerd's format: mirrors and how each is reached
//!   <host>/*.crt *.cert *.key    Docker's format: authorities, client certificates with their keys
//! ```
//!
//! The first of the three places that has the host counts; `_default` stands for all hosts that have
//! neither a folder nor mirrors in the configuration. (containerd, docs/hosts.md; Docker, "Verify repository client with certificates".)

use std::path::{Path, PathBuf};

use reqwest::header::{HeaderName, HeaderValue};
use toml::{Table, Value};

use super::hosts::{Endpoint, endpoint, host_of, is_loopback, mirrors, upstream};
use super::{RegistryConfig, RegistryError};

const FILE: &str = "hosts.toml";
const ANY_HOST: &str = "_default";
/// Settings that may stand beside `server`, for the registry itself.
const SETTINGS: [&str; 6] = [
    "capabilities",
    "ca",
    "client",
    "skip_verify",
    "header",
    "override_path",
];

/// A folder that speaks of a registry.
pub(super) enum Folder {
    /// It has a `hosts.toml`.
    Hosts(PathBuf),
    /// It has only certificates.
    Certificates(PathBuf),
}

/// The folder of just this host, in the first of the places that has one.
pub(super) fn of_host(places: &[PathBuf], registry: &str) -> Option<Folder> {
    // A colon is awkward in some file systems, hence the second spelling.
    let mut spelled = vec![registry.to_owned()];
    if let Some((host, port)) = registry.rsplit_once(':') {
        spelled.push(format!("{host}_{port}_"));
    }
    let mut folders = places
        .iter()
        .flat_map(|place| spelled.iter().map(move |name| place.join(name)));
    folders.find_map(Folder::at)
}

/// The folder for all hosts that have none of their own.
pub(super) fn of_any(places: &[PathBuf]) -> Option<Folder> {
    places
        .iter()
        .map(|place| place.join(ANY_HOST))
        .find_map(Folder::at)
}

impl Folder {
    fn at(path: PathBuf) -> Option<Self> {
        if path.join(FILE).is_file() {
            return Some(Self::Hosts(path));
        }
        let certificates = Certificates::of(&path).ok()?;
        (!certificates.is_empty()).then_some(Self::Certificates(path))
    }

    /// The places that the folder names for the registry, in the order in which they are to be asked.
    pub(super) fn endpoints(
        &self,
        config: &RegistryConfig,
        registry: &str,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        match self {
            Self::Hosts(folder) => HostsFile {
                file: &folder.join(FILE),
                folder,
                registry,
                config,
            }
            .endpoints(),
            Self::Certificates(folder) => {
                let wrong = |problem: String| RegistryError::Config {
                    file: folder.clone(),
                    problem,
                };
                let found = Certificates::of(folder).map_err(|error| wrong(error.to_string()))?;
                let mut only =
                    endpoint(&format!("https://{}", host_of(registry)), true, false).map_err(&wrong)?;
                only.tls.skip_verify = config.insecure.iter().any(|host| host == registry);
                only.tls.authorities = found.authorities;
                if let Some(certificate) = found.client {
                    let key = certificate.with_extension("key");
                    if !key.is_file() {
                        return Err(wrong(format!("{} has no key beside it", certificate.display())));
                    }
                    only.tls.client = Some((certificate, key));
                }
                let mut endpoints = mirrors(config, registry)?;
                endpoints.push(only);
                Ok(endpoints)
            }
        }
    }
}

/// Docker's way: `*.crt` are authorities, `*.cert` our own certificates.
#[derive(Default)]
struct Certificates {
    authorities: Vec<PathBuf>,
    client: Option<PathBuf>,
}

impl Certificates {
    fn of(folder: &Path) -> std::io::Result<Self> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            files.push(entry?.path());
        }
        files.sort();
        let mut found = Self::default();
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.push(file),
                Some("cert") if found.client.is_none() => found.client = Some(file),
                _ => {}
            }
        }
        Ok(found)
    }

    fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.client.is_none()
    }
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
        let table: Table = text
            .parse()
            .map_err(|error: toml::de::Error| self.wrong(error.message()))?;
        let mut endpoints = Vec::new();
        match table.get("host") {
            None => {}
            Some(Value::Table(hosts)) => {
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
            // Settings without a server are for the registry where it always is.
            None if SETTINGS.iter().any(|key| table.contains_key(*key)) => self
                .configure(host_of(self.registry), &table, true)?
                .into_iter()
                .collect(),
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

    fn host(&self, url: &str, settings: &Table) -> Result<Option<Endpoint>, RegistryError> {
        self.configure(url, settings, false)
    }

    /// `None` when the host may be asked for nothing.
    fn configure(
        &self,
        url: &str,
        settings: &Table,
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
        endpoint.upstream |= endpoint.authority() == host_of(self.registry);
        endpoint.tls.skip_verify = flag("skip_verify")?;
        endpoint.tls.authorities = self.files(settings, "ca")?;
        endpoint.tls.client = self.client(settings)?;
        endpoint.headers = self.headers(settings)?;
        if let Some(capabilities) = settings.get("capabilities") {
            let wrong = || self.wrong("capabilities must be a list of \"pull\", \"resolve\", \"push\"");
            let all = capabilities.as_array().ok_or_else(wrong)?;
            let all: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
            let all = all.ok_or_else(wrong)?;
            endpoint.pulls = all.contains(&"pull");
            endpoint.resolves = endpoint.pulls && all.contains(&"resolve");
            endpoint.pushes = all.contains(&"push");
        }
        Ok((endpoint.pulls || endpoint.pushes).then_some(endpoint))
    }

    fn files(&self, settings: &Table, key: &str) -> Result<Vec<PathBuf>, RegistryError> {
        let file = |value: &Value| {
            value
                .as_str()
                .map(|name| self.folder.join(name))
                .ok_or_else(|| self.wrong(format_args!("{key} must name files")))
        };
        match settings.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(names)) => names.iter().map(file).collect(),
            Some(name) => file(name).map(|file| vec![file]),
        }
    }

    /// `client = "pem"`, or `client = [["cert", "key"]]`; of several the first.
    fn client(&self, settings: &Table) -> Result<Option<(PathBuf, PathBuf)>, RegistryError> {
        let wrong = || self.wrong("client must be a file, or a list of [certificate, key]");
        let text = |value: &Value| {
            value
                .as_str()
                .map(|name| self.folder.join(name))
                .ok_or_else(wrong)
        };
        let pair = |value: &Value| match value {
            Value::Array(pair) if pair.len() == 2 => Ok((text(&pair[0])?, text(&pair[1])?)),
            Value::Array(_) => Err(wrong()),
            single => text(single).map(|file| (file.clone(), file)),
        };
        match settings.get("client") {
            None => Ok(None),
            Some(Value::Array(several)) => several.first().map(pair).transpose(),
            Some(single) => pair(single).map(Some),
        }
    }

    fn headers(&self, settings: &Table) -> Result<Vec<(HeaderName, HeaderValue)>, RegistryError> {
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

#[cfg(test)]
mod tests;
