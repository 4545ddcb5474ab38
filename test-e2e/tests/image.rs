//! Images: from registries that work and registries that do not, into a root, and off the disk.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use k8s_cri::v1::{self as cri, AuthConfig};
use test_e2e::docker_registry::DockerRegistry;
use test_e2e::eventually::{eventually, stretched};
use test_e2e::faults::{Fault, On};
use test_e2e::harness::Server;
use test_e2e::images::{self, Image};
use test_e2e::layers::{Compression, Layer};
use test_e2e::layout::{DOCKER_REGISTRY_PORT, Settings};
use test_e2e::leaks::Trace;
use test_e2e::registry::Registry;
use test_e2e::specs::Container;

fn numbered(number: u8) -> Image {
    let layer = |name: &str| Layer::new().file(name, 0o644, [number; 50_000]);
    Image::builder()
        .layer(layer("first"))
        .layer(layer("second"))
        .build()
}

#[tokio::test]
async fn a_real_registry_serves_by_tag_and_digest() {
    let server = Server::start().await;
    let client = &server.client;
    let registry = DockerRegistry::start(&server.host, DOCKER_REGISTRY_PORT).await;
    let image = images::busybox();
    let tag = registry.push(&server.host, "team/busybox", "1.0", image).await;
    assert_eq!(
        client.pull(&tag).await.unwrap(),
        image.id(),
        "the image's id is its config's digest"
    );

    let shown = client.image(&tag).await.unwrap().expect("pulled");
    assert_eq!(shown.id, image.id());
    assert_eq!(shown.repo_tags, [tag.as_str()]);
    let by_digest = format!("{}/team/busybox@{}", registry.address(), image.manifest.digest);
    assert_eq!(shown.repo_digests, [by_digest.as_str()]);
    assert!(shown.size > 0);
    assert_eq!(client.pull(&by_digest).await.unwrap(), image.id());
    for name in [tag.as_str(), &by_digest, image.id(), &image.id()[7..23]] {
        assert_eq!(
            client.image(name).await.unwrap().map(|found| found.id),
            Some(image.id().to_owned()),
            "{name}"
        );
    }
    assert_eq!(client.all_images().await.unwrap().len(), 1);

    let pod = server.run_pod("from-registry").await;
    assert_eq!(
        pod.finish(&Container::new("main", &by_digest).shell("echo ran"))
            .await,
        (0, "ran\n".to_owned())
    );
    client.remove_pod(&pod.id).await.unwrap();
    client.remove_image(&tag).await.unwrap();
    client.remove_image(image.id()).await.unwrap();
    assert!(
        client.image(&by_digest).await.unwrap().is_none(),
        "removal by id takes all names"
    );
    client
        .remove_image(&tag)
        .await
        .expect("removing what is gone is success");
    drop(registry);
    server.close().await;
}

#[tokio::test]
async fn user_and_size_are_reported() {
    let server = Server::start().await;
    let by_uid = images::busybox_builder()
        .config("User", "1000:1000".into())
        .build();
    let by_name = images::busybox_builder().config("User", "app".into()).build();
    let uid = server.pull("by-uid", &by_uid).await;
    let name = server.pull("by-name", &by_name).await;
    let shown = server.client.image(&uid).await.unwrap().unwrap();
    assert_eq!(
        (shown.uid.map(|uid| uid.value), shown.username.as_str()),
        (Some(1000), "")
    );
    let shown = server.client.image(&name).await.unwrap().unwrap();
    assert_eq!(
        (shown.uid.map(|uid| uid.value), shown.username.as_str()),
        (None, "app")
    );
    let absent = server.client.image("127.0.0.1:5000/no/such:tag").await.unwrap();
    assert!(absent.is_none(), "an image that is not there is no error");
    server.close().await;
}

#[tokio::test]
async fn an_index_gives_this_machines_image() {
    let server = Server::start().await;
    let (ours, theirs) = (images::busybox(), &numbered(1));
    let own = format!("linux/{}", images::architecture());
    let reference = server
        .registry
        .publish_index("multi", "1", &[("linux/s390x", theirs), (&own, ours)]);
    assert_eq!(server.client.pull(&reference).await.unwrap(), ours.id());
    assert_eq!(
        server.registry.gets(&theirs.layers[0].digest),
        0,
        "what is not for us is not fetched"
    );
    let alone = server
        .registry
        .publish_index("foreign", "1", &[("linux/s390x", theirs)]);
    let refused = server.client.pull(&alone).await.unwrap_err();
    assert!(
        refused.message().contains(images::architecture()),
        "the missing platform is named: {refused:?}"
    );
    server.close().await;
}

#[tokio::test]
async fn layers_of_every_packing_make_one_root() {
    let server = Server::start().await;
    let lower = Layer::new()
        .directory("kept", 0o755)
        .file("kept/gone", 0o644, "x")
        .file("kept/stays", 0o644, "lower")
        .directory("hidden", 0o755)
        .file("hidden/below", 0o644, "x")
        .owned_by(1000, 2000)
        .file("owned", 0o4755, "x");
    let middle = Layer::new()
        .whiteout("kept/gone")
        .opaque("hidden")
        .file("hidden/above", 0o644, "x")
        .file("one", 0o644, "linked")
        .hard_link("two", "one")
        .xattr("user.colour", b"red")
        .file("coloured", 0o600, "x")
        .fifo("pipe");
    let upper = Layer::new()
        .file("kept/stays", 0o644, "upper")
        .symlink("absolute", "/one")
        .whiteout("bin/yes");
    let image = images::busybox_builder()
        .layer_as(lower, Compression::Zstd)
        .layer_as(middle, Compression::None)
        .layer_as(upper, Compression::Gzip)
        .build();
    let reference = server.pull("packed", &image).await;
    let pod = server.run_pod("packed").await;
    let look = Container::new("look", &reference).shell(
        "ls /kept /hidden; cat /kept/stays; echo; stat -c '%u %g %a' /owned; cat /absolute; echo; \
         stat -c %h /one; test /one -ef /two && echo same; test -p /pipe && echo fifo; ls /bin/yes 2>&1; sleep 1000",
    );
    let id = pod.start(&look).await;
    let output = pod.logged("look.log", "No such file").await;
    let expected = "/hidden:\nabove\n\n/kept:\nstays\nupper\n1000 2000 4755\nlinked\n2\nsame\nfifo\nls: /bin/yes: No such file or directory\n";
    assert_eq!(output, expected);
    let root = PathBuf::from(format!("/proc/{}/root", server.client.container_pid(&id).await));
    let mut colour = [0; 16];
    let length = rustix::fs::getxattr(root.join("coloured"), "user.colour", &mut colour[..]).unwrap();
    assert_eq!(&colour[..length], b"red");
    server.close().await;
}

#[tokio::test]
async fn removal_frees_the_disk() {
    let server = Server::start().await;
    let kept = server.pull("kept", &numbered(1)).await;
    let files = |server: &Server| -> BTreeSet<_> {
        server
            .traces()
            .into_iter()
            .filter(|trace| matches!(trace, Trace::File(_)))
            .collect()
    };
    let before = files(&server);
    let (_, used_before) = image_file_system(&server).await;
    let large = Image::builder()
        .layer(Layer::new().file("large", 0o644, vec![3; 20 << 20]))
        .build();
    let reference = server.pull("large", &large).await;
    let (mountpoint, used) = image_file_system(&server).await;
    assert!(
        used >= used_before + (20 << 20),
        "what is on the disk is counted: {used_before} then {used}"
    );
    assert!(
        server.host.path(&mountpoint).is_dir(),
        "{mountpoint} is a directory"
    );
    server.client.remove_image(&reference).await.unwrap();
    eventually("the layer is off the disk", || async {
        let left = files(&server);
        (left == before).then_some(())
    })
    .await;
    let (_, freed) = image_file_system(&server).await;
    assert!(freed < used_before + (1 << 20), "{used_before}, {used}, {freed}");
    assert!(
        server.client.image(&kept).await.unwrap().is_some(),
        "others are not touched"
    );
    server.close().await;
}

#[tokio::test]
async fn shared_layers_are_fetched_and_kept_once() {
    let server = Server::start().await;
    let one = server.pull("one", images::busybox()).await;
    let two = server
        .pull(
            "two",
            &images::busybox_builder()
                .layer(Layer::new().file("x", 0o644, "x"))
                .build(),
        )
        .await;
    let base = &images::busybox().layers[0].digest;
    assert_eq!(
        server.registry.gets(base),
        1,
        "known layers are not fetched again"
    );
    server.client.remove_image(&one).await.unwrap();
    let pod = server.run_pod("shared").await;
    assert_eq!(
        pod.finish(&Container::new("main", &two).shell("cat /x")).await,
        (0, "x".to_owned())
    );
    server.close().await;
}

#[tokio::test]
async fn equal_pulls_join() {
    let server = Server::start().await;
    let image = numbered(2);
    let reference = server.registry.publish("joined", "1", &image);
    let pause = Duration::from_millis(20);
    server
        .registry
        .fault(On::AnyBlob, Fault::Trickle { piece: 40, pause }, usize::MAX);
    let pulls = futures::future::join_all((0..8).map(|_| server.client.pull(&reference))).await;
    assert!(
        pulls
            .into_iter()
            .all(|pulled| pulled.is_ok_and(|id| id == image.id()))
    );
    for layer in &image.layers {
        assert_eq!(server.registry.gets(&layer.digest), 1, "one download for all");
    }
    server.close().await;
}

#[tokio::test]
async fn a_cut_download_is_resumed() {
    let server = Server::start().await;
    // Incompressible enough to be cut in the middle.
    let noise: Vec<u8> = (0u32..200_000)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let image = Image::builder()
        .layer_as(Layer::new().file("noise", 0o644, &noise), Compression::None)
        .build();
    let reference = server.registry.publish("cut", "1", &image);
    server.registry.fault(
        On::Blob(image.layers[0].digest.clone()),
        Fault::CutAfter(120_000),
        1,
    );
    assert_eq!(server.client.pull(&reference).await.unwrap(), image.id());
    let ranges: Vec<_> = server
        .registry
        .seen()
        .into_iter()
        .filter_map(|seen| seen.range)
        .collect();
    assert!(
        ranges.iter().any(|range| range.starts_with("bytes=")),
        "the rest is asked for, not all: {ranges:?}"
    );
    server.close().await;
}

#[tokio::test]
async fn passing_faults_are_got_over() {
    let server = Server::start().await;
    let slow = Fault::Status(429, vec![("retry-after", "1".to_owned())]);
    for (number, (on, fault)) in [
        (On::Manifest, Fault::status(500)),
        (On::AnyBlob, Fault::status(503)),
        (On::Manifest, slow),
        (On::AnyBlob, Fault::CutAfter(0)),
    ]
    .into_iter()
    .enumerate()
    {
        let image = numbered(u8::try_from(10 + number).unwrap());
        let reference = server.registry.publish(&format!("passing-{number}"), "1", &image);
        server.registry.fault(on, fault.clone(), 1);
        assert_eq!(
            server.client.pull(&reference).await.expect("tried again"),
            image.id(),
            "{fault:?}"
        );
    }
    server.close().await;
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_leave_nothing() {
    let server = Server::start().await;
    let files = |server: &Server| -> BTreeSet<_> {
        server
            .traces()
            .into_iter()
            .filter(|trace| matches!(trace, Trace::File(_)))
            .collect()
    };
    let first = server.pull("healthy", &numbered(0)).await;
    let before = files(&server);
    for (number, fault) in [Fault::Corrupt, Fault::Short(5)].into_iter().enumerate() {
        let image = numbered(u8::try_from(20 + number).unwrap());
        let reference = server.registry.publish(&format!("wrong-{number}"), "1", &image);
        server.registry.fault(
            On::Blob(image.layers[1].digest.clone()),
            fault.clone(),
            usize::MAX,
        );
        let refused = server.client.pull(&reference).await.unwrap_err();
        assert!(
            refused.message().contains(&image.layers[1].digest),
            "{fault:?}: the blob is named: {refused:?}"
        );
        assert!(server.client.image(&reference).await.unwrap().is_none());
        server.registry.heal();
        assert_eq!(
            server.client.pull(&reference).await.expect("and later it works"),
            image.id()
        );
        server.client.remove_image(&reference).await.unwrap();
    }
    eventually("nothing of the refused pulls is left", || async {
        (files(&server) == before).then_some(())
    })
    .await;
    assert!(server.client.image(&first).await.unwrap().is_some());
    server.close().await;
}

#[tokio::test]
async fn a_missing_image_is_said_to_be_missing() {
    let server = Server::start().await;
    let reference = format!("{}/no/such:tag", server.registry.address());
    let refused = server.client.pull(&reference).await.unwrap_err();
    assert!(refused.message().contains("no/such"), "{refused:?}");
    let nowhere = server
        .client
        .pull("127.0.0.1:9/nothing:listens")
        .await
        .unwrap_err();
    assert!(
        nowhere.message().starts_with("RegistryUnavailable"),
        "kubelet looks for that: {nowhere:?}"
    );
    assert!(nowhere.message().contains("127.0.0.1:9"), "{nowhere:?}");
    server.close().await;
}

#[tokio::test]
async fn credentials_go_where_they_belong() {
    let server = Server::start().await;
    let other = Registry::start(&server.host, 5002).await;
    let image = numbered(30);
    let reference = server.registry.publish("private", "1", &image);
    other.publish("private", "1", &image);
    server.registry.require("user", "secret");
    server.registry.redirect_blobs_to(&other);

    let without = server.client.pull(&reference).await.unwrap_err();
    assert!(
        without.message().contains("401") || without.message().to_lowercase().contains("unauthorized"),
        "{without:?}"
    );
    let auth = |password: &str| {
        Some(AuthConfig {
            username: "user".to_owned(),
            password: password.to_owned(),
            ..Default::default()
        })
    };
    let wrong = server
        .client
        .pull_as(&reference, auth("guess"))
        .await
        .unwrap_err();
    assert!(
        !wrong.message().contains("guess"),
        "no password in a message: {wrong:?}"
    );
    assert_eq!(
        server.client.pull_as(&reference, auth("secret")).await.unwrap(),
        image.id()
    );

    let blobs: Vec<_> = other
        .seen()
        .into_iter()
        .filter(|seen| seen.method == Method::GET)
        .collect();
    assert!(
        !blobs.is_empty() && blobs.iter().all(|seen| seen.authorization.is_none()),
        "not across origins: {blobs:?}"
    );
    assert!(!server.log().contains("secret"), "no password in the log");
    other.close();
    server.close().await;
}

#[tokio::test]
async fn a_cancelled_pull_harms_nobody() {
    // A pull goes on without its caller, so the next one joins it; the stalled requests end by the time-out.
    let config = "[image]\nprogress_timeout = \"1s\"\n".to_owned();
    let server = Settings {
        config,
        ..Settings::default()
    }
    .start()
    .await;
    let image = numbered(40);
    let reference = server.registry.publish("cancelled", "1", &image);
    server.registry.fault(On::AnyBlob, Fault::StallAfter(10), 2);
    let cancelled = tokio::time::timeout(Duration::from_millis(300), server.client.pull(&reference)).await;
    assert!(cancelled.is_err(), "the registry stalls");
    server.registry.heal();
    let bound = stretched(Duration::from_secs(60));
    let again = tokio::time::timeout(bound, server.client.pull(&reference)).await;
    assert_eq!(
        again
            .expect("a new pull does not hang on the stalled one")
            .unwrap(),
        image.id()
    );
    server.close().await;
}

#[tokio::test]
async fn names_are_many_and_removed_one_by_one() {
    let server = Server::start().await;
    let image = numbered(50);
    let one = server.registry.publish("names", "one", &image);
    let two = server.registry.publish("names", "two", &image);
    for reference in [&two, &one] {
        server.client.pull(reference).await.unwrap();
    }
    let shown = server.client.image(&one).await.unwrap().unwrap();
    assert_eq!(shown.repo_tags, [one.clone(), two.clone()], "sorted, each once");
    assert_eq!(shown.repo_digests.len(), 1);
    server.client.remove_image(&one).await.unwrap();
    let shown = server
        .client
        .image(&two)
        .await
        .unwrap()
        .expect("the other name is still there");
    assert_eq!(shown.repo_tags, [two.as_str()]);
    let filter = cri::ImageFilter {
        image: Some(cri::ImageSpec {
            image: two.clone(),
            ..Default::default()
        }),
    };
    let request = cri::ListImagesRequest { filter: Some(filter) };
    let listed = server
        .client
        .images
        .clone()
        .list_images(request)
        .await
        .unwrap()
        .into_inner()
        .images;
    assert_eq!(listed.len(), 1);
    server.close().await;
}

/// Mount point and used bytes of the images' file system, as kubelet's garbage collection sees them.
async fn image_file_system(server: &Server) -> (String, u64) {
    let info = server
        .client
        .images
        .clone()
        .image_fs_info(cri::ImageFsInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    let usage = info
        .image_filesystems
        .into_iter()
        .next()
        .expect("one file system");
    assert!(usage.timestamp > 0 && usage.inodes_used.is_some());
    (
        usage.fs_id.expect("a mount point").mountpoint,
        usage.used_bytes.expect("bytes").value,
    )
}
