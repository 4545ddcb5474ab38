//! Seccomp filters of containers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{Capabilities, LinuxSeccomp, Spec};
use runtime::seccomp::{
    Cache, Compiled, KernelVersion, Machine, SeccompError, SocketCall, Subject, localhost, runtime_default,
};

use super::unless_unset;
use crate::config::SeccompWhenUnset;
use crate::container::{Profile, Seccomp};
use crate::{Error, Result};

/// Filters that are kept compiled. A node has a handful of profiles, and the default one for a few sets of capabilities.
const KEPT: usize = 32;

/// Compiles filters, and remembers them.
#[derive(Debug)]
pub(super) struct Filters {
    cache: Cache,
    when_unset: SeccompWhenUnset,
    kernel: KernelVersion,
}

impl Filters {
    pub(super) fn new(when_unset: SeccompWhenUnset) -> Self {
        Self {
            cache: Cache::new(Machine::HOST, KEPT),
            when_unset,
            kernel: KernelVersion::host(),
        }
    }

    /// The filter of a container; `None` for an unconfined one.
    pub(super) async fn of(&self, asked: &Profile, spec: &Spec) -> Result<Option<Seccomp>> {
        match unless_unset(asked, self.when_unset) {
            Profile::Unset | Profile::Unconfined => Ok(None),
            Profile::RuntimeDefault => {
                let compiled = self.compile(&default_profile(spec), "RuntimeDefault")?;
                Ok(Some(Seccomp {
                    filter: compiled.filter.clone(),
                    profile: None,
                }))
            }
            Profile::Localhost(path) => {
                let profile = self.read(PathBuf::from(&path), bounding(spec)).await?;
                let compiled = self.compile(&profile, &path)?;
                Ok(Some(Seccomp {
                    filter: compiled.filter.clone(),
                    profile: serde_json::to_string(&profile).ok(),
                }))
            }
        }
    }

    fn compile(&self, profile: &LinuxSeccomp, name: &str) -> Result<Arc<Compiled>> {
        self.cache.compile(profile).map_err(|source| Error::Seccomp {
            profile: name.to_owned(),
            source,
        })
    }

    /// Reads a profile of the node, away from the async threads: it may lie on a file system that hangs.
    async fn read(&self, path: PathBuf, capabilities: Capabilities) -> Result<LinuxSeccomp> {
        let kernel = self.kernel;
        let read = move |path: &Path| {
            let subject = Subject {
                capabilities: &capabilities,
                machine: Machine::HOST,
                kernel,
            };
            localhost::read(path, &subject)
        };
        tokio::task::spawn_blocking(move || read(&path).map_err(|source| failed(&path, source)))
            .await
            .unwrap_or(Err(Error::Crashed))
    }
}

fn failed(path: &Path, source: SeccompError) -> Error {
    Error::Seccomp {
        profile: path.display().to_string(),
        source,
    }
}

/// The profile of a container that asks for the default one: it follows from its capabilities.
pub(super) fn default_profile(spec: &Spec) -> LinuxSeccomp {
    runtime_default(&bounding(spec), Machine::HOST, SocketCall::default())
}

fn bounding(spec: &Spec) -> Capabilities {
    let process = spec.process().as_ref();
    let sets = process.and_then(|process| process.capabilities().as_ref());
    sets.and_then(|sets| sets.bounding().clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters() -> Filters {
        Filters::new(SeccompWhenUnset::Unconfined)
    }

    #[tokio::test]
    async fn a_localhost_profile_is_kept_as_it_was_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
        std::fs::write(file.path(), text).unwrap();
        let asked = Profile::Localhost(file.path().display().to_string());
        let first = filters().of(&asked, &Spec::default()).await.unwrap().unwrap();
        assert!(first.profile.unwrap().contains("mkdir"));
        std::fs::write(file.path(), text.replace("mkdir", "rmdir")).unwrap();
        let second = filters().of(&asked, &Spec::default()).await.unwrap().unwrap();
        assert_ne!(first.filter, second.filter);
    }

    #[tokio::test]
    async fn a_bad_profile_is_named_with_the_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let asked = Profile::Localhost(file.path().display().to_string());
        for (text, part) in [
            ("", "is empty"),
            ("{\n  \"defaultAction\": 7\n}", "line 2 column"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}"#,
                "syscalls[0]",
            ),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = filters()
                .of(&asked, &Spec::default())
                .await
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(part) && error.contains(&file.path().display().to_string()),
                "{error}"
            );
        }
        let missing = Profile::Localhost("/nonexistent/profile.json".into());
        assert!(filters().of(&missing, &Spec::default()).await.is_err());
    }

    #[tokio::test]
    async fn what_unset_means_is_configured() {
        let of = |when_unset| async move {
            let filters = Filters::new(when_unset);
            filters
                .of(&Profile::Unset, &Spec::default())
                .await
                .unwrap()
                .is_some()
        };
        assert!(!of(SeccompWhenUnset::Unconfined).await);
        assert!(of(SeccompWhenUnset::RuntimeDefault).await);
    }
}
