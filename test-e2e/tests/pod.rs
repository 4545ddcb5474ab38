//! Pods: their life, what they show of themselves, and what their containers share.

use std::path::Path;

use k8s_cri::v1::{self as cri, NamespaceMode, PodSandboxState};
use test_e2e::client::Client;
use test_e2e::harness::Server;
use test_e2e::specs::{Container, labels};
use tonic::Code;

#[tokio::test]
async fn a_pod_lives_and_dies() {
    let server = Server::start().await;
    let client = &server.client;
    let pod = server.run_pod("life").await;
    assert!(is_id(&pod.id), "64 lower-case hex: {}", pod.id);

    let status = client.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, pod.config.metadata);
    assert!(
        status.created_at > 1_600_000_000_000_000_000,
        "nanoseconds since 1970: {}",
        status.created_at
    );
    let listed = client.pods().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].id, listed[0].created_at),
        (&pod.id, status.created_at)
    );

    client.stop_pod(&pod.id).await.unwrap();
    assert_eq!(
        client.pod_status(&pod.id).await.unwrap().state(),
        PodSandboxState::SandboxNotready
    );
    client.stop_pod(&pod.id).await.expect("stopping twice is success");
    client.remove_pod(&pod.id).await.unwrap();
    client
        .remove_pod(&pod.id)
        .await
        .expect("removing twice is success");
    client
        .stop_pod(&pod.id)
        .await
        .expect("stopping what is gone is success");
    assert_eq!(
        client.pod_status(&pod.id).await.unwrap_err().code(),
        Code::NotFound
    );
    server.close().await;
}

#[tokio::test]
async fn what_was_asked_for_is_shown() {
    let server = Server::start().await;
    let spec = server
        .pod("shown")
        .label("app", "a")
        .annotation("note", "with \u{1F980} and spaces")
        .shared_pid();
    let pod = server.run(&spec).await.unwrap();
    let status = server.client.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.labels, spec.0.labels);
    assert_eq!(status.annotations, spec.0.annotations);
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(
        (options.network(), options.pid(), options.ipc()),
        (NamespaceMode::Pod, NamespaceMode::Pod, NamespaceMode::Pod)
    );

    let info = server.client.pod_info(&pod.id).await;
    assert_eq!(info["sandboxID"].as_str().unwrap_or(&pod.id), pod.id);
    let pid = info["pid"]
        .as_u64()
        .expect("the pid of a live process of the pod");
    assert!(Path::new("/proc").join(pid.to_string()).exists());
    server.close().await;
}

#[tokio::test]
async fn lists_are_filtered() {
    let server = Server::start().await;
    let one = server
        .run(&server.pod("one").label("app", "a").label("tier", "x"))
        .await
        .unwrap();
    let two = server.run(&server.pod("two").label("app", "a")).await.unwrap();
    server.client.stop_pod(&two.id).await.unwrap();

    let by = |filter| list(&server.client, filter);
    let label = |pairs| cri::PodSandboxFilter {
        label_selector: labels(pairs),
        ..Default::default()
    };
    assert_eq!(by(label(&[("app", "a")])).await, sorted([&one.id, &two.id]));
    assert_eq!(by(label(&[("app", "a"), ("tier", "x")])).await, sorted([&one.id]));
    assert_eq!(by(label(&[("app", "b")])).await, Vec::<String>::new());
    let state = |state: PodSandboxState| cri::PodSandboxFilter {
        state: Some(cri::PodSandboxStateValue { state: state.into() }),
        ..Default::default()
    };
    assert_eq!(by(state(PodSandboxState::SandboxReady)).await, sorted([&one.id]));
    assert_eq!(
        by(state(PodSandboxState::SandboxNotready)).await,
        sorted([&two.id])
    );
    let id = |id: &str| cri::PodSandboxFilter {
        id: id.to_owned(),
        ..Default::default()
    };
    assert_eq!(by(id(&one.id)).await, sorted([&one.id]));
    assert_eq!(
        by(id(&one.id[..12])).await,
        sorted([&one.id]),
        "a unique prefix is an id"
    );
    assert_eq!(server.client.pod_status(&two.id[..12]).await.unwrap().id, two.id);
    server.close().await;
}

#[tokio::test]
async fn containers_share_what_is_the_pods() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let spec = server
        .pod("sharing")
        .dns(&["192.0.2.53"], &["svc.example"], &["ndots:3"]);
    let pod = server.run(&spec).await.unwrap();
    let one = pod
        .start(&Container::new("one", &image).shell("echo shared > /dev/shm/file; sleep 1000"))
        .await;
    let two = Container::new("two", &image).shell(
        "hostname; cat /etc/hostname /etc/resolv.conf; while ! cat /dev/shm/file; do usleep 1000; done 2>/dev/null; \
         grep ' /dev/shm ' /proc/mounts; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    );
    let (code, output) = pod.finish(&two).await;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(code, 0, "{output}");
    assert_eq!(lines[..2], ["sharing", "sharing"]);
    for line in [
        "nameserver 192.0.2.53",
        "search svc.example",
        "options ndots:3",
        "shared",
    ] {
        assert!(lines.contains(&line), "{line:?} in {output}");
    }
    assert!(output.contains("size=65536k"), "shm of 64 MiB: {output}");
    assert_eq!(
        lines.last(),
        Some(&"0"),
        "low ports are open to all in a pod's own network"
    );

    let network = |pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let init = server.client.container_pid(&one).await;
    assert_ne!(network(init), server.host.namespace("net"));
    let sandbox = server.state_dir().join("sandboxes").join(&pod.id);
    for file in ["hostname", "hosts", "resolv.conf"] {
        assert!(sandbox.join(file).is_file(), "agents look for {file}");
    }
    server.close().await;
}

#[tokio::test]
async fn sysctls_are_set_in_the_pod_only() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let before = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    let spec = server
        .pod("sysctls")
        .sysctl("kernel.shm_rmid_forced", "1")
        .sysctl("net.ipv4.ip_default_ttl", "33");
    let pod = server.run(&spec).await.unwrap();
    let look = Container::new("look", &image)
        .shell("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_default_ttl");
    assert_eq!(pod.finish(&look).await, (0, "1\n33\n".to_owned()));
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(),
        before
    );
    server.close().await;
}

#[tokio::test]
async fn parameters_of_the_network_are_set_before_it_has_a_link() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let spec = server
        .pod("default")
        .sysctl("net.ipv4.conf.default.arp_ignore", "2");
    let pod = server.run(&spec).await.unwrap();
    let look = Container::new("look", &image).shell("cat /proc/sys/net/ipv4/conf/eth0/arp_ignore");
    assert_eq!(
        pod.finish(&look).await,
        (0, "2\n".to_owned()),
        "a link has what is the default when it is made"
    );
    server.close().await;
}

#[tokio::test]
async fn a_shared_pid_namespace_is_shared() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run(&server.pod("pids").shared_pid()).await.unwrap();
    let sleeper = Container::new("sleeper", &image)
        .command(&["/bin/sleep", "1000"])
        .shared_pid();
    let first = pod.start(&sleeper).await;
    let look = Container::new("look", &image)
        .shell("echo $$; ps -o pid,args")
        .shared_pid();
    let (code, output) = pod.finish(&look).await;
    assert_eq!(code, 0);
    assert!(output.contains("sleep 1000"), "the sibling is seen: {output}");
    assert_ne!(output.lines().next(), Some("1"), "pid 1 is the pod's: {output}");
    let alone = Container::new("alone", &image).shell("echo $$; ps -o pid,args");
    let (_, output) = pod.finish(&alone).await;
    assert_eq!(
        output.lines().next(),
        Some("1"),
        "a namespace of its own: {output}"
    );
    assert!(!output.contains("sleep 1000"), "{output}");
    server.client.stop(&first, 0).await.unwrap();
    assert_eq!(server.client.exited(&first).await.exit_code, 137);
    server.close().await;
}

#[tokio::test]
async fn stopping_a_pod_ends_its_containers() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("stopping").await;
    let container = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "1000"]))
        .await;
    let created = pod
        .create(&Container::new("never-started", &image))
        .await
        .unwrap();
    server.client.stop_pod(&pod.id).await.unwrap();
    let status = server.client.exited(&container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert!(status.finished_at >= status.started_at && status.started_at > 0);
    server.client.remove_pod(&pod.id).await.unwrap();
    for id in [&container, &created] {
        let gone = server.client.container_status(id).await.unwrap_err();
        assert_eq!(gone.code(), Code::NotFound, "a pod's containers go with it");
    }
    server.close().await;
}

#[tokio::test]
async fn removing_forces_a_stop() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("removing").await;
    let container = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "1000"]))
        .await;
    let pid = server.client.container_pid(&container).await;
    server.client.remove_pod(&pod.id).await.unwrap();
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    assert!(server.client.pods().await.unwrap().is_empty());
    server.close().await;
}

#[tokio::test]
async fn a_pod_has_a_cgroup_below_its_parent() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("cgroup").await;
    let container = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "1000"]))
        .await;
    let pid = server.client.container_pid(&container).await;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let parent = format!("/{}/kubepods/", server.cgroup_root());
    let placed: Vec<_> = groups.lines().filter(|line| line.contains(&parent)).collect();
    assert!(!placed.is_empty(), "{groups}");
    assert!(
        placed.iter().all(|line| line.ends_with(&container)),
        "named by the container's id: {placed:?}"
    );
    let counted = placed.iter().find_map(|line| {
        let (mount, path) = match line.split_once(":memory:") {
            Some((_, path)) => ("/sys/fs/cgroup/memory", path),
            None => ("/sys/fs/cgroup", line.strip_prefix("0::")?),
        };
        Some(Path::new(mount).join(path.trim_start_matches('/')))
    });
    let own = counted.expect("memory is counted").with_file_name(&pod.id);
    assert!(own.is_dir(), "agents look for the pod at {}", own.display());
    assert!(
        groups.lines().all(|line| !line.ends_with(":/")),
        "no controller left at the machine's root: {groups}"
    );
    let supervisor = server.supervisor(&pod.id).expect("one supervisor a pod");
    let groups = std::fs::read_to_string(format!("/proc/{supervisor}/cgroup")).unwrap();
    assert!(
        !groups.contains("/kubepods/"),
        "kubelet kills the pod's cgroup whole: {groups}"
    );
    server.close().await;
}

#[tokio::test]
async fn many_pods_at_once() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pods = futures::future::join_all((0..12).map(|number| {
        let (server, image) = (&server, &image);
        async move {
            let pod = server.run_pod(&format!("many-{number}")).await;
            let (code, output) = pod
                .finish(&Container::new("main", image).shell("hostname; exit 3"))
                .await;
            assert_eq!((code, output), (3, format!("many-{number}\n")));
            pod
        }
    }))
    .await;
    assert_eq!(server.client.pods().await.unwrap().len(), pods.len());
    futures::future::join_all(pods.iter().map(|pod| async {
        server.client.stop_pod(&pod.id).await.unwrap();
        server.client.remove_pod(&pod.id).await.unwrap();
    }))
    .await;
    assert!(server.client.pods().await.unwrap().is_empty());
    server.close().await;
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

async fn list(client: &Client, filter: cri::PodSandboxFilter) -> Vec<String> {
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let items = client
        .runtime
        .clone()
        .list_pod_sandbox(request)
        .await
        .unwrap()
        .into_inner()
        .items;
    sorted(items.iter().map(|pod| &pod.id))
}

fn sorted<'a>(ids: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut ids: Vec<_> = ids.into_iter().cloned().collect();
    ids.sort();
    ids
}
