//! The root file system and what the kernel shows in it: `/proc`, `/sys`, `/dev`.

use k8s_cri::v1::{ImageSpec, Mount};
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::{self, Layer};
use test_e2e::layout::Settings;
use test_e2e::specs::Container;

use crate::invariant::HostInvariant;

#[tokio::test]
async fn kernel_doors_are_masked_and_read_only() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("masks").await;
    let look = "
        for f in /proc/kcore /proc/keys /proc/timer_list; do test -e $f && head -c 1 $f | grep -q . && echo readable $f; done
        for d in /sys/firmware /proc/acpi /proc/scsi; do test -d $d && test -n \"$(ls $d)\" && echo listable $d; done
        for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity; do
            (echo x > $f) 2>/dev/null && echo writable $f; done
        for d in /sys /sys/fs/cgroup /proc/sys; do (mkdir $d/crisp-test) 2>/dev/null && echo writable $d; done
        mknod /disk b 254 0 && head -c 1 /disk >/dev/null 2>&1 && echo device readable
        mount -t proc proc /tmp 2>/dev/null && echo may mount
        ls /dev | sort | tr '\\n' ' '";
    let look = look.replace("| tr '\\n' ' '", "");
    let host = HostInvariant::of(&server);
    let (_, output) = pod.finish(&Container::new("main", &image).shell(&look)).await;
    let unexpected: Vec<_> = output.lines().filter(|line| line.contains(' ')).collect();
    assert!(unexpected.is_empty(), "{output}");
    let devices: Vec<_> = output.lines().collect();
    for wanted in [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ] {
        assert!(devices.contains(&wanted), "{wanted} in {devices:?}");
    }
    assert!(
        !devices.contains(&"vda") && !devices.contains(&"mem"),
        "{devices:?}"
    );
    host.holds("writing to /proc and /sys");
    server.close().await;
}

/// /proc, /sys or /dev of the image leads elsewhere: refused, or the real thing; never the elsewhere.
#[tokio::test]
async fn symlinked_kernel_directories_do_not_lead_out() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let target = host.canary().display().to_string();
    for (number, (name, to)) in [
        ("proc", "/tmp"),
        ("proc", target.as_str()),
        ("sys", "/tmp"),
        ("dev", target.as_str()),
        ("dev", "../../../../../../.."),
        ("dev", "/tmp"),
        ("dev/shm", target.as_str()),
    ]
    .into_iter()
    .enumerate()
    {
        let layer = Layer::new().symlink(name, to);
        let image = server
            .pull(
                &format!("symlinked-{number}"),
                &images::busybox_builder().layer(layer).build(),
            )
            .await;
        let pod = server.run_pod(&format!("symlinked-{number}")).await;
        let look = "for f in proc sys dev; do grep \" /$f \" /proc/mounts; done";
        let id = pod.create(&Container::new("main", &image).shell(look)).await;
        if let Ok(id) = id
            && server.client.start(&id).await.is_ok()
        {
            server.client.exited(&id).await;
            let mounts = pod.logged("main.log", " /dev ").await;
            for fresh in ["proc /proc proc", "sysfs /sys sysfs", "tmpfs /dev tmpfs"] {
                assert!(mounts.contains(fresh), "{name} → {to}: {mounts}");
            }
        }
        host.holds(&format!("{name} → {to}"));
        server.client.remove_pod(&pod.id).await.unwrap();
    }
    server.close().await;
}

/// An image may hold nodes, but none of them is a device: not even of one that every container may open.
#[tokio::test]
async fn nodes_of_an_image_are_no_devices() {
    for format in layers::formats() {
        let settings = Settings {
            config: format!("[image]\nlayer_format = \"{format}\"\n"),
            ..Settings::default()
        };
        let server = settings.start().await;
        let layer = || Layer::new().device("hole", 1, 3);
        let image = images::busybox_builder().layer(layer()).build();
        let image = server.pull("nodes", &image).await;
        let volume = images::Image::builder().layer(layer()).build();
        let volume = server.pull("volume", &volume).await;
        let pod = server.run_pod("nodes").await;
        let look = "open() { stat -c '%n %t:%T' $1; ( : < $1 ) 2>&1 | grep -q 'Permission denied' && echo refused; }; \
                    open /hole; open /v/hole; mknod /own c 1 3; open /own; : < /dev/null && echo and null is one";
        let mut main = Container::new("main", &image).shell(look);
        main.0.mounts.push(Mount {
            container_path: "/v".to_owned(),
            readonly: true,
            image: Some(ImageSpec {
                image: volume,
                ..Default::default()
            }),
            ..Default::default()
        });
        let expected = "/hole 1:3\nrefused\n/v/hole 1:3\nrefused\n/own 1:3\nrefused\nand null is one\n";
        assert_eq!(pod.finish(&main).await, (0, expected.to_owned()), "{format}");
        server.close().await;
    }
}

/// A container's root lies on an empty directory, not on a root that it has replaced: whatever it is allowed to do to its
/// own mounts, below them there is that and nothing of the host.
#[tokio::test]
async fn below_a_root_there_is_nothing() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let image = server.probe().await;
    let settings = server.pod("below").privileged();
    let pod = server.run(&settings).await.unwrap();
    let climb = Container::new("climb", &image).command(&["/probe", "climb"]);
    let (code, seen) = pod.finish(&climb).await;
    assert_eq!(code, 0, "{seen}");
    for own in ["prison", "probe", "proc"] {
        assert!(seen.split_whitespace().any(|name| name == own), "{own} in {seen}");
    }
    let uproot = Container::new("uproot", &image)
        .command(&["/probe", "uproot"])
        .secure(|security| security.privileged = true);
    assert_eq!(pod.finish(&uproot).await, (0, "dev\n".to_owned()));
    host.holds("what privileges do to a root");
    server.close().await;
}
