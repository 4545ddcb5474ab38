//! What a container must not get: the effects looked at, never the texts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::Layer;
use test_e2e::layout::Settings;
use test_e2e::specs::Container;

/// The 14 default capabilities of SECURITY's list, as the kernel prints a mask.
const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";

/// The daemon is started as oddly as a service manager might; its containers must not notice.
fn odd_surroundings() -> Settings {
    let line = "umask 077; trap '' HUP USR1; exec 9</etc/hostname; exec nice -n 3 taskset -c 0 \"$@\"";
    Settings {
        wrapper: ["sh", "-c", line, "sh"].map(str::to_owned).to_vec(),
        environment: vec![("SECRET_OF_THE_DAEMON".to_owned(), "1".to_owned())],
        ..Settings::default()
    }
}

#[tokio::test]
async fn a_process_inherits_exactly_this() {
    let server = odd_surroundings().start().await;
    let image = server.probe().await;
    let pod = server.run_pod("inherit").await;
    let (code, output) = pod
        .finish(&Container::new("main", &image).args(&["inherit"]))
        .await;
    assert_eq!(code, 0);
    check_inherited(&serde_json::from_str(&output).unwrap());

    let id = pod.start(&Container::new("exec", &image).args(&["sleep"])).await;
    let done = server.client.exec(&id, &["/probe", "inherit"], 0).await.unwrap();
    check_inherited(&serde_json::from_slice(&done.stdout).unwrap());
    server.close().await;
}

fn check_inherited(inherited: &Value) {
    let status = |key: &str| inherited["status"][key].as_str().unwrap_or_default().to_owned();
    for (key, expected) in [
        ("SigBlk", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("CapPrm", DEFAULT_CAPABILITIES),
        ("CapEff", DEFAULT_CAPABILITIES),
        ("CapBnd", DEFAULT_CAPABILITIES),
        ("NoNewPrivs", "0"),
        ("Umask", "0022"),
        ("Uid", "0 0 0 0"),
        ("Gid", "0 0 0 0"),
        ("TracerPid", "0"),
    ] {
        assert_eq!(status(key), expected, "{key}");
    }
    let all_cpus = fs::read_to_string("/proc/self/status").unwrap();
    let all_cpus = all_cpus
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap()
        .trim()
        .to_owned();
    assert_eq!(
        status("Cpus_allowed_list"),
        all_cpus,
        "the daemon's affinity is not the container's"
    );
    assert_eq!(inherited["oom_score_adj"], "0");
    let stat = inherited["stat"].as_str().unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    assert_eq!(fields[16], "0", "nice");
    assert_eq!(
        fields[2], fields[3],
        "leads its session: pgrp {} session {}",
        fields[2], fields[3]
    );
    for group in inherited["cgroup"].as_array().unwrap() {
        assert!(
            group.as_str().unwrap().ends_with(":/"),
            "a cgroup namespace of its own: {group}"
        );
    }
    let fds: BTreeMap<String, String> = serde_json::from_value(inherited["fds"].clone()).unwrap();
    assert_eq!(fds.keys().collect::<Vec<_>>(), ["0", "1", "2"], "{fds:?}");
    assert_eq!(fds["0"], "/dev/null");
    assert!(
        fds["1"].starts_with("pipe:") && fds["2"].starts_with("pipe:") && fds["1"] != fds["2"],
        "{fds:?}"
    );
    let environment: BTreeMap<String, String> = serde_json::from_value(inherited["env"].clone()).unwrap();
    let names: Vec<_> = environment.keys().map(String::as_str).collect();
    assert_eq!(names, ["HOME", "HOSTNAME", "PATH"]);
    let limits = &inherited["limits"];
    assert_eq!(limits["Max open files"][0], "1024", "{limits}");
    let own = fs::read_to_string("/proc/self/limits").unwrap();
    let core = own
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert!(
        core.contains(limits["Max core file size"][0].as_str().unwrap()),
        "as the daemon was started: {core}"
    );
}

/// Rust's start-up changes signals, so this one is busybox `cat` alone.
#[tokio::test]
async fn signals_are_default_and_unblocked() {
    let server = odd_surroundings().start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("signals").await;
    let id = pod
        .start(&Container::new("sleep", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let main = pod
        .finish(&Container::new("main", &image).command(&["/bin/cat", "/proc/self/status"]))
        .await
        .1;
    let exec = server
        .client
        .exec(&id, &["/bin/cat", "/proc/self/status"], 0)
        .await
        .unwrap();
    for status in [main, String::from_utf8(exec.stdout).unwrap()] {
        for mask in ["SigBlk", "SigIgn", "SigPnd", "ShdPnd"] {
            let line = status.lines().find(|line| line.starts_with(mask)).unwrap();
            assert!(line.ends_with("\t0000000000000000"), "{line}");
        }
    }
    server.close().await;
}

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
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
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
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        before
    );
    server.close().await;
}

/// A container that may trace everything looks at whoever joins its pid namespace, while others exec
/// and start in it: it never sees a host path, a launch plan or another container's secret.
#[tokio::test]
async fn who_joins_a_pid_namespace_is_harmless() {
    const EXECS: usize = 200;
    const SECRET: &str = "secret-of-another-container-7f3a";
    let server = Server::start().await;
    let image = server.probe().await;
    let canary = server.directory().join("canary");
    fs::write(&canary, "host").unwrap();

    let secretive = server.run_pod("secretive").await;
    let holder = secretive
        .start(
            &Container::new("holder", &image)
                .args(&["sleep"])
                .env("SECRET", SECRET),
        )
        .await;

    let pod = server.run(&server.pod("watched").shared_pid()).await.unwrap();
    let reversed: String = SECRET.chars().rev().collect();
    let scanner = Container::new("scanner", &image)
        .args(&["scan", &canary.display().to_string(), &reversed, "/dev/shm/stop"])
        .capabilities(&["SYS_PTRACE"], &[])
        .shared_pid();
    let scanner = pod.start(&scanner).await;
    pod.logged("scanner.log", "scanning").await;
    let target = pod
        .start(&Container::new("target", &image).args(&["sleep"]).shared_pid())
        .await;
    for number in 0..EXECS {
        let into = if number % 2 == 0 { &scanner } else { &target };
        // Some stay long enough for a round of the scan to meet them.
        let command: &[&str] = if number % 4 == 0 {
            &["/bin/usleep", "50000"]
        } else {
            &["/bin/true"]
        };
        server.client.exec(into, command, 0).await.unwrap();
        if number % 20 == 0 {
            let name = format!("second-{number}");
            // In the scanner's namespace a process shows its own environment, so this one has no secret;
            let second = Container::new(&name, &image).command(&["/bin/true"]).shared_pid();
            assert_eq!(pod.finish(&second).await.0, 0);
            // the secret's holder is in a namespace of its own, but comes from the same supervisor: were its plan
            // kept there, everyone who joins the scanner afterwards would carry it.
            let hidden = Container::new(&format!("hidden-{number}"), &image)
                .command(&["/bin/true"])
                .secure(|security| {
                    security.namespace_options.get_or_insert_default().pid =
                        k8s_cri::v1::NamespaceMode::Container.into();
                })
                .env("SECRET", SECRET);
            assert_eq!(pod.finish(&hidden).await.0, 0);
            server.client.exec(&holder, &["/bin/true"], 0).await.unwrap();
        }
    }
    server
        .client
        .exec(&target, &["/bin/touch", "/dev/shm/stop"], 0)
        .await
        .unwrap();
    assert_eq!(server.client.exited(&scanner).await.exit_code, 0);
    let output = pod.logged("scanner.log", "rounds").await;
    let report: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert!(
        report["pids"].as_u64().unwrap() > 20,
        "it has seen joiners, and not only who stays: {report}"
    );
    assert_eq!(
        report["findings"].as_array().unwrap(),
        &Vec::<Value>::new(),
        "{report}"
    );
    server.close().await;
}

/// CVE-2019-5736's shape: the runtime's own binary through /proc.
#[tokio::test]
async fn the_runtime_cannot_be_overwritten() {
    let server = Server::start().await;
    let binaries: Vec<PathBuf> = ["crisp", "crisp-pod"]
        .map(|name| test_e2e::built::crisp().with_file_name(name))
        .into_iter()
        .filter(|path| path.is_file())
        .collect();
    let digests = || -> Vec<String> {
        binaries
            .iter()
            .map(|path| images::digest(&fs::read(path).unwrap()))
            .collect()
    };
    let before = digests();

    let image = images::busybox_builder()
        .layer(Layer::new().symlink("self", "/proc/self/exe"))
        .build();
    let image = server.pull("self", &image).await;
    let pod = server.run(&server.pod("overwrite").shared_pid()).await.unwrap();
    let through_self = Container::new("self", &image).command(&["/self"]).shared_pid();
    let id = pod.create(&through_self).await.unwrap();
    // /proc/self/exe of whoever execs it is our supervisor: it must not run as the container's program.
    if server.client.start(&id).await.is_ok() {
        let code = server.client.exited(&id).await.exit_code;
        assert_ne!(code, 0);
    }

    let probe = server.probe().await;
    let writer = "while ! test -e /dev/shm/stop; do for exe in /proc/[0-9]*/exe; do \
                  case $(readlink $exe) in *crisp*) /probe overwrite $exe && echo OVERWRITTEN $exe;; esac; done; done 2>/dev/null; echo finished";
    let attacker = Container::new("attacker", &probe).command(&["/bin/sh", "-c", writer]);
    let attacker = pod
        .start(&attacker.capabilities(&["SYS_PTRACE"], &[]).shared_pid())
        .await;
    for _ in 0..200 {
        server.client.exec(&attacker, &["/bin/true"], 0).await.unwrap();
    }
    server
        .client
        .exec(&attacker, &["/bin/touch", "/dev/shm/stop"], 0)
        .await
        .unwrap();
    let output = pod.logged("attacker.log", "finished").await;
    assert!(!output.contains("OVERWRITTEN"), "{output}");
    assert_eq!(digests(), before);
    server.close().await;
}

/// CVE-2024-21626's shape: a working directory that is a leaked descriptor of the host.
#[tokio::test]
async fn no_working_directory_leads_out() {
    let server = Server::start().await;
    let canary = server.directory().join("canary");
    fs::write(&canary, "host").unwrap();
    let layer = (3..20).fold(Layer::new(), |layer, fd| {
        layer.symlink(&format!("fd{fd}"), &format!("/proc/self/fd/{fd}"))
    });
    let image = server
        .pull("cwd", &images::busybox_builder().layer(layer).build())
        .await;
    let pod = server.run_pod("cwd").await;
    let climb = format!("cat ../../../../../../../../..{}", canary.display());
    for fd in 3..20 {
        for directory in [
            format!("/proc/self/fd/{fd}"),
            format!("/fd{fd}"),
            format!("/proc/thread-self/fd/{fd}/../.."),
        ] {
            let name = format!("cwd-{}", directory.replace('/', "-"));
            let spec = Container::new(&name, &image)
                .shell(&climb)
                .working_dir(&directory);
            let Ok(id) = pod.create(&spec).await else { continue };
            if server.client.start(&id).await.is_ok() {
                server.client.exited(&id).await;
                assert_eq!(
                    test_e2e::logs::stdout(&pod.log(&format!("{name}.log"))),
                    "",
                    "{directory} leads out"
                );
            }
            server.client.remove(&id).await.unwrap();
        }
    }
    server.close().await;
}

/// /proc, /sys or /dev of the image leads elsewhere: refused, or the real thing; never the elsewhere.
#[tokio::test]
async fn symlinked_kernel_directories_do_not_lead_out() {
    let server = Server::start().await;
    let canary = server.directory().join("canary-tree");
    fs::create_dir_all(canary.join("sub")).unwrap();
    let target = canary.display().to_string();
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
        assert_eq!(list(&canary), [canary.join("sub")], "{name} → {to}");
        server.client.remove_pod(&pod.id).await.unwrap();
    }
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

fn list(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}
