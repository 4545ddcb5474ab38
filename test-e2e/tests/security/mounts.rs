//! Mounts, `/dev` and `/proc` of hostile images and hostile neighbours: nothing is ever resolved on the host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use k8s_cri::v1::{NamespaceMode, NamespaceOption};
use serde_json::json;
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::Layer;
use test_e2e::specs::Container;

use crate::invariant::HostInvariant;

/// CVE-2021-30465 and all that followed: the target of a mount, and the working directory, below a volume in which
/// another container swaps a directory for a link to the host.
#[tokio::test]
async fn a_swapped_target_is_never_on_the_host() {
    const STARTS: usize = 500;
    let server = Server::start().await;
    let image = server.probe().await;
    let host = HostInvariant::of(&server);
    let (shared, inner) = (
        server.directory().join("shared"),
        server.directory().join("inner"),
    );
    fs::create_dir_all(shared.join("real/sub")).unwrap();
    fs::create_dir(&inner).unwrap();
    symlink(host.canary(), shared.join("link")).unwrap();

    let pod = server.run_pod("race").await;
    let racer = Container::new("racer", &image)
        .args(&["swap", "/v/real", "/v/link", "/v/stop"])
        .mount(&shared, "/v");
    let racer = pod.start(&racer).await;
    pod.logged("racer.log", "swapping").await;
    let mut started = 0;
    for number in 0..STARTS {
        let target = ["/v/real/sub", "/v/link/sub", "/v/real/made"][number % 3];
        let mut victim = Container::new(&format!("victim-{number}"), &image)
            .command(&["/bin/true"])
            .mount(&shared, "/v")
            .mount(&inner, target)
            .working_dir(&format!("{target}/work"));
        victim.0.log_path.clear();
        let Ok(id) = pod.create(&victim).await else {
            continue;
        };
        started += usize::from(server.client.start(&id).await.is_ok());
        server.client.remove(&id).await.unwrap();
    }
    fs::write(shared.join("stop"), "").unwrap();
    assert_eq!(server.client.exited(&racer).await.exit_code, 0);
    assert!(
        started > STARTS / 10,
        "the race was run, and sometimes won by nobody: {started}"
    );
    let swaps: u64 = pod.logged("racer.log", "swaps").await.lines().last().unwrap()["swaps ".len()..]
        .parse()
        .unwrap();
    assert!(swaps > 10 * STARTS as u64, "{swaps} swaps");
    host.holds("a swapped mount target");
    server.close().await;
}

/// CVE-2026-41579: what an image has in the place of `/dev`.
#[tokio::test]
async fn a_dev_that_is_no_directory_leads_nowhere() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let pod = server.run_pod("dev").await;
    let canary = host.canary().display().to_string();
    let link = |target: &str| Layer::new().symlink("dev", target);
    let nested = Layer::new()
        .symlink("dev/shm", &canary)
        .symlink("dev/pts", &canary);
    for (name, layer) in [
        ("absolute", link(&canary)),
        ("climbing", link("../../../../../..")),
        ("file", Layer::new().file("dev", 0o644, "no directory")),
        ("nested", nested),
    ] {
        let image = images::Image::builder()
            .layer(layer)
            .layer(images_without_dev())
            .build();
        let image = server.pull(&format!("dev-{name}"), &image).await;
        let id = pod
            .create(&Container::new(name, &image).command(&["/bin/busybox", "ls", "/dev/null"]))
            .await
            .unwrap();
        // It may run, with a /dev of its own, or not; what it never does is to reach out.
        if server.client.start(&id).await.is_ok() {
            assert_eq!(server.client.exited(&id).await.exit_code, 0, "{name}");
        }
        host.holds(name);
    }
    server.close().await;
}

/// Busybox without any directory but its own.
fn images_without_dev() -> Layer {
    let program = fs::read("/bin/busybox").expect("busybox-static");
    Layer::new().file("bin/busybox", 0o755, program)
}

/// CVE-2019-16884 and its kin: nothing covers procfs or sysfs, however it is written.
#[tokio::test]
async fn nothing_is_mounted_over_the_kernels_file_systems() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let host = HostInvariant::of(&server);
    let pod = server.run_pod("covers").await;
    for (index, target) in [
        "/proc",
        "/proc/self",
        "/proc/self/attr",
        "/proc/sys/kernel",
        "/sys",
        "//proc//",
        "/x/../proc/sys",
        "/",
        "/./",
    ]
    .into_iter()
    .enumerate()
    {
        let covers = Container::new(&format!("covers-{index}"), &image).mount(host.canary(), target);
        assert!(pod.create(&covers).await.is_err(), "{target}");
    }
    // A link of the image's leads there as well.
    let image = images::busybox_builder()
        .layer(
            Layer::new()
                .symlink("p", "/proc")
                .symlink("r", "/")
                .symlink("s", "/proc/sys"),
        )
        .build();
    let image = server.pull("links", &image).await;
    for target in ["/p", "/r", "/s/kernel", "/p/self"] {
        let name = format!("link-{}", target.replace('/', "-"));
        let id = pod
            .create(
                &Container::new(&name, &image)
                    .command(&["/bin/true"])
                    .mount(host.canary(), target),
            )
            .await
            .unwrap();
        assert!(server.client.start(&id).await.is_err(), "{target}");
    }
    let declared = images::busybox_builder()
        .config("Volumes", json!({ "/proc": {} }))
        .build();
    let declared = server.pull("declares-proc", &declared).await;
    assert!(pod.create(&Container::new("declared", &declared)).await.is_err());
    host.holds("a mount over procfs");
    server.close().await;
}

/// CVE-2025-31133 and CVE-2025-52565: a volume in the place of `/dev` or `/dev/pts`, whose names lead elsewhere.
#[tokio::test]
async fn a_volume_at_dev_masks_nothing_and_opens_nothing() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let host = HostInvariant::of(&server);
    let pod = server.run_pod("dev-volume").await;
    let volume = server.directory().join("dev");
    fs::create_dir_all(volume.join("pts")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", volume.join("null")).unwrap();
    symlink(host.canary().join("file"), volume.join("console")).unwrap();
    for name in ["0", "1", "ptmx"] {
        symlink("/proc/sys/kernel/core_pattern", volume.join("pts").join(name)).unwrap();
    }
    let look = "head -c 1 /proc/keys | grep -q . && echo readable; \
                echo '|/evil' > /proc/sys/kernel/core_pattern && echo written; ls /sys/firmware; true";
    let masked = Container::new("masked", &image)
        .shell(look)
        .mount(&volume, "/dev");
    let id = pod.create(&masked).await.unwrap();
    if server.client.start(&id).await.is_ok() {
        server.client.exited(&id).await;
        let log = fs::read_to_string(pod.log("masked.log")).unwrap_or_default();
        assert!(!log.contains("readable") && !log.contains("written"), "{log}");
    }
    for (name, at) in [("dev", "/dev"), ("pts", "/dev/pts")] {
        let source = if name == "dev" {
            volume.clone()
        } else {
            volume.join("pts")
        };
        let mut terminal = Container::new(&format!("terminal-{name}"), &image)
            .command(&["/bin/sh", "-c", "echo written by the terminal"])
            .mount(&source, at);
        terminal.0.tty = true;
        let id = pod.create(&terminal).await.unwrap();
        if server.client.start(&id).await.is_ok() {
            server.client.exited(&id).await;
        }
    }
    host.holds("a volume at /dev");
    server.close().await;
}

/// Of the namespaces that a pod and its container ask for.
type Change = fn(&mut NamespaceOption);

/// CVE-2023-25809 and CVE-2026-24054: cgroups are not written from inside, and a root of nothing is a root of nothing.
#[tokio::test]
async fn cgroups_are_read_only_and_no_layers_mean_an_empty_root() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let host = HostInvariant::of(&server);
    let write = "for f in $(find /sys/fs/cgroup -name cgroup.procs -o -name release_agent -o -name tasks); do \
                 (echo 0 > $f) 2>/dev/null && echo written $f; done; echo looked";
    let modes: [(&str, Change); 4] = [
        ("own", |_| {}),
        ("shared-pid", |spaces| spaces.pid = NamespaceMode::Pod.into()),
        ("host-pid", |spaces| spaces.pid = NamespaceMode::Node.into()),
        ("host-all", |spaces| {
            let node = i32::from(NamespaceMode::Node);
            (spaces.pid, spaces.network, spaces.ipc) = (node, node, node);
        }),
    ];
    for (mode, change) in modes {
        let pod = server.run(&server.pod(mode).namespaces(change)).await.unwrap();
        let writer = Container::new("writer", &image)
            .shell(write)
            .secure(|security| change(security.namespace_options.get_or_insert_default()));
        assert_eq!(pod.finish(&writer).await, (0, "looked\n".to_owned()), "{mode}");
    }
    let pod = server.run_pod("empty").await;
    let empty = server.pull("empty", &images::Image::builder().build()).await;
    if let Ok(id) = pod
        .create(&Container::new("empty", &empty).command(&["/bin/sh"]))
        .await
    {
        assert!(
            server.client.start(&id).await.is_err(),
            "there is no /bin/sh in nothing"
        );
    }
    assert!(Path::new("/bin/sh").exists());
    host.holds("an empty image");
    server.close().await;
}
