//! Limits that change while a container exists, and what happens where they end.

use std::fs;
use std::path::PathBuf;

use k8s_cri::v1::{self as cri, LinuxContainerResources};
use test_e2e::client::Client;
use test_e2e::harness::Server;
use test_e2e::newer::update_pod;
use test_e2e::specs::Container;

const MIB: i64 = 1 << 20;

async fn update(
    client: &Client,
    id: &str,
    change: impl FnOnce(&mut LinuxContainerResources),
) -> Result<(), tonic::Status> {
    let mut linux = LinuxContainerResources::default();
    change(&mut linux);
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    client
        .runtime
        .clone()
        .update_container_resources(request)
        .await
        .map(drop)
}

async fn told(client: &Client, id: &str) -> LinuxContainerResources {
    let status = client.container_status(id).await.unwrap();
    status.resources.unwrap().linux.unwrap()
}

/// A file of the cgroup that a process is in: by the name of v2 where the host has that alone, else of v1.
fn cgroup_file(pid: u32, v1: (&str, &str), v2: &str) -> PathBuf {
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of_v1 = membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        let mounted = controllers.split(',').any(|name| name == v1.0);
        mounted.then(|| PathBuf::from(format!("/sys/fs/cgroup/{}{path}/{}", v1.0, v1.1)))
    });
    of_v1.unwrap_or_else(|| {
        let path = membership
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap();
        PathBuf::from(format!("/sys/fs/cgroup{path}/{v2}"))
    })
}

fn number(path: PathBuf) -> i64 {
    let text = fs::read_to_string(&path).unwrap();
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("{}: {text:?}", path.display()))
}

fn memory_limit(pid: u32) -> i64 {
    number(cgroup_file(
        pid,
        ("memory", "memory.limit_in_bytes"),
        "memory.max",
    ))
}

#[tokio::test]
async fn a_running_container_gets_new_limits() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("resized").await;
    let spec = Container::new("main", &image)
        .resources(|limits| {
            limits.memory_limit_in_bytes = 64 * MIB;
            limits.cpu_shares = 512;
        })
        .shell("sleep 1000 & wait");
    let id = pod.start(&spec).await;
    let pid = server.client.container_pid(&id).await;
    assert_eq!(memory_limit(pid), 64 * MIB);

    update(&server.client, &id, |limits| {
        limits.memory_limit_in_bytes = 128 * MIB;
        limits.cpu_quota = 50_000;
        limits.cpu_period = 100_000;
    })
    .await
    .unwrap();
    assert_eq!(memory_limit(pid), 128 * MIB);
    let quota = fs::read_to_string(cgroup_file(pid, ("cpu", "cpu.cfs_quota_us"), "cpu.max")).unwrap();
    assert!(quota.starts_with("50000"), "{quota}");
    let now = told(&server.client, &id).await;
    assert_eq!(
        (now.memory_limit_in_bytes, now.cpu_quota, now.cpu_shares),
        (128 * MIB, 50_000, 512)
    );

    // One impossible limit among others changes nothing.
    for (change, names) in [
        (("0-2147483647", 32 * MIB), "cpuset_cpus"),
        (("60000", 32 * MIB), "cpuset"),
        (("", 1000), "memory_limit_in_bytes"),
    ] {
        let refused = update(&server.client, &id, |limits| {
            limits.cpuset_cpus = change.0.to_owned();
            limits.memory_limit_in_bytes = change.1;
            limits.cpu_quota = 20_000;
        });
        let error = refused.await.unwrap_err();
        assert!(error.message().contains(names), "{}", error.message());
        assert_eq!(memory_limit(pid), 128 * MIB, "{}", error.message());
        assert_eq!(told(&server.client, &id).await, now);
    }
    // The next daemon knows, too.
    server.kill9().await;
    server.restart().await;
    assert_eq!(told(&server.client, &id).await, now);
    server.close().await;
}

#[tokio::test]
async fn a_limit_below_what_is_in_use_is_refused() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("full").await;
    let spec = Container::new("main", &image)
        .resources(|limits| {
            limits.memory_limit_in_bytes = 64 * MIB;
            limits.memory_swap_limit_in_bytes = 64 * MIB;
        })
        // A pipe whose reader waits: dd's buffer of 32 MiB stays in use.
        .shell(
            "(dd if=/dev/zero bs=32M count=1 2>/dev/null; echo) | (read x; sleep 1000) & echo ready; wait",
        );
    let id = pod.start(&spec).await;
    pod.logged("main.log", "ready").await;
    let pid = client.container_pid(&id).await;
    let usage = || {
        number(cgroup_file(
            pid,
            ("memory", "memory.usage_in_bytes"),
            "memory.current",
        ))
    };
    test_e2e::eventually::eventually("the memory is in use", || async {
        (usage() > 30 * MIB).then_some(())
    })
    .await;
    let error = update(client, &id, |limits| {
        limits.memory_limit_in_bytes = 8 * MIB;
        limits.memory_swap_limit_in_bytes = 8 * MIB;
    })
    .await
    .unwrap_err();
    assert!(error.message().contains("memory"), "{}", error.message());
    assert_eq!(memory_limit(pid), 64 * MIB);
    assert_eq!(told(client, &id).await.memory_limit_in_bytes, 64 * MIB);
    client.container_pid(&id).await;
    server.close().await;
}

#[tokio::test]
async fn limits_of_a_container_that_does_not_run_wait_for_its_start() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("waiting").await;
    let id = pod
        .create(&Container::new("main", &image).shell("sleep 1000"))
        .await
        .unwrap();
    update(client, &id, |limits| limits.memory_limit_in_bytes = 96 * MIB)
        .await
        .unwrap();
    assert_eq!(told(client, &id).await.memory_limit_in_bytes, 96 * MIB);
    client.start(&id).await.unwrap();
    assert_eq!(memory_limit(client.container_pid(&id).await), 96 * MIB);
    client.stop(&id, 0).await.unwrap();
    let error = update(client, &id, |limits| limits.memory_limit_in_bytes = 128 * MIB)
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    let error = update(client, &"0".repeat(64), |_| {}).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    server.close().await;
}

#[tokio::test]
async fn limits_are_there_before_the_start_and_after_another_daemon() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("prepared").await;
    let mut ids = Vec::new();
    for name in ["before", "after"] {
        let limited = Container::new(name, &image)
            .shell("sleep 1000")
            .resources(|limits| limits.memory_limit_in_bytes = 80 * MIB);
        ids.push(pod.create(&limited).await.unwrap());
    }
    server.client.start(&ids[0]).await.unwrap();
    server.kill9().await;
    server.restart().await;
    server.client.start(&ids[1]).await.unwrap();
    for id in &ids {
        assert_eq!(memory_limit(server.client.container_pid(id).await), 80 * MIB);
    }
    server.close().await;
}

#[tokio::test]
async fn what_a_pod_may_use_in_all_is_remembered() {
    let mut server = Server::start().await;
    let pod = server.run_pod("sized").await;
    let limits = |memory: i64| {
        Some(LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..Default::default()
        })
    };
    let socket = server.socket();
    update_pod(&socket, &pod.id, limits(16 * MIB), limits(64 * MIB))
        .await
        .unwrap();
    // Only what is given is changed.
    update_pod(&socket, &pod.id, None, limits(96 * MIB))
        .await
        .unwrap();
    let remembered = |info: &serde_json::Value| {
        ["overhead", "resources"].map(|part| info["limits"][part]["memoryLimit"].as_i64())
    };
    let expected = [Some(16 * MIB), Some(96 * MIB)];
    assert_eq!(remembered(&server.client.pod_info(&pod.id).await), expected);

    // Changes at the same time: none is lost.
    for round in 20..40 {
        let both = tokio::join!(
            update_pod(&socket, &pod.id, limits(round * MIB), None),
            update_pod(&socket, &pod.id, None, limits(2 * round * MIB)),
        );
        both.0.and(both.1).unwrap();
        let expected = [Some(round * MIB), Some(2 * round * MIB)];
        assert_eq!(remembered(&server.client.pod_info(&pod.id).await), expected);
    }
    let expected = [Some(39 * MIB), Some(78 * MIB)];

    let mut wrong = limits(MIB);
    wrong.as_mut().unwrap().cpuset_cpus = "0-2147483647".to_owned();
    let error = update_pod(&socket, &pod.id, None, wrong).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("cpuset"), "{}", error.message());
    let error = update_pod(&socket, &"0".repeat(64), None, limits(MIB))
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);

    server.kill9().await;
    server.restart().await;
    assert_eq!(remembered(&server.client.pod_info(&pod.id).await), expected);
    server.client.stop_pod(&pod.id).await.unwrap();
    let error = update_pod(&socket, &pod.id, None, limits(MIB)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    assert_eq!(remembered(&server.client.pod_info(&pod.id).await), expected);
    server.close().await;
}

#[tokio::test]
async fn the_nodes_subnet_reaches_new_pods() {
    let server = Server::start().await;
    let before = server.run_pod("before").await;
    let set = |cidr: &str| {
        let request = cri::UpdateRuntimeConfigRequest {
            runtime_config: Some(cri::RuntimeConfig {
                network_config: Some(cri::NetworkConfig {
                    pod_cidr: cidr.to_owned(),
                }),
            }),
        };
        let mut client = server.client.runtime.clone();
        async move { client.update_runtime_config(request).await.map(drop) }
    };
    set("").await.expect("no subnet yet");
    let error = set("10.92.0.0").await.unwrap_err();
    assert!(error.message().contains("pod_cidr"), "{}", error.message());
    set("10.92.0.0/24").await.unwrap();
    let after = server.run_pod("after").await;
    assert!(
        before.ip().await.starts_with("10.91.0."),
        "a pod that stands keeps its address"
    );
    assert!(after.ip().await.starts_with("10.92.0."), "{}", after.ip().await);
    server.close().await;
}

#[tokio::test]
async fn only_an_init_that_the_kernel_killed_for_memory_is_oom_killed() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("oom").await;
    let small = |name: &str, line: &str| {
        let spec = Container::new(name, &image).resources(|limits| {
            limits.memory_limit_in_bytes = 32 * MIB;
            limits.memory_swap_limit_in_bytes = 32 * MIB;
        });
        spec.shell(line)
    };
    let eats = "dd if=/dev/zero of=/dev/null bs=100M";
    let init = pod.start(&small("init", &format!("exec {eats}"))).await;
    let child = pod.start(&small("child", &format!("{eats}; exit 3"))).await;
    let killed = pod.start(&small("killed", "sleep 1000")).await;
    let status = client.exited(&init).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    let status = client.exited(&child).await;
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (3, "Error"),
        "its child was killed, it was not"
    );
    // SIGKILL from outside, without any want of memory.
    client.stop(&killed, 0).await.unwrap();
    let status = client.exited(&killed).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    server.close().await;
}

/// Neither a change of limits nor one that is refused and undone opens a device or shuts one, not for a moment.
#[tokio::test]
async fn devices_stay_as_they_are_while_limits_change() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("steady").await;
    // /dev/fuse is 10:229 everywhere, and opens without effect.
    let look = "round=0; while :; do
            ( : < /dev/null ) || echo null is shut; ( : > /dev/null ) || echo null is shut
            ( : < /dev/given ) || echo given is shut
            ( : > /dev/given ) 2>/dev/null && echo given is open
            round=$((round + 1)); echo round $round
        done";
    let mut spec = Container::new("main", &image).shell(look);
    spec.0.devices.push(cri::Device {
        container_path: "/dev/given".to_owned(),
        host_path: "/dev/fuse".to_owned(),
        permissions: "r".to_owned(),
    });
    let id = pod.start(&spec).await;
    let pid = client.container_pid(&id).await;
    // v2 has no list to be read, only the effect.
    let list = cgroup_file(pid, ("devices", "devices.list"), "cgroup.type");
    let list = || fs::read_to_string(&list).unwrap();
    let before = list();
    let log = pod.log("main.log");
    let rounds = || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.matches("round").count()
    };
    for number in 1..=60 {
        update(client, &id, |limits| {
            limits.memory_limit_in_bytes = (64 + number) * MIB;
            limits.cpu_shares = 100 + number;
        })
        .await
        .unwrap();
        let refused = update(client, &id, |limits| {
            limits.cpu_shares = 2000;
            limits.cpuset_cpus = "60000".to_owned();
        });
        refused.await.unwrap_err();
        assert_eq!(list(), before);
    }
    let seen = rounds();
    test_e2e::eventually::until("it looks on", || rounds() > seen + 2).await;
    client.stop(&id, 0).await.unwrap();
    let said = test_e2e::logs::stdout(&log);
    let wrong: Vec<_> = said.lines().filter(|line| !line.starts_with("round")).collect();
    assert!(wrong.is_empty() && seen > 5, "{seen} rounds, {wrong:?}");
    server.close().await;
}

/// Where the parent of the server's pods is in the hierarchy of a controller.
fn parent(server: &Server, controller: &str) -> PathBuf {
    let v1 = PathBuf::from("/sys/fs/cgroup").join(controller);
    let root = if v1.is_dir() {
        v1
    } else {
        PathBuf::from("/sys/fs/cgroup")
    };
    root.join(server.cgroup_root()).join("kubepods")
}

#[tokio::test]
async fn a_pod_that_runs_out_of_memory_says_so() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("bounded").await;
    // As kubelet does: the limit is the pod's, the container has none.
    let directory = parent(&server, "memory");
    let file = ["memory.limit_in_bytes", "memory.max"].map(|file| directory.join(file));
    let file = file
        .into_iter()
        .find(|file| file.exists())
        .expect("a memory controller");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, (48 * MIB).to_string()).unwrap();
    let id = pod
        .start(&Container::new("main", &image).shell("exec dd if=/dev/zero of=/dev/null bs=200M"))
        .await;
    let status = client.exited(&id).await;
    fs::write(&file, before.trim()).unwrap_or_else(|_| fs::write(&file, "-1").unwrap());
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    server.close().await;
}

#[tokio::test]
async fn a_fork_bomb_stays_in_its_pod() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("bomb").await;
    let limit = parent(&server, "pids").join("pids.max");
    fs::write(&limit, "40").unwrap();
    let bomb = Container::new("main", &image)
        // The last fork that fails ends the inner shell; the outer one needs none.
        .shell("echo begin; (while :; do sleep 100000 & done); exec sleep 100000");
    let id = pod.start(&bomb).await;
    let tasks = || number(parent(&server, "pids").join("pids.current"));
    test_e2e::eventually::eventually("the limit is reached", || async { (tasks() >= 38).then_some(()) })
        .await;
    assert!(tasks() <= 40, "{} tasks", tasks());
    // The supervisor is outside: it answers, and ends the container.
    client.stop(&id, 0).await.unwrap();
    let status = client.exited(&id).await;
    assert_eq!(status.exit_code, 137);
    fs::write(&limit, "max").unwrap();
    let (code, output) = pod
        .finish(&Container::new("next", &image).shell("echo well"))
        .await;
    assert_eq!(code, 0, "{output}");
    server.close().await;
}
