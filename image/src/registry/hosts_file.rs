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
mod tests {
    use super::super::hosts::endpoints;
    use super::*;

    fn bases(config: &RegistryConfig, registry: &str) -> Vec<String> {
        let endpoints = endpoints(config, registry).unwrap();
        endpoints
            .iter()
            .map(|endpoint| endpoint.base.to_string())
            .collect()
    }

    fn looking_in(folders: &[&Path]) -> RegistryConfig {
        RegistryConfig {
            hosts_folders: folders.iter().map(|folder| (*folder).to_owned()).collect(),
            ..RegistryConfig::default()
        }
    }

    fn write(folder: &Path, file: &str, text: &str) {
        let file = folder.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn hosts_are_asked_in_the_order_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"
            server = "https://quay.io:8443"
            [host."https://z.example"]
              capabilities = ["pull", "resolve"]
              skip_verify = true
            [host."https://push.example"]
              capabilities = ["push"]
            [host."https://none.example"]
              capabilities = []
            [host."https://a.example/registry"]
              capabilities = ["pull"]
              override_path = true
              ca = ["ca.pem"]
              client = [["c.pem", "k.pem"]]
              [host."https://a.example/registry".header]
                x-custom = ["one", "two"]
        "#;
        write(folder.path(), "quay.io_8443_/hosts.toml", text);
        let config = looking_in(&[folder.path()]);
        let found = endpoints(&config, "quay.io:8443").unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|e| (e.base.as_str(), e.pulls, e.resolves, e.pushes, e.upstream))
            .collect();
        assert_eq!(
            shown,
            [
                ("https://z.example/v2/", true, true, false, false),
                ("https://push.example/v2/", false, false, true, false),
                ("https://a.example/registry/", true, false, false, false),
                ("https://quay.io:8443/v2/", true, true, true, true)
            ]
        );
        let host = folder.path().join("quay.io_8443_");
        assert!(found[0].tls.skip_verify);
        assert_eq!(found[2].tls.authorities, [host.join("ca.pem")]);
        assert_eq!(
            found[2].tls.client,
            Some((host.join("c.pem"), host.join("k.pem")))
        );
        assert_eq!(found[2].headers.len(), 2);
        assert_eq!(bases(&config, "other.io"), ["https://other.io/v2/"]);
    }

    #[test]
    fn settings_without_a_server_are_the_registrys_own() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "docker.io/hosts.toml", "ca = \"/etc/ca.pem\"\n");
        let found = endpoints(&looking_in(&[folder.path()]), "docker.io").unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].upstream);
        assert_eq!(found[0].base.as_str(), "https://registry-1.docker.io/v2/");
        assert_eq!(found[0].tls.authorities, [PathBuf::from("/etc/ca.pem")]);
    }

    #[test]
    fn the_first_place_with_the_host_counts_and_default_comes_last() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mirror = |host: &str| format!("[host.\"https://{host}\"]\n");
        write(one.path(), "_default/hosts.toml", &mirror("any.example"));
        write(two.path(), "a.io/hosts.toml", &mirror("two.example"));
        let config = looking_in(&[one.path(), two.path()]);
        assert_eq!(
            bases(&config, "a.io"),
            ["https://two.example/v2/", "https://a.io/v2/"]
        );
        assert_eq!(
            bases(&config, "b.io"),
            ["https://any.example/v2/", "https://b.io/v2/"]
        );
        let mut keyed = looking_in(&[one.path(), two.path()]);
        let mirrors = vec!["https://key.example".to_owned()];
        keyed.mirrors = [("a.io", &mirrors), ("b.io", &mirrors)]
            .map(|(host, mirrors)| (host.to_owned(), mirrors.clone()))
            .into();
        assert_eq!(
            bases(&keyed, "a.io"),
            ["https://two.example/v2/", "https://a.io/v2/"],
            "a folder of the host's own goes before the key"
        );
        assert_eq!(
            bases(&keyed, "b.io"),
            ["https://key.example/v2/", "https://b.io/v2/"],
            "the key goes before what is for all hosts"
        );
        write(one.path(), "a.io/hosts.toml", &mirror("one.example"));
        assert_eq!(
            bases(&config, "a.io"),
            ["https://one.example/v2/", "https://a.io/v2/"]
        );
    }

    #[test]
    fn dockers_folders_hold_certificates() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["ca.crt", "me.cert", "me.key", "README"] {
            write(folder.path(), &format!("localhost:5000/{file}"), "");
        }
        let config = looking_in(&[folder.path()]);
        let found = endpoints(&config, "localhost:5000").unwrap();
        let host = folder.path().join("localhost:5000");
        assert_eq!(
            found[0].base.as_str(),
            "https://localhost:5000/v2/",
            "certificates mean TLS"
        );
        assert_eq!(found[0].tls.authorities, [host.join("ca.crt")]);
        assert_eq!(
            found[0].tls.client,
            Some((host.join("me.cert"), host.join("me.key")))
        );
        std::fs::remove_file(host.join("me.key")).unwrap();
        let refused = endpoints(&config, "localhost:5000").unwrap_err();
        assert!(refused.to_string().contains("has no key beside it"), "{refused}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = looking_in(&[folder.path()]);
        for (text, problem) in [
            ("server = 7", "server must be a string"),
            ("host = 7", "host must be a table"),
            ("[host]\n\"https://a.io\" = 1", "host must be a table of tables"),
            ("capabilities = \"pull\"", "capabilities must be a list"),
            ("skip_verify = \"no\"", "skip_verify must be true or false"),
            ("[host.\"ftp://a.io\"]", "the URL must be http or https"),
            ("[host.\"https://u:p@a.io\"]", "no user, password or query"),
            ("client = 7", "client must be a file"),
            ("ca = 7", "ca must name files"),
            ("[header]\n\"a b\" = \"c\"", "is malformed"),
            ("server = ", "hosts.toml"),
        ] {
            write(folder.path(), "a.io/hosts.toml", text);
            let refused = endpoints(&config, "a.io").unwrap_err().to_string();
            assert!(
                refused.contains(problem) && refused.contains("hosts.toml"),
                "{text}: {refused}"
            );
        }
    }
}
