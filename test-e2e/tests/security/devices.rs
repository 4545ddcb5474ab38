//! Devices, cgroup parents and limits: what a request may name, and what it then gets.

use k8s_cri::v1::Device;
use test_e2e::harness::Server;
use test_e2e::specs::Container;

use crate::invariant::HostInvariant;

fn with_device(mut container: Container, host: &str, path: &str, permissions: &str) -> Container {
    container.0.devices.push(Device {
        container_path: path.to_owned(),
        host_path: host.to_owned(),
        permissions: permissions.to_owned(),
    });
    container
}

/// All devices are denied but those listed, each with its own permissions: also to who makes the node himself.
#[tokio::test]
async fn a_container_opens_only_its_devices() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let host = HostInvariant::of(&server);
    let pod = server.run_pod("devices").await;
    // /dev/fuse is 10:229 everywhere, and opens without effect.
    let open = "open() { test -e $1 || return; ( : < $1 ) 2>/dev/null && echo $1 read; ( : > $1 ) 2>/dev/null && echo $1 write; }; \
                mknod /dev/own c 10 229; open /dev/own; open /dev/given; mknod /dev/kvm c 10 232; open /dev/kvm; mknod /dev/mem c 1 1; open /dev/mem; \
                mknod /dev/kmsg c 1 11; open /dev/kmsg; mknod /nodev c 10 229; open /nodev; true";
    let none = Container::new("none", &image).shell(open);
    assert_eq!(pod.finish(&none).await, (0, String::new()));
    let read = with_device(Container::new("read", &image), "/dev/fuse", "/dev/given", "r").shell(open);
    assert_eq!(
        pod.finish(&read).await,
        (0, "/dev/own read\n/dev/given read\n".to_owned())
    );
    let both = with_device(Container::new("both", &image), "/dev/fuse", "/dev/sub/given", "rw")
        .shell("open() { ( : < $1 ) && ( : > $1 ) && echo both; }; open /dev/sub/given; stat -c '%t:%T' /dev/sub/given");
    assert_eq!(pod.finish(&both).await, (0, "both\na:e5\n".to_owned()));
    host.holds("devices");
    server.close().await;
}

#[tokio::test]
async fn devices_and_parents_that_are_none_are_refused() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let host = HostInvariant::of(&server);
    let pod = server.run_pod("refused").await;
    for (name, source, target, permissions) in [
        ("directory", "/etc", "/dev/x", "rwm"),
        ("file", "/etc/hostname", "/dev/x", "rwm"),
        ("absent", "/dev/no-such-device", "/dev/x", "rwm"),
        ("letters", "/dev/null", "/dev/x", "rwx"),
        ("outside", "/dev/null", "/etc/passwd", "rwm"),
        ("climbing", "/dev/null", "/dev/../etc/passwd", "rwm"),
        ("fake-null", "/dev/zero", "/dev/null", "rwm"),
    ] {
        let container = with_device(Container::new(name, &image), source, target, permissions);
        assert!(pod.create(&container).await.is_err(), "{name}");
    }
    for parent in ["/../escape", "/a/../../escape", "/./a", "/a\nb", "a/../.."] {
        let bad = server.pod("parent").cgroup_parent(parent);
        assert!(server.run(&bad).await.is_err(), "{parent:?}");
    }
    for cpus in ["0-2147483647", "4294967296", "-1", "0;rm", "3-1"] {
        let container =
            Container::new("cpus", &image).resources(|limits| limits.cpuset_cpus = cpus.to_owned());
        assert!(pod.create(&container).await.is_err(), "{cpus:?}");
    }
    assert!(server.client.containers().await.unwrap().is_empty());
    host.holds("refused devices");
    server.close().await;
}

/// CVE-2024-3154: what an annotation says never reaches mounts, devices or the manager of cgroups.
#[tokio::test]
async fn annotations_switch_nothing_on() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let host = HostInvariant::of(&server);
    let switches = [
        ("org.systemd.property.ExecStart", "'/evil'"),
        ("io.kubernetes.cri-o.Devices", "/dev/mem:/dev/mem:rwm"),
        ("io.kubernetes.cri-o.ShmSize", "1Ti"),
        ("io.kubernetes.cri-o.UnifiedCgroup.main", "memory.max=max"),
        ("io.kubernetes.cri-o.umask", "000"),
        ("run.oci.hooks.stdout", "/evil"),
        ("io.containerd.runc.v2.group", "x"),
    ];
    let pod = switches
        .into_iter()
        .fold(server.pod("annotated"), |pod, (key, value)| {
            pod.annotation(key, value)
        });
    let pod = server.run(&pod).await.unwrap();
    let mut main = Container::new("main", &image)
        .shell("umask; ls /dev/mem 2>/dev/null; df -m /dev/shm | tail -n 1 | wc -l");
    for (key, value) in switches {
        main.0.annotations.insert(key.to_owned(), value.to_owned());
    }
    let (_, output) = pod.finish(&main).await;
    assert!(
        output.starts_with("0022\n") && !output.contains("mem"),
        "{output}"
    );
    host.holds("annotations");
    server.close().await;
}
