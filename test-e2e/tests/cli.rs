//! The command line: what an engineer on call and an installer type.

use std::fs;
use std::io::Write;
use std::process::{Command, Output};

use serde_json::Value;
use test_e2e::built;
use test_e2e::harness::Server;
use test_e2e::images::{self, Image};
use test_e2e::layers::Layer;
use test_e2e::layout::Settings;
use test_e2e::specs::Container;

/// Exit code of the command line when the daemon is not there.
const DAEMON_DOWN: i32 = 3;
/// Exit code for a wrong command line.
const USAGE: i32 = 2;

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn crisp(arguments: &[&str]) -> Output {
    Command::new(built::crisp())
        .args(arguments)
        .output()
        .expect("the program runs")
}

#[test]
fn help_lists_the_commands() {
    let output = crisp(&["--help"]);
    assert!(output.status.success());
    for command in ["check", "config", "demo", "status", "image"] {
        assert!(text(&output).contains(command), "{command}: {}", text(&output));
    }
    let wrong = crisp(&["no-such-command"]);
    assert_eq!(wrong.status.code(), Some(USAGE));
    let version = crisp(&["--version"]);
    assert!(text(&version).contains(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn check_tells_what_the_host_offers() {
    let server = Server::start().await;
    let output = server.cli(&["check"]).await;
    assert!(
        matches!(output.status.code(), Some(0 | 1)),
        "for scripts: {}",
        text(&output)
    );
    let said = text(&output).to_lowercase();
    for topic in ["kernel", "cgroup", "overlay", "cni"] {
        assert!(said.contains(topic), "{topic} in {said}");
    }
    server.close().await;
}

#[tokio::test]
async fn the_configuration_goes_round() {
    let server = Server::start().await;
    let first = server.cli(&["config"]).await;
    assert!(first.status.success(), "{}", text(&first));
    let printed = String::from_utf8(first.stdout).unwrap();
    assert!(
        printed.contains(&server.socket().display().to_string()),
        "{printed}"
    );
    assert!(
        printed.lines().any(|line| line.starts_with('#')),
        "defaults are commented out: {printed}"
    );
    let again = server.directory().join("again.toml");
    fs::write(&again, &printed).unwrap();
    let second = crisp(&["--config", &again.display().to_string(), "config"]);
    assert_eq!(
        String::from_utf8(second.stdout).unwrap(),
        printed,
        "read back, it is the same"
    );
    server.close().await;
}

#[tokio::test]
async fn drop_ins_win_and_typos_are_refused() {
    let server = Server::start().await;
    let drop_ins = server.directory().join("config.toml.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(
        drop_ins.join("10-a.toml"),
        "[network.embedded]\nbridge = \"first\"\n",
    )
    .unwrap();
    fs::write(
        drop_ins.join("20-b.toml"),
        "[network.embedded]\nbridge = \"second\"\n",
    )
    .unwrap();
    let output = server.cli(&["config"]).await;
    assert!(
        text(&output).contains("\"second\"") && !text(&output).contains("\"first\""),
        "{}",
        text(&output)
    );

    fs::write(drop_ins.join("30-typo.toml"), "[network]\n\nconf_dirr = \"/x\"\n").unwrap();
    for arguments in [&["config"][..], &[]] {
        let output = server.cli(arguments).await;
        assert!(!output.status.success());
        for part in ["conf_dirr", "30-typo.toml", "3"] {
            assert!(text(&output).contains(part), "{part}: {}", text(&output));
        }
    }
    fs::remove_file(drop_ins.join("30-typo.toml")).unwrap();
    for (wrong, key) in [
        ("socket = 5", "socket"),
        (
            "[network.embedded]\nsubnet = \"10.0.0.0/33\"",
            "network.embedded.subnet",
        ),
        ("data_dir = \"relative\"", "data_dir"),
        ("socket = \"/run/x/containerd.sock\"", "socket"),
        ("this is no TOML", "40-wrong.toml"),
    ] {
        fs::write(drop_ins.join("40-wrong.toml"), wrong).unwrap();
        let output = server.cli(&["config"]).await;
        assert!(
            !output.status.success() && text(&output).contains(key),
            "{wrong}: {}",
            text(&output)
        );
    }
    fs::remove_dir_all(&drop_ins).unwrap();
    server.close().await;
}

#[tokio::test]
async fn a_second_instance_is_refused() {
    let server = Server::start().await;
    let second = server.cli(&[]).await;
    assert!(!second.status.success());
    assert!(
        text(&second).contains(&server.pid().to_string()) || text(&second).contains("running"),
        "{}",
        text(&second)
    );
    assert!(
        server.client.pods().await.unwrap().is_empty(),
        "the first one serves on"
    );
    server.close().await;
}

#[tokio::test]
async fn status_tells_what_there_is() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("status").await;
    pod.start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let output = server.cli(&["status"]).await;
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("status") && text(&output).contains("main"),
        "{}",
        text(&output)
    );
    let output = server.cli(&["status", "-o", "json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report.to_string().contains(&pod.id), "{report}");
    server.close().await;
}

#[tokio::test]
async fn status_shows_what_is_under_way() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("busy").await;
    let spec = Container::new("main", &image).shell("trap '' TERM; echo up; while :; do sleep 1; done");
    let id = pod.start(&spec).await;
    pod.logged("main.log", "up").await;
    let client = server.client.clone();
    let stopping = id.clone();
    let stop = tokio::spawn(async move { client.stop(&stopping, 600).await });
    test_e2e::eventually::eventually("the stop is shown", || async {
        let report = text(&server.cli(&["status", "-o", "json"]).await);
        (report.contains("StopContainer") && report.contains(&id)).then_some(())
    })
    .await;
    server.client.stop(&id, 0).await.unwrap();
    stop.await.unwrap().unwrap();
    server.close().await;
}

#[tokio::test]
async fn without_a_daemon_the_command_line_says_so() {
    let mut server = Server::start().await;
    server.stop().await;
    let output = server.cli(&["status"]).await;
    assert_eq!(output.status.code(), Some(DAEMON_DOWN), "{}", text(&output));
    assert!(
        text(&output).contains(&server.socket().display().to_string()),
        "{}",
        text(&output)
    );
    server.restart().await;
    server.close().await;
}

#[tokio::test]
async fn images_are_imported_listed_exported_and_removed() {
    let server = Server::start().await;
    let small = |content: &str| {
        Image::builder()
            .layer(Layer::new().file("file", 0o644, content))
            .build()
    };
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let (one, two, three) = (small("one"), small("two"), small("three"));
    let file = server.directory().join("one.tar");
    fs::write(&file, one.oci_archive("docker.io/library/one:1")).unwrap();
    let output = server
        .cli(&["image", "import", &file.display().to_string()])
        .await;
    assert!(output.status.success(), "{}", text(&output));
    let output = server
        .cli_with_input(&["image", "import", "-"], gzip(&two.docker_archive(&["two:2"])))
        .await;
    assert!(output.status.success(), "{}", text(&output));
    let zstd = zstd::encode_all(&*three.docker_archive(&["example.test/three:3"]), 1).unwrap();
    let output = server
        .cli_with_input(&["image", "import", "--pin", "-"], zstd)
        .await;
    assert!(output.status.success(), "{}", text(&output));

    let shown = server
        .client
        .image("two:2")
        .await
        .unwrap()
        .expect("short names are docker.io/library");
    assert_eq!(
        (shown.id.as_str(), shown.repo_tags[0].as_str()),
        (two.id(), "docker.io/library/two:2")
    );
    let listed = text(&server.cli(&["image", "list"]).await);
    for name in [
        "docker.io/library/one:1",
        "docker.io/library/two:2",
        "example.test/three:3",
    ] {
        assert!(listed.contains(name), "{name} in {listed}");
    }
    assert!(
        server
            .client
            .image("example.test/three:3")
            .await
            .unwrap()
            .unwrap()
            .pinned
    );
    assert!(!server.client.image("one:1").await.unwrap().unwrap().pinned);

    let exported = server.directory().join("exported.tar");
    let output = server
        .cli(&["image", "export", &exported.display().to_string(), "one:1"])
        .await;
    assert!(output.status.success(), "{}", text(&output));
    let output = server.cli(&["image", "remove", "one:1"]).await;
    assert!(output.status.success(), "{}", text(&output));
    assert!(server.client.image("one:1").await.unwrap().is_none());
    let output = server
        .cli(&["image", "import", &exported.display().to_string()])
        .await;
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        server.client.image("one:1").await.unwrap().expect("as it was").id,
        one.id()
    );
    server.close().await;
}

#[tokio::test]
async fn an_imported_image_runs() {
    let server = Server::start().await;
    let archive = images::busybox().oci_archive("local/busybox:latest");
    let output = server.cli_with_input(&["image", "import", "-"], archive).await;
    assert!(output.status.success(), "{}", text(&output));
    let pod = server.run_pod("imported").await;
    let spec = Container::new("main", "docker.io/local/busybox:latest").shell("echo ran");
    assert_eq!(pod.finish(&spec).await, (0, "ran\n".to_owned()));
    server.close().await;
}

#[tokio::test]
async fn a_broken_archive_is_refused_and_leaves_nothing() {
    let server = Server::start().await;
    let whole = images::busybox().oci_archive("broken:1");
    let mut corrupt = whole.clone();
    let middle = corrupt.len() / 2;
    corrupt[middle..middle + 64].fill(0xa5);
    for (what, bytes) in [
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("corrupt", corrupt),
        ("no tar", b"hello".to_vec()),
        ("empty", Vec::new()),
    ] {
        let output = server.cli_with_input(&["image", "import", "-"], bytes).await;
        assert!(!output.status.success(), "{what}: {}", text(&output));
        assert!(!text(&output).trim().is_empty(), "{what} is told");
    }
    assert!(server.client.all_images().await.unwrap().is_empty());
    server.close().await;
}

#[tokio::test]
async fn the_socket_is_for_its_group_only() {
    use std::os::unix::fs::PermissionsExt;
    let server = Settings::default().start().await;
    let mode = fs::metadata(server.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    server.close().await;
}
