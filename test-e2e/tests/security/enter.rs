//! Entering the container: what comes along into it, and what those who are in it can reach of those who come.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::Layer;
use test_e2e::layout::Settings;
use test_e2e::specs::Container;

use crate::DEFAULT_CAPABILITIES;
use crate::invariant::HostInvariant;

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

/// A container that may trace everything looks at whoever joins its pid namespace, while others exec
/// and start in it: it never sees a host path, a launch plan or another container's secret.
#[tokio::test]
async fn who_joins_a_pid_namespace_is_harmless() {
    const EXECS: usize = 1000;
    const SECRET: &str = "secret-of-another-container-7f3a";
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let image = server.probe().await;
    let canary = host.canary().join("file");

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
        let command: &[&str] = if number % 20 == 5 {
            &["/bin/usleep", "50000"]
        } else {
            &["/bin/true"]
        };
        server.client.exec(into, command, 0).await.unwrap();
        if number % 50 == 0 {
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
    host.holds("a tracer in the pod's pid namespace");
    server.close().await;
}

/// CVE-2019-5736's shape: the runtime's own binary through /proc.
#[tokio::test]
async fn the_runtime_cannot_be_overwritten() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);

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
    for _ in 0..1000 {
        server.client.exec(&attacker, &["/bin/true"], 0).await.unwrap();
    }
    server
        .client
        .exec(&attacker, &["/bin/touch", "/dev/shm/stop"], 0)
        .await
        .unwrap();
    let output = pod.logged("attacker.log", "finished").await;
    assert!(!output.contains("OVERWRITTEN"), "{output}");
    host.holds("writing to /proc/*/exe");
    server.close().await;
}

/// CVE-2024-21626's shape: a working directory that is a leaked descriptor of the host.
#[tokio::test]
async fn no_working_directory_leads_out() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let canary = host.canary().join("file");
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
    host.holds("a working directory that is a descriptor");
    server.close().await;
}

/// The same for an exec: the container has led its working directory elsewhere meanwhile.
#[tokio::test]
async fn no_working_directory_leads_an_exec_out() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let image = server.busybox().await;
    let pod = server.run_pod("cwd-exec").await;
    let climb = format!(
        "cat ../../../../../../../../..{}",
        host.canary().join("file").display()
    );
    let sleeper = Container::new("main", &image)
        .command(&["/bin/sleep", "100000"])
        .working_dir("/tmp/work");
    let id = pod.start(&sleeper).await;
    let exec = async |line: &str| server.client.exec(&id, &["/bin/sh", "-c", line], 0).await;
    assert_eq!(exec("pwd").await.unwrap().stdout, b"/tmp/work\n");
    exec("busybox rmdir /tmp/work && ln -s /tmp /tmp/work")
        .await
        .unwrap();
    assert_eq!(
        exec("pwd -P").await.unwrap().stdout,
        b"/tmp\n",
        "a link that stays inside"
    );
    for fd in 3..30 {
        for target in [
            format!("/proc/self/fd/{fd}"),
            format!("/proc/thread-self/fd/{fd}/.."),
        ] {
            let link = format!("/proc/{}/root/tmp/work", server.client.container_pid(&id).await);
            fs::remove_file(&link).unwrap();
            std::os::unix::fs::symlink(&target, &link).unwrap();
            if let Ok(done) = exec(&climb).await {
                assert_eq!(done.stdout, b"", "{target} leads out");
            }
        }
    }
    host.holds("a working directory that became a descriptor");
    server.close().await;
}

/// CVE-2021-21334's shape: containers that are made at once, each with a secret in its environment.
#[tokio::test]
async fn environments_stay_apart() {
    const AT_ONCE: usize = 64;
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("secrets").await;
    let containers: Vec<Container> = (0..AT_ONCE)
        .map(|number| {
            let (name, secret) = (format!("secret-{number}"), format!("secret-of-{number}-"));
            Container::new(&name, &image)
                .command(&["/bin/env"])
                .env(&format!("ONLY_{number}"), &secret)
                .env("SECRET", &secret)
        })
        .collect();
    let outputs = futures::future::join_all(containers.iter().map(|container| pod.finish(container))).await;
    for (number, (code, output)) in outputs.into_iter().enumerate() {
        assert_eq!(code, 0);
        let mut names: Vec<_> = output.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["HOME", "HOSTNAME", &format!("ONLY_{number}"), "PATH", "SECRET"],
            "{output}"
        );
        assert!(
            output.contains(&format!("\nSECRET=secret-of-{number}-\n")),
            "{output}"
        );
    }
    server.close().await;
}

/// CVE-2019-14271 and CVE-2026-41567: whatever an image has under the names of helpers is never run for the host, and
/// CVE-2025-23266: nor does what it says of the environment reach a program of the host.
#[tokio::test]
async fn programs_and_libraries_of_an_image_are_its_own() {
    let server = Server::start().await;
    let host = HostInvariant::of(&server);
    let trojan = format!("#!/bin/sh\necho trojan > {}/trojan\n", host.canary().display());
    let mut layer = Layer::new();
    for directory in [
        "usr",
        "usr/bin",
        "usr/sbin",
        "sbin",
        "lib",
        "lib/x86_64-linux-gnu",
        "usr/lib",
    ] {
        layer = layer.directory(directory, 0o755);
    }
    for program in [
        "unpigz",
        "gzip",
        "zstd",
        "tar",
        "apparmor_parser",
        "mount",
        "crisp-pod",
        "ip",
        "nft",
    ] {
        for directory in ["usr/bin", "usr/sbin", "sbin"] {
            layer = layer.file(&format!("{directory}/{program}"), 0o755, &trojan);
        }
    }
    for library in [
        "libnss_files.so.2",
        "libnss_dns.so.2",
        "libc.so.6",
        "ld-linux-x86-64.so.2",
    ] {
        layer = layer.file(&format!("lib/x86_64-linux-gnu/{library}"), 0o755, "not a library");
    }
    let image = images::busybox_builder()
        .layer_as(layer, test_e2e::layers::Compression::Zstd)
        .layer(Layer::new().file("etc/ld.so.preload", 0o644, "/lib/x86_64-linux-gnu/libc.so.6\n"))
        .config(
            "Env",
            serde_json::json!(["LD_PRELOAD=/lib/evil.so", "PATH=/usr/bin:/bin"]),
        )
        .config("User", "app:extra".into())
        .build();
    let image = server.pull("trojans", &image).await;
    let pod = server.run_pod("trojans").await;
    let container =
        Container::new("main", &image).command(&["/bin/sh", "-c", "echo $LD_PRELOAD; id -u; id -g"]);
    assert_eq!(pod.finish(&container).await.1, "/lib/evil.so\n1000\n2000\n");
    for process in server.processes() {
        let environment = fs::read(format!("/proc/{}/environ", process.0)).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&environment).contains("evil.so"),
            "{process:?} has the image's environment"
        );
    }
    host.holds("an image full of trojans");
    server.close().await;
}

/// What is executed in a container is confined as the container is, and not a bit less.
#[tokio::test]
async fn exec_is_confined_as_its_container() {
    let server = Server::start().await;
    let image = server.probe().await;
    let pod = server.run_pod("same").await;
    let base = |name: &str| Container::new(name, &image).args(&["inherit-and-stay"]);
    let default = || {
        Some(k8s_cri::v1::SecurityProfile {
            profile_type: k8s_cri::v1::security_profile::ProfileType::RuntimeDefault.into(),
            localhost_ref: String::new(),
        })
    };
    let cases = [
        base("plain"),
        base("default").secure(|security| security.seccomp = default()),
        base("strict")
            .user(1000, Some(1001))
            .capabilities(&[], &["ALL"])
            .secure(|security| {
                security.seccomp = default();
                security.no_new_privs = true;
                security.supplemental_groups = vec![3000, 3001];
                security.readonly_rootfs = true;
            }),
        base("added").capabilities(&["SYS_PTRACE", "NET_ADMIN"], &["CHOWN"]),
        base("limited").resources(|resources| resources.oom_score_adj = 321),
    ];
    for container in cases {
        let name = container.0.metadata.as_ref().unwrap().name.clone();
        let id = pod.start(&container).await;
        let init: Value =
            serde_json::from_str(pod.logged(&format!("{name}.log"), "\n").await.trim()).unwrap();
        let exec = server.client.exec(&id, &["/probe", "inherit"], 0).await.unwrap();
        let exec: Value = serde_json::from_slice(&exec.stdout).unwrap();
        for key in [
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "Seccomp_filters",
            "Umask",
            "Cpus_allowed_list",
            "Mems_allowed_list",
            "SigBlk",
            "SigIgn",
        ] {
            assert_eq!(init["status"][key], exec["status"][key], "{name}: {key}");
        }
        for key in ["limits", "oom_score_adj", "cgroup", "env", "cwd", "namespaces"] {
            assert_eq!(init[key], exec[key], "{name}: {key}");
        }
    }
    server.close().await;
}
