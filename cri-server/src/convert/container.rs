//! Containers: from a request to a [`ContainerConfig`], from a [`Container`] to CRI's views of it.

use cri_api::v1;

use super::{
    bounded, bounded_map, id32, known, mounts, namespaces, namespaces_to_wire, required, resources,
    resources_to_wire,
    security::{apparmor, seccomp, selinux},
    signal,
};
use crate::container::{
    Container, ContainerConfig, ContainerName, ContainerState, Device, GroupsPolicy, RunAs, Security,
};
use crate::{Error, Result};

pub use super::signal::parse as parse_signal;

/// Checks the whole request before anything is done.
///
/// # Errors
/// [`Error::Invalid`] naming the first field that is missing or wrong.
pub fn config(wire: &v1::ContainerConfig) -> Result<ContainerConfig> {
    let metadata = wire
        .metadata
        .as_ref()
        .ok_or_else(|| Error::invalid("config.metadata", "is missing; set a name"))?;
    let image = wire.image.clone().unwrap_or_default();
    let linux = wire.linux.clone().unwrap_or_default();
    if wire.stdin_once && !wire.stdin {
        return Err(Error::invalid("config.stdin_once", "needs stdin as well"));
    }
    Ok(ContainerConfig {
        name: ContainerName {
            name: required("config.metadata.name", &metadata.name)?,
            attempt: metadata.attempt,
        },
        image: required("config.image.image", &image.image)?,
        user_image: image.user_specified_image,
        image_annotations: image.annotations,
        command: wire.command.clone(),
        args: wire.args.clone(),
        working_dir: working_dir(&wire.working_dir)?,
        env: wire
            .envs
            .iter()
            .map(|e| (e.key.clone(), e.value.clone()))
            .collect(),
        mounts: wire.mounts.iter().map(mounts::mount).collect::<Result<_>>()?,
        devices: wire.devices.iter().map(device).collect(),
        labels: bounded_map("config.labels", &wire.labels)?,
        annotations: bounded_map("config.annotations", &wire.annotations)?,
        log_path: log_path(&wire.log_path)?,
        stdin: wire.stdin,
        stdin_once: wire.stdin_once,
        tty: wire.tty,
        resources: linux.resources.as_ref().map(resources).unwrap_or_default(),
        security: security(&linux.security_context.unwrap_or_default())?,
        stop_signal: signal::number(known("config.stop_signal", wire.stop_signal)?),
        cdi_devices: wire
            .cdi_devices
            .iter()
            .map(|device| required("config.CDI_devices.name", &device.name))
            .collect::<Result<_>>()?,
    })
}

fn working_dir(path: &str) -> Result<String> {
    if !path.is_empty() && !path.starts_with('/') {
        return Err(Error::invalid(
            "config.working_dir",
            format!("{path:?} is not an absolute path"),
        ));
    }
    bounded("config.working_dir", path)
}

fn device(wire: &v1::Device) -> Device {
    Device {
        container_path: wire.container_path.clone(),
        host_path: wire.host_path.clone(),
        permissions: wire.permissions.clone(),
    }
}

/// A log path is relative and stays below the pod's log directory.
fn log_path(path: &str) -> Result<String> {
    if path.starts_with('/') || path.split('/').any(|c| c == "..") {
        return Err(Error::invalid(
            "config.log_path",
            format!("{path:?} is not a relative path without \"..\""),
        ));
    }
    bounded("config.log_path", path)
}

fn security(wire: &v1::LinuxContainerSecurityContext) -> Result<Security> {
    #[allow(deprecated)] // clients of an older API still send them
    let (old_seccomp, old_apparmor) = (&wire.seccomp_profile_path, &wire.apparmor_profile);
    let capabilities = wire.capabilities.clone().unwrap_or_default();
    let user = match (&wire.run_as_user, wire.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => {
            return Err(Error::invalid(
                "security_context.run_as_username",
                "contradicts run_as_user; set one of them",
            ));
        }
        (Some(uid), _) => Some(RunAs::Uid(id32("security_context.run_as_user", uid.value)?)),
        (None, "") => None,
        (None, name) => Some(RunAs::Username(bounded(
            "security_context.run_as_username",
            name,
        )?)),
    };
    if wire.run_as_group.is_some() && user.is_none() {
        return Err(Error::invalid(
            "security_context.run_as_group",
            "needs run_as_user or run_as_username as well",
        ));
    }
    Ok(Security {
        privileged: wire.privileged,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        add_ambient_capabilities: capabilities.add_ambient_capabilities,
        namespaces: namespaces(wire.namespace_options.as_ref(), true)?,
        user,
        group: wire
            .run_as_group
            .as_ref()
            .map(|g| id32("security_context.run_as_group", g.value))
            .transpose()?,
        supplemental_groups: wire
            .supplemental_groups
            .iter()
            .map(|g| id32("security_context.supplemental_groups", *g))
            .collect::<Result<_>>()?,
        groups_policy: groups_policy(wire.supplemental_groups_policy)?,
        readonly_rootfs: wire.readonly_rootfs,
        no_new_privs: wire.no_new_privs,
        masked_paths: paths("security_context.masked_paths", &wire.masked_paths)?,
        readonly_paths: paths("security_context.readonly_paths", &wire.readonly_paths)?,
        seccomp: seccomp(wire.seccomp.as_ref(), old_seccomp)?,
        apparmor: apparmor(wire.apparmor.as_ref(), old_apparmor)?,
        selinux: selinux(wire.selinux_options.as_ref())?,
    })
}

fn groups_policy(wire: i32) -> Result<GroupsPolicy> {
    match v1::SupplementalGroupsPolicy::try_from(wire) {
        Ok(v1::SupplementalGroupsPolicy::Merge) => Ok(GroupsPolicy::Merge),
        Ok(v1::SupplementalGroupsPolicy::Strict) => Ok(GroupsPolicy::Strict),
        // Taken for Merge, it would give groups that were not asked for.
        Err(_) => Err(Error::invalid(
            "security_context.supplemental_groups_policy",
            "is neither Merge nor Strict",
        )),
    }
}

fn paths(field: &str, paths: &[String]) -> Result<Vec<String>> {
    let plain = |p: &String| p.starts_with('/') && !p.contains('\0') && !p.split('/').any(|c| c == "..");
    match paths.iter().find(|p| !plain(p)) {
        Some(bad) => Err(Error::invalid(
            field,
            format!("{bad:?} is not an absolute path without \"..\""),
        )),
        None => Ok(paths.to_vec()),
    }
}

fn state(container: &ContainerState) -> v1::ContainerState {
    match container {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited { .. } => v1::ContainerState::ContainerExited,
    }
}

pub(super) fn metadata(name: &ContainerName) -> v1::ContainerMetadata {
    v1::ContainerMetadata {
        name: name.name.clone(),
        attempt: name.attempt,
    }
}

fn image_spec(config: &ContainerConfig) -> v1::ImageSpec {
    v1::ImageSpec {
        image: config.image.clone(),
        annotations: config.image_annotations.clone(),
        user_specified_image: config.user_image.clone(),
        ..v1::ImageSpec::default()
    }
}

/// The row of a listing.
pub fn listed(container: &Container) -> v1::Container {
    let record = &container.record;
    v1::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.pod.to_string(),
        metadata: Some(metadata(&record.config.name)),
        image: Some(image_spec(&record.config)),
        image_ref: record.image_id.clone(),
        state: state(&container.state()) as i32,
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

/// The full status.
pub fn status(container: &Container) -> v1::ContainerStatus {
    let record = &container.record;
    let current = container.state();
    let mut status = v1::ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(&record.config.name)),
        state: state(&current) as i32,
        created_at: record.created_at,
        image: Some(image_spec(&record.config)),
        image_ref: record.image_id.clone(),
        image_id: record.image_id.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record
            .config
            .mounts
            .iter()
            .enumerate()
            .map(|(index, mount)| mounts::to_wire(mount, record.image_volumes.get(&index)))
            .collect(),
        log_path: record.log_path.clone(),
        resources: Some(v1::ContainerResources {
            linux: Some(resources_to_wire(&container.resources())),
            windows: None,
        }),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: i64::from(record.identity.uid),
                gid: i64::from(record.identity.gid),
                supplemental_groups: record.identity.groups.iter().map(|g| i64::from(*g)).collect(),
            }),
        }),
        stop_signal: signal::from_number(record.stop_signal) as i32,
        ..v1::ContainerStatus::default()
    };
    match current {
        ContainerState::Created => {}
        ContainerState::Running { started_at, .. } => status.started_at = started_at,
        ContainerState::Exited {
            exit,
            started_at,
            finished_at,
        } => {
            status.started_at = started_at.unwrap_or_default();
            status.finished_at = finished_at;
            status.exit_code = exit.code;
            status.reason = exit.reason.as_str().to_owned();
            status.message = exit.message;
        }
    }
    status
}

/// Whether a container is in a listing.
pub fn matches(filter: Option<&v1::ContainerFilter>, container: &Container) -> bool {
    filter.is_none_or(|filter| {
        container.record.id.as_str().starts_with(&filter.id)
            && container.record.pod.as_str().starts_with(&filter.pod_sandbox_id)
            && filter
                .state
                .as_ref()
                .is_none_or(|wanted| wanted.state == state(&container.state()) as i32)
            && super::pod::has_labels(&filter.label_selector, &container.record.config.labels)
    })
}

/// The namespaces of a container, for verbose status.
pub fn namespace_options(container: &Container) -> v1::NamespaceOption {
    namespaces_to_wire(&container.record.config.security.namespaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "c".into(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: "busybox".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut v1::ContainerConfig)) -> String {
        let mut wire = wire();
        change(&mut wire);
        config(&wire).unwrap_err().to_string()
    }

    fn security(change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> v1::LinuxContainerConfig {
        let mut context = v1::LinuxContainerSecurityContext::default();
        change(&mut context);
        v1::LinuxContainerConfig {
            security_context: Some(context),
            resources: None,
        }
    }

    #[test]
    fn refusals_name_the_field() {
        assert!(config(&wire()).is_ok());
        assert!(refusal(|w| w.metadata = None).starts_with("config.metadata:"));
        assert!(refusal(|w| w.image = None).starts_with("config.image.image:"));
        assert!(refusal(|w| w.log_path = "../x".into()).starts_with("config.log_path:"));
        assert!(refusal(|w| w.log_path = "/abs".into()).starts_with("config.log_path:"));
        assert!(
            refusal(|w| w.mounts = vec![v1::Mount::default()]).starts_with("config.mounts.container_path:")
        );
        for (linux, field) in [
            (
                security(|s| s.run_as_user = Some(v1::Int64Value { value: -1 })),
                "run_as_user",
            ),
            (
                security(|s| s.run_as_user = Some(v1::Int64Value { value: 1 << 31 })),
                "run_as_user",
            ),
            (
                security(|s| s.run_as_group = Some(v1::Int64Value { value: 5 })),
                "run_as_group",
            ),
            (security(|s| s.masked_paths = vec!["proc".into()]), "masked_paths"),
            (
                security(|s| {
                    s.run_as_user = Some(v1::Int64Value { value: 1 });
                    s.run_as_username = "root".into();
                }),
                "run_as_username",
            ),
            (
                security(|s| s.supplemental_groups_policy = 9),
                "supplemental_groups_policy",
            ),
            (
                security(|s| {
                    s.seccomp = Some(v1::SecurityProfile {
                        profile_type: v1::security_profile::ProfileType::Localhost as i32,
                        localhost_ref: String::new(),
                    });
                }),
                "seccomp",
            ),
        ] {
            assert!(refusal(|w| w.linux = Some(linux)).contains(field));
        }
    }

    #[test]
    fn binary_environment_survives() {
        let mut wire = wire();
        wire.envs = vec![v1::KeyValue {
            key: "K".into(),
            value: vec![0xff, 0xfe],
        }];
        assert_eq!(config(&wire).unwrap().env, [("K".to_owned(), vec![0xff, 0xfe])]);
    }
}
