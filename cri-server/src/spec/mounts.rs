//! The mounts of a container: the kernel's file systems, the pod's files, and its volumes.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use image::config::ProcessDefaults;
use oci_spec::runtime::Mount;
use runtime::launch::IdMapping;

use super::Ingredients;
use crate::container::{ContainerConfig, ContainerRecord, ImageVolume, Propagation};
use crate::ids::ContainerId;
use crate::pod::NamespaceMode;
use crate::{Error, Result};

/// All mounts in the order in which they are made: parents before what lies below them.
pub(super) fn build(ingredients: &Ingredients<'_>) -> Result<Vec<Mount>> {
    let config = ingredients.config;
    let volumes = config
        .mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| match &mount.image {
            Some(image) => image_volume(ingredients.id, index, mount, image),
            None => volume(mount),
        })
        .collect::<Result<Vec<_>>>()?;
    let declared = ingredients.declared.iter();
    let declared = declared.map(|(directory, target)| {
        // As on the root: a device that the image brings is a file, and stays one when it is copied here.
        let mut mount = bind(directory, target, &["bind", "rprivate", "rw", "nodev", "copyup"]);
        map_ids(&mut mount, config.security.namespaces.user.as_ref());
        mount
    });
    let mut all: Vec<Mount> = defaults(ingredients)
        .into_iter()
        .chain(declared)
        .filter(|default| !volumes.iter().any(|v| v.destination() == default.destination()))
        .collect();
    all.extend(volumes);
    // Stable, so that of two mounts on one place the later one lies on top.
    all.sort_by_key(|mount| mount.destination().components().count());
    Ok(all)
}

/// The paths that an image declares as volumes and that no mount of the request covers, cleaned. What the image says is
/// a stranger's word: a path that would cover the kernel's own file systems is refused.
///
/// # Errors
/// [`Error::Invalid`] for such a path.
pub fn declared(image: &ProcessDefaults, config: &ContainerConfig) -> Result<Vec<String>> {
    let asked: Vec<_> = config
        .mounts
        .iter()
        .map(|mount| clean(&mount.container_path))
        .collect();
    let mut paths = BTreeSet::new();
    for written in &image.volumes {
        let path = clean(written);
        let top = path.split('/').nth(1).unwrap_or_default();
        if matches!(top, "" | "proc" | "sys" | "dev") || path.contains('\0') {
            return Err(Error::invalid(
                "image VOLUME",
                format!(
                    "{written:?} would cover what the container needs; mount a volume elsewhere, or fix the image"
                ),
            ));
        }
        if !asked.contains(&path) {
            paths.insert(path);
        }
    }
    Ok(paths.into_iter().collect())
}

/// A path without empty, `.` and `..` components: `/../../etc` is `/etc`, as it would be inside.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The strongest propagation that any volume needs decides for the container's root.
pub(super) fn rootfs_propagation(config: &ContainerConfig) -> &'static str {
    let strongest = config.mounts.iter().map(|m| m.propagation);
    match strongest.fold(0, |most, p| most.max(p as u8)) {
        0 => "private",
        1 => "rslave",
        _ => "rshared",
    }
}

fn defaults(ingredients: &Ingredients<'_>) -> Vec<Mount> {
    let pod = ingredients.pod;
    let privileged = ingredients.config.security.privileged;
    let sysfs_access = if privileged { "rw" } else { "ro" };
    let shm = match pod.config.namespaces.ipc {
        NamespaceMode::Node => PathBuf::from("/dev/shm"),
        _ => ingredients.files.shm(),
    };
    let etc_access = if ingredients.config.security.readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    let mut all = vec![
        kernel("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        kernel(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        kernel(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        kernel("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        kernel("/sys", "sysfs", &["nosuid", "noexec", "nodev", sysfs_access]),
        kernel(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", sysfs_access],
        ),
        bind(&shm, "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"]),
    ];
    // kubelet brings its own /etc/hosts as a volume; ours serves those who run containers by hand.
    for (file, target) in [
        (ingredients.files.hostname(), "/etc/hostname"),
        (ingredients.files.hosts(), "/etc/hosts"),
        (ingredients.files.resolv_conf(), "/etc/resolv.conf"),
    ] {
        let mut mount = bind(&file, target, &["rbind", "rprivate", etc_access]);
        map_ids(&mut mount, ingredients.config.security.namespaces.user.as_ref());
        all.push(mount);
    }
    all
}

fn map_ids(mount: &mut Mount, ids: Option<&IdMapping>) {
    mount
        .set_uid_mappings(ids.map(|ids| super::mappings(ids.uids())))
        .set_gid_mappings(ids.map(|ids| super::mappings(ids.gids())));
}

/// What an image has at a path, read-only. Its layers are kept under a name of the container's.
fn image_volume(
    id: &ContainerId,
    index: usize,
    mount: &crate::container::Mount,
    volume: &ImageVolume,
) -> Result<Mount> {
    let target = target(mount)?;
    let path = format!("path=/{}", volume.sub_path);
    let mut options = vec!["ro", "rprivate"];
    options.extend(mount.options.iter().flatten().map(String::as_str));
    if !volume.sub_path.is_empty() {
        options.push(&path);
    }
    let mut made = bind(
        Path::new(&ContainerRecord::image_volume_key(id, index)),
        &absolute(target),
        &options,
    );
    made.set_typ(Some("image".to_owned()));
    Ok(made)
}

fn target(mount: &crate::container::Mount) -> Result<&Path> {
    let target = Path::new(&mount.container_path);
    if mount.container_path.is_empty() || mount.container_path.contains('\0') {
        return Err(Error::invalid(
            "mounts.container_path",
            "is empty or contains a NUL byte",
        ));
    }
    if target.components().any(|c| c == Component::ParentDir) {
        return Err(Error::invalid(
            "mounts.container_path",
            format!("{target:?} contains \"..\"; give a plain path"),
        ));
    }
    Ok(target)
}

fn volume(mount: &crate::container::Mount) -> Result<Mount> {
    let target = target(mount)?;
    if !mount.host_path.starts_with('/') {
        return Err(Error::invalid(
            "mounts.host_path",
            format!("{:?} is not an absolute path", mount.host_path),
        ));
    }
    let access = if mount.readonly { "ro" } else { "rw" };
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let mut options = vec!["rbind", propagation, access];
    if mount.recursive_read_only {
        if !mount.readonly || mount.propagation != Propagation::Private {
            return Err(Error::invalid(
                "mounts.recursive_read_only",
                "needs readonly and private propagation as well",
            ));
        }
        options.push("rro");
    }
    options.extend(mount.options.iter().flatten().map(String::as_str));
    let mut made = bind(Path::new(&mount.host_path), &absolute(target), &options);
    map_ids(&mut made, mount.ids.as_ref());
    Ok(made)
}

fn absolute(target: &Path) -> String {
    Path::new("/")
        .join(target)
        .components()
        .collect::<PathBuf>()
        .to_string_lossy()
        .into_owned()
}

fn kernel(target: &str, kind: &str, options: &[&str]) -> Mount {
    let mut mount = bind(Path::new(kind), target, options);
    mount.set_typ(Some(kind.to_owned()));
    mount
}

fn bind(source: &Path, target: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(container_path: &str) -> crate::container::Mount {
        crate::container::Mount {
            container_path: container_path.into(),
            host_path: "/host".into(),
            ..crate::container::Mount::default()
        }
    }

    #[test]
    fn a_volume_names_plain_places() {
        assert_eq!(
            volume(&on("data//x/")).unwrap().destination(),
            Path::new("/data/x")
        );
        for bad in ["", "/a/../../etc", "/a\0b"] {
            assert!(volume(&on(bad)).is_err(), "{bad:?}");
        }
        let relative = crate::container::Mount {
            host_path: "etc".into(),
            ..on("/x")
        };
        assert!(volume(&relative).is_err());
        let contradiction = crate::container::Mount {
            recursive_read_only: true,
            ..on("/x")
        };
        assert!(volume(&contradiction).is_err());
    }
}
