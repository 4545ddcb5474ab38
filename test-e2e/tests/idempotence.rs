//! Calls repeated, joined and cancelled: a client that gives up loses nothing.

use std::time::Duration;

use futures::future::join_all;
use k8s_cri::v1::ContainerState;
use test_e2e::eventually::eventually;
use test_e2e::harness::Server;
use test_e2e::specs::Container;
use tonic::Code;

#[tokio::test]
async fn the_same_pod_is_made_once() {
    let server = Server::start().await;
    let spec = server.pod("once");
    let ids = join_all((0..8).map(|_| server.client.run_pod(&spec.0))).await;
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "all get the one pod: {ids:?}");
    assert_eq!(
        server.client.run_pod(&spec.0).await.unwrap(),
        ids[0],
        "also later"
    );
    assert_eq!(server.client.pods().await.unwrap().len(), 1);
    let mut next = spec.clone();
    next.0.metadata.as_mut().unwrap().attempt = 1;
    assert_ne!(
        server.client.run_pod(&next.0).await.unwrap(),
        ids[0],
        "another attempt is another pod"
    );
    server.close().await;
}

#[tokio::test]
async fn the_same_container_is_made_once() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("container").await;
    let spec = Container::new("main", &image).command(&["/bin/sleep", "100000"]);
    let ids = join_all((0..8).map(|_| Box::pin(pod.create(&spec)))).await;
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(server.client.containers().await.unwrap().len(), 1);
    server.client.start(&ids[0]).await.unwrap();
    let stops = join_all((0..4).map(|_| server.client.stop(&ids[0], 0))).await;
    assert!(stops.into_iter().all(|stopped| stopped.is_ok()));
    let removals = join_all((0..4).map(|_| server.client.remove(&ids[0]))).await;
    assert!(removals.into_iter().all(|removed| removed.is_ok()));
    assert_ne!(pod.create(&spec).await.unwrap(), ids[0], "the name is free again");
    server.close().await;
}

#[tokio::test]
async fn a_cancelled_run_goes_on_and_is_joined() {
    let server = Server::start().await;
    for round in 0..6u64 {
        let spec = server.pod(&format!("cancelled-{round}"));
        let given_up = Duration::from_millis(1 + 3 * round);
        let _ = tokio::time::timeout(given_up, server.client.run_pod(&spec.0)).await;
        let id = server
            .client
            .run_pod(&spec.0)
            .await
            .expect("the same request gets the result");
        let named: Vec<_> = server.client.pods().await.unwrap();
        let named: Vec<_> = named
            .iter()
            .filter(|pod| pod.metadata == spec.0.metadata)
            .collect();
        assert_eq!(named.len(), 1, "made once");
        assert_eq!(named[0].id, id);
    }
    server.close().await;
}

#[tokio::test]
async fn a_cancelled_create_goes_on_and_is_joined() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("create").await;
    for round in 0..6u64 {
        let spec = Container::new(&format!("main-{round}"), &image).command(&["/bin/true"]);
        let _ = tokio::time::timeout(Duration::from_millis(1 + 2 * round), Box::pin(pod.create(&spec))).await;
        let id = pod.create(&spec).await.expect("the same request gets the result");
        let _ = tokio::time::timeout(Duration::from_millis(1 + 2 * round), server.client.start(&id)).await;
        eventually("the start goes on without its client", || async {
            match server.client.start(&id).await {
                Ok(()) => Some(()),
                // It has run by now; a second start of it is refused.
                Err(refused) => (refused.code() == Code::FailedPrecondition).then_some(()),
            }
        })
        .await;
        assert_eq!(server.client.exited(&id).await.exit_code, 0);
    }
    assert_eq!(server.client.containers().await.unwrap().len(), 6);
    server.close().await;
}

#[tokio::test]
async fn a_cancelled_stop_goes_on() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("stop").await;
    let spec = Container::new("main", &image)
        .shell("trap 'echo asked' TERM; echo up; while :; do sleep 1 & wait; done");
    let id = pod.start(&spec).await;
    pod.logged("main.log", "up").await;
    // Given up when it is under way: one that has not arrived is none.
    tokio::select! {
        stopped = server.client.stop(&id, 5) => panic!("not cancelled: {stopped:?}"),
        _ = pod.logged("main.log", "asked") => {}
    }
    assert_eq!(server.client.exited(&id).await.exit_code, 137);
    server.close().await;
}

#[tokio::test]
async fn a_second_start_is_refused() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("twice").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/true"]))
        .await;
    server.client.exited(&id).await;
    let refused = server.client.start(&id).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(
        server.client.container_status(&id).await.unwrap().state(),
        ContainerState::ContainerExited
    );
    server.close().await;
}

#[tokio::test]
async fn what_is_gone_is_removed_with_success() {
    let server = Server::start().await;
    let unknown = "f".repeat(64);
    server.client.stop_pod(&unknown).await.unwrap();
    server.client.remove_pod(&unknown).await.unwrap();
    server.client.stop(&unknown, 0).await.unwrap();
    server.client.remove(&unknown).await.unwrap();
    server
        .client
        .remove_image("127.0.0.1:5000/no/such:tag")
        .await
        .unwrap();
    server.close().await;
}

#[tokio::test]
async fn run_and_remove_at_once_end_clean() {
    let server = Server::start().await;
    let image = server.busybox().await;
    for round in 0..5 {
        let pod = server.run_pod(&format!("race-{round}")).await;
        let create = async {
            let made = pod
                .create(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
                .await;
            match made {
                Ok(id) => drop(server.client.start(&id).await),
                Err(refused) => assert!(
                    matches!(refused.code(), Code::NotFound | Code::FailedPrecondition),
                    "{refused:?}"
                ),
            }
        };
        let ((), removed) = tokio::join!(create, server.client.remove_pod(&pod.id));
        removed.unwrap();
    }
    server.close().await;
}
