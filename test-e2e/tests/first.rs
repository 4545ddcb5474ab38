//! The cgroup that a sandbox has ready for its first container: for that one alone, and never left behind.

use std::collections::BTreeSet;
use std::path::PathBuf;

use test_e2e::eventually::eventually;
use test_e2e::harness::Server;
use test_e2e::leaks::Trace;
use test_e2e::specs::Container;

/// The directories of containers' cgroups, but for those of pods.
fn cgroups(server: &Server, pods: &[&str]) -> BTreeSet<PathBuf> {
    let traces = server.traces().into_iter();
    traces
        .filter_map(|trace| match trace {
            Trace::Cgroup(path) => Some(path),
            _ => None,
        })
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let parent = path.parent().and_then(|parent| parent.file_name());
            name.len() == 64 && parent.is_some_and(|parent| parent == "kubepods") && !pods.contains(&name)
        })
        .collect()
}

/// The names of these, each of which is to be one container's.
fn names(cgroups: &BTreeSet<PathBuf>) -> BTreeSet<&str> {
    cgroups
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .collect()
}

/// The first container's cgroup, once it stands in as many hierarchies as that of a container that runs.
async fn ready(server: &Server, pods: &[&str], hierarchies: usize) -> BTreeSet<PathBuf> {
    eventually("the cgroup of a first container", || async {
        Some(cgroups(server, pods)).filter(|found| found.len() == hierarchies)
    })
    .await
}

#[tokio::test]
async fn the_first_container_of_a_pod_finds_its_cgroup() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let sleeper = |name: &str| Container::new(name, &image).command(&["/bin/sleep", "100000"]);
    let running = server.run_pod("running").await;
    let main = running.start(&sleeper("main")).await;
    let hierarchies = cgroups(&server, &[&running.id]).len();
    assert_eq!(
        names(&cgroups(&server, &[&running.id])),
        BTreeSet::from([main.as_str()])
    );
    server.client.stop_pod(&running.id).await.unwrap();
    server.client.remove_pod(&running.id).await.unwrap();
    assert_eq!(cgroups(&server, &[]), BTreeSet::new());

    // It is the first container's, and no other's.
    let pod = server.run_pod("pod").await;
    let found = ready(&server, &[&pod.id], hierarchies).await;
    let first = pod.create(&sleeper("first")).await.unwrap();
    assert_eq!(names(&found), BTreeSet::from([first.as_str()]));
    let second = pod.start(&sleeper("second")).await;
    assert_ne!(first, second);
    server.client.start(&first).await.unwrap();
    server.client.remove(&first).await.unwrap();
    let third = pod.start(&sleeper("third")).await;
    assert_ne!(third, first, "an id is used once");
    server.kill9().await;
    server.restart().await;
    assert_eq!(
        names(&cgroups(&server, &[&pod.id])),
        BTreeSet::from([second.as_str(), third.as_str()])
    );
    server.close().await;
}

#[tokio::test]
async fn what_no_container_came_for_goes() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let other = server.run_pod("other").await;
    let running = other
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let hierarchies = cgroups(&server, &[&other.id]).len();
    server.client.remove(&running).await.unwrap();

    // With the pod.
    let pod = server.run_pod("stopped").await;
    ready(&server, &[&other.id, &pod.id], hierarchies).await;
    server.client.stop_pod(&pod.id).await.unwrap();
    assert_eq!(cgroups(&server, &[&other.id]), BTreeSet::new());

    // With a container that cannot be made, and another still can.
    let pod = server.run_pod("failing").await;
    ready(&server, &[&other.id, &pod.id], hierarchies).await;
    let impossible = Container::new("impossible", &image)
        .shell("true")
        .secure(|context| context.run_as_username = "nobody-of-this-name".into());
    let error = pod.create(&impossible).await.unwrap_err();
    assert!(
        error.message().contains("nobody-of-this-name"),
        "{}",
        error.message()
    );
    assert_eq!(cgroups(&server, &[&other.id, &pod.id]), BTreeSet::new());
    let (code, _) = pod
        .finish(&Container::new("possible", &image).shell("true"))
        .await;
    assert_eq!(code, 0);
    server.client.remove_pod(&pod.id).await.unwrap();

    // With the daemon that knew how far it was.
    let pod = server.run_pod("killed").await;
    let left = ready(&server, &[&other.id, &pod.id], hierarchies).await;
    server.kill9().await;
    // As if it had been killed in the middle.
    std::fs::remove_dir(left.first().unwrap()).unwrap();
    server.restart().await;
    assert_eq!(cgroups(&server, &[&other.id, &pod.id]), BTreeSet::new());
    let (code, _) = pod.finish(&Container::new("main", &image).shell("true")).await;
    assert_eq!(code, 0);
    server.close().await;
}
