//! Networks: the embedded one, CNI plugin chains with Debian's plugins, and the host's own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use k8s_cri::v1 as cri;
use serde_json::{Value, json};
use test_e2e::cable;
use test_e2e::eventually::eventually;
use test_e2e::harness::Server;
use test_e2e::host::Host;
use test_e2e::layout::{GATEWAY, Settings};
use test_e2e::leaks::Trace;
use test_e2e::pods::RunningPod;
use test_e2e::specs::Container;

#[tokio::test]
async fn the_embedded_network_connects_pods_and_host() {
    let server = Server::start().await;
    let image = server.probe().await;
    let (one, two) = (server.run_pod("one").await, server.run_pod("two").await);
    let (from, to) = (one.ip().await, two.ip().await);
    assert!(
        from.starts_with("10.91.0.") && to.starts_with("10.91.0.") && from != to,
        "{from} {to}"
    );

    two.start(&Container::new("serve", &image).args(&["serve", "8080"]))
        .await;
    two.logged("serve.log", "listening").await;
    assert_eq!(
        connect(&one, "peer", &image, &format!("{to}:8080")).await,
        format!("hello {from}\n")
    );
    one.start(&Container::new("serve-own", &image).args(&["serve", "8080"]))
        .await;
    one.logged("serve-own.log", "listening").await;
    assert_eq!(
        connect(&one, "own", &image, "127.0.0.1:8080").await,
        "hello 127.0.0.1\n",
        "lo is up"
    );

    let greeter = greet(&server.host, "0.0.0.0:7070").await;
    assert_eq!(
        connect(&one, "host", &image, &format!("{GATEWAY}:7070")).await,
        format!("hello {from}\n")
    );
    let address = format!("{to}:8080");
    let answer = server.host.enter(move || {
        let mut text = String::new();
        std::net::TcpStream::connect(address)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    });
    assert!(
        answer.await.starts_with("hello 10.91.0."),
        "the host reaches a pod"
    );

    let routes = Container::new("routes", &image).command(&["/bin/sh", "-c", "ip route; ip -o link | wc -l"]);
    let (_, routes) = one.finish(&routes).await;
    assert!(
        routes.contains(&format!("default via {GATEWAY} dev eth0")),
        "{routes}"
    );
    assert!(routes.ends_with("2\n"), "lo and eth0 only: {routes}");
    drop(greeter);
    server.close().await;
}

#[tokio::test]
async fn the_outside_sees_the_node() {
    let outside = Host::new().await;
    let server = Server::start().await;
    cable::connect(&server.host, &outside).await;
    let greeter = greet(&outside, "192.0.2.2:7070").await;
    let image = server.probe().await;
    let pod = server.run_pod("masquerade").await;
    assert_eq!(
        connect(&pod, "out", &image, "192.0.2.2:7070").await,
        "hello 192.0.2.1\n"
    );
    drop(greeter);
    cable::cut(&server.host).await;
    server.close().await;
}

#[tokio::test]
async fn addresses_are_given_back() {
    // A /29: network, gateway, broadcast, and five pods.
    let server = Settings {
        subnet: Some("10.92.0.0/29"),
        ..Settings::default()
    }
    .start()
    .await;
    let mut pods = Vec::new();
    for number in 0..5 {
        pods.push(server.run_pod(&format!("full-{number}")).await);
    }
    let mut addresses = BTreeSet::new();
    for pod in &pods {
        assert!(addresses.insert(pod.ip().await), "no address twice");
    }
    let full = server.run(&server.pod("too-many")).await.map(drop).unwrap_err();
    assert!(
        full.message().contains("10.92.0.0/29"),
        "the full subnet is named: {full:?}"
    );
    assert_eq!(
        server.client.pods().await.unwrap().len(),
        5,
        "the failed pod left nothing"
    );

    let freed = pods[2].ip().await;
    server.client.stop_pod(&pods[2].id).await.unwrap();
    let next = eventually("a stopped pod's address can be used again", || async {
        server.run(&server.pod("next")).await.ok()
    })
    .await;
    assert_eq!(next.ip().await, freed);
    for number in 0..12 {
        server
            .client
            .remove_pod(&pods.pop().expect("one is always left").id)
            .await
            .unwrap();
        pods.push(server.run_pod(&format!("cycle-{number}")).await);
    }
    server.close().await;
}

#[tokio::test]
async fn addresses_survive_a_restart() {
    let mut server = Settings {
        subnet: Some("10.93.0.0/29"),
        ..Settings::default()
    }
    .start()
    .await;
    let image = server.probe().await;
    let one = server.run_pod("one").await;
    let address = one.ip().await;
    one.start(&Container::new("serve", &image).args(&["serve", "8080"]))
        .await;
    one.logged("serve.log", "listening").await;
    server.kill9().await;
    server.restart().await;
    let two = server.run_pod("two").await;
    assert_ne!(two.ip().await, address);
    let status = server.client.pod_status(&one.id).await.unwrap();
    assert_eq!(status.network.unwrap().ip, address);
    let hello = format!("hello {}\n", two.ip().await);
    assert_eq!(
        connect(&two, "after", &image, &format!("{address}:8080")).await,
        hello
    );
    server.close().await;
}

#[tokio::test]
async fn host_network_is_the_hosts() {
    let server = Server::start().await;
    let image = server.probe().await;
    let pod = server.run(&server.pod("node").host_network()).await.unwrap();
    let network = server.client.pod_status(&pod.id).await.unwrap().network;
    assert!(
        network.is_none_or(|network| network.ip.is_empty()),
        "no address of its own"
    );
    let id = pod
        .start(&Container::new("serve", &image).args(&["serve", "8080"]))
        .await;
    pod.logged("serve.log", "listening").await;
    let pid = server.client.container_pid(&id).await;
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(),
        server.host.namespace("net")
    );
    let other = server.run_pod("other").await;
    let answer = connect(&other, "reach", &image, &format!("{GATEWAY}:8080")).await;
    assert!(answer.starts_with("hello 10.91.0."), "{answer}");
    server.close().await;
}

fn bridge_conflist(directory: &Path) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "debian",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": directory.join("leases"),
                    "ranges": [[{ "subnet": "10.94.0.0/24" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": false },
        ],
    })
    .to_string()
}

#[tokio::test]
async fn real_plugins_connect_pods() {
    let server = Settings {
        without_embedded: true,
        ..Settings::default()
    }
    .start()
    .await;
    let image = server.probe().await;
    assert_eq!(network_ready(&server).await.0, Some(false), "no network yet");
    let refused = server.run(&server.pod("early")).await.map(drop).unwrap_err();
    assert!(
        refused.message().contains("net.d"),
        "what is missing, and where: {refused:?}"
    );
    server
        .run(&server.pod("host-network").host_network())
        .await
        .expect("needs no plugin");

    fs::write(
        server.conf_dir().join("10-debian.conflist"),
        bridge_conflist(server.directory()),
    )
    .unwrap();
    eventually("the conflist is noticed", || async {
        (network_ready(&server).await.0 == Some(true)).then_some(())
    })
    .await;
    let (one, two) = (server.run_pod("one").await, server.run_pod("two").await);
    let (from, to) = (one.ip().await, two.ip().await);
    assert!(
        from.starts_with("10.94.0.") && to.starts_with("10.94.0.") && from != to,
        "{from} {to}"
    );
    two.start(&Container::new("serve", &image).args(&["serve", "8080"]))
        .await;
    two.logged("serve.log", "listening").await;
    assert_eq!(
        connect(&one, "peer", &image, &format!("{to}:8080")).await,
        format!("hello {from}\n")
    );
    let leases = server.directory().join("leases/debian");
    assert!(leases.join(&from).exists() && leases.join(&to).exists());

    server.client.stop_pod(&one.id).await.unwrap();
    assert!(!leases.join(&from).exists(), "DEL frees the address");
    assert!(leases.join(&to).exists());
    server.client.remove_pod(&one.id).await.unwrap();
    // DEL goes by the configuration that ADD used, even when the file is gone.
    fs::remove_file(server.conf_dir().join("10-debian.conflist")).unwrap();
    server.client.remove_pod(&two.id).await.unwrap();
    assert!(!leases.join(&to).exists());
    delete_bridge(&server).await;
    server.close().await;
}

#[tokio::test]
async fn a_conflist_takes_over_from_the_embedded_network() {
    let server = Server::start().await;
    let before = server.run_pod("before").await;
    assert!(before.ip().await.starts_with("10.91.0."));
    fs::write(
        server.conf_dir().join("10-debian.conflist"),
        bridge_conflist(server.directory()),
    )
    .unwrap();
    let after = eventually("new pods use the conflist", || async {
        let pod = server.run_pod("after").await;
        if pod.ip().await.starts_with("10.94.0.") {
            return Some(pod);
        }
        server.client.remove_pod(&pod.id).await.unwrap();
        None
    })
    .await;
    assert!(
        server
            .client
            .pod_status(&before.id)
            .await
            .unwrap()
            .network
            .unwrap()
            .ip
            .starts_with("10.91.0.")
    );
    server.client.remove_pod(&after.id).await.unwrap();
    server.client.remove_pod(&before.id).await.unwrap();
    delete_bridge(&server).await;
    server.close().await;
}

/// Appends its command, its environment and its input to a file, and answers as told.
fn recording_plugin(answer: &str) -> String {
    format!(
        "#!/bin/sh\nexec 3>>\"$(dirname \"$0\")/../recorded\"\n\
         echo \"== $CNI_COMMAND\" >&3\n/usr/bin/env >&3\ncat >&3\necho >&3\n{answer}\n"
    )
}

const ANSWER: &str =
    r#"[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.95.0.7/24"}]}'; exit 0"#;
const FAIL: &str = r#"[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","code":123,"msg":"no cable today"}' && exit 1; exit 0"#;

fn conflist_of(plugin: &str) -> Vec<(String, String)> {
    let conflist =
        json!({ "cniVersion": "1.0.0", "name": "scripted", "plugins": [{ "type": plugin, "mine": 1 }] });
    vec![("10-scripted.conflist".to_owned(), conflist.to_string())]
}

fn recorded(server: &Server) -> String {
    fs::read_to_string(server.directory().join("recorded")).unwrap_or_default()
}

#[tokio::test]
async fn plugins_are_called_as_the_specification_says() {
    let settings = Settings {
        plugins: vec![("recorder".to_owned(), recording_plugin(ANSWER))],
        conflists: conflist_of("recorder"),
        environment: vec![("SECRET_OF_THE_DAEMON".to_owned(), "1".to_owned())],
        ..Settings::default()
    };
    let server = settings.start().await;
    let pod = server.run_pod("recorded").await;
    assert_eq!(pod.ip().await, "10.95.0.7");
    let seen = recorded(&server);
    for wanted in [
        "== ADD".to_owned(),
        format!("CNI_CONTAINERID={}", pod.id),
        "CNI_IFNAME=eth0".to_owned(),
        "CNI_NETNS=/run/netns/crisp-".to_owned(),
        "K8S_POD_NAME=recorded".to_owned(),
        "K8S_POD_NAMESPACE=default".to_owned(),
        format!("K8S_POD_INFRA_CONTAINER_ID={}", pod.id),
        "\"mine\":1".to_owned(),
    ] {
        assert!(seen.replace(": ", ":").contains(&wanted), "{wanted} in {seen}");
    }
    assert!(
        !seen.contains("SECRET_OF_THE_DAEMON"),
        "helpers get a clean environment"
    );
    server.client.remove_pod(&pod.id).await.unwrap();
    let deletes = recorded(&server).matches("== DEL").count();
    assert_eq!(deletes, 1, "{}", recorded(&server));
    assert!(
        recorded(&server).contains("prevResult"),
        "DEL gets the result of ADD"
    );
    server.close().await;
}

#[tokio::test]
async fn a_failing_plugin_is_quoted_and_undone() {
    let settings = Settings {
        plugins: vec![("failing".to_owned(), recording_plugin(FAIL))],
        conflists: conflist_of("failing"),
        ..Settings::default()
    };
    let server = settings.start().await;
    let refused = server.run(&server.pod("refused")).await.map(drop).unwrap_err();
    for part in ["failing", "123", "no cable today"] {
        assert!(refused.message().contains(part), "{part:?} in {refused:?}");
    }
    assert_eq!(
        recorded(&server).matches("== DEL").count(),
        1,
        "DEL once after a failed ADD"
    );
    let pins = server
        .traces()
        .into_iter()
        .filter(|trace| matches!(trace, Trace::Pin(_)))
        .count();
    assert_eq!(pins, 0);
    server.close().await;
}

/// What `text` says when the pod connects to `address`.
async fn connect(pod: &RunningPod, name: &str, image: &str, address: &str) -> String {
    let (code, output) = pod
        .finish(&Container::new(name, image).args(&["connect", address]))
        .await;
    assert_eq!(code, 0, "connecting to {address}");
    output
}

/// A listener on a host that tells everyone who they are, until the value is dropped and one more has come.
async fn greet(host: &Host, address: &'static str) -> Greeter {
    let listener = host.enter(move || TcpListener::bind(address).unwrap()).await;
    let own = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let peer = stream
                .peer_addr()
                .map(|peer| peer.ip().to_string())
                .unwrap_or_default();
            let _ = writeln!(stream, "hello {peer}");
        }
    });
    Greeter(own)
}

struct Greeter(TcpListener);

impl Drop for Greeter {
    fn drop(&mut self) {
        // A listener shut down accepts no more, which ends its thread.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

async fn network_ready(server: &Server) -> (Option<bool>, String) {
    let request = cri::StatusRequest { verbose: false };
    let status = server
        .client
        .runtime
        .clone()
        .status(request)
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap();
    let network = status
        .conditions
        .into_iter()
        .find(|condition| condition.r#type == "NetworkReady");
    network.map_or((None, String::new()), |network| {
        (Some(network.status), network.reason)
    })
}

/// The bridge plugin never removes its bridge.
async fn delete_bridge(server: &Server) {
    let mut command = std::process::Command::new("ip");
    command.args(["link", "del", "cni0"]);
    assert!(server.output(command, Vec::new()).await.status.success());
}

#[test]
fn conflists_of_the_suite_are_json() {
    let parsed: Value = serde_json::from_str(&bridge_conflist(Path::new("/x"))).unwrap();
    assert_eq!(parsed["plugins"][0]["type"], "bridge");
}
