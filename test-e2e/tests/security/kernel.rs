//! Parameters, paths and directories: what the kernel shows and takes is what was asked for.

use std::fs;

use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::Layer;
use test_e2e::specs::Container;

use crate::invariant::HostInvariant;

/// Both spellings reach the pod's namespaces, and nobody else's.
#[tokio::test]
async fn sysctls_change_the_pod_alone() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let host = HostInvariant::of(&server);
    let names = [
        (
            "net.ipv4.tcp_keepalive_time",
            "net/ipv4/tcp_keepalive_time",
            "1234",
        ),
        ("net/ipv4/conf/all/rp_filter", "net/ipv4/conf/all/rp_filter", "2"),
        (
            "net/ipv4/ip_unprivileged_port_start",
            "net/ipv4/ip_unprivileged_port_start",
            "77",
        ),
        ("kernel.msgmax", "kernel/msgmax", "4321"),
        ("fs/mqueue/msg_max", "fs/mqueue/msg_max", "5"),
    ];
    let on_the_host = || names.map(|(_, path, _)| fs::read_to_string(format!("/proc/sys/{path}")).unwrap());
    let before = on_the_host();
    let pod = names.iter().fold(server.pod("sysctls"), |pod, (name, _, value)| {
        pod.sysctl(name, value)
    });
    let pod = server.run(&pod).await.unwrap();
    let other = server.run_pod("other").await;
    let read = names.map(|(_, path, _)| format!("/proc/sys/{path}")).join(" ");
    let look = Container::new("main", &image).shell(&format!("cat {read}"));
    let expected: String = names.iter().map(|(_, _, value)| format!("{value}\n")).collect();
    assert_eq!(pod.finish(&look).await.1, expected);
    assert_ne!(other.finish(&look).await.1, expected);
    assert_eq!(on_the_host(), before);
    host.holds("sysctls of a pod");
    server.close().await;
}

#[tokio::test]
async fn sysctls_of_the_host_are_refused_in_every_spelling() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    for (name, value) in [
        ("kernel.core_pattern", "|/evil"),
        ("kernel/core_pattern", "|/evil"),
        ("kernel.shm_rmid_forced+kernel.core_pattern", "|/evil"),
        ("net/../kernel/core_pattern", "|/evil"),
        ("net.ipv4.ip_forward\nkernel.core_pattern", "1"),
        ("net.ipv4.ip_forward", "1\n|/evil"),
        ("vm.overcommit_memory", "1"),
        ("kernel.shmmax2", "1"),
        ("fs.mqueue.", "1"),
        ("net", "1"),
        ("", "1"),
        ("net.ipv4.no_such_parameter", "1"),
    ] {
        let refused = server.run(&server.pod("refused").sysctl(name, value)).await;
        assert!(refused.is_err(), "{name:?} = {value:?}");
        host.holds(name);
    }
    assert!(
        server.client.pods().await.unwrap().is_empty(),
        "nothing half-made stays"
    );
    server.close().await;
}

/// Lists in the request are what applies; without them the defaults do.
#[tokio::test]
async fn masked_and_read_only_paths_are_those_given() {
    let server = Server::start().await;
    let layer = Layer::new()
        .directory("secret", 0o755)
        .file("secret/inside", 0o644, "x")
        .file("token", 0o644, "x")
        .directory("data", 0o777)
        .symlink("alias", "/secret");
    let image = server
        .pull("paths", &images::busybox_builder().layer(layer).build())
        .await;
    let pod = server.run_pod("paths").await;
    let look = "ls /secret; cat /token; touch /data/x 2>/dev/null && echo writable; \
                head -c 1 /proc/timer_list | grep -q . && echo timers; \
                grep -q ' /proc/sys proc ro' /proc/mounts && echo protected";
    let given = Container::new("given", &image).shell(look).secure(|security| {
        security.masked_paths = ["/alias", "/token", "/nonexistent/path"]
            .map(str::to_owned)
            .to_vec();
        security.readonly_paths = vec!["/data".to_owned()];
    });
    // CAP_SYS_ADMIN would be needed to see timers; what counts is that no default is added to a list.
    let output = pod.finish(&given).await.1;
    assert!(!output.contains("inside") && !output.contains('x'), "{output}");
    assert!(
        !output.contains("writable") && !output.contains("protected"),
        "{output}"
    );
    let default = Container::new("default", &image).shell(look);
    let output = pod.finish(&default).await.1;
    assert!(output.starts_with("inside\nx"), "{output}");
    assert!(
        output.contains("writable\n") && output.contains("protected\n"),
        "{output}"
    );
    assert!(!output.contains("timers"), "{output}");
    for bad in ["relative", "/a/../b", "/"] {
        let refused = Container::new("refused", &image)
            .shell(look)
            .secure(|security| security.masked_paths = vec![bad.to_owned()]);
        assert!(pod.create(&refused).await.is_err(), "{bad:?}");
    }
    server.close().await;
}

/// A working directory is made where the container sees it: on volumes and below links, as root, and never outside.
#[tokio::test]
async fn working_directories_are_made_inside() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let volume = server.directory().join("volume");
    fs::create_dir(&volume).unwrap();
    let outside = format!("../../../../../../..{}", host.canary().display());
    let layer = Layer::new()
        .symlink("inside", "/tmp")
        .symlink("outside", &outside)
        .directory("closed", 0o700)
        .file("file", 0o644, "");
    let image = server
        .pull("workdir", &images::busybox_builder().layer(layer).build())
        .await;
    let pod = server.run_pod("workdir").await;
    let in_directory = |name: &str, directory: &str| {
        Container::new(name, &image)
            .shell("pwd -P; stat -c '%u:%g %a' .")
            .working_dir(directory)
            .mount(&volume, "/volume")
    };
    let outside_inside = format!("{}/made", host.canary().display());
    for (name, directory, expected) in [
        ("missing", "/new/deep/place", "/new/deep/place\n0:0 755\n"),
        ("linked", "/inside/made", "/tmp/made\n0:0 755\n"),
        ("volume", "/volume/made", "/volume/made\n0:0 755\n"),
        ("dotted", "/new/../other", "/other\n0:0 755\n"),
        (
            "outside",
            "/outside/made",
            &format!("{outside_inside}\n0:0 755\n"),
        ),
    ] {
        assert_eq!(
            pod.finish(&in_directory(name, directory)).await.1,
            expected,
            "{name}"
        );
    }
    assert!(volume.join("made").is_dir(), "the volume is the host's own");
    let read_only =
        in_directory("read-only", "/made/read-only").secure(|security| security.readonly_rootfs = true);
    assert_eq!(pod.finish(&read_only).await.1, "/made/read-only\n0:0 755\n");
    let user = in_directory("user", "/closed")
        .command(&["/bin/true"])
        .user(1000, None);
    assert_eq!(
        pod.finish(&user).await.0,
        0,
        "a directory that only root may enter is one all the same"
    );
    let file = pod.create(&in_directory("file", "/file")).await.unwrap();
    assert!(server.client.start(&file).await.is_err());
    host.holds("working directories");
    server.close().await;
}
