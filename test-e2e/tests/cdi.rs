//! Devices by name, and the hooks that come with them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_cri::v1::CdiDevice;
use serde_json::{Value, json};
use test_e2e::built;
use test_e2e::eventually::{eventually, stretched};
use test_e2e::harness::Server;
use test_e2e::images::busybox_builder;
use test_e2e::layers::Layer;
use test_e2e::specs::Container;

/// A server that reads CDI files from a directory of its own.
async fn server(files: &[(&str, Value)]) -> Server {
    let mut server = Server::start().await;
    let directory = server.directory().join("cdi");
    fs::create_dir(&directory).unwrap();
    for (name, content) in files {
        // JSON is YAML as well.
        fs::write(directory.join(name), content.to_string()).unwrap();
    }
    let mut config = fs::read_to_string(server.config_file()).unwrap();
    config.push_str(&format!(
        "\n[cdi]\nspec_dirs = [{:?}]\n",
        directory.display().to_string()
    ));
    server.stop().await;
    fs::write(server.config_file(), config).unwrap();
    server.restart().await;
    server
}

fn with_device(mut container: Container, name: &str) -> Container {
    container.0.cdi_devices.push(CdiDevice {
        name: name.to_owned(),
    });
    container
}

fn hook(stage: &str, path: &Path, journal: &Path) -> Value {
    json!({
        "hookName": stage,
        "path": path,
        "args": ["vendor-hook", "hook", stage, journal],
        "env": ["VENDOR=1"],
        "timeout": 20,
    })
}

fn lines(journal: &Path) -> Vec<Value> {
    let text = fs::read_to_string(journal).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_device_comes_with_its_node_its_files_and_its_hooks() {
    let place = tempfile::tempdir().unwrap();
    let journal = place.path().join("journal");
    let library = place.path().join("library.so");
    fs::write(&library, "of the vendor").unwrap();
    let host = |stage: &str| hook(stage, &built::probe(), &journal);
    let inside = hook(
        "startContainer",
        Path::new("/probe"),
        Path::new("/vendor/journal"),
    );
    let device = json!({
        "cdiVersion": "0.6.0",
        "kind": "vendor.com/gpu",
        "containerEdits": { "env": ["VENDOR_VISIBLE=all"] },
        "devices": [{ "name": "0", "containerEdits": {
            "deviceNodes": [{ "path": "/dev/vendor0", "hostPath": "/dev/fuse", "permissions": "r" }],
            "mounts": [{ "hostPath": library, "containerPath": "/usr/lib/vendor.so", "options": ["ro", "nosuid", "bind"] }],
            "additionalGids": [4711],
            "hooks": [host("createRuntime"), host("createContainer"), inside, host("poststart"), host("poststop")],
        }}],
    });
    let server = server(&[("vendor.yaml", device)]).await;
    let image = server.probe().await;
    let pod = server.run_pod("cdi").await;
    let look = "cat /vendor/library /usr/lib/vendor.so; echo; cat /vendor/journal; ( : < /dev/vendor0 ) && echo 1; \
                ( : > /dev/vendor0 ) 2>/dev/null && echo writable; echo $VENDOR_VISIBLE; id -G; env | grep -c VENDOR=; \
                test -e /config.json && echo seen; until test -e /go; do usleep 10000; done";
    let main = Container::new("main", &image)
        .shell(look)
        .env("LD_PRELOAD", "/evil.so");
    let mut main = with_device(main, "vendor.com/gpu=0");
    main.0
        .annotations
        .insert("cdi.k8s.io/plugin".to_owned(), "vendor.com/gpu=0".to_owned());
    let id = pod.start(&main).await;
    let output = pod.logged("main.log", "4711").await;
    assert!(
        output.starts_with("put there by a hookof the vendor\n"),
        "{output}"
    );
    assert!(output.contains("\n1\nall\n0 4711\n"), "{output}");
    assert!(
        !output.contains("writable") && !output.contains("seen"),
        "{output}"
    );
    let start: Value = serde_json::from_str(output.lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        (&start["stage"], &start["pid"]),
        (&json!("startContainer"), &json!(1))
    );
    assert!(
        server
            .state_dir()
            .join("bundles")
            .join(&id)
            .join("config.json")
            .exists()
    );

    server.client.exec(&id, &["/bin/touch", "/go"], 0).await.unwrap();
    server.client.exited(&id).await;
    let told = eventually("all hooks have run", || async {
        Some(lines(&journal)).filter(|told| told.len() == 4)
    })
    .await;
    let stages: Vec<_> = told.iter().map(|line| line["stage"].as_str().unwrap()).collect();
    assert_eq!(
        stages,
        ["createRuntime", "createContainer", "poststart", "poststop"]
    );
    let statuses: Vec<_> = told.iter().map(|line| line["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["creating", "creating", "running", "stopped"]);
    for line in &told {
        assert_eq!(
            line["environment"],
            json!(["VENDOR"]),
            "never the image's or the container's: {line}"
        );
        assert_eq!(
            (&line["in_bundle"], &line["descriptors"]),
            (&json!(true), &json!(3)),
            "{line}"
        );
        assert_eq!(line["id"], json!(id));
    }
    assert_ne!(
        told[0]["init"], told[1]["init"],
        "one on the host, one where the container's root is"
    );
    assert_eq!(told[0]["init"], told[2]["init"]);
    server.client.remove(&id).await.unwrap();
    assert!(!server.state_dir().join("bundles").join(&id).exists());
    server.close().await;
}

/// CVE-2025-23266 and CVE-2024-0132: hooks of the node run beside images whose environment, and whose files under the names
/// of programs and libraries, are an attacker's.
#[tokio::test]
async fn nothing_that_an_image_says_reaches_a_hook() {
    let place = tempfile::tempdir().unwrap();
    let (journal, pwned) = (place.path().join("journal"), place.path().join("pwned"));
    // No PATH of its own and no absolute names: where the shell looks for `env` and `cat` is what matters.
    let line = format!(
        "{{ echo stage $0; env; cat /dev/null; }} >> {}",
        journal.display()
    );
    let host = |stage: &str| json!({ "hookName": stage, "path": "/bin/sh", "args": ["sh", "-c", line, stage], "env": ["VENDOR=1"] });
    let stages = ["createRuntime", "createContainer", "poststart", "poststop"];
    let inside = json!({ "hookName": "startContainer", "path": "/bin/sh", "env": ["VENDOR=1"],
        "args": ["sh", "-c", "{ echo stage $0; env; } >> /journal", "startContainer"] });
    let device = json!({
        "cdiVersion": "0.6.0",
        "kind": "vendor.com/gpu",
        "devices": [{ "name": "0", "containerEdits": {
            "hooks": stages.map(host).into_iter().chain([inside]).collect::<Vec<_>>(),
        }}],
    });
    let server = server(&[("vendor.json", device)]).await;
    let trojan = format!("#!/bin/sh\necho $0 >> {}\n", pwned.display());
    let mut layer = Layer::new();
    for program in ["sh", "env", "cat", "ls"] {
        layer = layer.file(&format!("evil/{program}"), 0o755, &trojan);
    }
    let environment = [
        "LD_PRELOAD=/evil/library.so",
        "LD_LIBRARY_PATH=/evil",
        "LD_AUDIT=/evil/library.so",
        "PATH=/evil:/proc/self/cwd/evil:evil",
        "ENV=/evil/sh",
        "BASH_ENV=/evil/sh",
        "IFS=e",
    ];
    let image = busybox_builder()
        .layer(layer)
        .config("Env", json!(environment))
        .build();
    let image = server.pull("evil", &image).await;
    let pod = server.run_pod("evil").await;
    let main = Container::new("main", &image).command(&["/bin/cat", "/journal"]);
    let (code, of_inside) = pod.finish(&with_device(main, "vendor.com/gpu=0")).await;
    assert_eq!(code, 0);
    let told = eventually("all hooks have run", || async {
        let text = fs::read_to_string(&journal).unwrap_or_default();
        stages
            .iter()
            .all(|stage| text.contains(&format!("stage {stage}\n")))
            .then_some(text)
    })
    .await;
    for text in [&told, &of_inside] {
        assert!(text.contains("VENDOR=1"), "{text}");
        assert!(!text.contains("evil"), "{text}");
        // The others are the shell's own; a PATH of the image would be seen above.
        for name in text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name)
        {
            assert!(
                ["VENDOR", "PATH", "PWD", "SHLVL", "OLDPWD", "_"].contains(&name),
                "{name} in {text}"
            );
        }
    }
    assert!(!pwned.exists(), "{:?} ran", fs::read_to_string(&pwned));
    server.close().await;
}

#[tokio::test]
async fn a_failing_or_hanging_hook_fails_the_start_and_nothing_stays() {
    let plain = |name: &str, hook: Value| json!({ "name": name, "containerEdits": { "hooks": [hook] } });
    let shell = |stage: &str, line: &str, timeout: u32| json!({ "hookName": stage, "path": "/bin/sh", "args": ["sh", "-c", line], "timeout": timeout });
    // Its pid is one of the container's namespace: what it is known by outside is this argument.
    let mark = format!("1000.{}", std::process::id());
    let hang = format!("sleep {mark}");
    let devices = json!({
        "cdiVersion": "0.6.0",
        "kind": "bad.com/x",
        "devices": [
            plain("fails", shell("createContainer", "exit 3", 10)),
            plain("runtime", shell("createRuntime", "exit 4", 10)),
            plain("hangs", shell("createContainer", &hang, 1)),
            plain("absent", json!({ "hookName": "createContainer", "path": "/no/such/hook" })),
        ],
    });
    let server = server(&[("bad.json", devices)]).await;
    let image = server.busybox().await;
    let pod = server.run_pod("hooks").await;
    for (name, message) in [
        ("fails", "run hook /bin/sh (exit code 3)"),
        ("runtime", "run hook /bin/sh (exit code 4)"),
        ("hangs", "run hook /bin/sh: "),
        ("absent", "run hook /no/such/hook"),
    ] {
        let container = with_device(Container::new(name, &image), &format!("bad.com/x={name}"));
        let id = pod.create(&container).await.unwrap();
        let before = Instant::now();
        let refused = server.client.start(&id).await.unwrap_err();
        assert!(refused.message().starts_with(message), "{refused}");
        assert!(before.elapsed() < stretched(Duration::from_secs(20)));
        let status = server.client.container_status(&id).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    }
    let left: Vec<_> = server
        .processes()
        .into_iter()
        .filter(|(_, what)| what.contains(&mark))
        .collect();
    assert!(left.is_empty(), "the hook and its child are gone: {left:?}");
    let unknown = with_device(Container::new("unknown", &image), "bad.com/x=none");
    let refused = pod.create(&unknown).await.unwrap_err();
    assert!(refused.message().contains("bad.com/x=none"), "{refused}");
    server.close().await;
}
