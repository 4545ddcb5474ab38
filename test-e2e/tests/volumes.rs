//! Volumes of every kind, seen from the container and from the node.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use k8s_cri::v1::{CreateContainerRequest, ImageSpec, Mount, MountPropagation};
use nix::mount::{MsFlags, mount};
use serde_json::json;
use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::layers::Layer;
use test_e2e::newer::{self, Newer, NewerMount};
use test_e2e::pods::RunningPod;
use test_e2e::specs::Container;

fn with(mut container: Container, mount: Mount) -> Container {
    container.0.mounts.push(mount);
    container
}

fn volume(host: &Path, target: &str, propagation: MountPropagation) -> Mount {
    Mount {
        container_path: target.to_owned(),
        host_path: host.display().to_string(),
        propagation: propagation.into(),
        ..Default::default()
    }
}

fn tmpfs_on(path: &Path) {
    fs::create_dir_all(path).unwrap();
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

#[tokio::test]
async fn a_declared_volume_has_what_the_image_has_and_is_the_containers_own() {
    let server = Server::start().await;
    let layer = Layer::new()
        .owned_by(0, 0)
        .directory("data", 0o1755)
        .owned_by(1000, 2000)
        .directory("data/owned", 0o750)
        .file("data/owned/file", 0o640, "from the image")
        .hard_link("data/owned/again", "data/owned/file")
        .symlink("data/link", "owned/file");
    let lower = Layer::new()
        .file("data/lower", 0o644, "from below")
        .file("data/gone", 0o644, "x");
    let image = images::busybox_builder()
        .layer(lower)
        .layer(layer)
        .layer(Layer::new().whiteout("data/gone"))
        .config(
            "Volumes",
            json!({ "/data": {}, "/fresh": {}, "/../../var/../cache": {} }),
        )
        .build();
    let reference = server.pull("declared", &image).await;
    let pod = server.run_pod("declared").await;
    let look = "
        stat -c '%n %u:%g %a' /data /data/owned /data/owned/file
        cat /data/link /data/lower; ls /data | grep -c gone
        stat -c '%h' /data/owned/again
        for d in / /data /fresh /cache; do (echo x > $d/new) 2>/dev/null && echo writable $d; done
        grep -c overlay /proc/self/mountinfo; grep -c ' /data [^-]*nodev' /proc/self/mountinfo";
    let main = Container::new("main", &reference)
        .shell(look)
        .secure(|security| security.readonly_rootfs = true);
    let (_, output) = pod.finish(&main).await;
    let expected = "/data 0:0 1755\n/data/owned 1000:2000 750\n/data/owned/file 1000:2000 640\n\
                    from the imagefrom below0\n2\nwritable /data\nwritable /fresh\nwritable /cache\n1\n1\n";
    assert_eq!(output, expected);
    // Another container of the image starts with what the image has, and a mount of the request takes the place.
    let given = server.directory().join("given");
    fs::create_dir(&given).unwrap();
    let second = Container::new("second", &reference)
        .shell("ls /data /fresh")
        .mount(&given, "/fresh/");
    let (_, output) = pod.finish(&second).await;
    assert!(!output.contains("new") && output.contains("lower"), "{output}");
    let bad = images::busybox_builder()
        .config("Volumes", json!({ "/x/../proc": {} }))
        .build();
    let bad = server.pull("bad", &bad).await;
    let refused = pod.create(&Container::new("bad", &bad)).await.unwrap_err();
    assert!(refused.message().starts_with("image VOLUME"), "{refused}");
    server.close().await;
}

async fn create_with(
    server: &Server,
    pod: &RunningPod,
    container: &Container,
    mount: NewerMount,
) -> Result<String, tonic::Status> {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(container.0.clone()),
        sandbox_config: Some(pod.config.clone()),
    };
    newer::create(&server.socket(), &request, &[Newer::Mount(Box::new(mount))]).await
}

fn image_at(reference: &str, target: &str, sub_path: &str) -> NewerMount {
    NewerMount {
        mount: Mount {
            container_path: target.to_owned(),
            readonly: true,
            image: Some(ImageSpec {
                image: reference.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        },
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_image_is_a_read_only_volume() {
    let server = Server::start().await;
    let layer = Layer::new()
        .directory("models", 0o755)
        .file("models/weights", 0o644, "heavy")
        .directory("empty", 0o755);
    let content = images::Image::builder()
        .layer(layer)
        .layer(Layer::new().file("top", 0o644, "top"))
        .build();
    let content_id = content.id().to_owned();
    let content = server.pull("content", &content).await;
    let image = server.busybox().await;
    let pod = server.run_pod("image-volume").await;

    let main = Container::new("main", &image).shell(
        "cat /whole/models/weights /whole/top; echo; (echo x > /whole/new) 2>/dev/null && echo writable; sleep 100000",
    );
    let id = create_with(&server, &pod, &main, image_at(&content, "/whole", ""))
        .await
        .unwrap();
    server.client.start(&id).await.unwrap();
    let output = pod.logged("main.log", "heavytop").await;
    assert!(!output.contains("writable"), "{output}");
    let status = server.client.container_status(&id).await.unwrap();
    assert_eq!(status.mounts[0].image.as_ref().unwrap().image, content);
    assert_eq!(
        newer::shown_images(&server.socket(), &id).await.unwrap(),
        [content_id],
        "what the name meant when the container was made"
    );

    // What a container shows is not collected, though its image goes; nor does a restart forget it.
    server.client.remove_image(&content).await.unwrap();
    let again = server
        .client
        .exec(&id, &["/bin/cat", "/whole/top"], 0)
        .await
        .unwrap();
    assert_eq!(again.stdout, b"top");

    let refused = create_with(
        &server,
        &pod,
        &Container::new("gone", &image),
        image_at(&content, "/x", ""),
    )
    .await
    .unwrap_err();
    assert!(
        refused.message().starts_with("ImageVolumeMountFailed"),
        "{refused}"
    );
    server.close().await;
}

#[tokio::test]
async fn a_part_of_an_image_is_resolved_within_it() {
    let server = Server::start().await;
    let layer = Layer::new()
        .file("models/small/weights", 0o644, "light")
        .file("etc/hostname", 0o644, "of the image")
        .symlink("link", "/models/small")
        .symlink("escape", "/../../../../etc");
    let content = server
        .pull("parts", &images::Image::builder().layer(layer).build())
        .await;
    let image = server.busybox().await;
    let pod = server.run_pod("parts").await;
    for (index, (sub_path, shows)) in [
        ("models/small", "weights\n"),
        ("link", "weights\n"),
        ("escape", "hostname\n"),
        ("models/small/weights", "/part\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("part-{index}");
        let main = Container::new(&name, &image).command(&["/bin/ls", "/part"]);
        let id = create_with(&server, &pod, &main, image_at(&content, "/part", sub_path))
            .await
            .unwrap();
        server.client.start(&id).await.unwrap();
        assert_eq!(server.client.exited(&id).await.exit_code, 0, "{sub_path}");
        assert_eq!(
            pod.logged(&format!("{name}.log"), shows).await,
            shows,
            "{sub_path}"
        );
    }
    for (bad, starts) in [
        ("models/none", "ImageVolumeMountFailed"),
        ("../etc", "config.mounts.image_sub_path"),
        ("/etc", "config.mounts.image_sub_path"),
    ] {
        let main = Container::new("bad", &image);
        let refused = create_with(&server, &pod, &main, image_at(&content, "/part", bad))
            .await
            .unwrap_err();
        assert!(refused.message().starts_with(starts), "{refused}");
    }
    let mut writable = image_at(&content, "/part", "");
    writable.mount.readonly = false;
    let refused = create_with(&server, &pod, &Container::new("bad", &image), writable)
        .await
        .unwrap_err();
    assert!(
        refused.message().starts_with("config.mounts.readonly"),
        "{refused}"
    );
    let options = NewerMount {
        mount: volume(server.directory(), "/opts", MountPropagation::PropagationPrivate),
        mount_options: vec!["noexec".into(), "nosuid".into()],
        ..Default::default()
    };
    let main = Container::new("options", &image).shell("grep ' /opts ' /proc/self/mountinfo");
    let id = create_with(&server, &pod, &main, options.clone()).await.unwrap();
    server.client.start(&id).await.unwrap();
    let line = pod.logged("options.log", "/opts").await;
    assert!(line.contains("noexec") && line.contains("nosuid"), "{line}");
    let bad = NewerMount {
        mount_options: vec!["upperdir=/etc".into()],
        ..options
    };
    let refused = create_with(&server, &pod, &Container::new("bad", &image), bad)
        .await
        .unwrap_err();
    assert!(refused.message().contains("mount_options"), "{refused}");
    server.close().await;
}

#[tokio::test]
async fn mounts_propagate_as_asked() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run(&server.pod("propagation").privileged()).await.unwrap();
    let shared = server.directory().join("shared");
    let inside = shared.clone();
    server.host.enter(move || tmpfs_on(&inside)).await;

    let follow = |name: &str, propagation| {
        with(
            Container::new(name, &image)
                .shell("until test -e /v/go; do usleep 10000; done; ls /v/late; sleep 100000"),
            volume(&shared, "/v", propagation),
        )
    };
    pod.start(&follow("private", MountPropagation::PropagationPrivate))
        .await;
    pod.start(&follow("slave", MountPropagation::PropagationHostToContainer))
        .await;
    let below = shared.join("late");
    let host = server.host.path(&shared);
    server
        .host
        .enter(move || {
            tmpfs_on(&below);
            fs::write(below.join("seen"), "").unwrap();
        })
        .await;
    fs::write(host.join("go"), "").unwrap();
    assert!(pod.logged("slave.log", "seen").await.contains("seen"));
    assert!(
        !fs::read_to_string(pod.log("private.log"))
            .unwrap()
            .contains("seen")
    );

    let both = with(
        Container::new("both", &image).shell("mkdir -p /v/mine && mount -t tmpfs none /v/mine && touch /v/mine/here && echo mounted && sleep 100000"),
        volume(&shared, "/v", MountPropagation::PropagationBidirectional),
    )
    .secure(|security| security.privileged = true);
    let both = pod.start(&both).await;
    pod.logged("both.log", "mounted").await;
    assert!(
        host.join("mine/here").exists(),
        "the host sees what the container mounts"
    );
    server.client.stop(&both, 0).await.unwrap();

    // A source that cannot pass mounts on is an error, not a silently private volume.
    let alone = server.directory().join("alone");
    let inside = alone.clone();
    server
        .host
        .enter(move || {
            tmpfs_on(&inside);
            mount(
                None::<&str>,
                &inside,
                None::<&str>,
                MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .unwrap();
        })
        .await;
    let impossible = with(
        Container::new("impossible", &image),
        volume(&alone, "/v", MountPropagation::PropagationBidirectional),
    );
    let id = pod.create(&impossible).await.unwrap();
    let refused = server.client.start(&id).await.unwrap_err();
    assert!(refused.message().starts_with("propagate mounts of"), "{refused}");
    let (a, b, c) = (shared.join("mine"), shared.join("late"), shared);
    server
        .host
        .enter(move || {
            for path in [a, b, c, alone] {
                nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).unwrap();
            }
        })
        .await;
    server.close().await;
}

#[tokio::test]
async fn sources_and_access_are_as_asked() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("sources").await;
    let base = server.directory().join("base");
    let nested = base.join("nested");
    let inside = nested.clone();
    server.host.enter(move || tmpfs_on(&inside)).await;
    fs::create_dir(base.join("real")).unwrap();
    symlink("real", base.join("link")).unwrap();

    let missing = base.join("made/of/directories");
    let write = "for f in /ro/x /ro/nested/x /rro/x /rro/nested/x /link/x /missing/x; do (echo x > $f) 2>/dev/null && echo $f; done";
    let mut main = Container::new("main", &image)
        .shell(write)
        .mount_read_only(&base, "/ro")
        .mount_read_only(&base, "/rro")
        .mount(&base.join("link"), "/link")
        .mount(&missing, "/missing");
    main.0.mounts[1].recursive_read_only = true;
    let (_, output) = pod.finish(&main).await;
    assert_eq!(output, "/ro/nested/x\n/link/x\n/missing/x\n");
    assert!(base.join("real/x").exists() && fs::metadata(&missing).unwrap().mode() & 0o777 == 0o755);

    let mut writable = Container::new("writable", &image).mount(&base, "/v");
    writable.0.mounts[0].recursive_read_only = true;
    let refused = pod.create(&writable).await.unwrap_err();
    assert!(refused.message().contains("recursive_read_only"), "{refused}");

    // Of two on one place the later lies on top; the deeper is never covered by what is above it; ours gives way.
    for name in ["a", "b", "b/sub"] {
        fs::create_dir_all(base.join(name)).unwrap();
        fs::write(base.join(name).join("name"), name).unwrap();
    }
    fs::write(base.join("hosts"), "given").unwrap();
    let order = Container::new("order", &image)
        .shell("cat /x/deep/name /x/name /etc/hosts")
        .mount(&base.join("b/sub"), "/x/deep")
        .mount(&base.join("a"), "/x")
        .mount(&base.join("b"), "/x")
        .mount(&base.join("hosts"), "/etc/hosts");
    fs::create_dir_all(base.join("b/deep")).unwrap();
    assert_eq!(pod.finish(&order).await, (0, "b/subbgiven".to_owned()));
    server
        .host
        .enter(move || nix::mount::umount2(&nested, nix::mount::MntFlags::MNT_DETACH).unwrap())
        .await;
    server.close().await;
}
