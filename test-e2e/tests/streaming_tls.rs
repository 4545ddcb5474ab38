//! Streaming over TLS with client-go: the certificate that is configured is the one that is shown, also after it was
//! replaced under a running daemon.

use std::fs;
use std::path::{Path, PathBuf};

use test_e2e::layout::Settings;
use test_e2e::specs::Container;
use test_e2e::streaming::{Raw, Shape, go_client, parts, run_go};

/// Pairs that guard nothing, for the name `localhost`: those of the daemon's own tests.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../cri-server/src/streaming/fixtures")
        .join(name)
}

/// Puts a pair in place as tools do it: each a new file under the old name.
fn install(directory: &Path, pair: &str) {
    for part in ["crt", "key"] {
        let fresh = directory.join("fresh");
        fs::copy(fixture(&format!("{pair}.{part}")), &fresh).expect("copied");
        fs::rename(fresh, directory.join(part)).expect("renamed");
    }
}

#[tokio::test]
async fn exec_over_tls_goes_on_with_a_new_certificate() {
    let client = match go_client() {
        Ok(client) => client,
        Err(why) => return println!("skipped: {why}"),
    };
    let files = tempfile::tempdir().expect("a directory");
    install(files.path(), "one");
    let server = Settings {
        config: format!(
            "[streaming]\ntls_certificate = \"{0}/crt\"\ntls_key = \"{0}/key\"\n",
            files.path().display()
        ),
        ..Settings::default()
    }
    .start()
    .await;
    let image = server.busybox().await;
    let pod = server.run_pod("tls").await;
    let id = pod
        .start(&Container::new("main", &image).command(&["/bin/sleep", "100000"]))
        .await;
    let url = || async {
        let command = ["/bin/sh", "-c", "cat; exit 6"];
        let url = server.client.exec_url(&id, &command, Shape::ALL).await;
        url.expect("a URL")
    };
    let exec = |transport: &'static str, trusted: &'static str| {
        let (server, client, url) = (&server, &client, url());
        async move {
            let (url, trusted) = (url.await, fixture(&format!("{trusted}.crt")));
            assert!(url.starts_with("https://"), "{url}");
            let trusted = trusted.to_str().expect("a path of text");
            let arguments = [
                "exec",
                "-stdin",
                "-url",
                &url,
                "-transport",
                transport,
                "-ca",
                trusted,
            ];
            let done = run_go(server, client, &arguments, b"in and out".into()).await;
            let heard = String::from_utf8_lossy(&done.stdout).into_owned();
            (done.status.code(), heard)
        }
    };
    let well = (Some(6), "in and out".to_owned());
    let refused = (Some(255), String::new());
    for transport in ["spdy", "websocket"] {
        assert_eq!(exec(transport, "one").await, well, "{transport}");
        assert_eq!(
            exec(transport, "two").await,
            refused,
            "{transport}: not what it trusts"
        );
    }
    install(files.path(), "two");
    for transport in ["spdy", "websocket"] {
        assert_eq!(exec(transport, "two").await, well, "{transport}");
        assert_eq!(exec(transport, "one").await, refused, "{transport}: replaced");
    }
    // A token is not worth a session in the clear.
    let (address, path) = parts(&url().await);
    let mut raw = Raw::connect(&server.host, address).await.expect("it listens");
    assert!(raw.request(&path, &[("Host", "localhost")]).await.is_err());
    server.close().await;
}
