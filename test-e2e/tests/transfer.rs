//! Images in and out, by the command line: registries, archives, policies, and a container's changes.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use k8s_cri::v1::{ImageSpec, ImageStatusRequest};
use serde_json::Value;
use test_e2e::docker_registry::DockerRegistry;
use test_e2e::faults::{Fault, On};
use test_e2e::harness::Server;
use test_e2e::images::{self, Image};
use test_e2e::layers::Layer;
use test_e2e::layout::{DOCKER_REGISTRY_PORT, REGISTRY_PORT, Settings};
use test_e2e::programs;
use test_e2e::specs::Container;
use tonic::Code;

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn small(content: &str) -> Image {
    Image::builder()
        .layer(Layer::new().file("file", 0o644, content))
        .layer(Layer::new().file("big", 0o644, vec![7u8; 300_000]))
        .build()
}

/// The command succeeds; what it printed on stdout.
async fn done(server: &Server, arguments: &[&str]) -> String {
    let output = server.cli(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).expect("text")
}

async fn skopeo(server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new("skopeo");
    command.args(arguments);
    let output = server.output(command, Vec::new()).await;
    assert!(output.status.success(), "skopeo {arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn archives_go_round_through_skopeo() {
    let server = Server::start().await;
    let image = small("round");
    server.pull("round", &image).await;
    done(&server, &["image", "tag", image.id(), "example.test/round:1"]).await;
    let file = |name: &str| server.directory().join(name).display().to_string();
    let (exported, docker, oci) = (file("exported.tar"), file("docker.tar"), file("oci.tar"));
    done(&server, &["image", "export", &exported, "example.test/round:1"]).await;
    done(&server, &["image", "remove", image.id()]).await;

    // From ours into both of the formats that others write, and back.
    let source = format!("oci-archive:{exported}");
    let target = format!("docker-archive:{docker}:example.test/round:docker");
    skopeo(&server, &["copy", "--insecure-policy", &source, &target]).await;
    let target = format!("oci-archive:{oci}:latest");
    skopeo(&server, &["copy", "--insecure-policy", &source, &target]).await;
    done(&server, &["image", "import", &docker]).await;
    let back = server.client.image("example.test/round:docker").await.unwrap();
    assert_eq!(back.expect("imported").id, image.id());
    done(&server, &["image", "remove", image.id()]).await;
    done(
        &server,
        &["image", "import", "--name", "example.test/round:oci", &oci],
    )
    .await;
    let back = server.client.image("example.test/round:oci").await.unwrap();
    assert_eq!(
        back.expect("imported").id,
        image.id(),
        "the id is the configuration's digest, whatever the way"
    );
    server.close().await;
}

#[tokio::test]
async fn what_is_pushed_is_what_is_pulled_back() {
    let server = Server::start().await;
    let registry = DockerRegistry::start(&server.host, DOCKER_REGISTRY_PORT).await;
    let image = small("push");
    let here = server.pull("push", &image).await;
    let there = format!("{}/team/pushed:1", registry.address());
    let output = server.cli(&["image", "push", &here, &there]).await;
    assert!(output.status.success(), "{}", text(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let digest = printed.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(digest.starts_with("sha256:"), "{printed}");

    let seen = skopeo(
        &server,
        &["inspect", "--tls-verify=false", &format!("docker://{there}")],
    )
    .await;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["Digest"], digest.as_str(), "another client sees it so");
    assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);

    done(&server, &["image", "remove", image.id()]).await;
    assert_eq!(server.client.pull(&there).await.unwrap(), image.id());
    let shown = server.client.image(&there).await.unwrap().unwrap();
    assert_eq!(
        shown.repo_digests,
        [format!("{}/team/pushed@{digest}", registry.address())]
    );
    // All of it is there now: the original manifest goes back, under another tag, with the same digest.
    let again = format!("{}/team/pushed:2", registry.address());
    assert_eq!(
        done(&server, &["image", "push", "-q", &there, &again])
            .await
            .trim(),
        digest
    );
    let refused = server
        .cli(&[
            "image",
            "push",
            &there,
            &format!("{}/team/pushed@{digest}", registry.address()),
        ])
        .await;
    assert!(
        !refused.status.success() && text(&refused).contains("tag"),
        "{}",
        text(&refused)
    );
    drop(registry);
    server.close().await;
}

#[tokio::test]
async fn a_containers_changes_become_an_image() {
    let server = Server::start().await;
    let base = images::busybox_builder()
        .layer(
            Layer::new()
                .directory("app", 0o755)
                .file("app/old", 0o644, "old")
                .directory("app/all", 0o755)
                .file("app/all/gone", 0o644, "x"),
        )
        .config("Labels", serde_json::json!({ "kept": "yes" }))
        .build();
    let image = server.pull("base", &base).await;
    let pod = server.run_pod("commit").await;
    let script = "rm /app/old; rm -r /app/all; mkdir /app/all; echo in > /app/all/new; \
                  echo new > /app/new; ln /app/new /app/same; ln -s new /app/link; chown 12:34 /app/new; \
                  chmod 4751 /app/new; mkfifo /app/fifo; echo ready; while :; do sleep 1; done";
    let container = pod.start(&Container::new("main", &image).shell(script)).await;
    pod.logged("main.log", "ready").await;

    let name = "example.test/committed:1";
    let arguments = [
        "image",
        "commit",
        &container[..13],
        name,
        "--author",
        "me",
        "-m",
        "why",
    ];
    let printed = done(&server, &arguments).await;
    let made = server.client.image(name).await.unwrap().expect("made");
    assert!(printed.starts_with(&made.id), "{printed}");
    let request = ImageStatusRequest {
        image: Some(ImageSpec {
            image: name.to_owned(),
            ..Default::default()
        }),
        verbose: true,
    };
    let status = server.client.images.clone().image_status(request).await.unwrap();
    let info: Value = serde_json::from_str(&status.into_inner().info["info"]).unwrap();
    let config = &info["imageSpec"];
    let layers = base.layers.len();
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), layers + 1);
    assert_eq!(
        config["config"]["Labels"]["kept"], "yes",
        "the rest stays: {config}"
    );
    let line = config["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&line["author"], &line["comment"]), (&"me".into(), &"why".into()));

    let look = "cd /app; ls; ls all; cat new same link; stat -c '%a %u %g %h' new; [ -p fifo ] && echo fifo";
    let (code, said) = pod.finish(&Container::new("look", name).shell(look)).await;
    assert_eq!(
        (code, &*said),
        (
            0,
            "all\nfifo\nlink\nnew\nsame\nnew\nnew\nnew\nnew\n4751 12 34 2\nfifo\n"
        ),
        "the changes and nothing else"
    );
    let unknown = server.cli(&["image", "commit", "feedbeef", name]).await;
    assert!(
        !unknown.status.success() && text(&unknown).contains("not found"),
        "{}",
        text(&unknown)
    );
    server.close().await;
}

#[tokio::test]
async fn the_command_line_logs_in_with_dockers_configuration() {
    let server = Server::start().await;
    let image = small("private");
    let reference = server.registry.publish("private", "1", &image);
    server.registry.require("someone", "secret");
    let home = server.directory().join("docker");
    fs::create_dir(&home).unwrap();
    let cli = async |auth: &str, arguments: &[&str]| {
        let config = format!(r#"{{"auths":{{"127.0.0.1:{REGISTRY_PORT}":{{"auth":"{auth}"}}}}}}"#);
        fs::write(home.join("config.json"), config).unwrap();
        let mut command = Command::new(test_e2e::built::crisp());
        command
            .arg("--config")
            .arg(server.config_file())
            .args(arguments)
            .env("DOCKER_CONFIG", &home);
        server.output(command, Vec::new()).await
    };
    // someone:guess, then someone:secret.
    let wrong = cli("c29tZW9uZTpndWVzcw==", &["image", "pull", &reference]).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        text(&wrong).contains("not authorized") && !text(&wrong).contains("guess"),
        "{}",
        text(&wrong)
    );
    let right = cli("c29tZW9uZTpzZWNyZXQ=", &["image", "pull", &reference]).await;
    assert!(right.status.success(), "{}", text(&right));
    let printed = String::from_utf8(right.stdout).unwrap();
    assert_eq!(
        printed,
        format!("{reference} {}\n", image.id()),
        "stdout has the result alone"
    );
    let quiet = cli("c29tZW9uZTpzZWNyZXQ=", &["image", "pull", "-q", &reference]).await;
    assert_eq!(
        String::from_utf8_lossy(&quiet.stdout),
        format!("{}\n", image.id())
    );
    assert!(quiet.stderr.is_empty(), "{}", text(&quiet));
    server.close().await;
}

#[tokio::test]
async fn a_terminal_sees_a_bar_and_a_pipe_plain_lines() {
    let server = Server::start().await;
    let image = small("slow");
    let trickle = Fault::Trickle {
        piece: 100,
        pause: Duration::from_millis(250),
    };
    for (terminal, tag) in [(true, "terminal"), (false, "pipe")] {
        let reference = server.registry.publish("slow", tag, &image);
        server.registry.fault(On::AnyBlob, trickle.clone(), 3);
        let crisp = test_e2e::built::crisp();
        let words = [
            crisp.display().to_string(),
            "--config".into(),
            server.config_file().display().to_string(),
            "image".into(),
            "pull".into(),
            reference,
        ];
        let mut command = Command::new("script");
        if terminal {
            command.args(["-qec", &words.join(" "), "/dev/null"]);
        } else {
            command = Command::new(&words[0]);
            command.args(&words[1..]);
        }
        let output = server.output(command, Vec::new()).await;
        assert!(output.status.success(), "{}", text(&output));
        let said = text(&output);
        assert!(said.contains(image.id()), "{said}");
        assert_eq!(
            said.contains("\r["),
            terminal,
            "a bar is drawn in place: {said:?}"
        );
        assert!(said.contains("of 2 layers") == terminal, "{said:?}");
        if !terminal {
            assert!(said.lines().any(|line| line == "layers"), "{said:?}");
        }
        server.client.remove_image(image.id()).await.unwrap();
    }
    server.close().await;
}

#[tokio::test]
async fn prune_takes_what_nothing_uses() {
    let server = Server::start().await;
    let (kept, loose, pinned) = (small("kept"), small("loose"), small("pinned"));
    let used = server.busybox().await;
    server.pull("kept", &kept).await;
    let loose_name = server.pull("loose", &loose).await;
    // A digest alone: the tag goes.
    let digest = format!("127.0.0.1:{REGISTRY_PORT}/loose@{}", loose.manifest.digest);
    server.client.remove_image(&loose_name).await.unwrap();
    server.client.pull(&digest).await.unwrap();
    let archive = pinned.oci_archive("example.test/pinned:1");
    server
        .cli_with_input(&["image", "import", "--pin", "-"], archive)
        .await;
    let pod = server.run_pod("user").await;
    pod.start(&Container::new("main", &used).command(&["/bin/sleep", "100000"]))
        .await;

    let ids = |printed: &str| -> Vec<String> {
        printed
            .lines()
            .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
            .collect()
    };
    let short = |image: &Image| image.id()["sha256:".len()..][..12].to_owned();
    let told = done(&server, &["image", "prune", "--dry-run"]).await;
    assert_eq!(ids(&told), [short(&loose)]);
    assert_eq!(server.client.all_images().await.unwrap().len(), 4, "only told");
    assert_eq!(ids(&done(&server, &["image", "prune"]).await), [short(&loose)]);
    assert_eq!(
        ids(&done(&server, &["image", "prune", "--all"]).await),
        [short(&kept)]
    );
    assert_eq!(done(&server, &["image", "prune", "--all"]).await, "");
    let left = server.client.all_images().await.unwrap();
    assert_eq!(left.len(), 2, "the used one and the pinned one: {left:?}");
    server.close().await;
}

#[tokio::test]
async fn a_verifier_may_refuse_and_kubelet_understands() {
    let script =
        "#!/bin/sh\ncase \"$2\" in */trusted:*) exit 0;; esac\necho 'not signed by release'\nexit 1\n";
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("verifier");
    programs::write(&program, script);
    let config = format!("[image]\nverifier = \"{}\"\n", program.display());
    let server = Settings {
        config,
        ..Settings::default()
    }
    .start()
    .await;
    server.pull("trusted", &small("trusted")).await;
    let other = server.registry.publish("other", "1", &small("other"));
    let refused = server.client.pull(&other).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Unknown,
        "kubelet reads the first word of such a message"
    );
    assert_eq!(
        refused.message(),
        format!("SignatureValidationFailed: {other}: not signed by release")
    );
    server.close().await;
}

#[tokio::test]
async fn registries_are_reached_as_the_files_say_at_each_pull() {
    let server = Server::start().await;
    let image = small("mirrored");
    server.registry.publish("team/app", "1", &image);
    let reference = "example.test/team/app:1";
    let before = server.client.pull(reference).await.unwrap_err();
    assert!(before.message().starts_with("RegistryUnavailable"), "{before:?}");
    let drop_ins = server.directory().join("config.toml.d");
    fs::create_dir(&drop_ins).unwrap();
    let mirror = format!("[registry.mirrors]\n\"example.test\" = [\"http://127.0.0.1:{REGISTRY_PORT}\"]\n");
    fs::write(drop_ins.join("mirror.toml"), mirror).unwrap();
    assert_eq!(
        server.client.pull(reference).await.unwrap(),
        image.id(),
        "no restart"
    );
    // A broken file is told, and changes nothing.
    server.client.remove_image(reference).await.unwrap();
    fs::write(drop_ins.join("z.toml"), "[registry]\nmirors = 1\n").unwrap();
    assert_eq!(server.client.pull(reference).await.unwrap(), image.id());
    assert!(server.log().contains("mirors"), "{}", server.log());
    fs::remove_dir_all(&drop_ins).unwrap();
    server.close().await;
}

#[tokio::test]
async fn a_proxy_from_the_environment_is_used_but_not_for_this_machine() {
    // The test registry answers whatever host it is asked for, as a proxy would.
    let proxy = format!("http://127.0.0.1:{REGISTRY_PORT}");
    let environment = [("HTTP_PROXY", proxy.as_str()), ("NO_PROXY", "direct.test")];
    let config = "[registry.mirrors]\n\"far.test\" = [\"http://far.test\"]\n\"direct.test\" = [\"http://direct.test\"]\n";
    let server = Settings {
        environment: environment
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec(),
        config: config.into(),
        ..Settings::default()
    }
    .start()
    .await;
    let image = small("proxied");
    server.registry.publish("app", "1", &image);
    assert_eq!(server.client.pull("far.test/app:1").await.unwrap(), image.id());
    let direct = server.client.pull("direct.test/app:1").await.unwrap_err();
    assert!(
        direct.message().starts_with("RegistryUnavailable"),
        "NO_PROXY holds: {direct:?}"
    );
    server.close().await;
}
