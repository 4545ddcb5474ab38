//! What containers and pods use, and cAdvisor's metrics of it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_cri::v1::{self as cri, ContainerStats, PodSandboxStats};
use test_e2e::client::Client;
use test_e2e::eventually::eventually;
use test_e2e::harness::Server;
use test_e2e::specs::{Container, labels};

const MIB: u64 = 1 << 20;

async fn stats_of(client: &Client, id: &str) -> ContainerStats {
    let request = cri::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let answer = client
        .runtime
        .clone()
        .container_stats(request)
        .await
        .expect("the container is known");
    answer
        .into_inner()
        .stats
        .expect("an answer without error has stats")
}

async fn listed(client: &Client, filter: Option<cri::ContainerStatsFilter>) -> BTreeSet<String> {
    let request = cri::ListContainerStatsRequest { filter };
    let answer = client
        .runtime
        .clone()
        .list_container_stats(request)
        .await
        .expect("listing stats");
    let all = answer.into_inner().stats.into_iter();
    all.map(|stats| stats.attributes.expect("attributes").id)
        .collect()
}

async fn stats_of_pod(client: &Client, id: &str) -> PodSandboxStats {
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let answer = client
        .runtime
        .clone()
        .pod_sandbox_stats(request)
        .await
        .expect("the pod is known");
    answer
        .into_inner()
        .stats
        .expect("an answer without error has stats")
}

fn value(number: Option<cri::UInt64Value>) -> u64 {
    number.expect("the value is set").value
}

#[tokio::test]
async fn stats_follow_what_a_container_does() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("busy").await;
    let spec = Container::new("main", &image)
        .label("role", "main")
        .resources(|limits| limits.memory_limit_in_bytes = 64 << 20)
        // 4 MiB in the writable layer, then CPU without end.
        .shell("dd if=/dev/zero of=/file bs=1M count=4 && echo ready; while :; do :; done");
    let id = pod.start(&spec).await;
    pod.logged("main.log", "ready").await;

    let stats = stats_of(client, &id).await;
    let attributes = stats.attributes.unwrap();
    assert_eq!(
        (attributes.id.as_str(), attributes.labels),
        (id.as_str(), labels(&[("role", "main")]))
    );
    assert_eq!(attributes.metadata.unwrap().name, "main");
    let (cpu, memory) = (stats.cpu.unwrap(), stats.memory.unwrap());
    assert!(cpu.timestamp > 0 && memory.timestamp > 0);
    assert!(value(cpu.usage_core_nano_seconds) > 0);
    let (usage, working_set) = (value(memory.usage_bytes), value(memory.working_set_bytes));
    assert!(
        working_set > 0 && working_set <= usage && usage <= 64 * MIB,
        "{working_set} of {usage}"
    );
    assert_eq!(value(memory.available_bytes), 64 * MIB - working_set);
    assert!(value(memory.rss_bytes) > 0 && value(memory.page_faults) > 0);
    let layer = eventually("the writable layer is measured", || async {
        let layer = stats_of(client, &id).await.writable_layer?;
        (value(layer.used_bytes) >= 4 * MIB).then_some(layer)
    })
    .await;
    assert!(value(layer.inodes_used) >= 1);
    assert!(
        std::path::Path::new(&layer.fs_id.unwrap().mountpoint).is_dir(),
        "kubelet calls statfs on it"
    );

    // The rate is that of the time between two requests; a loop takes a good part of one CPU even of a busy machine.
    let rate = eventually("a second reading", || async {
        let next = stats_of(client, &id).await.cpu.unwrap();
        let more = value(next.usage_core_nano_seconds) > value(cpu.usage_core_nano_seconds);
        (more && next.timestamp - cpu.timestamp > 1_500_000_000).then_some(value(next.usage_nano_cores))
    })
    .await;
    assert!(
        (20_000_000..=1_100_000_000).contains(&rate),
        "{rate} ns per second of one loop"
    );
    server.close().await;
}

#[tokio::test]
async fn listings_have_what_runs_and_was_asked_for() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("listed").await;
    let sleeper = |name: &str| {
        Container::new(name, &image)
            .shell("sleep 1000")
            .label("name", name)
    };
    let (one, two) = (pod.start(&sleeper("one")).await, pod.start(&sleeper("two")).await);
    let created = pod.create(&sleeper("created")).await.unwrap();
    let both = BTreeSet::from([one.clone(), two.clone()]);
    assert_eq!(listed(client, None).await, both, "of those that run");
    let filter = |id: &str, pod: &str, label: &[(&str, &str)]| {
        Some(cri::ContainerStatsFilter {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            label_selector: labels(label),
        })
    };
    let only = |id: &str| BTreeSet::from([id.to_owned()]);
    assert_eq!(listed(client, filter(&one, "", &[])).await, only(&one));
    assert_eq!(
        listed(client, filter(&one[..20], "", &[])).await,
        only(&one),
        "by a prefix"
    );
    assert_eq!(listed(client, filter("", &pod.id, &[])).await, both);
    assert_eq!(
        listed(client, filter("", "", &[("name", "two")])).await,
        only(&two)
    );
    assert!(
        listed(client, filter("", "", &[("name", "three")]))
            .await
            .is_empty()
    );

    let unstarted = stats_of(client, &created).await;
    assert!(
        unstarted.cpu.is_none() && unstarted.memory.is_none(),
        "nothing ran"
    );
    let request = cri::ContainerStatsRequest {
        container_id: "0".repeat(64),
    };
    let unknown = client.runtime.clone().container_stats(request).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    server.close().await;
}

#[tokio::test]
async fn a_pod_is_counted_with_its_links_and_containers() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("whole").await;
    let id = pod
        .start(&Container::new("main", &image).shell("sleep 1000 & wait"))
        .await;
    let neighbour = server.run_pod("neighbour").await;
    let ping = Container::new("ping", &image).shell(&format!(
        "for i in 1 2 3; do echo hello | nc -w 1 {} 7; done; sleep 1000",
        pod.ip().await
    ));
    neighbour.start(&ping).await;

    let stats = eventually("packets arrive", || async {
        let stats = stats_of_pod(client, &pod.id).await;
        let link = stats
            .linux
            .as_ref()?
            .network
            .as_ref()?
            .default_interface
            .clone()?;
        (value(link.rx_bytes) > 0).then_some(stats)
    })
    .await;
    assert_eq!(stats.attributes.unwrap().metadata.unwrap().name, "whole");
    let linux = stats.linux.unwrap();
    let network = linux.network.unwrap();
    assert_eq!(network.default_interface.unwrap().name, "eth0");
    let names: Vec<_> = network.interfaces.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["eth0"], "not the loopback");
    assert_eq!(
        value(linux.process.unwrap().process_count),
        2,
        "a shell and what it waits for"
    );
    assert!(value(linux.memory.unwrap().working_set_bytes) > 0);
    assert!(value(linux.cpu.unwrap().usage_core_nano_seconds) > 0);
    let inside: Vec<_> = linux
        .containers
        .iter()
        .map(|c| c.attributes.clone().unwrap().id)
        .collect();
    assert_eq!(inside, [id]);

    let listed = || async {
        let request = cri::ListPodSandboxStatsRequest::default();
        let all = client.runtime.clone().list_pod_sandbox_stats(request).await;
        all.unwrap().into_inner().stats.len()
    };
    assert_eq!(listed().await, 2);
    // What is stopped is not listed, and has no numbers.
    client.stop_pod(&neighbour.id).await.unwrap();
    assert_eq!(listed().await, 1);
    server.close().await;
}

/// Each metric of `name`, as its labels and value.
fn series(
    metrics: &[cri::Metric],
    keys: &BTreeMap<String, Vec<String>>,
    name: &str,
) -> Vec<(BTreeMap<String, String>, u64)> {
    let of_name = metrics.iter().filter(|metric| metric.name == name);
    of_name
        .map(|metric| {
            let labels = keys[name]
                .iter()
                .cloned()
                .zip(metric.label_values.clone())
                .collect();
            (labels, value(metric.value))
        })
        .collect()
}

#[tokio::test]
async fn metrics_have_the_labels_of_their_descriptors() {
    let server = Server::start().await;
    let (client, image) = (&server.client, server.busybox().await);
    let pod = server.run_pod("measured").await;
    let spec = Container::new("main", &image)
        .resources(|limits| {
            limits.cpu_quota = 20_000;
            limits.cpu_period = 100_000;
            limits.memory_limit_in_bytes = 64 << 20;
        })
        .shell("sleep 1000 & echo both; wait");
    let id = pod.start(&spec).await;
    pod.logged("main.log", "both").await;
    let request = cri::ListMetricDescriptorsRequest {};
    let descriptors = client
        .runtime
        .clone()
        .list_metric_descriptors(request)
        .await
        .unwrap()
        .into_inner();
    let keys: BTreeMap<_, _> = descriptors
        .descriptors
        .into_iter()
        .map(|descriptor| (descriptor.name, descriptor.label_keys))
        .collect();
    let request = cri::ListPodSandboxMetricsRequest {};
    let all = client
        .runtime
        .clone()
        .list_pod_sandbox_metrics(request)
        .await
        .unwrap()
        .into_inner();
    let of_pod = all
        .pod_metrics
        .iter()
        .find(|metrics| metrics.pod_sandbox_id == pod.id)
        .unwrap();
    let of_container = &of_pod.container_metrics[0];
    assert_eq!(of_container.container_id, id);
    for metric in of_pod.metrics.iter().chain(&of_container.metrics) {
        assert_eq!(
            metric.label_values.len(),
            keys[&metric.name].len(),
            "{}",
            metric.name
        );
        assert!(metric.timestamp > 0);
    }
    let only = |name: &str| {
        let all = series(&of_container.metrics, &keys, name);
        assert_eq!(all.len(), 1, "{name}: {all:?}");
        all.into_iter().next().unwrap()
    };
    let (labels, processes) = only("container_processes");
    assert_eq!(processes, 2);
    for (key, expected) in [
        ("name", id.as_str()),
        ("image", &image),
        ("container", "main"),
        ("pod", "measured"),
        ("namespace", "default"),
    ] {
        assert_eq!(labels[key], expected, "{key}");
    }
    assert!(labels["id"].ends_with(&id), "the cgroup's path: {}", labels["id"]);
    assert_eq!(only("container_threads").1, 2);
    assert_eq!(only("container_spec_cpu_quota").1, 20_000);
    assert_eq!(only("container_spec_memory_limit_bytes").1, 64 * MIB);
    assert!(only("container_file_descriptors").1 >= 6);
    assert!(only("container_memory_working_set_bytes").1 > 0);
    assert!(only("container_fs_limit_bytes").1 > only("container_fs_usage_bytes").1);
    assert!(only("container_start_time_seconds").1 <= only("container_last_seen").1);
    let link = series(&of_pod.metrics, &keys, "container_network_receive_bytes_total");
    assert_eq!(
        (
            link.len(),
            link[0].0["interface"].as_str(),
            link[0].0["container"].as_str()
        ),
        (1, "eth0", "")
    );
    server.close().await;
}

#[tokio::test]
async fn the_daemon_counts_its_own_calls() {
    // A port of the server's own network namespace: nobody else's.
    let settings = test_e2e::layout::Settings {
        config: "[metrics]\naddress = \"127.0.0.1:9477\"\n".to_owned(),
        ..Default::default()
    };
    let server = settings.start().await;
    let pod = server.run_pod("counted").await;
    let mut scrape = std::process::Command::new("/bin/busybox");
    scrape.args(["wget", "-q", "-O", "-", "http://127.0.0.1:9477/metrics"]);
    let output = server.output(scrape, Vec::new()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "# TYPE crisp_calls_total counter",
        "crisp_calls_total{call=\"RunPodSandbox\",code=\"0\"} 1",
        "crisp_pods{state=\"ready\"} 1",
        "crisp_call_seconds_count{call=\"RunPodSandbox\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
    }
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: "0".repeat(64),
        verbose: false,
    };
    server
        .client
        .runtime
        .clone()
        .pod_sandbox_status(request)
        .await
        .unwrap_err();
    let mut scrape = std::process::Command::new("/bin/busybox");
    scrape.args(["wget", "-q", "-O", "-", "http://127.0.0.1:9477/metrics"]);
    let output = server.output(scrape, Vec::new()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let refused = "crisp_calls_total{call=\"PodSandboxStatus\",code=\"5\"} 1";
    assert!(text.lines().any(|line| line == refused), "{text}");
    drop(pod);
    server.close().await;
}
