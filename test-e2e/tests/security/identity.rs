//! Who a container's processes are, and what they may do.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_cri::v1::{Capability, Int64Value, SupplementalGroupsPolicy};
use test_e2e::eventually::stretched;
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::Layer;
use test_e2e::layout::Settings;
use test_e2e::pods::RunningPod;
use test_e2e::specs::Container;

use crate::DEFAULT_CAPABILITIES;
use crate::invariant::{HostInvariant, files_below};

#[tokio::test]
async fn capabilities_are_what_was_asked() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("capabilities").await;
    let look = |name: &str| Container::new(name, &image).command(&["/bin/grep", "^Cap", "/proc/self/status"]);
    let masks = |output: String| -> BTreeMap<String, String> {
        output
            .lines()
            .filter_map(|line| line.split_once(":\t"))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    };
    let none = masks(pod.finish(&look("none").capabilities(&[], &["ALL"])).await.1);
    assert!(none.values().all(|mask| mask == "0000000000000000"), "{none:?}");
    let one = masks(
        pod.finish(&look("one").capabilities(&["NET_ADMIN"], &["ALL"]))
            .await
            .1,
    );
    assert_eq!(
        (one["CapEff"].as_str(), one["CapBnd"].as_str()),
        ("0000000000001000", "0000000000001000")
    );
    let user = masks(pod.finish(&look("user").user(1000, None)).await.1);
    assert_eq!(
        (user["CapEff"].as_str(), user["CapPrm"].as_str()),
        ("0000000000000000", "0000000000000000")
    );
    assert_eq!(
        (user["CapInh"].as_str(), user["CapBnd"].as_str()),
        ("0000000000000000", DEFAULT_CAPABILITIES)
    );
    let locked = Container::new("locked", &image)
        .shell("grep NoNewPrivs /proc/self/status")
        .secure(|security| security.no_new_privs = true);
    assert_eq!(pod.finish(&locked).await, (0, "NoNewPrivs:\t1\n".to_owned()));
    server.close().await;
}

#[tokio::test]
async fn odd_users_never_become_root() {
    let server = Server::start().await;
    for (number, user) in [
        "2147483648",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "+0",
        " 0",
        "0x0",
        "1:99999999999",
    ]
    .into_iter()
    .enumerate()
    {
        let image = images::busybox_builder().config("User", user.into()).build();
        let image = server.pull(&format!("user-{number}"), &image).await;
        let pod = server.run_pod(&format!("user-{number}")).await;
        if let Ok(id) = pod
            .create(&Container::new("main", &image).command(&["/bin/id", "-u"]))
            .await
            && server.client.start(&id).await.is_ok()
        {
            server.client.exited(&id).await;
            let output = test_e2e::logs::stdout(&pod.log("main.log"));
            panic!("USER {user:?} ran as {output:?}");
        }
        server.client.remove_pod(&pod.id).await.unwrap();
    }
    server.close().await;
}

/// Prints uid, gid, and all groups in order.
const WHO: &str = "echo $(id -u) $(id -g) $(id -G | busybox tr ' ' '\\n' | busybox sort -n)";

/// What a container says of itself, and its status and an exec in one like it agree.
async fn who(server: &Server, pod: &RunningPod, container: Container) -> String {
    let said = pod.finish(&container.clone().shell(WHO)).await.1;
    let mut sleeper = container;
    let name = format!("{}-sleeper", sleeper.0.metadata.as_ref().unwrap().name);
    sleeper.0.metadata.as_mut().unwrap().name = name.clone();
    sleeper.0.log_path = format!("{name}.log");
    let id = pod.start(&sleeper.command(&["/bin/sleep", "100000"])).await;
    let exec = server.client.exec(&id, &["/bin/sh", "-c", WHO], 0).await.unwrap();
    assert_eq!(
        String::from_utf8(exec.stdout).unwrap(),
        said,
        "exec has the same identity"
    );
    let status = server.client.container_status(&id).await.unwrap();
    let linux = status.user.unwrap().linux.unwrap();
    let mut groups = linux.supplemental_groups;
    groups.sort_unstable();
    let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
    let reported = format!("{} {} {}\n", linux.uid, linux.gid, groups.join(" "));
    assert_eq!(reported, said, "ContainerStatus.user");
    said
}

/// The image's database has `app` as 1000:1000, and in group 2000, too.
#[tokio::test]
async fn users_and_groups_are_who_was_asked_for() {
    let server = Server::start().await;
    let pod = server.run_pod("users").await;
    for (number, (user, expected)) in [
        ("", "0 0 0\n"),
        ("app", "1000 1000 1000 2000\n"),
        ("1000", "1000 1000 1000 2000\n"),
        ("app:daemon", "1000 1 1 2000\n"),
        ("1000:77", "1000 77 77 2000\n"),
        ("4711", "4711 0 0\n"),
        ("4711:4712", "4711 4712 4712\n"),
        ("2147483647", "2147483647 0 0\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let image = images::busybox_builder().config("User", user.into()).build();
        let image = server.pull(&format!("image-user-{number}"), &image).await;
        let container = Container::new(&format!("image-{number}"), &image);
        assert_eq!(who(&server, &pod, container).await, expected, "USER {user:?}");
    }
    let image = images::busybox_builder()
        .config("User", "daemon:daemon".into())
        .build();
    let image = server.pull("image-user", &image).await;
    let of = |name: &str| Container::new(name, &image);
    let named = |name: &str, user: &'static str| {
        of(name).secure(|security| security.run_as_username = user.to_owned())
    };
    let strict = SupplementalGroupsPolicy::Strict.into();
    let cases = [
        (of("uid").user(1000, None), "1000 1000 1000 2000\n"),
        (of("gid").user(1000, Some(55)), "1000 55 55 2000\n"),
        (named("name", "app"), "1000 1000 1000 2000\n"),
        (named("digits", "1000"), "1000 1000 1000 2000\n"),
        (
            named("name-gid", "app").secure(|security| security.run_as_group = Some(Int64Value { value: 9 })),
            "1000 9 9 2000\n",
        ),
        (
            of("merge")
                .user(1000, None)
                .secure(|security| security.supplemental_groups = vec![7, 2000]),
            "1000 1000 7 1000 2000\n",
        ),
        (
            of("strict").user(1000, None).secure(|security| {
                security.supplemental_groups = vec![7];
                security.supplemental_groups_policy = strict;
            }),
            "1000 1000 7 1000\n",
        ),
        (
            of("strict-gid").user(1000, Some(55)).secure(|security| {
                security.supplemental_groups_policy = strict;
            }),
            "1000 55 55\n",
        ),
    ];
    for (container, expected) in cases {
        let name = container.0.metadata.as_ref().unwrap().name.clone();
        assert_eq!(who(&server, &pod, container).await, expected, "{name}");
    }
    server.close().await;
}

/// A user database is an image's file: it may be anything.
#[tokio::test]
async fn a_hostile_user_database_hangs_and_misleads_nobody() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let canary = host.canary().join("passwd");
    std::fs::write(&canary, "app:x:0:0::/:\n").unwrap();
    let host = HostInvariant::of(&server);
    let many = |lines: usize| {
        use std::fmt::Write as _;
        (0..lines).fold(String::new(), |mut text, number| {
            let _ = writeln!(text, "g{number}:x:{number}:app");
            text
        })
    };
    let layers: Vec<(&str, Layer)> = vec![
        ("fifo", Layer::new().whiteout("etc/passwd").fifo("etc/passwd")),
        ("zero", Layer::new().symlink("etc/passwd", "/dev/zero")),
        (
            "host",
            Layer::new().symlink("etc/passwd", &format!("../../../../../..{}", canary.display())),
        ),
        (
            "proc",
            Layer::new().symlink("etc/passwd", "/proc/self/root/etc/passwd"),
        ),
        (
            "large",
            Layer::new().file("etc/passwd", 0o644, vec![b'#'; 11 << 20]),
        ),
        (
            "line",
            Layer::new().file(
                "etc/passwd",
                0o644,
                [&[b'a'; 2 << 20][..], b"\napp:x:1234:1234::/:\n"].concat(),
            ),
        ),
        ("groups", Layer::new().file("etc/group", 0o644, many(800_000))),
        (
            "home",
            Layer::new().file("etc/passwd", 0o644, "app:x:1234:1234::/a\rb:\n"),
        ),
        ("loop", Layer::new().symlink("etc/passwd", "passwd")),
        (
            "directory",
            Layer::new().whiteout("etc/passwd").directory("etc/passwd", 0o755),
        ),
    ];
    for (name, layer) in layers {
        let image = images::busybox_builder()
            .layer(layer)
            .config("User", "app".into())
            .build();
        let image = server.pull(&format!("database-{name}"), &image).await;
        let pod = server.run_pod(&format!("database-{name}")).await;
        let begun = std::time::Instant::now();
        let container = Container::new("main", &image).command(&["/bin/id", "-u"]);
        if let Ok(id) = pod.create(&container).await
            && server.client.start(&id).await.is_ok()
        {
            server.client.exited(&id).await;
            let uid = test_e2e::logs::stdout(&pod.log("main.log"));
            assert!(
                ["1000\n", "1234\n"].contains(&uid.as_str()),
                "{name}: app ran as {uid:?}"
            );
        }
        assert!(
            begun.elapsed() < stretched(Duration::from_secs(60)),
            "{name} took {:?}",
            begun.elapsed()
        );
        server.client.remove_pod(&pod.id).await.unwrap();
        host.holds(name);
    }
    server.close().await;
}

/// The largest that a process of the server has ever been, in KiB (`VmHWM` of proc_pid_status(5)).
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// CVE-2025-4437's shape: user databases of 4 GiB that take no space. They are put under the daemon, as the pull would
/// refuse them.
#[tokio::test]
async fn a_sparse_user_database_costs_neither_memory_nor_time() {
    const SIZE: u64 = 4 << 30;
    // A file of a layer that is a directory can be enlarged.
    let settings = Settings {
        config: "[image]\nlayer_format = \"directory\"\n".into(),
        ..Settings::default()
    };
    let server = settings.start().await;
    let host = HostInvariant::of(&server);
    let pod = server.run_pod("sparse").await;
    let layers = server.host.path(server.data_dir()).join("l");
    for name in ["passwd", "group"] {
        let image = images::busybox_builder()
            .layer(Layer::new().file(&format!("etc/{name}"), 0o644, format!("# {name}\n")))
            .config("User", "app:extra".into())
            .build();
        let image = server.pull(name, &image).await;
        let mut enlarged = 0;
        for layer in std::fs::read_dir(&layers).unwrap() {
            for path in files_below(&layer.unwrap().path()) {
                if std::fs::read(&path).is_ok_and(|text| text == format!("# {name}\n").as_bytes()) {
                    std::fs::File::options()
                        .write(true)
                        .open(path)
                        .unwrap()
                        .set_len(SIZE)
                        .unwrap();
                    enlarged += 1;
                }
            }
        }
        assert_eq!(enlarged, 1, "{name} is there");
        let before = peak(&server);
        let begun = std::time::Instant::now();
        let container = Container::new(name, &image).command(&["/bin/id", "-u"]);
        let refused = pod.create(&container).await.unwrap_err();
        assert!(
            begun.elapsed() < stretched(Duration::from_secs(20)),
            "{name} took {:?}",
            begun.elapsed()
        );
        assert!(refused.message().contains(&format!("/etc/{name}")), "{refused}");
        assert!(refused.message().len() < 512, "{refused}");
        let grown = peak(&server) - before;
        assert!(grown < 64 << 10, "{name}: {grown} KiB");
        assert!(server.client.containers().await.unwrap().is_empty());
        server.client.remove_image(&image).await.unwrap();
    }
    host.holds("a sparse user database");
    server.close().await;
}

/// CVE-2022-24769, and what `ambient` is for: a program of another user that needs one privilege.
#[tokio::test]
async fn ambient_capabilities_are_those_asked_for_and_inheritable_ones_none_else() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("ambient").await;
    let look = |name: &str| {
        Container::new(name, &image)
            .command(&["/bin/grep", "^Cap", "/proc/self/status"])
            .user(1000, None)
    };
    let ambient = look("ambient").secure(|security| {
        security.capabilities = Some(Capability {
            add_ambient_capabilities: vec!["NET_ADMIN".to_owned()],
            drop_capabilities: vec!["ALL".to_owned()],
            ..Default::default()
        });
    });
    let (code, output) = pod.finish(&ambient).await;
    assert_eq!(code, 0);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            output.contains(&format!("{set}:\t0000000000001000\n")),
            "{output}"
        );
    }
    // Added without `ambient` it is in reach of a program with file capabilities, and of no other.
    let (_, output) = pod
        .finish(&look("added").capabilities(&["NET_ADMIN"], &["ALL"]))
        .await;
    for (set, mask) in [("CapInh", 0), ("CapEff", 0), ("CapAmb", 0), ("CapBnd", 1 << 12)] {
        assert!(output.contains(&format!("{set}:\t{mask:016x}\n")), "{output}");
    }
    server.close().await;
}

/// ALL and privileged start on a node whose daemon lacks a capability, which is said once.
#[tokio::test]
async fn what_the_daemon_lacks_is_left_out_with_one_warning() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run(&server.pod("all").privileged()).await.unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:\t"))
        .unwrap();
    let look =
        |name: &str| Container::new(name, &image).command(&["/bin/grep", "^CapEff", "/proc/self/status"]);
    let privileged = look("privileged").secure(|security| security.privileged = true);
    for container in [look("every").capabilities(&["ALL"], &[]), privileged] {
        assert_eq!(pod.finish(&container).await, (0, format!("CapEff:\t{own}\n")));
    }
    let lacking = own != "000001ffffffffff";
    let warnings = server.log().matches("crisp lacks capabilities").count();
    assert_eq!(warnings, usize::from(lacking), "{}", server.log());
    server.close().await;
}

/// A privileged container is its pod's word that it may change the node.
#[tokio::test]
async fn privileged_reaches_the_node_and_only_in_a_privileged_pod() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let container = Container::new("main", &image)
        .shell(
            "ls /dev | busybox sort > /tmp/dev; for node in null kmsg; do grep -q ^$node$ /tmp/dev && echo $node; done; \
             test -n \"$(ls /proc/acpi /sys/firmware 2>/dev/null)\" && echo unmasked; \
             grep -E ' /sys (sysfs|cgroup)' /proc/mounts | grep -c ' rw,'; \
             mkdir /sys/fs/cgroup/memory/mine 2>/dev/null || mkdir /sys/fs/cgroup/mine && echo cgroup; \
             (echo $(cat /proc/sys/kernel/printk) > /proc/sys/kernel/printk) && echo sysctl",
        )
        .secure(|security| security.privileged = true);
    let plain = server.run_pod("plain").await;
    assert!(
        plain.create(&container).await.is_err(),
        "its sandbox is not privileged"
    );
    let pod = server.run(&server.pod("privileged").privileged()).await.unwrap();
    let output = pod.finish(&container).await.1;
    for effect in ["null", "kmsg", "1", "cgroup", "sysctl"] {
        assert!(output.lines().any(|line| line == effect), "{effect}: {output}");
    }
    server.close().await;
}
