//! Pods and containers put together in a few words, in the wire's own types.

use std::collections::HashMap;
use std::path::Path;

use k8s_cri::v1::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
};

use crate::client::image;

/// A pod's configuration in the making. What has no method here is reached through `0`.
#[derive(Clone, Debug)]
pub struct Pod(pub PodSandboxConfig);

impl Pod {
    /// A pod as kubelet would ask for it: namespace `default`, its own pid namespace per container.
    pub fn new(name: &str) -> Self {
        let options = NamespaceOption {
            pid: NamespaceMode::Container.into(),
            ..Default::default()
        };
        Self(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// Changes the namespaces asked for.
    pub fn namespaces(mut self, change: impl FnOnce(&mut NamespaceOption)) -> Self {
        let security = self.linux().security_context.get_or_insert_default();
        change(security.namespace_options.get_or_insert_default());
        self
    }

    /// In the host's network.
    pub fn host_network(self) -> Self {
        self.namespaces(|options| options.network = NamespaceMode::Node.into())
    }

    /// One whose containers may be privileged.
    pub fn privileged(mut self) -> Self {
        let security = self.linux().security_context.get_or_insert_default();
        security.privileged = true;
        self
    }

    /// All containers in one pid namespace.
    pub fn shared_pid(self) -> Self {
        self.namespaces(|options| options.pid = NamespaceMode::Pod.into())
    }

    /// Where its containers' logs go.
    pub fn log_directory(mut self, directory: &Path) -> Self {
        self.0.log_directory = directory.display().to_string();
        self
    }

    /// Its cgroup's parent.
    pub fn cgroup_parent(mut self, parent: &str) -> Self {
        self.linux().cgroup_parent = parent.to_owned();
        self
    }

    /// A sysctl.
    pub fn sysctl(mut self, name: &str, value: &str) -> Self {
        self.linux().sysctls.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// An annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.0.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// What goes into resolv.conf.
    pub fn dns(mut self, servers: &[&str], searches: &[&str], options: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        self.0.dns_config = Some(DnsConfig {
            servers: owned(servers),
            searches: owned(searches),
            options: owned(options),
        });
        self
    }

    fn linux(&mut self) -> &mut LinuxPodSandboxConfig {
        self.0.linux.get_or_insert_default()
    }
}

/// A container's configuration in the making. What has no method here is reached through `0`.
#[derive(Clone, Debug)]
pub struct Container(pub ContainerConfig);

impl Container {
    /// A container of `image` that runs what the image says.
    pub fn new(name: &str, image: &str) -> Self {
        Self(ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(self::image(image)),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        pid: NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// Runs this instead of the image's entrypoint.
    pub fn command(mut self, command: &[&str]) -> Self {
        self.0.command = command.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// Runs a line of shell.
    pub fn shell(self, line: &str) -> Self {
        self.command(&["/bin/sh", "-c", line])
    }

    /// Arguments after the entrypoint.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.0.args = args.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// An environment variable.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.0.envs.push(KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    /// Where it starts.
    pub fn working_dir(mut self, directory: &str) -> Self {
        self.0.working_dir = directory.to_owned();
        self
    }

    /// A label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A volume, writable.
    pub fn mount(mut self, host: &Path, container: &str) -> Self {
        self.0.mounts.push(Mount {
            container_path: container.to_owned(),
            host_path: host.display().to_string(),
            ..Default::default()
        });
        self
    }

    /// A volume, read-only.
    pub fn mount_read_only(mut self, host: &Path, container: &str) -> Self {
        self = self.mount(host, container);
        self.0.mounts.last_mut().expect("just pushed").readonly = true;
        self
    }

    /// As this numeric user and, maybe, group.
    pub fn user(mut self, uid: i64, gid: Option<i64>) -> Self {
        let security = self.security();
        security.run_as_user = Some(Int64Value { value: uid });
        security.run_as_group = gid.map(|value| Int64Value { value });
        self
    }

    /// With these capabilities added and dropped.
    pub fn capabilities(mut self, add: &[&str], drop: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        self.security().capabilities = Some(Capability {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            ..Default::default()
        });
        self
    }

    /// Changes the security context.
    pub fn secure(mut self, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Self {
        change(self.security());
        self
    }

    /// Changes the resources.
    pub fn resources(mut self, change: impl FnOnce(&mut LinuxContainerResources)) -> Self {
        change(
            self.0
                .linux
                .get_or_insert_default()
                .resources
                .get_or_insert_default(),
        );
        self
    }

    /// All containers of the pod in one pid namespace; the pod must say so too.
    pub fn shared_pid(self) -> Self {
        self.secure(|security| {
            security.namespace_options.get_or_insert_default().pid = NamespaceMode::Pod.into();
        })
    }

    fn security(&mut self) -> &mut LinuxContainerSecurityContext {
        self.0
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }
}

/// `{key: value}` as the wire's filters want it.
pub fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}
