//! Where an image lacks the places that every container has something mounted at: nothing is written for them, and
//! what an image has of its own counts.

use std::fs;
use std::path::PathBuf;

use k8s_cri::v1::{IdMapping, ImageSpec, Mount, NamespaceMode, UserNamespace};
use test_e2e::harness::Server;
use test_e2e::images::{self, Image};
use test_e2e::layers::{self, Layer};
use test_e2e::layout::Settings;
use test_e2e::specs::Container;

/// One server for each format of layers that this host can stack.
async fn servers() -> Vec<Server> {
    let mut servers = Vec::new();
    for format in layers::formats() {
        let settings = Settings {
            config: format!("[image]\nlayer_format = \"{format}\"\n"),
            ..Settings::default()
        };
        servers.push(settings.start().await);
    }
    servers
}

/// What a container has changed: the paths in its writable layer.
fn written(server: &Server, container: &str) -> Vec<String> {
    let root = server
        .host
        .path(server.data_dir())
        .join("rw")
        .join(container)
        .join("fs");
    let mut found = Vec::new();
    let mut left = vec![root.clone()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            found.push(path.strip_prefix(&root).unwrap().display().to_string());
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A program and nothing else: not even `/etc`.
fn bare() -> Image {
    let program = fs::read("/bin/busybox").expect("Debian: busybox-static");
    Image::builder()
        .layer(Layer::new().file("busybox", 0o755, program))
        .build()
}

#[tokio::test]
async fn a_start_writes_nothing() {
    for server in servers().await {
        let busybox = server.busybox().await;
        let bare = server.pull("bare", &bare()).await;
        let pod = server.run_pod("plain").await;
        let ids = vec![IdMapping {
            host_id: 1_234_560,
            container_id: 0,
            length: 65_536,
        }];
        let users = UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: ids.clone(),
            gids: ids,
        };
        let mapped = server
            .pod("users")
            .namespaces(|options| options.userns_options = Some(users.clone()));
        let mapped = server.run(&mapped).await.unwrap();
        let look = "/busybox stat -c '%n %F %a %u:%g' /proc /sys /dev /etc; /busybox grep -c . /etc/hostname; \
                    /busybox grep -c 127.0.0.1 /etc/hosts; /busybox sleep 100000";
        let idle = |name: &str| Container::new(name, &bare).command(&["/busybox", "sh", "-c", look]);
        let read_only = idle("read-only").secure(|security| security.readonly_rootfs = true);
        let in_users = idle("users").secure(|security| {
            security.namespace_options.get_or_insert_default().userns_options = Some(users);
        });
        let with_etc = Container::new("busybox", &busybox).command(&["/bin/sleep", "100000"]);
        for (pod, container) in [
            (&pod, idle("bare")),
            (&pod, read_only),
            (&pod, with_etc),
            (&mapped, in_users),
        ] {
            let name = container.0.metadata.as_ref().unwrap().name.clone();
            let id = pod.start(&container).await;
            if name != "busybox" {
                let output = pod.logged(&format!("{name}.log"), "\n1\n").await;
                assert!(output.contains("/etc directory 755 0:0\n1\n"), "{name}: {output}");
            }
            assert_eq!(written(&server, &id), Vec::<String>::new(), "{name}");
        }
        server.close().await;
    }
}

/// Being the lowest, it hides nothing: what an image has at these places is what was there before.
#[tokio::test]
async fn what_the_image_has_there_counts() {
    for server in servers().await {
        let pod = server.run_pod("shadows").await;
        let elsewhere = Image::builder()
            .layer(
                Layer::new()
                    .file("bin/busybox", 0o755, fs::read("/bin/busybox").unwrap())
                    .symlink("etc", "usr/etc")
                    .directory("usr/etc", 0o750)
                    .file("usr/etc/mine", 0o644, "mine"),
            )
            .build();
        let elsewhere = server.pull("elsewhere", &elsewhere).await;
        let look =
            "b=/bin/busybox; $b readlink /etc; $b ls /usr/etc; $b stat -c %a /usr/etc; $b sleep 100000";
        let linked = Container::new("linked", &elsewhere).command(&["/bin/busybox", "sh", "-c", look]);
        let id = pod.start(&linked).await;
        let output = pod.logged("linked.log", "\n750\n").await;
        assert_eq!(output, "usr/etc\nhostname\nhosts\nmine\nresolv.conf\n750\n");
        let made = [
            "usr",
            "usr/etc",
            "usr/etc/hostname",
            "usr/etc/hosts",
            "usr/etc/resolv.conf",
        ];
        assert_eq!(written(&server, &id), made);

        // A file is no place for directories, and an image may take away what it had itself.
        let file = Image::builder()
            .layer(Layer::new().file("etc", 0o644, "no directory"))
            .layer(Layer::new().file("busybox", 0o755, fs::read("/bin/busybox").unwrap()))
            .build();
        let file = server.pull("file", &file).await;
        let id = pod
            .create(&Container::new("file", &file).command(&["/busybox", "true"]))
            .await
            .unwrap();
        let refused = server.client.start(&id).await.unwrap_err();
        assert!(refused.message().contains("/etc"), "{refused}");
        let emptied = images::busybox_builder()
            .layer(Layer::new().whiteout("etc"))
            .layer(Layer::new().file("opt/x", 0o644, "x"))
            .build();
        let emptied = server.pull("emptied", &emptied).await;
        let emptied = Container::new("emptied", &emptied).shell("ls /etc");
        assert_eq!(
            pod.finish(&emptied).await,
            (0, "hostname\nhosts\nresolv.conf\n".to_owned())
        );
        server.close().await;
    }
}

/// An image volume is the image's alone.
#[tokio::test]
async fn an_image_volume_does_not_show_it() {
    for server in servers().await {
        let content = Image::builder()
            .layer(Layer::new().file("weights", 0o644, "heavy"))
            .build();
        let content = server.pull("content", &content).await;
        let busybox = server.busybox().await;
        let pod = server.run_pod("shown").await;
        let mut main = Container::new("main", &busybox).shell("ls -A /whole; sleep 100000");
        main.0.mounts.push(Mount {
            container_path: "/whole".into(),
            readonly: true,
            image: Some(ImageSpec {
                image: content,
                ..Default::default()
            }),
            ..Default::default()
        });
        let id = pod.start(&main).await;
        assert_eq!(pod.logged("main.log", "weights\n").await, "weights\n");
        assert_eq!(
            written(&server, &id),
            ["whole"],
            "the only place that the image lacks"
        );
        server.close().await;
    }
}
