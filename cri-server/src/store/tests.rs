use super::*;
use crate::container::{ContainerConfig, Exit, Resources};
use crate::pod::{PodConfig, PodLimits, PodName};

fn pod() -> PodRecord {
    PodRecord {
        id: PodId::generate().unwrap(),
        config: PodConfig {
            name: PodName {
                namespace: "ns".into(),
                name: "p".into(),
                uid: "u".into(),
                attempt: 2,
            },
            ..PodConfig::default()
        },
        created_at: 5,
        cgroup: "/x".into(),
        boot_id: "boot".into(),
        first: None,
    }
}

fn container(pod: &PodRecord) -> ContainerRecord {
    ContainerRecord {
        image_volumes: Default::default(),
        id: ContainerId::generate().unwrap(),
        pod: pod.id.clone(),
        config: ContainerConfig {
            env: vec![("K".into(), vec![0xff, 0])],
            ..ContainerConfig::default()
        },
        created_at: 6,
        image_id: "sha256:0".into(),
        cgroup: "/x/y".into(),
        log_path: String::new(),
        identity: Default::default(),
        stop_signal: 15,
        spec: "{}".into(),
        args: vec![b"a".to_vec()],
        env: vec![vec![0xfe]],
        seccomp: None,
    }
}

#[tokio::test]
async fn what_is_written_is_read_back_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pods.db");
    let (pod, network) = (
        pod(),
        PodNetwork {
            ips: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            result: "{}".into(),
        },
    );
    let container = container(&pod);
    let exited = ContainerState::Created
        .started(9, 7)
        .exited(Exit::of_process(3, false), 8);
    let resources = Resources {
        memory_limit: 1 << 20,
        ..Resources::default()
    };
    let limits = PodLimits {
        overhead: None,
        resources: Some(resources.clone()),
    };
    {
        let store = Store::open(&path).unwrap();
        store.insert_pod(&pod).await.unwrap();
        assert!(store.insert_pod(&pod).await.is_err(), "a name exists once");
        store.pod_ready(&pod.id, &network).await.unwrap();
        store.insert_container(&container).await.unwrap();
        store.container_state(&container.id, &exited).await.unwrap();
        store.update_pod(&pod.id, &limits).await.unwrap();
        let first = Resources::default();
        store.update_container(&container.id, &first).await.unwrap();
        store.update_container(&container.id, &resources).await.unwrap();
    }
    let store = Store::open(&path).unwrap();
    let stored = store.load().await.unwrap();
    assert_eq!(
        stored.pods,
        [StoredPod {
            record: pod.clone(),
            phase: PodPhase::Ready,
            network,
            limits: Some(limits),
        }]
    );
    assert_eq!(
        stored.containers,
        [StoredContainer {
            record: container.clone(),
            state: exited,
            resources: Some(resources),
        }]
    );
    store.remove_container(&container.id).await.unwrap();
    store.remove_pod(&pod.id).await.unwrap();
    assert!(store.load().await.unwrap().pods.is_empty());
}

#[tokio::test]
async fn an_unreadable_row_hides_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pods.db");
    let store = Store::open(&path).unwrap();
    let (good, bad) = (
        pod(),
        PodRecord {
            config: PodConfig::default(),
            ..pod()
        },
    );
    store.insert_pod(&good).await.unwrap();
    store.insert_pod(&bad).await.unwrap();
    // as a later version of the blobs would look to this one
    store
        .execute(
            "UPDATE pods SET record = x'63' WHERE id = ?",
            (bad.id.to_string(),),
        )
        .await
        .unwrap();
    let stored = store.load().await.unwrap();
    assert_eq!(stored.pods.len(), 1);
    assert_eq!(stored.unreadable, [bad.id.to_string()]);
}
