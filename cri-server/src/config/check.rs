//! From what was written to what can be used: every value is checked here, and nowhere later.

mod network;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use image::{LayerFormat, LayerFormatChoice, Verifier};

use super::error::ConfigError;
use super::raw::{self, Raw};
use super::source::Places;
use super::{
    Cgroup, CgroupDriver, Config, Handler, Image, Limits, Log, LogFormat, Metrics, Registry,
    SeccompWhenUnset, Security, Streaming, Supervisor, TlsFiles, duration,
};

/// `sun_path` holds 108 bytes with its final NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// Kubelet and cAdvisor recognise these endings and then behave as if that runtime answered.
const SOCKETS_OF_OTHERS: &[&str] = &[
    "containerd.sock",
    "crio.sock",
    "cri-dockerd.sock",
    "dockershim.sock",
    "docker.sock",
    "frakti.sock",
];

type Result<T> = std::result::Result<T, ConfigError>;

pub(super) fn check((raw, places): (Raw, Places)) -> Result<Config> {
    let at = At(&places);
    let state_dir = at.directory("state_dir", &raw.state_dir)?;
    let data_dir = at.directory("data_dir", &raw.data_dir)?;
    if data_dir.starts_with(&state_dir) || state_dir.starts_with(&data_dir) {
        let problem = "must not contain, or lie in, `state_dir`: one dies with the boot and the other stays";
        return Err(at.wrong("data_dir", problem));
    }
    Ok(Config {
        socket: at.socket(&raw.socket)?,
        state_dir,
        data_dir,
        log: at.log(&raw.log)?,
        cgroup: at.cgroup(&raw.cgroup)?,
        supervisor: Supervisor {
            path: at.supervisor(&raw.supervisor.path)?,
        },
        network: at.network(&raw.network)?,
        registry: at.registry(&raw.registry)?,
        image: at.image(&raw.image)?,
        handlers: at.handlers(&raw.handlers)?,
        limits: at.limits(&raw.limits)?,
        metrics: at.metrics(&raw.metrics)?,
        security: at.security(&raw.security)?,
        streaming: at.streaming(&raw.streaming)?,
        cdi_dirs: at.paths("cdi.spec_dirs", &raw.cdi.spec_dirs)?,
        raw,
        source: None,
    })
}

/// Knows where each key was set.
struct At<'a>(&'a Places);

impl At<'_> {
    fn wrong(&self, key: &str, problem: impl Display) -> ConfigError {
        ConfigError::Value {
            place: self.0.of(key),
            key: key.to_owned(),
            problem: problem.to_string(),
        }
    }

    fn path(&self, key: &str, text: &str) -> Result<PathBuf> {
        let path = Path::new(text);
        let plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !plain || text.contains('\0') {
            return Err(self.wrong(key, format!("{text:?} must be an absolute path without `..`")));
        }
        Ok(path.components().collect())
    }

    fn directory(&self, key: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(key, text)?;
        if path.parent().is_none() {
            return Err(self.wrong(
                key,
                "the root directory cannot be used: name a directory of crisp's own",
            ));
        }
        Ok(path)
    }

    fn paths(&self, key: &str, texts: &[String]) -> Result<Vec<PathBuf>> {
        texts.iter().map(|text| self.path(key, text)).collect()
    }

    fn duration(&self, key: &str, text: &str, range: RangeInclusive<Duration>) -> Result<Duration> {
        match duration::parse(text) {
            Some(duration) if range.contains(&duration) => Ok(duration),
            Some(_) => Err(self.wrong(
                key,
                format!("{text:?} must be from {:?} to {:?}", range.start(), range.end()),
            )),
            None => Err(self.wrong(
                key,
                format!("{text:?} is no duration: write 500ms, 90s, 5m or 4h"),
            )),
        }
    }

    fn socket(&self, text: &str) -> Result<PathBuf> {
        let path = self.directory("socket", text)?;
        if text.len() > SOCKET_PATH_MAX {
            return Err(self.wrong(
                "socket",
                format!("a socket's path has at most {SOCKET_PATH_MAX} bytes"),
            ));
        }
        if let Some(other) = SOCKETS_OF_OTHERS.iter().find(|other| text.ends_with(*other)) {
            let problem = format!("must not end in {other:?}: kubelet would take crisp for that runtime");
            return Err(self.wrong("socket", problem));
        }
        Ok(path)
    }

    fn security(&self, security: &raw::Security) -> Result<Security> {
        let key = "security.seccomp_when_unset";
        let seccomp_when_unset = match security.seccomp_when_unset.as_str() {
            "Unconfined" => SeccompWhenUnset::Unconfined,
            "RuntimeDefault" => SeccompWhenUnset::RuntimeDefault,
            other => {
                return Err(self.wrong(
                    key,
                    format!("{other:?} must be \"Unconfined\" or \"RuntimeDefault\""),
                ));
            }
        };
        Ok(Security { seccomp_when_unset })
    }

    fn log(&self, log: &raw::Log) -> Result<Log> {
        if let Err(problem) = crate::telemetry::filter(&log.level) {
            let problem = format!(
                "{problem}; write off, error, warn, info, debug or trace, and MODULE=LEVEL for exceptions, with commas between"
            );
            return Err(self.wrong("log.level", problem));
        }
        let format = match log.format.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => return Err(self.wrong("log.format", format!("{other:?} must be \"text\" or \"json\""))),
        };
        Ok(Log {
            level: log.level.clone(),
            format,
        })
    }

    fn cgroup(&self, cgroup: &raw::Cgroup) -> Result<Cgroup> {
        let driver = match cgroup.driver.as_str() {
            "auto" => CgroupDriver::Auto,
            "cgroupfs" => CgroupDriver::Cgroupfs,
            "systemd" => CgroupDriver::Systemd,
            other => {
                return Err(self.wrong(
                    "cgroup.driver",
                    format!("{other:?} must be \"auto\", \"cgroupfs\" or \"systemd\""),
                ));
            }
        };
        let prefix = cgroup.prefix.clone();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if prefix.is_empty() || prefix.len() > 32 || !prefix.bytes().all(plain) {
            return Err(self.wrong("cgroup.prefix", "must be 1 to 32 letters, digits, `-` or `_`"));
        }
        Ok(Cgroup {
            driver,
            root: self.directory("cgroup.root", &cgroup.root)?,
            prefix,
        })
    }

    fn supervisor(&self, text: &str) -> Result<PathBuf> {
        if text.is_empty() || text.contains('/') {
            return self.path("supervisor.path", text);
        }
        let own = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(|dir| dir.join(text)));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&path)
            .map(|dir| dir.join(text))
            .filter(|found| found.is_absolute());
        let found = own
            .iter()
            .cloned()
            .chain(in_path)
            .find(|candidate| candidate.is_file());
        Ok(found.or(own).unwrap_or_else(|| Path::new("/usr/bin").join(text)))
    }

    fn registry(&self, registry: &raw::Registry) -> Result<Registry> {
        for (host, urls) in &registry.mirrors {
            let key = format!("registry.mirrors.{host}");
            self.host("registry.mirrors", host)?;
            let wrong = urls
                .iter()
                .find(|url| !url.starts_with("https://") && !url.starts_with("http://"));
            if let Some(url) = wrong {
                return Err(self.wrong(
                    &key,
                    format!("{url:?} must be a URL that starts with https:// or http://"),
                ));
            }
        }
        registry
            .insecure
            .iter()
            .try_for_each(|host| self.host("registry.insecure", host))?;
        Ok(Registry {
            mirrors: registry.mirrors.clone(),
            insecure: registry.insecure.clone(),
            docker_config: self.optional("registry.docker_config", &registry.docker_config)?,
            connections_per_host: self
                .count("registry.connections_per_host", registry.connections_per_host)?,
            config_dirs: self.paths("registry.config_dirs", &registry.config_dirs)?,
        })
    }

    fn host(&self, key: &str, host: &str) -> Result<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_*".contains(&byte);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(self.wrong(
                key,
                format!("{host:?} must be a host or host:port, without https://"),
            ));
        }
        Ok(())
    }

    fn image(&self, image: &raw::Image) -> Result<Image> {
        let limit = seconds(1, 600);
        let verifier = self.optional("image.verifier", &image.verifier)?;
        let limit = self.duration("image.verifier_timeout", &image.verifier_timeout, limit)?;
        Ok(Image {
            max_parallel_layers: self.count("image.max_parallel_layers", image.max_parallel_layers)?,
            keep_compressed: image.keep_compressed,
            layer_format: match image.layer_format.as_str() {
                "auto" => LayerFormatChoice::Probe,
                "directory" => LayerFormatChoice::Fixed(LayerFormat::Directory),
                "erofs" => LayerFormatChoice::Fixed(LayerFormat::Erofs),
                _ => {
                    let problem = "must be \"auto\", \"directory\" or \"erofs\"";
                    return Err(self.wrong("image.layer_format", problem));
                }
            },
            progress_timeout: self.duration(
                "image.progress_timeout",
                &image.progress_timeout,
                seconds(1, 86_400),
            )?,
            pinned: image
                .pinned
                .iter()
                .map(|name| self.pin(name))
                .collect::<Result<_>>()?,
            verifier: verifier.map(|program| Verifier { program, limit }),
        })
    }

    /// The name as images bear it: `pause:3.10` is `docker.io/library/pause:3.10`. What ends in `*` is the
    /// beginning of names and is taken as it is.
    fn pin(&self, name: &str) -> Result<String> {
        if name.ends_with('*') {
            return Ok(name.to_owned());
        }
        match name.parse::<image::Reference>() {
            Ok(reference) => Ok(reference.canonical().to_string()),
            Err(error) => Err(self.wrong("image.pinned", error)),
        }
    }

    fn count(&self, key: &str, count: u32) -> Result<usize> {
        match count {
            1..=64 => Ok(count as usize),
            _ => Err(self.wrong(key, "must be from 1 to 64")),
        }
    }

    /// A file that may be left out.
    fn optional(&self, key: &str, text: &str) -> Result<Option<PathBuf>> {
        (!text.is_empty()).then(|| self.path(key, text)).transpose()
    }

    fn handlers(&self, handlers: &BTreeMap<String, raw::Handler>) -> Result<BTreeMap<String, Handler>> {
        let mut checked = BTreeMap::new();
        for name in handlers.keys() {
            // What the API server accepts as `handler` of a RuntimeClass: a DNS label (RFC 1123).
            let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let edges = name.starts_with('-') || name.ends_with('-');
            if name.is_empty() || name.len() > 63 || edges || !name.bytes().all(label) {
                let problem = "a handler's name is 1 to 63 lower-case letters, digits or `-`";
                return Err(self.wrong(&format!("handlers.{name}"), problem));
            }
            checked.insert(name.clone(), Handler {});
        }
        Ok(checked)
    }

    fn streaming(&self, streaming: &raw::Streaming) -> Result<Streaming> {
        let address = streaming.address.parse().map_err(|_| {
            let problem = format!("{:?} is no address: write 127.0.0.1 or ::1", streaming.address);
            self.wrong("streaming.address", problem)
        })?;
        let tls = match (streaming.tls_certificate.as_str(), streaming.tls_key.as_str()) {
            ("", "") => None,
            (_, "") => return Err(self.wrong("streaming.tls_key", "is missing beside the certificate")),
            ("", _) => return Err(self.wrong("streaming.tls_certificate", "is missing beside the key")),
            (certificate, key) => Some(TlsFiles {
                certificate: self.path("streaming.tls_certificate", certificate)?,
                key: self.path("streaming.tls_key", key)?,
            }),
        };
        if !(1..=65_536).contains(&streaming.max_sessions) {
            return Err(self.wrong("streaming.max_sessions", "must be from 1 to 65536"));
        }
        Ok(Streaming {
            address,
            port: streaming.port,
            tls,
            idle_timeout: self.duration(
                "streaming.idle_timeout",
                &streaming.idle_timeout,
                seconds(1, 7 * 86_400),
            )?,
            max_sessions: streaming.max_sessions as usize,
        })
    }

    fn metrics(&self, metrics: &raw::Metrics) -> Result<Metrics> {
        let address = match metrics.address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                let problem = format!("{text:?} must be an address and port, such as 127.0.0.1:9477");
                self.wrong("metrics.address", problem)
            })?),
        };
        Ok(Metrics { address })
    }

    fn limits(&self, limits: &raw::Limits) -> Result<Limits> {
        let (soft, hard) = (limits.open_files_soft, limits.open_files_hard);
        if soft < 64 || soft > hard {
            let problem = "must be at least 64 and at most `limits.open_files_hard`";
            return Err(self.wrong("limits.open_files_soft", problem));
        }
        Ok(Limits {
            pids: (limits.pids != 0).then_some(limits.pids),
            open_files: (soft, hard),
            exec_drain: self.duration("limits.exec_drain", &limits.exec_drain, seconds(0, 60))?,
        })
    }
}

fn seconds(from: u64, to: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(from)..=Duration::from_secs(to)
}
