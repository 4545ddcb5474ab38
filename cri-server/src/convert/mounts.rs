//! Mounts of a container: volumes, and images in their place.

use cri_api::v1;

use super::{bounded, known, required, user};
use crate::container::{ImageVolume, Mount, Propagation};
use crate::{Error, Result};

/// Checks one mount of a request.
pub(super) fn mount(wire: &v1::Mount) -> Result<Mount> {
    let container_path = required("config.mounts.container_path", &wire.container_path)?;
    let propagation = known("config.mounts.propagation", wire.propagation)?;
    let image = image_volume(wire)?;
    let host_path = match &image {
        Some(_) => String::new(),
        None => required("config.mounts.host_path", &wire.host_path)?,
    };
    Ok(Mount {
        container_path,
        host_path,
        readonly: wire.readonly,
        propagation: match propagation {
            v1::MountPropagation::PropagationPrivate => Propagation::Private,
            v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
            v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
        },
        recursive_read_only: wire.recursive_read_only,
        selinux_relabel: wire.selinux_relabel,
        ids: user::mapping("config.mounts", &wire.uid_mappings, &wire.gid_mappings)?,
        image,
        options: mount_options(&wire.mount_options)?,
    })
}

/// An image in place of a path of the node.
fn image_volume(wire: &v1::Mount) -> Result<Option<ImageVolume>> {
    let Some(image) = wire.image.as_ref().filter(|image| !image.image.is_empty()) else {
        return match wire.image_sub_path.is_empty() {
            true => Ok(None),
            false => Err(Error::invalid(
                "config.mounts.image_sub_path",
                "needs an image as well",
            )),
        };
    };
    if !wire.host_path.is_empty() {
        return Err(Error::invalid(
            "config.mounts.host_path",
            "is given beside an image; a volume shows one of them",
        ));
    }
    if wire.propagation() != v1::MountPropagation::PropagationPrivate {
        return Err(Error::invalid(
            "config.mounts.propagation",
            "must be private for an image, in which nothing is ever mounted",
        ));
    }
    if !wire.readonly {
        return Err(Error::invalid(
            "config.mounts.readonly",
            "must be true for an image, which no container may change",
        ));
    }
    let path = bounded("config.mounts.image_sub_path", &wire.image_sub_path)?;
    if path.starts_with('/') || path.split('/').any(|component| component == "..") {
        return Err(Error::invalid(
            "config.mounts.image_sub_path",
            format!("{path:?} is not a relative path without \"..\""),
        ));
    }
    Ok(Some(ImageVolume {
        image: bounded("config.mounts.image.image", &image.image)?,
        user_image: image.user_specified_image.clone(),
        sub_path: path,
    }))
}

/// Attributes of the mount alone: what access and propagation it has, and what is mounted, other fields say.
fn mount_options(words: &[String]) -> Result<Option<Vec<String>>> {
    const KNOWN: [&str; 12] = [
        "noexec",
        "exec",
        "nosuid",
        "suid",
        "nodev",
        "dev",
        "noatime",
        "relatime",
        "strictatime",
        "nodiratime",
        "diratime",
        "nosymfollow",
    ];
    match words.iter().find(|word| !KNOWN.contains(&word.as_str())) {
        Some(word) => Err(Error::invalid(
            "config.mounts.mount_options",
            format!("{word:?} is not one of {}", KNOWN.join(", ")),
        )),
        None => Ok((!words.is_empty()).then(|| words.to_vec())),
    }
}

/// `image_id` is what the name of an image volume meant when the container was made.
pub(super) fn to_wire(mount: &Mount, image_id: Option<&String>) -> v1::Mount {
    let ids = mount.ids.as_ref();
    v1::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        propagation: match mount.propagation {
            Propagation::Private => v1::MountPropagation::PropagationPrivate,
            Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
            Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
        } as i32,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        uid_mappings: ids
            .map(|ids| user::ranges_to_wire(ids.uids()))
            .unwrap_or_default(),
        gid_mappings: ids
            .map(|ids| user::ranges_to_wire(ids.gids()))
            .unwrap_or_default(),
        image: mount.image.as_ref().map(|volume| v1::ImageSpec {
            image: volume.image.clone(),
            user_specified_image: volume.user_image.clone(),
            image_ref: image_id.cloned().unwrap_or_default(),
            ..v1::ImageSpec::default()
        }),
        image_sub_path: mount
            .image
            .as_ref()
            .map(|volume| volume.sub_path.clone())
            .unwrap_or_default(),
        mount_options: mount.options.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::Mount {
        v1::Mount {
            container_path: "/x".into(),
            readonly: true,
            image: Some(v1::ImageSpec {
                image: "name".into(),
                ..Default::default()
            }),
            image_sub_path: "a/b".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_shown_image_is_told_by_what_its_name_meant() {
        let mount = mount(&wire()).unwrap();
        let told = to_wire(&mount, Some(&"id".to_owned()));
        let image = told.image.unwrap();
        assert_eq!((image.image.as_str(), image.image_ref.as_str()), ("name", "id"));
        assert_eq!((told.image_sub_path.as_str(), told.readonly), ("a/b", true));
    }

    #[test]
    fn what_an_image_cannot_be_is_refused_by_field() {
        type Change = fn(&mut v1::Mount);
        let bad: [(&str, Change); 7] = [
            ("container_path", |wire| wire.container_path.clear()),
            ("host_path", |wire| wire.host_path = "/x".into()),
            ("propagation", |wire| wire.propagation = 1),
            ("propagation", |wire| wire.propagation = 17),
            ("readonly", |wire| wire.readonly = false),
            ("image_sub_path", |wire| wire.image_sub_path = "a/../..".into()),
            ("image_sub_path", |wire| wire.image_sub_path = "/a".into()),
        ];
        for (field, change) in bad {
            let mut wire = wire();
            change(&mut wire);
            let refused = mount(&wire).unwrap_err().to_string();
            assert!(
                refused.starts_with(&format!("config.mounts.{field}:")),
                "{refused}"
            );
        }
    }
}
