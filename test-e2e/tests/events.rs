//! Events: what a kubelet that listens is told, and in which order.

use k8s_cri::v1::{
    ContainerEventResponse, ContainerEventType as Kind, ContainerState, GetEventsRequest, PodSandboxState,
    PodSandboxStatusRequest,
};
use test_e2e::eventually::{PATIENCE, stretched};
use test_e2e::harness::Server;
use test_e2e::specs::Container;
use tonic::Streaming;

async fn subscribe(server: &Server) -> Streaming<ContainerEventResponse> {
    let mut runtime = server.client.runtime.clone();
    let answer = runtime.get_container_events(GetEventsRequest {}).await;
    answer.expect("a stream of events").into_inner()
}

/// The events up to the end of a pod.
async fn until_deleted(
    events: &mut Streaming<ContainerEventResponse>,
    pod: &str,
) -> Vec<ContainerEventResponse> {
    let mut heard = Vec::new();
    loop {
        let event = tokio::time::timeout(stretched(PATIENCE), events.message());
        let event = event.await.expect("an event in time").unwrap().expect("no end");
        let last = event.container_id == pod && event.container_event_type() == Kind::ContainerDeletedEvent;
        heard.push(event);
        if last {
            return heard;
        }
    }
}

#[tokio::test]
async fn a_pods_life_is_told_in_order_with_full_statuses() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let (mut first, mut second) = (subscribe(&server).await, subscribe(&server).await);
    let pod = server.run_pod("told").await;
    let id = pod.start(&Container::new("main", &image).shell("exit 3")).await;
    server.client.exited(&id).await;
    // Twice is once: nothing happens the second time.
    for _ in 0..2 {
        server.client.remove(&id).await.unwrap();
        server.client.stop_pod(&pod.id).await.unwrap();
    }
    server.client.remove_pod(&pod.id).await.unwrap();

    let heard = until_deleted(&mut first, &pod.id).await;
    assert_eq!(heard, until_deleted(&mut second, &pod.id).await);
    let kinds: Vec<_> = heard
        .iter()
        .map(|event| (event.container_id.as_str(), event.container_event_type()))
        .collect();
    assert_eq!(
        kinds,
        [
            (pod.id.as_str(), Kind::ContainerCreatedEvent),
            (pod.id.as_str(), Kind::ContainerStartedEvent),
            (id.as_str(), Kind::ContainerCreatedEvent),
            (id.as_str(), Kind::ContainerStartedEvent),
            (id.as_str(), Kind::ContainerStoppedEvent),
            (id.as_str(), Kind::ContainerDeletedEvent),
            (pod.id.as_str(), Kind::ContainerStoppedEvent),
            (pod.id.as_str(), Kind::ContainerDeletedEvent),
        ]
    );
    assert!(heard.is_sorted_by(|a, b| a.created_at < b.created_at));
    for event in &heard {
        let status = event.pod_sandbox_status.as_ref().expect("a pod status");
        assert_eq!(
            (status.id.as_str(), &status.metadata),
            (pod.id.as_str(), &pod.config.metadata)
        );
    }
    let pod_state = |event: &ContainerEventResponse| event.pod_sandbox_status.as_ref().unwrap().state();
    assert_eq!(pod_state(&heard[1]), PodSandboxState::SandboxReady);
    assert_eq!(pod_state(&heard[6]), PodSandboxState::SandboxNotready);
    let states: Vec<_> = heard[2..6]
        .iter()
        .map(|event| {
            event
                .containers_statuses
                .iter()
                .map(|c| (c.state(), c.exit_code))
                .collect()
        })
        .collect::<Vec<Vec<_>>>();
    assert_eq!(
        states,
        [
            vec![(ContainerState::ContainerCreated, 0)],
            vec![(ContainerState::ContainerRunning, 0)],
            vec![(ContainerState::ContainerExited, 3)],
            vec![],
        ]
    );
    server.close().await;
}

#[tokio::test]
async fn a_pods_status_has_its_time_and_its_containers() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("status").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: false,
    };
    let status = server.client.runtime.clone().pod_sandbox_status(request).await;
    let status = status.unwrap().into_inner();
    assert!(status.timestamp > status.status.unwrap().created_at);
    assert_eq!(status.containers_statuses.len(), 1);
    assert_eq!(status.containers_statuses[0].id, id);
    assert_eq!(
        status.containers_statuses[0].state(),
        ContainerState::ContainerRunning
    );
    server.close().await;
}

#[tokio::test]
async fn a_new_daemon_tells_what_happens_from_then_on() {
    let mut server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("restart").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let mut old = subscribe(&server).await;
    server.kill9().await;
    assert!(old.message().await.is_err(), "a broken stream is no quiet one");
    server.restart().await;
    let mut events = subscribe(&server).await;
    server.client.stop(&id, 0).await.unwrap();
    let stopped = events.message().await.unwrap().unwrap();
    assert_eq!(stopped.container_id, id);
    assert_eq!(stopped.container_event_type(), Kind::ContainerStoppedEvent);
    assert_eq!(stopped.containers_statuses[0].exit_code, 137);
    server.close().await;
}
