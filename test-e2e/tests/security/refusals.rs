//! Settings that nobody knows, or that contradict each other: refused by the name of the field, before anything is made.

use std::collections::BTreeSet;

use k8s_cri::v1 as cri;
use k8s_cri::v1::security_profile::ProfileType;
use test_e2e::eventually::until;
use test_e2e::harness::Server;
use test_e2e::leaks::Trace;
use test_e2e::specs::{Container, Pod};
use tonic::{Code, Status};

use crate::seccomp::typed;

/// What lasts: sockets come and go with connections, and what was removed goes off the disk in its own time.
pub(crate) fn lasting(server: &Server) -> BTreeSet<Trace> {
    let passing = |trace: &Trace| match trace {
        Trace::Socket(_) => true,
        Trace::File(path) => path.components().any(|part| part.as_os_str() == "trash"),
        _ => false,
    };
    let traces = server.traces().into_iter();
    traces.filter(|trace| !passing(trace)).collect()
}

fn names(refused: &Status, field: &str) {
    assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused:?}");
    assert!(refused.message().contains(field), "{field} in {refused:?}");
}

type Change<T> = (&'static str, Box<dyn Fn(&mut T)>);

fn security(
    field: &'static str,
    change: impl Fn(&mut cri::LinuxContainerSecurityContext) + 'static,
) -> Change<cri::ContainerConfig> {
    let change = move |container: &mut cri::ContainerConfig| {
        let linux = container.linux.get_or_insert_default();
        change(linux.security_context.get_or_insert_default());
    };
    (field, Box::new(change))
}

fn spaces(
    field: &'static str,
    change: impl Fn(&mut cri::NamespaceOption) + 'static,
) -> Change<cri::ContainerConfig> {
    security(field, move |security| {
        change(security.namespace_options.get_or_insert_default());
    })
}

fn mount(field: &'static str, change: impl Fn(&mut cri::Mount) + 'static) -> Change<cri::ContainerConfig> {
    let change = move |container: &mut cri::ContainerConfig| {
        let mut mount = cri::Mount {
            container_path: "/x".to_owned(),
            host_path: "/tmp".to_owned(),
            ..Default::default()
        };
        change(&mut mount);
        container.mounts.push(mount);
    };
    (field, Box::new(change))
}

fn profile(kind: i32, localhost_ref: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile {
        profile_type: kind,
        localhost_ref: localhost_ref.to_owned(),
    })
}

fn ids(container_id: u32, host_id: u32, length: u32) -> Vec<cri::IdMapping> {
    vec![cri::IdMapping {
        host_id,
        container_id,
        length,
    }]
}

fn wrong_namespaces() -> Vec<Change<cri::ContainerConfig>> {
    use cri::NamespaceMode::{Container, Node, Pod, Target};
    let users = |mode: i32, uids: Vec<cri::IdMapping>, gids: Vec<cri::IdMapping>| {
        Some(cri::UserNamespace { mode, uids, gids })
    };
    vec![
        spaces("namespace_options.network", |spaces| spaces.network = 7),
        spaces("namespace_options.network", |spaces| spaces.network = -1),
        spaces("namespace_options.network", |spaces| {
            spaces.network = Container.into();
        }),
        spaces("namespace_options.network", |spaces| spaces.network = Node.into()),
        spaces("namespace_options.ipc", |spaces| spaces.ipc = i32::MAX),
        spaces("namespace_options.ipc", |spaces| spaces.ipc = Target.into()),
        spaces("namespace_options.ipc", |spaces| spaces.ipc = Node.into()),
        spaces("namespace_options.pid", |spaces| spaces.pid = 4),
        spaces("namespace_options.pid", |spaces| spaces.pid = Node.into()),
        spaces("namespace_options.target_id", |spaces| spaces.pid = Target.into()),
        spaces("userns_options", move |spaces| {
            spaces.userns_options = users(Pod.into(), ids(0, 100_000, 65536), ids(0, 100_000, 65536));
        }),
        spaces("userns_options.mode", move |spaces| {
            spaces.userns_options = users(9, ids(0, 100_000, 65536), ids(0, 100_000, 65536));
        }),
        spaces("userns_options.gids", move |spaces| {
            spaces.userns_options = users(Pod.into(), ids(0, 100_000, 65536), vec![]);
        }),
        spaces("userns_options", move |spaces| {
            spaces.userns_options = users(Pod.into(), ids(0, u32::MAX, 65536), ids(0, 100_000, 65536));
        }),
    ]
}

#[allow(deprecated)] // clients of an older API still send them
fn wrong_confinement() -> Vec<Change<cri::ContainerConfig>> {
    let selinux = |change: fn(&mut cri::SeLinuxOption)| {
        move |security: &mut cri::LinuxContainerSecurityContext| {
            change(security.selinux_options.get_or_insert_default());
        }
    };
    let add = |name: &'static str| {
        move |security: &mut cri::LinuxContainerSecurityContext| {
            let capabilities = security.capabilities.get_or_insert_default();
            capabilities.add_capabilities.push(name.to_owned());
        }
    };
    vec![
        security("seccomp.profile_type", |security| {
            security.seccomp = profile(3, "");
        }),
        security("seccomp.profile_type", |security| {
            security.seccomp = profile(-1, "");
        }),
        security("seccomp.localhost_ref", |security| {
            security.seccomp = Some(typed(ProfileType::RuntimeDefault, "/profile.json"));
        }),
        security("seccomp.localhost_ref", |security| {
            security.seccomp = Some(typed(ProfileType::Localhost, ""));
        }),
        security("seccomp", |security| {
            security.seccomp_profile_path = "default".to_owned();
        }),
        security("apparmor.profile_type", |security| {
            security.apparmor = profile(7, "");
        }),
        security("apparmor.localhost_ref", |security| {
            security.apparmor = Some(typed(ProfileType::Unconfined, "mine"));
        }),
        security("apparmor.localhost_ref", |security| {
            security.apparmor = Some(typed(ProfileType::Localhost, "a\nunconfined"));
        }),
        security("apparmor", |security| {
            security.apparmor_profile = "mine".to_owned();
        }),
        security(
            "selinux_options.user",
            selinux(|label| label.user = "a:b".to_owned()),
        ),
        security(
            "selinux_options.type",
            selinux(|label| label.r#type = "a,b".to_owned()),
        ),
        security(
            "selinux_options.level",
            selinux(|label| label.level = "s0 s1".to_owned()),
        ),
        security("CAP_SYS_EVERYTHING", add("CAP_SYS_EVERYTHING")),
        security("privileged", |security| security.privileged = true),
        security("masked_paths", |security| {
            security.masked_paths = vec!["proc".to_owned()];
        }),
        security("maskedPaths", |security| {
            security.masked_paths = vec!["/".to_owned()];
        }),
        security("readonly_paths", |security| {
            security.readonly_paths = vec!["/proc/../sys".to_owned()];
        }),
    ]
}

fn wrong_identity() -> Vec<Change<cri::ContainerConfig>> {
    let number = |value: i64| Some(cri::Int64Value { value });
    vec![
        security("run_as_user", move |security| {
            security.run_as_user = number(1 << 31);
        }),
        security("run_as_group", move |security| {
            security.run_as_user = number(1);
            security.run_as_group = number(-2);
        }),
        security("run_as_group", move |security| security.run_as_group = number(1)),
        security("run_as_username", move |security| {
            security.run_as_user = number(1);
            security.run_as_username = "root".to_owned();
        }),
        security("user", |security| {
            security.run_as_username = "nobody-knows".to_owned();
        }),
        security("user", |security| security.run_as_username = "+0".to_owned()),
        security("supplemental_groups", |security| {
            security.supplemental_groups = vec![1 << 40];
        }),
        security("supplemental_groups", |security| {
            security.supplemental_groups = (0..70_000).collect();
        }),
        security("supplemental_groups_policy", |security| {
            security.supplemental_groups_policy = 2;
        }),
    ]
}

fn wrong_files() -> Vec<Change<cri::ContainerConfig>> {
    let other = |field, change: fn(&mut cri::ContainerConfig)| -> Change<cri::ContainerConfig> {
        (field, Box::new(change))
    };
    let device = |change: fn(&mut cri::Device)| {
        move |container: &mut cri::ContainerConfig| {
            let mut device = cri::Device {
                container_path: "/dev/x".to_owned(),
                host_path: "/dev/null".to_owned(),
                permissions: "rwm".to_owned(),
            };
            change(&mut device);
            container.devices.push(device);
        }
    };
    vec![
        mount("mounts.propagation", |mount| mount.propagation = 3),
        mount("mounts.propagation", |mount| mount.propagation = -5),
        mount("mounts.recursive_read_only", |mount| {
            mount.recursive_read_only = true;
        }),
        mount("mounts.recursive_read_only", |mount| {
            (mount.recursive_read_only, mount.readonly) = (true, true);
            mount.propagation = cri::MountPropagation::PropagationHostToContainer.into();
        }),
        mount("mounts", |mount| mount.uid_mappings = ids(0, 100_000, 1)),
        mount("mounts", |mount| {
            (mount.uid_mappings, mount.gid_mappings) = (ids(0, 100_000, 0), ids(0, 100_000, 1));
        }),
        mount("mounts.host_path", |mount| {
            mount.image = Some(cri::ImageSpec {
                image: "some/image".to_owned(),
                ..Default::default()
            });
        }),
        mount("mounts.container_path", |mount| {
            mount.container_path = "/a/../b".to_owned();
        }),
        (
            "devices",
            Box::new(device(|device| device.permissions = "rwx".to_owned())),
        ),
        (
            "devices",
            Box::new(device(|device| device.container_path = "/dev/../etc".to_owned())),
        ),
        (
            "devices",
            Box::new(device(|device| device.host_path = "/etc/hostname".to_owned())),
        ),
        other("CDI_devices", |container| {
            container.cdi_devices.push(cri::CdiDevice {
                name: "no vendor=0".to_owned(),
            });
        }),
        other("cdi.k8s.io/x", |container| {
            container
                .annotations
                .insert("cdi.k8s.io/x".to_owned(), "a,b".to_owned());
        }),
        other("stdin_once", |container| container.stdin_once = true),
    ]
}

#[tokio::test]
async fn containers_that_contradict_themselves_are_refused_by_field() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("refusals").await;
    let tables = [
        wrong_namespaces(),
        wrong_confinement(),
        wrong_identity(),
        wrong_files(),
    ];
    pod.use_first(&image).await;
    let before = lasting(&server);
    for (field, change) in tables.into_iter().flatten() {
        let mut container = Container::new("refused", &image).command(&["/bin/true"]);
        change(&mut container.0);
        let refused = pod.create(&container).await.expect_err(field);
        names(&refused, field);
        assert_eq!(lasting(&server), before, "{field}: nothing half-made stays");
    }
    let stranger = Container::new("stranger", &image).secure(|security| {
        let spaces = security.namespace_options.get_or_insert_default();
        spaces.pid = cri::NamespaceMode::Target.into();
        spaces.target_id = "0".repeat(64);
    });
    assert_eq!(pod.create(&stranger).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(lasting(&server), before);
    let good = Container::new("refused", &image).command(&["/bin/true"]);
    assert_eq!(
        pod.finish(&good).await.0,
        0,
        "what is left without the change is good"
    );
    server.close().await;
}

/// The one whose process namespace is asked for must be of the same pod, and run.
#[tokio::test]
async fn a_target_is_a_running_container_of_the_pod() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let (pod, other) = (server.run_pod("pod").await, server.run_pod("other").await);
    let sleeper = |name: &str| Container::new(name, &image).command(&["/bin/sleep", "100000"]);
    let (near, far) = (
        pod.start(&sleeper("near")).await,
        other.start(&sleeper("far")).await,
    );
    let idle = pod.create(&sleeper("idle")).await.unwrap();
    // Its cgroup may be made behind the answer.
    let groups = |id: &str| {
        let of = |trace: &Trace| matches!(trace, Trace::Cgroup(path) if path.ends_with(id));
        server.traces().iter().filter(|trace| of(trace)).count()
    };
    until("all of its cgroup is there", || groups(&idle) == groups(&near)).await;
    let into = |name: &str, target: &str| {
        Container::new(name, &image)
            .shell("cat /proc/1/cmdline | busybox tr '\\0' ' '")
            .secure(|security| {
                let spaces = security.namespace_options.get_or_insert_default();
                spaces.pid = cri::NamespaceMode::Target.into();
                spaces.target_id = target.to_owned();
            })
    };
    let before = lasting(&server);
    names(&pod.create(&into("far", &far)).await.unwrap_err(), "target_id");
    assert!(pod.create(&into("idle", &idle)).await.is_err(), "it does not run");
    assert_eq!(lasting(&server), before);
    assert_eq!(
        pod.finish(&into("debug", &near)).await,
        (0, "/bin/sleep 100000 ".to_owned())
    );
    server.close().await;
}

fn wrong_pods() -> Vec<Change<cri::PodSandboxConfig>> {
    let linux = |field, change: fn(&mut cri::LinuxPodSandboxConfig)| -> Change<cri::PodSandboxConfig> {
        (
            field,
            Box::new(move |pod| change(pod.linux.get_or_insert_default())),
        )
    };
    let security = |field, change: fn(&mut cri::LinuxSandboxSecurityContext)| {
        let change = move |pod: &mut cri::PodSandboxConfig| {
            let linux = pod.linux.get_or_insert_default();
            change(linux.security_context.get_or_insert_default());
        };
        (field, Box::new(change) as Box<dyn Fn(&mut cri::PodSandboxConfig)>)
    };
    let port = |field, change: fn(&mut cri::PortMapping)| -> Change<cri::PodSandboxConfig> {
        let change = move |pod: &mut cri::PodSandboxConfig| {
            let mut port = cri::PortMapping {
                container_port: 80,
                host_port: 8080,
                ..Default::default()
            };
            change(&mut port);
            pod.port_mappings.push(port);
        };
        (field, Box::new(change))
    };
    vec![
        security("namespace_options.pid", |security| {
            security.namespace_options.get_or_insert_default().pid = cri::NamespaceMode::Target.into();
        }),
        security("namespace_options.network", |security| {
            security.namespace_options.get_or_insert_default().network = 9;
        }),
        security("seccomp.profile_type", |security| {
            security.seccomp = profile(4, "");
        }),
        security("selinux_options.role", |security| {
            security.selinux_options.get_or_insert_default().role = "a:b".to_owned();
        }),
        linux("sysctls[\"net.ipv4.ip_forward\"]", |linux| {
            linux
                .sysctls
                .insert("net.ipv4.ip_forward".to_owned(), "1\n2".to_owned());
        }),
        linux("sysctls[\"kernel.shmmax2\"]", |linux| {
            linux.sysctls.insert("kernel.shmmax2".to_owned(), "1".to_owned());
        }),
        linux("sysctls[\"fs.mqueue.\"]", |linux| {
            linux.sysctls.insert("fs.mqueue.".to_owned(), "1".to_owned());
        }),
        port("port_mappings.protocol", |port| port.protocol = 3),
        port("port_mappings.host_ip", |port| {
            port.host_ip = "localhost".to_owned();
        }),
        port("port_mappings.host_port", |port| port.host_port = 65536),
        port("port_mappings.container_port", |port| port.container_port = 0),
    ]
}

#[tokio::test]
async fn pods_that_contradict_themselves_are_refused_by_field() {
    let server = Server::start().await;
    let before = lasting(&server);
    for (field, change) in wrong_pods() {
        let Pod(mut pod) = server.pod("refused");
        change(&mut pod);
        let refused = server.client.run_pod(&pod).await.expect_err(field);
        names(&refused, field);
        assert_eq!(lasting(&server), before, "{field}: nothing half-made stays");
    }
    server.run_pod("refused").await;
    server.close().await;
}
