//! SELinux labels of containers.
//!
//! Containers of a pod share a level with two categories of their own, by which the policy keeps pods apart although all
//! have the same type. The types come from the policy's `lxc_contexts`.

use std::path::Path;

use crate::container::SelinuxOptions;
use crate::ids::PodId;

/// Categories that policies define: `c0` to `c1023`.
const CATEGORIES: u32 = 1024;

/// SELinux as the node has it.
#[derive(Debug)]
pub(super) struct Selinux {
    contexts: Option<Contexts>,
}

/// The policy's labels for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contexts {
    process: Label,
    files: Label,
    /// Of processes that nothing is in the way of.
    privileged_type: String,
}

/// A label without its level.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Label {
    user: String,
    role: String,
    domain: String,
}

/// The labels of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labels {
    /// Of its processes.
    pub(super) process: String,
    /// Of its files.
    pub(super) files: String,
}

impl Selinux {
    pub(super) fn detect(root: &Path) -> Self {
        let enabled = root.join("sys/fs/selinux/enforce").exists();
        let config = std::fs::read_to_string(root.join("etc/selinux/config")).unwrap_or_default();
        let policy = value(&config, "SELINUXTYPE").unwrap_or("targeted");
        let path = root
            .join("etc/selinux")
            .join(policy)
            .join("contexts/lxc_contexts");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Self {
            contexts: enabled.then(|| Contexts::parse(&text)),
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.contexts.is_some()
    }

    /// The labels of a container; `None` on a node without SELinux, where a request for one has no effect.
    pub(super) fn labels(
        &self,
        options: Option<&SelinuxOptions>,
        pod: &PodId,
        privileged: bool,
    ) -> Option<Labels> {
        let contexts = self.contexts.as_ref()?;
        let unset = SelinuxOptions::default();
        let options = options.unwrap_or(&unset);
        let choose = |asked: &str, default: &str| if asked.is_empty() { default } else { asked }.to_owned();
        let default_type = match privileged {
            true => &contexts.privileged_type,
            false => &contexts.process.domain,
        };
        let level = match (options.level.as_str(), privileged) {
            // A privileged container may look into those of all pods.
            ("", true) => "s0".to_owned(),
            ("", false) => categories(pod),
            (level, _) => level.to_owned(),
        };
        let process = [
            choose(&options.user, &contexts.process.user),
            choose(&options.role, &contexts.process.role),
            choose(&options.domain, default_type),
            level.clone(),
        ];
        let files = &contexts.files;
        Some(Labels {
            process: process.join(":"),
            files: [&files.user, &files.role, &files.domain, &level]
                .map(String::as_str)
                .join(":"),
        })
    }
}

impl Contexts {
    /// Reads `process = "user:role:type:level"` and `file = …`; what is missing is as Fedora's policy has it.
    fn parse(text: &str) -> Self {
        let label = |key, domain: &str, role: &str| {
            let mut parts = value(text, key).unwrap_or_default().split(':');
            let mut part = |default: &str| match parts.next() {
                Some(part) if !part.is_empty() => part.to_owned(),
                _ => default.to_owned(),
            };
            Label {
                user: part("system_u"),
                role: part(role),
                domain: part(domain),
            }
        };
        Self {
            process: label("process", "container_t", "system_r"),
            files: label("file", "container_file_t", "object_r"),
            privileged_type: "spc_t".to_owned(),
        }
    }
}

/// The value of a `key = "value"` line.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().trim_matches('"'))
        .filter(|value| !value.is_empty())
}

/// Two different categories that follow from the pod's id, which is random: half a million pairs, of which no two pods
/// of a node are likely to share one, and nothing to remember or to give back.
fn categories(pod: &PodId) -> String {
    let number = u32::from_str_radix(&pod.as_str()[..8], 16).unwrap_or(0);
    let first = number % CATEGORIES;
    let second = (first + 1 + number / CATEGORIES % (CATEGORIES - 1)) % CATEGORIES;
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodId {
        PodId::generate().unwrap()
    }

    fn selinux(contexts: &str) -> Selinux {
        Selinux {
            contexts: Some(Contexts::parse(contexts)),
        }
    }

    #[test]
    fn pods_are_kept_apart_by_categories() {
        let selinux = selinux(
            "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n",
        );
        let (one, other) = (pod(), pod());
        let of = |pod| selinux.labels(None, pod, false).unwrap();
        assert_eq!(of(&one), of(&one));
        assert_ne!(of(&one).process, of(&other).process);
        let labels = of(&one);
        assert!(labels.process.starts_with("system_u:system_r:container_t:s0:c"));
        assert!(
            labels
                .files
                .starts_with("system_u:object_r:container_file_t:s0:c")
        );
        assert_eq!(
            labels.process.rsplit(':').next(),
            labels.files.rsplit(':').next(),
            "processes must reach their own files"
        );
    }

    #[test]
    fn categories_are_two_different_ones_in_order() {
        for _ in 0..1000 {
            let level = categories(&pod());
            let (low, high) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
            let (low, high): (u32, u32) = (low.parse().unwrap(), high.parse().unwrap());
            assert!(low < high && high < CATEGORIES, "{level}");
        }
    }

    #[test]
    fn what_is_asked_replaces_its_part_alone() {
        let options = SelinuxOptions {
            domain: "logreader_t".into(),
            level: "s0:c7,c9".into(),
            ..SelinuxOptions::default()
        };
        let labels = selinux("").labels(Some(&options), &pod(), false).unwrap();
        assert_eq!(labels.process, "system_u:system_r:logreader_t:s0:c7,c9");
        assert_eq!(labels.files, "system_u:object_r:container_file_t:s0:c7,c9");
        let privileged = selinux("").labels(None, &pod(), true).unwrap();
        assert_eq!(privileged.process, "system_u:system_r:spc_t:s0");
    }

    #[test]
    fn a_node_without_selinux_has_no_labels() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Selinux::detect(root.path()).labels(None, &pod(), false), None);
        std::fs::create_dir_all(root.path().join("sys/fs/selinux")).unwrap();
        std::fs::write(root.path().join("sys/fs/selinux/enforce"), "1").unwrap();
        std::fs::create_dir_all(root.path().join("etc/selinux/mls/contexts")).unwrap();
        std::fs::write(
            root.path().join("etc/selinux/config"),
            "SELINUX=enforcing\nSELINUXTYPE=mls\n",
        )
        .unwrap();
        std::fs::write(
            root.path().join("etc/selinux/mls/contexts/lxc_contexts"),
            "process = \"u:r:svirt_lxc_net_t:s0\"\n",
        )
        .unwrap();
        let labels = Selinux::detect(root.path()).labels(None, &pod(), false).unwrap();
        assert!(labels.process.starts_with("u:r:svirt_lxc_net_t:"), "{labels:?}");
    }
}
