//! From an OCI runtime spec to a plan.
//!
//! The spec is the contract with whoever wrote it; nothing in it is silently dropped. A field that is not
//! supported, or that contradicts another or the pod, is refused with its name. The seccomp filter comes beside it,
//! compiled: [`LaunchPlan::filtered`]. What deliberately has no
//! effect: `ociVersion`, `annotations`, `root.path` (the root is in the [`LaunchContext`]), `linux.resources`
//! (written by [`Cgroup`]) and the paths of namespaces (the supervisor is in them).

mod context;
mod devices;
mod hooks;
mod mounts;
mod process;
mod user;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use super::plan::{CgroupEntry, ExecPlan, LaunchPlan, LayerPlan, PidMode, RootPlan, RootSource};
use super::pod::{IpcMode, NetworkMode};
use super::values::{ContainerPath, HostPath, ProcessString, Reason};
use crate::cgroup::Cgroup;
use crate::cgroup::systemd::Scope;

pub use context::{ExactStrings, ExecContext, HookContext, LaunchContext, Layer, PlanError, Rootfs, Sharing};
pub(crate) use mounts::PROC_OVERLAYS;

impl LaunchPlan {
    /// Validates a spec and turns it into a plan.
    ///
    /// # Errors
    /// [`PlanError`] with the name of the field.
    pub fn from_spec(spec: &Spec, context: &LaunchContext<'_>) -> Result<LaunchPlan, PlanError> {
        let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
        refuse_unsupported(spec, linux)?;
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let own_cgroup_namespace = check_namespaces(linux, context.sharing)?;
        check_cgroups_path(linux, context.cgroup)?;
        let user = user::convert(linux)?;
        let process = process::convert("process", process, &context.exact)?;
        user::check_identity(user.as_ref(), &process)?;
        let mut mounts = mounts::convert(
            spec.mounts().as_deref().unwrap_or_default(),
            context,
            own_cgroup_namespace,
        )?;
        let label = mount_label(linux)?;
        if let Some(label) = &label {
            mounts.iter_mut().for_each(|mount| mount.label(label));
        }
        let hooks = hooks::convert(spec, &context.hooks)?;
        let devices = devices::convert(linux.devices().as_deref().unwrap_or_default())?;
        Ok(LaunchPlan {
            root: RootPlan {
                label,
                ..root(spec, linux, &context.rootfs)?
            },
            mounts,
            devices,
            masked: paths("linux.maskedPaths", linux.masked_paths().as_deref())?,
            readonly: paths("linux.readonlyPaths", linux.readonly_paths().as_deref())?,
            pid: context.sharing.pid,
            cgroup: CgroupEntry {
                tasks: tasks(context.cgroup)?,
                namespace: own_cgroup_namespace,
            },
            process,
            user,
            hooks,
        })
    }
}

impl ExecPlan {
    /// Validates a process that is to run in a container.
    ///
    /// # Errors
    /// [`PlanError`] with the name of the field.
    pub fn from_process(process: &Process, context: &ExecContext<'_>) -> Result<ExecPlan, PlanError> {
        Ok(ExecPlan {
            cgroup: CgroupEntry {
                tasks: tasks(context.cgroup)?,
                namespace: true,
            },
            process: {
                let process = process::convert("process", process, &context.exact)?;
                user::check_identity(context.user.as_ref(), &process)?;
                process
            },
            user: context.user.clone(),
        })
    }
}

fn refuse_unsupported(spec: &Spec, linux: &Linux) -> Result<(), PlanError> {
    if spec.hostname().is_some() {
        return Err(PlanError::Contradiction {
            field: "hostname".into(),
            with: "the pod, which has the hostname",
        });
    }
    if linux.sysctl().as_ref().is_some_and(|sysctl| !sysctl.is_empty()) {
        return Err(PlanError::Contradiction {
            field: "linux.sysctl".into(),
            with: "the pod, which has the namespaces",
        });
    }
    if linux.seccomp().is_some() {
        return Err(PlanError::Contradiction {
            field: "linux.seccomp".into(),
            with: "the filter, which comes compiled",
        });
    }
    let not_empty = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let unsupported = [
        ("domainname", not_empty(spec.domainname())),
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.personality", linux.personality().is_some()),
        (
            "linux.timeOffsets",
            linux.time_offsets().as_ref().is_some_and(|map| !map.is_empty()),
        ),
        (
            "linux.netDevices",
            linux.net_devices().as_ref().is_some_and(|map| !map.is_empty()),
        ),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
    ];
    refuse(&unsupported)
}

fn refuse(unsupported: &[(&str, bool)]) -> Result<(), PlanError> {
    match unsupported.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(PlanError::Unsupported {
            field: (*field).into(),
        }),
        None => Ok(()),
    }
}

/// Checks that the spec lists the namespaces that the container will be in, and returns whether it has a cgroup
/// namespace of its own.
fn check_namespaces(linux: &Linux, sharing: Sharing) -> Result<bool, PlanError> {
    let field =
        |kind: LinuxNamespaceType| format!("linux.namespaces[{}]", format!("{kind:?}").to_lowercase());
    let listed = linux.namespaces().as_deref().unwrap_or_default();
    let find = |kind: LinuxNamespaceType| listed.iter().find(|namespace| namespace.typ() == kind);
    if find(LinuxNamespaceType::Time).is_some() {
        return Err(PlanError::Unsupported {
            field: field(LinuxNamespaceType::Time),
        });
    }
    for (index, namespace) in listed.iter().enumerate() {
        if listed[..index].iter().any(|other| other.typ() == namespace.typ()) {
            return Err(PlanError::Contradiction {
                field: field(namespace.typ()),
                with: "an earlier entry",
            });
        }
    }
    for kind in [LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup] {
        if find(kind).is_some_and(|namespace| namespace.path().is_some()) {
            return Err(PlanError::Unsupported {
                field: format!("{}.path", field(kind)),
            });
        }
    }
    if find(LinuxNamespaceType::Mount).is_none() {
        return Err(missing(&field(LinuxNamespaceType::Mount)));
    }
    let expected = [
        (LinuxNamespaceType::Network, sharing.network == NetworkMode::Pod),
        (LinuxNamespaceType::Ipc, sharing.ipc == IpcMode::Pod),
        (LinuxNamespaceType::Pid, sharing.pid != PidMode::Host),
    ];
    for (kind, wanted) in expected {
        if find(kind).is_some() != wanted {
            return Err(PlanError::Contradiction {
                field: field(kind),
                with: "what the pod shares",
            });
        }
    }
    let pid_path = find(LinuxNamespaceType::Pid).is_some_and(|namespace| namespace.path().is_some());
    if pid_path && sharing.pid == PidMode::Container {
        return Err(PlanError::Contradiction {
            field: field(LinuxNamespaceType::Pid),
            with: "what the pod shares",
        });
    }
    Ok(find(LinuxNamespaceType::Cgroup).is_some())
}

fn check_cgroups_path(linux: &Linux, cgroup: &Cgroup) -> Result<(), PlanError> {
    let Some(path) = linux.cgroups_path() else {
        return Ok(());
    };
    let relative = path.strip_prefix("/").unwrap_or(path);
    // A scope goes by the name that the tools around a runtime know, `<slice>:<prefix>:<id>`.
    let named = path.to_str().and_then(Scope::from_oci);
    if relative != cgroup.path() && (named.is_none() || named != Scope::of(cgroup)) {
        return Err(PlanError::Contradiction {
            field: "linux.cgroupsPath".into(),
            with: "the container's cgroup",
        });
    }
    Ok(())
}

fn root(spec: &Spec, linux: &Linux, rootfs: &Rootfs) -> Result<RootPlan, PlanError> {
    let source = root_source(rootfs)?;
    let shared = match linux.rootfs_propagation().as_deref().unwrap_or_default() {
        "" | "private" | "rprivate" | "slave" | "rslave" => false,
        "shared" | "rshared" => true,
        other => {
            return Err(invalid(
                "linux.rootfsPropagation",
                &other,
                "is no propagation type",
            ));
        }
    };
    let readonly = spec
        .root()
        .as_ref()
        .is_some_and(|root| root.readonly().unwrap_or(false));
    Ok(RootPlan {
        source,
        readonly,
        shared,
        label: None,
    })
}

fn root_source(rootfs: &Rootfs) -> Result<RootSource, PlanError> {
    Ok(match rootfs {
        Rootfs::Directory(path) => RootSource::Directory {
            path: host_path("rootfs.directory", path)?,
        },
        Rootfs::Overlay { lower, upper, work } => {
            layer_count(lower.len())?;
            RootSource::Overlay {
                lower: lower
                    .iter()
                    .map(|layer| overlay_path("rootfs.overlay.lower", layer))
                    .collect::<Result<_, _>>()?,
                upper: overlay_path("rootfs.overlay.upper", upper)?,
                work: overlay_path("rootfs.overlay.work", work)?,
            }
        }
        Rootfs::Layers { lower, upper, work } => {
            layer_count(lower.len())?;
            RootSource::Layers {
                lower: lower.iter().map(layer).collect::<Result<_, _>>()?,
                upper: host_path("rootfs.overlay.upper", upper)?,
                work: host_path("rootfs.overlay.work", work)?,
            }
        }
    })
}

/// The SELinux label of the root file system and of what is mounted afresh.
fn mount_label(linux: &Linux) -> Result<Option<String>, PlanError> {
    let label = process::label("linux.mountLabel", linux.mount_label().as_deref())?;
    Ok(label.map(|label| String::from_utf8_lossy(label.to_bytes()).into_owned()))
}

fn layer_count(count: usize) -> Result<(), PlanError> {
    match count {
        0 => Err(missing("rootfs.overlay.lower")),
        1..=500 => Ok(()),
        _ => Err(invalid(
            "rootfs.overlay.lower",
            &count,
            "layers are more than the 500 of overlayfs",
        )),
    }
}

fn layer(layer: &Layer) -> Result<LayerPlan, PlanError> {
    let path = |path| host_path("rootfs.overlay.lower", path);
    Ok(match layer {
        Layer::Directory(directory) => LayerPlan::Directory {
            path: path(directory)?,
        },
        Layer::Mounted { namespace, path: at } => LayerPlan::Mounted {
            namespace: path(namespace)?,
            path: path(at)?,
        },
    })
}

fn tasks(cgroup: &Cgroup) -> Result<Vec<HostPath>, PlanError> {
    cgroup
        .tasks_files()
        .iter()
        .map(|path| host_path("cgroup", path))
        .collect()
}

fn paths(field: &str, list: Option<&[String]>) -> Result<Vec<ContainerPath>, PlanError> {
    list.unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(index, path)| {
            let field = format!("{field}[{index}]");
            let parsed = container_path(&field, path.as_bytes())?;
            if parsed.is_root() {
                return Err(invalid(&field, path, "is the root"));
            }
            Ok(parsed)
        })
        .collect()
}

fn missing(field: &str) -> PlanError {
    PlanError::Missing { field: field.into() }
}

fn invalid(field: &str, value: &dyn ToString, reason: Reason) -> PlanError {
    PlanError::Invalid {
        field: field.into(),
        value: value.to_string(),
        reason,
    }
}

fn container_path(field: &str, bytes: &[u8]) -> Result<ContainerPath, PlanError> {
    ContainerPath::parse(bytes).map_err(|reason| invalid(field, &String::from_utf8_lossy(bytes), reason))
}

fn host_path(field: &str, path: &std::path::Path) -> Result<HostPath, PlanError> {
    use std::os::unix::ffi::OsStrExt;
    HostPath::parse(path.as_os_str().as_bytes()).map_err(|reason| invalid(field, &path.display(), reason))
}

/// A path that overlayfs takes in its options without any escaping.
fn overlay_path(field: &str, path: &std::path::Path) -> Result<HostPath, PlanError> {
    let path = host_path(field, path)?;
    if path
        .to_bytes()
        .iter()
        .any(|byte| matches!(byte, b'\\' | b':' | b',') || byte.is_ascii_control())
    {
        return Err(invalid(
            field,
            &path,
            "has a character that overlay options cannot carry",
        ));
    }
    Ok(path)
}

/// An argument or variable. Its value is never quoted in the error: it may be a secret.
fn process_string(field: &str, bytes: &[u8]) -> Result<ProcessString, PlanError> {
    ProcessString::parse(bytes).map_err(|reason| invalid(field, &"(hidden)", reason))
}

#[cfg(test)]
mod tests;
