//! AppArmor, on hosts that have it (the machine of `make test-vm`); elsewhere, that nobody is told to be confined who is
//! not. What counts is what the kernel refuses to a container; its name for the confinement is looked at besides.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{IdMapping, NamespaceMode, NamespaceOption, SecurityProfile, UserNamespace};
use test_e2e::harness::Server;
use test_e2e::pods::RunningPod;
use test_e2e::specs::{Container, Pod};

/// Its own attribute of AppArmor's, or the one that modules shared before Linux 5.8.
const LOOK: &str = "cat /proc/self/attr/apparmor/current 2>/dev/null || cat /proc/self/attr/current";
const DEFAULT: &str = "crisp-default (enforce)\n";
const UNCONFINED: &str = "unconfined\n";

fn apparmor() -> bool {
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'))
        && Path::new("/sys/kernel/security/apparmor/profiles").exists();
    if !on {
        println!("left out: this kernel has no AppArmor, or it is off (make test-vm runs it)");
    }
    on
}

/// A profile of the node, under a name of this test's own: everything is allowed but to write `/denied`. Unloaded when
/// dropped.
struct NodeProfile {
    name: String,
}

impl NodeProfile {
    fn load(purpose: &str) -> Self {
        let name = format!("crisp-test-{purpose}-{}", std::process::id());
        let profile = Self { name };
        profile.parser("--replace");
        profile
    }

    /// As the kernel shows it to a process that it confines.
    fn in_force(&self) -> String {
        format!("{} (enforce)\n", self.name)
    }

    fn parser(&self, what: &str) {
        let policy = format!(
            "profile {} flags=(attach_disconnected) {{ network, capability, file, mount, umount, signal, ptrace, \
             pivot_root, deny /denied w, }}",
            self.name
        );
        let mut parser = Command::new("apparmor_parser")
            .args(["--skip-cache", "--quiet", what])
            .stdin(Stdio::piped())
            .spawn()
            .expect("apparmor_parser, where there is AppArmor");
        let mut stdin = parser.stdin.take().expect("a pipe was asked for");
        stdin.write_all(policy.as_bytes()).expect("the parser reads");
        drop(stdin);
        let status = parser.wait().expect("it is our child");
        assert!(status.success(), "{what} {}: {status}", self.name);
    }
}

impl Drop for NodeProfile {
    fn drop(&mut self) {
        let list = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
        if list
            .lines()
            .any(|line| line.starts_with(&format!("{} ", self.name)))
        {
            self.parser("--remove");
        }
    }
}

fn asked(container: Container, kind: ProfileType, name: &str) -> Container {
    container.secure(|security| {
        security.apparmor = Some(SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: name.to_owned(),
        });
    })
}

#[allow(deprecated)] // clients of an older API still send it
fn asked_as_before(container: Container, profile: &str) -> Container {
    container.secure(|security| security.apparmor_profile = profile.to_owned())
}

/// The confinement of a container's first process, and of one that is executed in it.
async fn confinement(server: &Server, pod: &RunningPod, container: Container) -> [String; 2] {
    // Told apart from the exec's own: the first process prints what it sees of itself.
    let log_path = container.0.log_path.clone();
    let id = pod
        .start(&container.shell(&format!("{LOOK}; exec sleep 100000")))
        .await;
    let of_init = pod.logged(&log_path, "\n").await;
    let exec = server
        .client
        .exec(&id, &["/bin/sh", "-c", LOOK], 0)
        .await
        .unwrap();
    // The default profile lets the runtime's signals in.
    server.client.stop(&id, 0).await.unwrap();
    assert_eq!(server.client.exited(&id).await.exit_code, 137);
    [of_init, String::from_utf8(exec.stdout).unwrap()]
}

/// That `/denied`, and nothing else, cannot be written.
async fn bites(pod: &RunningPod, container: Container) {
    let write = "echo written > /allowed && cat /allowed; echo written 2>/dev/null > /denied || echo refused";
    let (_, output) = pod
        .finish(&container.shell(&format!("exec 2>/dev/null; {write}")))
        .await;
    assert_eq!(output, "written\nrefused\n");
}

#[tokio::test]
async fn a_profile_that_is_not_there_stops_the_container() {
    const MISSING: &str = "crisp-test-never-loaded";
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("missing").await;
    pod.use_first(&image).await;
    let before = server.traces();
    let container = || Container::new("main", &image).shell(LOOK);
    for missing in [
        asked(container(), ProfileType::Localhost, MISSING),
        asked_as_before(container(), &format!("localhost/{MISSING}")),
    ] {
        let refused = pod.create(&missing).await.unwrap_err();
        let said = refused.message();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{said}");
        assert!(
            said.contains(MISSING) && said.contains("security_context.apparmor"),
            "{said}"
        );
    }
    let nameless = asked(container(), ProfileType::Localhost, "");
    assert!(pod.create(&nameless).await.is_err());
    assert!(pod.create(&asked_as_before(container(), "mine")).await.is_err());
    assert_eq!(server.traces(), before, "nothing half-made stays");
    for kind in [ProfileType::RuntimeDefault, ProfileType::Unconfined] {
        let name = format!("{kind:?}").to_lowercase();
        let container = asked(Container::new(&name, &image).shell("echo runs"), kind, "");
        assert_eq!(pod.finish(&container).await.1, "runs\n");
    }
    server.close().await;
}

#[tokio::test]
async fn the_profile_is_in_force_for_init_and_exec() {
    if !apparmor() {
        return;
    }
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run(&server.pod("apparmor").privileged()).await.unwrap();
    let node = NodeProfile::load("named");
    let named = |name: &str| Container::new(name, &image);
    let local = |name: &str| asked(named(name), ProfileType::Localhost, &node.name);
    for (container, expected) in [
        (named("unset"), DEFAULT),
        (
            asked(named("default"), ProfileType::RuntimeDefault, "")
                .secure(|security| security.no_new_privs = true),
            DEFAULT,
        ),
        (
            asked_as_before(named("default-before"), "runtime/default"),
            DEFAULT,
        ),
        (local("localhost").user(1000, None), &node.in_force()),
        (
            local("localhost-nnp").secure(|security| security.no_new_privs = true),
            &node.in_force(),
        ),
        (
            asked_as_before(named("localhost-before"), &format!("localhost/{}", node.name)),
            &node.in_force(),
        ),
        (
            asked(named("unconfined"), ProfileType::Unconfined, ""),
            UNCONFINED,
        ),
        (
            asked_as_before(named("unconfined-before"), "unconfined"),
            UNCONFINED,
        ),
        (
            named("privileged").secure(|security| security.privileged = true),
            UNCONFINED,
        ),
        (
            local("privileged-named").secure(|security| security.privileged = true),
            &node.in_force(),
        ),
    ] {
        let name = container.0.log_path.clone();
        assert_eq!(
            confinement(&server, &pod, container).await,
            [expected, expected],
            "{name}"
        );
    }
    server.close().await;
}

#[tokio::test]
async fn what_a_profile_denies_is_refused() {
    if !apparmor() {
        return;
    }
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("denials").await;
    // What capabilities and masks would allow, the default profile denies.
    let admin = |name: &str| {
        Container::new(name, &image)
            .shell("mount -t tmpfs none /tmp 2>/dev/null && echo mounted; (echo $(cat /proc/sys/kernel/printk) > /proc/sys/kernel/printk) 2>/dev/null && echo written; sleep 1000 & kill $! && echo done")
            .capabilities(&["SYS_ADMIN"], &[])
            .secure(|security| security.readonly_paths = vec!["/nonexistent".to_owned()])
    };
    let unconfined = asked(admin("allowed"), ProfileType::Unconfined, "");
    assert_eq!(pod.finish(&unconfined).await.1, "mounted\nwritten\ndone\n");
    assert_eq!(pod.finish(&admin("denied")).await.1, "done\n");

    let node = NodeProfile::load("denying");
    bites(
        &pod,
        asked(Container::new("node", &image), ProfileType::Localhost, &node.name),
    )
    .await;
    server.close().await;
}

#[tokio::test]
async fn a_profile_that_is_unloaded_before_the_start_fails_it_by_name() {
    if !apparmor() {
        return;
    }
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("unloaded").await;
    let node = NodeProfile::load("brief");
    let container = asked(Container::new("late", &image), ProfileType::Localhost, &node.name);
    let id = pod.create(&container.shell("echo ran")).await.unwrap();
    let name = node.name.clone();
    drop(node);
    let refused = server.client.start(&id).await.unwrap_err();
    assert!(refused.message().contains(&name), "{}", refused.message());
    let status = server.client.exited(&id).await;
    assert_ne!(status.exit_code, 0, "it has not run");
    server.close().await;
}

#[tokio::test]
async fn pods_with_users_of_their_own_are_confined_alike() {
    if !apparmor() {
        return;
    }
    let server = Server::start().await;
    let image = server.busybox().await;
    let node = NodeProfile::load("users");
    let container = |name: &str| {
        Container::new(name, &image)
            .secure(|security| own_users(security.namespace_options.get_or_insert_default()))
    };
    let pod: Pod = server.pod("users").namespaces(own_users);
    let pod = server.run(&pod).await.unwrap();
    for (container, expected) in [
        (container("unset"), DEFAULT),
        (
            asked(container("localhost"), ProfileType::Localhost, &node.name)
                .secure(|security| security.no_new_privs = true),
            &node.in_force(),
        ),
        (
            asked(container("unconfined"), ProfileType::Unconfined, ""),
            UNCONFINED,
        ),
    ] {
        let name = container.0.log_path.clone();
        assert_eq!(
            confinement(&server, &pod, container).await,
            [expected, expected],
            "{name}"
        );
    }
    bites(
        &pod,
        asked(container("denied"), ProfileType::Localhost, &node.name),
    )
    .await;
    server.close().await;
}

fn own_users(options: &mut NamespaceOption) {
    let ids = vec![IdMapping {
        host_id: 2_345_600,
        container_id: 0,
        length: 65_536,
    }];
    options.userns_options = Some(UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ids.clone(),
        gids: ids,
    });
}
