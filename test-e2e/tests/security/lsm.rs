//! AppArmor, on hosts that have it; elsewhere, that nobody is told to be confined who is not.

use std::fs;
use std::path::Path;

use k8s_cri::v1::SecurityProfile;
use k8s_cri::v1::security_profile::ProfileType;
use test_e2e::harness::Server;
use test_e2e::specs::Container;

/// Its own attribute of AppArmor's, or the one that modules shared before Linux 5.8.
const LOOK: &str = "cat /proc/self/attr/apparmor/current 2>/dev/null || cat /proc/self/attr/current";

fn apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
        && Path::new("/sys/kernel/security/apparmor/profiles").exists()
}

fn asked(container: Container, kind: ProfileType, name: &str) -> Container {
    container.secure(|security| {
        security.apparmor = Some(SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: name.to_owned(),
        });
    })
}

#[tokio::test]
async fn a_profile_that_is_not_there_stops_the_container() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("missing").await;
    let before = server.traces();
    let container = || Container::new("main", &image).shell(LOOK);
    let missing = asked(container(), ProfileType::Localhost, "crisp-test-never-loaded");
    assert!(pod.create(&missing).await.is_err());
    #[allow(deprecated)] // clients of an older API still send it
    let deprecated = container()
        .secure(|security| security.apparmor_profile = "localhost/crisp-test-never-loaded".to_owned());
    assert!(pod.create(&deprecated).await.is_err());
    assert!(
        pod.create(&asked(container(), ProfileType::Localhost, ""))
            .await
            .is_err()
    );
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
        println!("skipped: this host has no AppArmor");
        return;
    }
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("apparmor").await;
    let named = |name: &str| Container::new(name, &image);
    for (name, container, expected) in [
        ("unset", named("unset"), "crisp-default (enforce)\n"),
        (
            "default",
            asked(named("default"), ProfileType::RuntimeDefault, "")
                .secure(|security| security.no_new_privs = true),
            "crisp-default (enforce)\n",
        ),
        (
            "localhost",
            asked(named("localhost"), ProfileType::Localhost, "crisp-default").user(1000, None),
            "crisp-default (enforce)\n",
        ),
        (
            "unconfined",
            asked(named("unconfined"), ProfileType::Unconfined, ""),
            "unconfined\n",
        ),
    ] {
        let id = pod.start(&container.command(&["/bin/sleep", "100000"])).await;
        let exec = server
            .client
            .exec(&id, &["/bin/sh", "-c", LOOK], 0)
            .await
            .unwrap();
        let of_init = server
            .client
            .exec(&id, &["/bin/cat", "/proc/1/attr/current"], 0)
            .await
            .unwrap();
        for stdout in [exec.stdout, of_init.stdout] {
            assert_eq!(String::from_utf8(stdout).unwrap(), expected, "{name}");
        }
    }
    // What capabilities and masks would allow, the profile denies.
    let admin = |name: &str| {
        named(name)
        .shell("mount -t tmpfs none /tmp 2>/dev/null && echo mounted; (echo $(cat /proc/sys/kernel/printk) > /proc/sys/kernel/printk) 2>/dev/null && echo written; echo done")
        .capabilities(&["SYS_ADMIN"], &[])
        .secure(|security| security.readonly_paths = vec!["/nonexistent".to_owned()])
    };
    let unconfined = asked(admin("allowed"), ProfileType::Unconfined, "");
    assert_eq!(pod.finish(&unconfined).await.1, "mounted\nwritten\ndone\n");
    assert_eq!(pod.finish(&admin("denied")).await.1, "done\n");
    server.close().await;
}
