//! Cgroups that systemd makes. Most of it takes a host that systemd runs, with cgroup v2 alone: the machine of `make
//! test-vm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_cri::v1 as cri;
use test_e2e::client::Client;
use test_e2e::eventually::{eventually, until};
use test_e2e::harness::Server;
use test_e2e::layout::Settings;
use test_e2e::specs::{Container, Pod};

const MIB: i64 = 1 << 20;

fn systemd_runs_here() -> bool {
    let runs = Path::new("/run/systemd/system").is_dir() && Path::new("/sys/fs/cgroup/cgroup.procs").exists();
    if !runs {
        println!("left out: systemd does not run this host with cgroup v2");
    }
    runs
}

async fn server() -> Server {
    Settings {
        systemd: true,
        ..Settings::default()
    }
    .start()
    .await
}

/// A slice of this server, as kubelet would make one for a pod; stopped when dropped.
struct Slice {
    name: String,
    path: String,
}

impl Slice {
    fn of(server: &Server) -> Self {
        let top = server.cgroup_root().replace('-', "_");
        Self {
            name: format!("{top}-pod1.slice"),
            path: format!("/{top}.slice/{top}-pod1.slice"),
        }
    }

    fn directory(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(self.path.trim_start_matches('/'))
    }

    fn scopes(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory()).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(".scope"))
            .collect()
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let top = self.name.replace("-pod1", "");
        let _ = Command::new("systemctl").args(["stop", &top]).status();
    }
}

fn pod(server: &Server, name: &str, parent: &str) -> Pod {
    server.pod(name).cgroup_parent(parent)
}

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What systemd says of a unit, one property.
fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, unit])
        .trim()
        .to_owned()
}

/// A scope that has ended is forgotten, and no failed one is kept.
async fn forgotten(scope: &str) {
    until("systemd forgets the scope", || {
        property(scope, "LoadState") == "not-found"
    })
    .await;
}

async fn cgroup_of(client: &Client, id: &str) -> String {
    let pid = client.container_pid(id).await;
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    membership.trim().strip_prefix("0::").unwrap().to_owned()
}

fn limited(name: &str, image: &str) -> Container {
    Container::new(name, image).resources(|limits| {
        limits.memory_limit_in_bytes = 64 * MIB;
        limits.memory_swap_limit_in_bytes = 64 * MIB;
        limits.cpu_quota = 25_000;
        limits.cpu_period = 100_000;
        limits.cpu_shares = 512;
    })
}

#[tokio::test]
async fn containers_are_scopes_whose_limits_survive_a_reload() {
    if !systemd_runs_here() {
        return;
    }
    let mut server = server().await;
    let image = server.busybox().await;
    let slice = Slice::of(&server);
    let config = server
        .client
        .runtime
        .clone()
        .runtime_config(cri::RuntimeConfigRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(config.linux.unwrap().cgroup_driver(), cri::CgroupDriver::Systemd);

    let running = server.run(&pod(&server, "one", &slice.path)).await.unwrap();
    let id = running
        .start(&limited("main", &image).shell("sleep 100000 & wait"))
        .await;
    let scope = format!("crisp-{id}.scope");
    assert_eq!(
        cgroup_of(&server.client, &id).await,
        format!("{}/{scope}", slice.path)
    );
    for (name, value) in [
        ("Slice", slice.name.as_str()),
        ("ActiveState", "active"),
        ("Delegate", "yes"),
        ("MemoryMax", "67108864"),
        ("CPUQuotaPerSecUSec", "250ms"),
        ("CPUWeight", "59"),
    ] {
        assert_eq!(property(&scope, name), value, "{name}");
    }
    let directory = slice.directory().join(&scope);
    let file = |name: &str| {
        fs::read_to_string(directory.join(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    // The shell, its sleep, and no placeholder of ours.
    until("only the container is in its scope", || {
        file("cgroup.procs").lines().count() == 2
    })
    .await;

    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 128 * MIB,
            memory_swap_limit_in_bytes: 128 * MIB,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut client = server.client.runtime.clone();
    client.update_container_resources(request).await.unwrap();
    systemctl(&["daemon-reload"]);
    assert_eq!(file("memory.max"), (128 * MIB).to_string());
    assert_eq!(file("cpu.max"), "50000 100000");
    assert_eq!(file("cpu.weight"), "59");
    assert_eq!(property(&scope, "MemoryMax"), (128 * MIB).to_string());
    // Devices, too: the node may be made, not opened.
    let open = "mknod /tmp/disk b 254 0 && ! dd if=/tmp/disk of=/dev/null count=1 && echo refused";
    let exec = server
        .client
        .exec(&id, &["/bin/sh", "-c", open], 60)
        .await
        .unwrap();
    assert_eq!(exec.stdout, b"refused\n", "{exec:?}");

    server.kill9().await;
    server.restart().await;
    assert_eq!(property(&scope, "ActiveState"), "active");
    server.client.stop(&id, 0).await.unwrap();
    forgotten(&scope).await;
    assert_eq!(slice.scopes(), Vec::<String>::new());
    server.close().await;
}

#[tokio::test]
async fn however_a_container_ends_its_scope_does() {
    if !systemd_runs_here() {
        return;
    }
    let server = server().await;
    let (client, image) = (&server.client, server.busybox().await);
    let slice = Slice::of(&server);
    // By its short name, as kubelet may write it, too.
    let running = server.run(&pod(&server, "one", &slice.name)).await.unwrap();

    let hungry = limited("hungry", &image).shell("exec dd if=/dev/zero of=/dev/null bs=100M");
    let id = running.start(&hungry).await;
    let status = client.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    forgotten(&format!("crisp-{id}.scope")).await;

    let brief = running.start(&limited("brief", &image).shell("exit 3")).await;
    assert_eq!(client.exited(&brief).await.exit_code, 3);
    forgotten(&format!("crisp-{brief}.scope")).await;

    let none = running
        .create(&limited("none", &image).command(&["/bin/nonexistent"]))
        .await
        .unwrap();
    client.start(&none).await.unwrap_err();
    forgotten(&format!("crisp-{none}.scope")).await;

    let impossible = limited("impossible", &image).resources(|limits| limits.cpuset_cpus = "8000".into());
    let id = running.create(&impossible.shell("sleep 1000")).await.unwrap();
    let error = client.start(&id).await.unwrap_err();
    assert!(error.message().contains("cpuset"), "{}", error.message());
    forgotten(&format!("crisp-{id}.scope")).await;

    let at_once: Vec<_> = (0..4)
        .map(|number| limited(&format!("c{number}"), &image).shell("sleep 100000"))
        .collect();
    let started = futures::future::join_all(at_once.iter().map(|spec| running.start(spec))).await;
    assert_eq!(slice.scopes().len(), started.len());
    for id in &started {
        client.stop(id, 0).await.unwrap();
        forgotten(&format!("crisp-{id}.scope")).await;
    }
    eventually("the slice is empty", || async {
        slice.scopes().is_empty().then_some(())
    })
    .await;
    assert_eq!(
        systemctl(&["list-units", "--failed", "--plain", "--no-legend", "crisp-*"]),
        ""
    );
    server.close().await;
}

#[tokio::test]
async fn a_parent_that_is_no_slice_is_refused_by_name() {
    if !systemd_runs_here() {
        return;
    }
    let server = server().await;
    for parent in ["/kubepods/burstable", "a--b.slice", "/b.slice/a.slice"] {
        let error = server
            .run(&pod(&server, "one", parent))
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(
            error.message().starts_with("config.linux.cgroup_parent"),
            "{}",
            error.message()
        );
    }
    server.close().await;
}

#[tokio::test]
async fn where_systemd_does_not_run_a_daemon_that_wants_it_does_not_start() {
    if systemd_runs_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let config = format!(
        "socket = {:?}\nstate_dir = {:?}\ndata_dir = {:?}\n[cgroup]\ndriver = \"systemd\"\n",
        path("crisp.sock"),
        path("state"),
        path("data"),
    );
    fs::write(path("config.toml"), config).unwrap();
    let output = Command::new(test_e2e::built::crisp())
        .args(["--config", &path("config.toml")])
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(said.contains("systemd"), "{said}");
    assert!(!Path::new(&path("crisp.sock")).exists());
}
