//! Mounts: the entries of `mounts`, in their order.

use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::Mount;
use rustix::mount::MountAttrFlags as Attr;

use super::super::plan::{Attributes, FileSystem, MountPlan, MountSource, Propagation};
use super::{LaunchContext, PlanError, container_path, host_path, invalid, missing, user};
use crate::launch::userns::IdMapping;
use crate::launch::values::ContainerPath;

/// Files of procfs that may be covered by a mount: what lxcfs emulates, and two that container builders use.
pub(crate) const PROC_OVERLAYS: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Data options that each kind of fresh file system takes; all others are refused.
fn data_options(kind: FileSystem) -> &'static [&'static str] {
    match kind {
        FileSystem::Tmpfs | FileSystem::Dev => {
            &["size", "nr_inodes", "nr_blocks", "mode", "uid", "gid", "huge"]
        }
        FileSystem::Devpts => &["newinstance", "ptmxmode", "mode", "uid", "gid", "max"],
        FileSystem::Proc => &["hidepid", "subset"],
        FileSystem::Sysfs | FileSystem::Mqueue => &[],
    }
}

pub(super) fn convert(
    mounts: &[Mount],
    context: &LaunchContext<'_>,
    own_cgroup_namespace: bool,
) -> Result<Vec<MountPlan>, PlanError> {
    let plans = mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| convert_one(&format!("mounts[{index}]"), mount, context, own_cgroup_namespace))
        .collect::<Result<Vec<_>, _>>()?;
    let is_proc = |plan: &MountPlan| {
        matches!(
            plan.source,
            MountSource::Fresh {
                kind: FileSystem::Proc,
                ..
            }
        )
    };
    if !plans
        .iter()
        .any(|plan| is_proc(plan) && plan.target.to_bytes() == b"/proc")
    {
        return Err(missing("mounts[/proc]"));
    }
    if !plans.iter().any(|plan| plan.target.to_bytes() == b"/dev") {
        return Err(missing("mounts[/dev]"));
    }
    Ok(plans)
}

fn convert_one(
    field: &str,
    mount: &Mount,
    context: &LaunchContext<'_>,
    own_cgroup_namespace: bool,
) -> Result<MountPlan, PlanError> {
    let target_field = format!("{field}.destination");
    let target = container_path(&target_field, mount.destination().as_os_str().as_bytes())?;
    if target.is_root() {
        return Err(invalid(&target_field, &target, "is the root"));
    }
    let ids = user::mapping(
        &format!("{field}."),
        mount.uid_mappings().as_deref(),
        mount.gid_mappings().as_deref(),
    )?;
    let options = Options::parse(
        &format!("{field}.options"),
        mount.options().as_deref().unwrap_or_default(),
    )?;
    let kind = mount.typ().as_deref().unwrap_or_default();
    let is_bind = options.bind.is_some() || kind == "bind" || kind == "rbind";
    if ids.is_some() && !is_bind {
        return Err(PlanError::Contradiction {
            field: format!("{field}.uidMappings"),
            with: "a file system of the container's own",
        });
    }
    let source = if is_bind {
        bind(field, mount, &options, kind, ids)?
    } else if kind == "image" {
        image(field, mount, context, &options)?
    } else {
        fresh(field, kind, &target, context, &options, own_cgroup_namespace)?
    };
    check_target(&target_field, &target, &source)?;
    Ok(MountPlan {
        target,
        attributes: options.attributes,
        source,
    })
}

/// `/proc` and `/sys` carry fresh file systems only, and nothing else goes below `/proc` but a few known files.
fn check_target(field: &str, target: &ContainerPath, source: &MountSource) -> Result<(), PlanError> {
    let kind = match source {
        MountSource::Fresh { kind, .. } => Some(*kind),
        _ => None,
    };
    let allowed = match target.to_bytes() {
        b"/proc" => kind == Some(FileSystem::Proc),
        b"/sys" => kind == Some(FileSystem::Sysfs),
        path if target.is_within("/proc") => PROC_OVERLAYS.iter().any(|overlay| overlay.as_bytes() == path),
        _ => true,
    };
    if allowed {
        Ok(())
    } else {
        Err(invalid(field, target, "may not be covered"))
    }
}

/// What an image has at the path that the option `path` names, `/` without one.
fn image(
    field: &str,
    mount: &Mount,
    context: &LaunchContext<'_>,
    options: &Options,
) -> Result<MountSource, PlanError> {
    let source_field = format!("{field}.source");
    let source = mount.source().as_ref().ok_or_else(|| missing(&source_field))?;
    let name = source.to_string_lossy();
    let rootfs = context
        .images
        .get(&*name)
        .ok_or_else(|| invalid(&source_field, &name, "is no image of this container"))?;
    let mut path = "/";
    for (option, value) in &options.data {
        match option.as_str() {
            "path" => path = value,
            _ => {
                let options_field = format!("{field}.options");
                return Err(invalid(&options_field, option, "is no option of an image volume"));
            }
        }
    }
    Ok(MountSource::Image {
        root: super::root_source(rootfs)?,
        path: container_path(&format!("{field}.options (path)"), path.as_bytes())?,
    })
}

fn bind(
    field: &str,
    mount: &Mount,
    options: &Options,
    kind: &str,
    ids: Option<IdMapping>,
) -> Result<MountSource, PlanError> {
    if let Some((name, _)) = options.data.first() {
        return Err(invalid(
            &format!("{field}.options"),
            name,
            "is no option of a bind mount",
        ));
    }
    let source_field = format!("{field}.source");
    let source = mount.source().as_ref().ok_or_else(|| missing(&source_field))?;
    let (propagation, recursive_propagation) = options.propagation.unwrap_or((Propagation::Private, true));
    Ok(MountSource::Bind {
        path: host_path(&source_field, source)?,
        recursive: options.bind.unwrap_or(kind == "rbind"),
        propagation,
        recursive_propagation,
        ids,
        filled: options.filled,
    })
}

fn fresh(
    field: &str,
    kind: &str,
    target: &ContainerPath,
    context: &LaunchContext<'_>,
    options: &Options,
    own_cgroup_namespace: bool,
) -> Result<MountSource, PlanError> {
    let options_field = format!("{field}.options");
    if options
        .propagation
        .is_some_and(|(propagation, _)| propagation != Propagation::Private)
    {
        return Err(PlanError::Contradiction {
            field: options_field,
            with: "a file system of the container's own",
        });
    }
    let kind = match kind {
        "proc" => FileSystem::Proc,
        "sysfs" => FileSystem::Sysfs,
        "tmpfs" if target.to_bytes() == b"/dev" => FileSystem::Dev,
        "tmpfs" => FileSystem::Tmpfs,
        "devpts" => FileSystem::Devpts,
        "mqueue" => FileSystem::Mqueue,
        "cgroup" | "cgroup2" => {
            if let Some((name, _)) = options.data.first() {
                return Err(invalid(&options_field, name, "is no option of a cgroup mount"));
            }
            let writable = options.attributes.set & Attr::MOUNT_ATTR_RDONLY.bits() == 0;
            if writable && !own_cgroup_namespace {
                // CVE-2023-25809: without a namespace the mount shows the cgroups of the host.
                return Err(PlanError::Contradiction {
                    field: options_field,
                    with: "the host's cgroup namespace, which is mounted read-only",
                });
            }
            let layout = context.cgroup.mount_layout(own_cgroup_namespace);
            return Ok(MountSource::Cgroup {
                layout: layout.map_err(|reason| invalid("cgroup", target, reason))?,
            });
        }
        "" => return Err(missing(&format!("{field}.type"))),
        _ => {
            return Err(PlanError::Unsupported {
                field: format!("{field}.type ({kind})"),
            });
        }
    };
    for (name, _) in &options.data {
        if !data_options(kind).contains(&name.as_str()) {
            return Err(invalid(&options_field, name, "is no option of this file system"));
        }
    }
    Ok(MountSource::Fresh {
        kind,
        options: options.data.clone(),
    })
}

/// The fstab-style options of a mount, sorted by what they mean.
#[derive(Default)]
struct Options {
    /// `Some(recursive)` for `bind` and `rbind`.
    bind: Option<bool>,
    attributes: Attributes,
    propagation: Option<(Propagation, bool)>,
    /// `copyup`, a word of our own for bind mounts: the source is the container's own empty directory, to be filled
    /// with what the image has at the target.
    filled: bool,
    data: Vec<(String, String)>,
}

impl Options {
    fn parse(field: &str, words: &[String]) -> Result<Options, PlanError> {
        let mut options = Options::default();
        for word in words {
            if options.attribute(word) || options.propagation(word) {
                continue;
            }
            match word.as_str() {
                "bind" => options.bind = Some(options.bind.unwrap_or(false)),
                "rbind" => options.bind = Some(true),
                "copyup" => options.filled = true,
                // What is id-mapped says so by its mappings; never what is mounted below it.
                "defaults" | "async" | "loud" | "idmap" => {}
                "remount" | "ridmap" | "tmpcopyup" | "sync" | "dirsync" | "mand" | "iversion" => {
                    return Err(PlanError::Unsupported {
                        field: format!("{field} ({word})"),
                    });
                }
                _ => match word.split_once('=') {
                    Some((name, value)) if !name.is_empty() => options.data.push((name.into(), value.into())),
                    None if word == "newinstance" => {}
                    _ => return Err(invalid(field, word, "is no mount option")),
                },
            }
        }
        Ok(options)
    }

    fn attribute(&mut self, word: &str) -> bool {
        let (word, recursive) = match word {
            "rro" | "rrw" | "rnosuid" | "rsuid" | "rnodev" | "rdev" | "rnoexec" | "rexec" => {
                (&word[1..], true)
            }
            _ => (word, false),
        };
        let (set, clear) = match word {
            "ro" => (Attr::MOUNT_ATTR_RDONLY, Attr::empty()),
            "rw" => (Attr::empty(), Attr::MOUNT_ATTR_RDONLY),
            "nosuid" => (Attr::MOUNT_ATTR_NOSUID, Attr::empty()),
            "suid" => (Attr::empty(), Attr::MOUNT_ATTR_NOSUID),
            "nodev" => (Attr::MOUNT_ATTR_NODEV, Attr::empty()),
            "dev" => (Attr::empty(), Attr::MOUNT_ATTR_NODEV),
            "noexec" => (Attr::MOUNT_ATTR_NOEXEC, Attr::empty()),
            "exec" => (Attr::empty(), Attr::MOUNT_ATTR_NOEXEC),
            "nosymfollow" => (Attr::MOUNT_ATTR_NOSYMFOLLOW, Attr::empty()),
            "symfollow" => (Attr::empty(), Attr::MOUNT_ATTR_NOSYMFOLLOW),
            "nodiratime" => (Attr::MOUNT_ATTR_NODIRATIME, Attr::empty()),
            "diratime" => (Attr::empty(), Attr::MOUNT_ATTR_NODIRATIME),
            // The access time mode is a field of its own, which the kernel wants cleared before it is set.
            "relatime" => (Attr::MOUNT_ATTR_RELATIME, Attr::MOUNT_ATTR__ATIME),
            "noatime" => (Attr::MOUNT_ATTR_NOATIME, Attr::MOUNT_ATTR__ATIME),
            "strictatime" => (Attr::MOUNT_ATTR_STRICTATIME, Attr::MOUNT_ATTR__ATIME),
            "atime" | "norelatime" | "nostrictatime" => return true,
            _ => return false,
        };
        let attributes = &mut self.attributes;
        let (all_set, all_clear) = if recursive {
            (&mut attributes.set_recursive, &mut attributes.clear_recursive)
        } else {
            (&mut attributes.set, &mut attributes.clear)
        };
        // A later word wins over an earlier one.
        *all_set = *all_set & !clear.bits() | set.bits();
        *all_clear = *all_clear & !set.bits() | clear.bits();
        true
    }

    fn propagation(&mut self, word: &str) -> bool {
        let (word, recursive) = match word {
            "rprivate" | "rslave" | "rshared" | "runbindable" => (&word[1..], true),
            _ => (word, false),
        };
        let propagation = match word {
            "private" => Propagation::Private,
            "slave" => Propagation::Slave,
            "shared" => Propagation::Shared,
            "unbindable" => Propagation::Unbindable,
            _ => return false,
        };
        self.propagation = Some((propagation, recursive));
        true
    }
}
