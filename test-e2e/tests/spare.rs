//! The sandbox that is begun in advance: taken when it suits, and never left behind.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use test_e2e::eventually::{eventually, until};
use test_e2e::harness::Server;
use test_e2e::specs::Container;

/// The pods of the supervisors that run, by their command lines.
fn supervisors(server: &Server) -> Vec<String> {
    let processes = server.processes().into_iter();
    processes
        .filter(|(_, what)| what.starts_with("[crisp-pod]"))
        .filter_map(|(_, what)| {
            let mut words = what.split(' ').map(str::to_owned);
            words.find(|word| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
        })
        .collect()
}

/// The one that has none of these pods, once it is there.
async fn spare(server: &Server, pods: &[&str]) -> String {
    eventually("a sandbox is begun", || async {
        supervisors(server)
            .into_iter()
            .find(|id| !pods.contains(&id.as_str()))
    })
    .await
}

#[tokio::test]
async fn a_pod_takes_what_was_begun_and_another_is_begun() {
    let server = Server::start().await;
    let image = server.busybox().await;
    assert!(
        supervisors(&server).is_empty(),
        "a node without pods holds nothing"
    );
    let first = server.run_pod("first").await;
    let begun = spare(&server, &[&first.id]).await;
    // Its process is there a moment before it is ready: a pod that comes in between is made from its beginning.
    let mut pods = vec![first.id];
    let second = loop {
        let settings = server
            .pod(&format!("pod-{}", pods.len()))
            .sysctl("net.ipv4.ip_local_port_range", "4000 4999");
        let pod = server.run(&settings).await.unwrap();
        pods.push(pod.id.clone());
        if pod.id == begun {
            break pod;
        }
        assert!(
            pods.len() < 10,
            "the sandbox goes on from there, or from what was begun"
        );
    };
    let look = Container::new("look", &image)
        .shell("hostname; cat /proc/sys/net/ipv4/ip_local_port_range; cat /sys/class/net/lo/flags; ip -o -4 addr show eth0 | grep -c inet");
    let (code, output) = second.finish(&look).await;
    assert_eq!(
        (code, output.as_str()),
        (
            0,
            format!("pod-{}\n4000\t4999\n0x9\n1\n", pods.len() - 1).as_str()
        ),
        "like one that is made from its beginning"
    );
    let known: Vec<_> = pods.iter().map(String::as_str).collect();
    assert_ne!(spare(&server, &known).await, begun);
    server.close().await;
}

/// The file systems that a process has open.
fn held(pid: i32) -> BTreeSet<u64> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let fds = fds.into_iter().flatten().flatten();
    fds.filter_map(|fd| Some(std::fs::metadata(fd.path()).ok()?.dev()))
        .collect()
}

/// What the last container was made of is in stock where the next pod begins.
#[tokio::test]
async fn the_first_container_of_a_spare_takes_what_is_in_stock() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let mut pods = Vec::new();
    for turn in 0.. {
        // The first spare is begun before there was a container, and any may be taken a moment before it is ready.
        assert!(turn < 10, "no container took what was in stock");
        let known: Vec<_> = pods.iter().map(String::as_str).collect();
        let before = match pods.is_empty() {
            true => BTreeSet::new(),
            false => {
                let begun = spare(&server, &known).await;
                let processes = server.processes().into_iter();
                let mut of_spare = processes.filter(|(_, what)| what.contains(&begun));
                of_spare.next().map(|(pid, _)| held(pid)).unwrap_or_default()
            }
        };
        let pod = server.run_pod(&format!("pod-{turn}")).await;
        let look = Container::new("look", &image).shell("stat -c %d /dev /dev/pts; ls /dev | wc -l");
        let (code, output) = pod.finish(&look).await;
        let numbers: Vec<u64> = output.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(
            (code, &numbers[2..]),
            (0, &[15][..]),
            "a complete /dev in any case"
        );
        pods.push(pod.id.clone());
        if numbers[..2].iter().all(|number| before.contains(number)) {
            break;
        }
    }
    server.close().await;
}

#[tokio::test]
async fn a_pod_of_the_nodes_network_leaves_it_alone() {
    let server = Server::start().await;
    let first = server.run_pod("first").await;
    let begun = spare(&server, &[&first.id]).await;
    let host = server.pod("host").host_network();
    let host = server.run(&host).await.unwrap();
    assert_ne!(host.id, begun);
    assert!(supervisors(&server).contains(&begun));
    server.close().await;
}

#[tokio::test]
async fn it_dies_with_its_daemon_and_is_collected_by_the_next() {
    let mut server = Server::start().await;
    let pod = server.run_pod("stays").await;
    let begun = spare(&server, &[&pod.id]).await;
    server.kill9().await;
    until("a supervisor without a pod leaves", || {
        supervisors(&server) == [pod.id.clone()]
    })
    .await;
    server.restart().await;
    let traces: Vec<_> = server.traces().iter().map(ToString::to_string).collect();
    let left: Vec<_> = traces.iter().filter(|trace| trace.contains(&begun)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(server.client.pod_status(&pod.id).await.is_ok());
    server.close().await;
}

#[tokio::test]
async fn one_that_was_killed_is_not_taken() {
    let server = Server::start().await;
    let first = server.run_pod("first").await;
    let begun = spare(&server, &[&first.id]).await;
    let (pid, _) = server
        .processes()
        .into_iter()
        .find(|(_, what)| what.contains(&begun))
        .unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    until("it is gone", || !supervisors(&server).contains(&begun)).await;
    let second = eventually("the daemon has noticed", || async {
        server.run(&server.pod("second")).await.ok()
    })
    .await;
    assert_ne!(second.id, begun);
    server.close().await;
}
