//! What confines containers, as far as this node has it: seccomp filters, AppArmor profiles, SELinux labels, and the
//! capabilities that the daemon itself has to give.
//!
//! ```text
//!   Security (request) ──► AppArmor: ours is loaded, others are looked up ─┐
//!                     └──► SELinux: labels put together ───────────────────┴─► Confined ──► Spec
//!   Spec (capabilities) ─► seccomp: read, compiled, cached ──────────────────► Seccomp  ──► record
//! ```
//!
//! All of it is decided when a container is made: what cannot be had is refused there, before anything exists, and what
//! was decided stays with the container, for its start and for whatever is executed in it.

pub(crate) mod apparmor;
mod capabilities;
pub mod relabel;
mod seccomp;
mod selinux;

use std::path::Path;

use crate::Result;
use crate::config::Security as Defaults;
use crate::container::{Profile, Security};
use crate::pod::PodRecord;

pub use capabilities::Held;

/// The node's means of confinement.
#[derive(Debug)]
pub struct Confinement {
    held: Held,
    seccomp: seccomp::Filters,
    apparmor: apparmor::AppArmor,
    selinux: selinux::Selinux,
}

/// What the security modules are to be told of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confined {
    /// A profile that is loaded.
    pub apparmor: Option<String>,
    /// SELinux label of its processes.
    pub process_label: Option<String>,
    /// SELinux label of its files.
    pub mount_label: Option<String>,
}

impl Confinement {
    /// Looks at what the node has, below `root` (`/`, but for tests).
    pub fn detect(defaults: &Defaults, root: &Path) -> Self {
        Self {
            held: Held::by_this_process(),
            seccomp: seccomp::Filters::new(defaults.seccomp_when_unset),
            apparmor: apparmor::AppArmor::detect(root),
            selinux: selinux::Selinux::detect(root),
        }
    }

    /// The capabilities that can be given to a container.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// The profiles and labels of a container. The default AppArmor profile is loaded when it is not.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a profile that the node does not have.
    pub async fn of(&self, security: &Security, pod: &PodRecord) -> Result<Confined> {
        let labels = self.labels(security, pod);
        Ok(Confined {
            apparmor: self
                .apparmor
                .profile(&security.apparmor, security.privileged)
                .await?,
            process_label: labels.as_ref().map(|labels| labels.process.clone()),
            mount_label: labels.map(|labels| labels.files),
        })
    }

    /// Whether files have SELinux labels here.
    pub fn has_selinux(&self) -> bool {
        self.selinux.is_enabled()
    }

    /// The SELinux label of what a pod's containers share.
    pub fn shared_label(&self, pod: &PodRecord) -> Option<String> {
        self.labels(&Security::default(), pod).map(|labels| labels.files)
    }

    fn labels(&self, security: &Security, pod: &PodRecord) -> Option<selinux::Labels> {
        let options = security.selinux.as_ref().or(pod.config.selinux.as_ref());
        self.selinux.labels(options, &pod.id, security.privileged)
    }

    /// The filter of a container whose specification stands.
    ///
    /// # Errors
    /// [`crate::Error::Seccomp`] for a profile that cannot be read or has no meaning.
    pub async fn seccomp(
        &self,
        security: &Security,
        spec: &oci_spec::runtime::Spec,
    ) -> Result<Option<crate::container::Seccomp>> {
        match security.privileged {
            // Privileged means that nothing is in the way.
            true => Ok(None),
            false => self.seccomp.of(&security.seccomp, spec).await,
        }
    }

    /// The profile that a container is filtered by, for those who look at it.
    pub fn seccomp_profile(
        &self,
        seccomp: &crate::container::Seccomp,
        spec: &oci_spec::runtime::Spec,
    ) -> Option<serde_json::Value> {
        match &seccomp.profile {
            Some(json) => serde_json::from_str(json).ok(),
            None => serde_json::to_value(seccomp::default_profile(spec)).ok(),
        }
    }
}

/// The profile that an unset one stands for, as the configuration may choose it.
pub(crate) fn unless_unset(asked: &Profile, when_unset: crate::config::SeccompWhenUnset) -> Profile {
    use crate::config::SeccompWhenUnset;
    match (asked, when_unset) {
        (Profile::Unset, SeccompWhenUnset::RuntimeDefault) => Profile::RuntimeDefault,
        (Profile::Unset, SeccompWhenUnset::Unconfined) => Profile::Unconfined,
        (asked, _) => asked.clone(),
    }
}
