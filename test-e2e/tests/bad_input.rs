//! Bad input gets an error that names the field, and changes nothing.

use k8s_cri::v1 as cri;
use test_e2e::harness::Server;
use test_e2e::layout::Settings;
use test_e2e::leaks::Trace;
use test_e2e::specs::{Container, Pod};
use tonic::{Code, Status};

/// Every refused request leaves the host as it was.
fn unchanged(server: &Server) -> Vec<Trace> {
    // Sockets come and go with connections; all else is lasting.
    server
        .traces()
        .into_iter()
        .filter(|trace| !matches!(trace, Trace::Socket(_)))
        .collect()
}

fn names(refused: &Status, field: &str) {
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(
        refused.message().contains(field),
        "{field} in {:?}",
        refused.message()
    );
    assert!(
        refused.message().len() <= 512,
        "at most 512 bytes: {:?}",
        refused.message()
    );
}

#[tokio::test]
async fn pods() {
    let server = Server::start().await;
    let good = || server.pod("good");
    let with = |change: fn(&mut cri::PodSandboxConfig)| {
        let mut pod = good();
        change(&mut pod.0);
        pod
    };
    let metadata = |change: fn(&mut cri::PodSandboxMetadata)| {
        let mut pod = good();
        change(pod.0.metadata.as_mut().unwrap());
        pod
    };
    let bad: Vec<(Pod, &str)> = vec![
        (with(|pod| pod.metadata = None), "metadata"),
        (metadata(|metadata| metadata.name.clear()), "metadata.name"),
        (
            metadata(|metadata| metadata.namespace.clear()),
            "metadata.namespace",
        ),
        (metadata(|metadata| metadata.uid.clear()), "metadata.uid"),
        (
            metadata(|metadata| metadata.name = "n".repeat(100_000)),
            "metadata.name",
        ),
        (with(|pod| pod.hostname = "h".repeat(65)), "hostname"),
        (with(|pod| pod.hostname = "two\nlines".to_owned()), "hostname"),
        (
            with(|pod| pod.log_directory = "relative".to_owned()),
            "log_directory",
        ),
        (good().sysctl("kernel.core_pattern", "|/x"), "kernel.core_pattern"),
        (good().sysctl("net.ipv4.+evil", "1"), "sysctls"),
        (good().sysctl("net/../../kernel/core_pattern", "1"), "sysctls"),
        (
            good().host_network().sysctl("net.ipv4.ip_forward", "1"),
            "net.ipv4.ip_forward",
        ),
        (good().cgroup_parent("/../escape"), "cgroup_parent"),
        (good().cgroup_parent("a/../../b"), "cgroup_parent"),
        (
            good().dns(&["192.0.2.1\nnameserver 192.0.2.2"], &[], &[]),
            "dns_config",
        ),
    ];
    let before = unchanged(&server);
    for (pod, field) in bad {
        let refused = server.client.run_pod(&pod.0).await.expect_err(field);
        names(&refused, field);
        assert_eq!(unchanged(&server), before, "{field}");
    }
    let empty = server
        .client
        .runtime
        .clone()
        .run_pod_sandbox(cri::RunPodSandboxRequest::default())
        .await
        .unwrap_err();
    names(&empty, "config");
    let request = cri::RunPodSandboxRequest {
        config: Some(good().0),
        runtime_handler: "kata".to_owned(),
    };
    let unknown = server
        .client
        .runtime
        .clone()
        .run_pod_sandbox(request)
        .await
        .unwrap_err();
    names(&unknown, "kata");
    assert!(server.client.pods().await.unwrap().is_empty());
    server.close().await;
}

#[tokio::test]
async fn containers() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("pod").await;
    let good = || Container::new("good", &image).command(&["/bin/true"]);
    let with = |change: &dyn Fn(&mut cri::ContainerConfig)| {
        let mut container = good();
        change(&mut container.0);
        container
    };
    let mount = |host: &str, inside: &str| {
        let (host_path, container_path) = (host.to_owned(), inside.to_owned());
        with(&|container| {
            let (host_path, container_path) = (host_path.clone(), container_path.clone());
            container.mounts.push(cri::Mount {
                host_path,
                container_path,
                ..Default::default()
            });
        })
    };
    let bad: Vec<(Container, &str)> = vec![
        (with(&|container| container.metadata = None), "metadata"),
        (
            with(&|container| container.metadata.as_mut().unwrap().name.clear()),
            "metadata.name",
        ),
        (with(&|container| container.image = None), "image"),
        (
            with(&|container| container.image.as_mut().unwrap().image.clear()),
            "image",
        ),
        (
            with(&|container| container.log_path = "../escape.log".to_owned()),
            "log_path",
        ),
        (
            with(&|container| container.log_path = "/absolute.log".to_owned()),
            "log_path",
        ),
        (
            with(&|container| container.working_dir = "relative".to_owned()),
            "working_dir",
        ),
        (good().env("A=B", "c"), "envs"),
        (good().env("", "c"), "envs"),
        (good().env("NUL", "a\0b"), "envs"),
        (mount("/tmp", ""), "mounts"),
        (mount("", "/x"), "mounts"),
        (mount("relative", "/x"), "mounts"),
        (mount("/tmp", "/proc/self/attr"), "mounts"),
        (good().capabilities(&["NO_SUCH_CAP"], &[]), "NO_SUCH_CAP"),
        (good().user(-1, None), "run_as_user"),
        (good().user(1 << 33, None), "run_as_user"),
        (
            good().secure(|security| security.run_as_group = Some(cri::Int64Value { value: 1 })),
            "run_as_group",
        ),
        (
            good().resources(|resources| resources.memory_limit_in_bytes = -5),
            "memory_limit_in_bytes",
        ),
        (
            good().resources(|resources| resources.memory_limit_in_bytes = 1),
            "memory_limit_in_bytes",
        ),
        (
            good().resources(|resources| resources.cpuset_cpus = "0-2147483647".to_owned()),
            "cpuset_cpus",
        ),
        (
            good().resources(|resources| resources.oom_score_adj = 5000),
            "oom_score_adj",
        ),
        (
            good().resources(|resources| resources.cpu_period = i64::MAX),
            "cpu_period",
        ),
    ];
    pod.use_first(&image).await;
    let before = unchanged(&server);
    for (container, field) in bad {
        let refused = pod.create(&container).await.expect_err(field);
        names(&refused, field);
        assert_eq!(unchanged(&server), before, "{field}");
    }
    let no_config = cri::CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        ..Default::default()
    };
    names(
        &server
            .client
            .runtime
            .clone()
            .create_container(no_config)
            .await
            .unwrap_err(),
        "config",
    );

    let unknown = pod
        .create(&Container::new("good", "127.0.0.1:5000/not/pulled:1"))
        .await
        .unwrap_err();
    assert!(unknown.message().contains("not/pulled"), "{unknown:?}");
    let nothing_to_run = with(&|container| container.command.clear());
    let mut bare = nothing_to_run;
    bare.0.image.as_mut().unwrap().image = server
        .pull(
            "bare",
            &test_e2e::images::Image::builder()
                .layer(test_e2e::layers::Layer::new())
                .build(),
        )
        .await;
    let refused = pod.create(&bare).await.unwrap_err();
    assert!(refused.message().contains("no command specified"), "{refused:?}");
    assert!(server.client.containers().await.unwrap().is_empty());

    let id = pod.create(&good()).await.expect("the good one still goes");
    for refused in [
        server.client.stop(&id, i64::MAX).await.map(|()| String::new()),
        server
            .client
            .exec(&id, &["/bin/true"], -1)
            .await
            .map(|done| format!("{done:?}")),
    ] {
        assert!(
            refused
                .as_ref()
                .map_or_else(|status| status.code() != Code::Internal, |_| true),
            "{refused:?}"
        );
    }
    server.close().await;
}

#[tokio::test]
async fn unknown_ids() {
    let server = Server::start().await;
    let image = server.busybox().await;
    for id in [
        "0".repeat(64),
        "nonsense".to_owned(),
        "../../etc/passwd".to_owned(),
        "a".repeat(100_000),
    ] {
        let client = &server.client;
        assert_eq!(client.pod_status(&id).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(
            client.container_status(&id).await.unwrap_err().code(),
            Code::NotFound
        );
        assert_eq!(client.start(&id).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(
            client.exec(&id, &["/bin/true"], 0).await.unwrap_err().code(),
            Code::NotFound
        );
        assert_eq!(client.reopen_log(&id).await.unwrap_err().code(), Code::NotFound);
        let pod = server.pod("nowhere");
        let refused = client
            .create(&id, &pod.0, &Container::new("main", &image).0)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().len() <= 512, "stable and short");
    }
    for refused in [
        server.client.pod_status("").await.map(drop).unwrap_err(),
        server.client.container_status("").await.map(drop).unwrap_err(),
    ] {
        assert!(
            matches!(refused.code(), Code::NotFound | Code::InvalidArgument),
            "{refused:?}"
        );
    }
    server.close().await;
}

#[tokio::test]
async fn image_references() {
    let server = Server::start().await;
    let before = unchanged(&server);
    for reference in [
        "",
        "127.0.0.1:5000/UPPER/case:tag",
        "Upper:tag",
        "127.0.0.1:5000/a:b:c",
        "127.0.0.1:5000/name@sha256:short",
        "127.0.0.1:5000/name@md5:00000000000000000000000000000000",
        "127.0.0.1:5000/../../etc:1",
        "127.0.0.1:5000/new\nline:1",
        "http://127.0.0.1:5000/name:1",
    ] {
        let refused = server.client.pull(reference).await.expect_err(reference);
        assert_eq!(
            refused.code(),
            Code::InvalidArgument,
            "{reference:?}: {refused:?}"
        );
        assert!(refused.message().contains("image"), "{reference:?}: {refused:?}");
    }
    assert_eq!(unchanged(&server), before);
    server.close().await;
}

#[tokio::test]
async fn a_conflist_that_is_no_json_is_told_and_the_rest_goes_on() {
    let broken = vec![("10-broken.conflist".to_owned(), "{ this is not JSON".to_owned())];
    let server = Settings {
        conflists: broken,
        ..Settings::default()
    }
    .start()
    .await;
    let request = cri::StatusRequest { verbose: true };
    let answer = server
        .client
        .runtime
        .clone()
        .status(request)
        .await
        .unwrap()
        .into_inner();
    let conditions = answer.status.unwrap().conditions;
    let network = conditions
        .iter()
        .find(|condition| condition.r#type == "NetworkReady")
        .unwrap();
    assert!(!network.status, "{network:?}");
    assert!(
        network.message.contains("10-broken.conflist"),
        "the file is named: {network:?}"
    );
    let refused = server.run(&server.pod("refused")).await.map(drop).unwrap_err();
    assert!(refused.message().contains("10-broken.conflist"), "{refused:?}");
    assert!(server.client.pods().await.unwrap().is_empty());
    server
        .run(&server.pod("host-network").host_network())
        .await
        .expect("needs no network of its own");
    server.close().await;
}

#[tokio::test]
async fn calls_that_are_not_there_say_so() {
    let server = Server::start().await;
    let refused = server
        .client
        .runtime
        .clone()
        .attach(cri::AttachRequest::default())
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused.code(),
            Code::Unimplemented | Code::InvalidArgument | Code::NotFound
        ),
        "{refused:?}"
    );
    let request = cri::CheckpointContainerRequest::default();
    let refused = server
        .client
        .runtime
        .clone()
        .checkpoint_container(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(
        refused.message().contains("CheckpointContainer"),
        "by name: {refused:?}"
    );
    server.close().await;
}
