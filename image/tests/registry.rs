//! Against a registry that others wrote: Debian's `docker-registry`, with images pushed to it
//! through its own API.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::digest::Digest;
use image::{Credentials, ErrorKind, PullRequest, Reference};
use support::images::{Layer, MANIFEST, Tar, TestImage};
use support::open;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BINARY: &str = "/usr/bin/docker-registry";
/// `user:pass`, by `htpasswd -nbB`.
const HTPASSWD: &str = "user:$2y$05$yUj2.pXMS86b/4h/sWTCuuZCjSLUvTuGjJafge0l7NyTAh5nRDasC\n";

/// A registry process; killed and reaped with the value.
struct Registry {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Registry {
    /// `None`, with the reason printed, where it is not installed.
    fn start(htpasswd: Option<&str>) -> Option<Self> {
        if !Path::new(BINARY).exists() {
            println!("skipped: {BINARY} is not installed (Debian package docker-registry)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        // Another process may take the port in between; the test then fails loudly.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            folder.path().join("data").display()
        );
        if let Some(users) = htpasswd {
            let file = folder.path().join("htpasswd");
            std::fs::write(&file, users).unwrap();
            text.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                file.display()
            ));
        }
        let settings = folder.path().join("config.yml");
        std::fs::write(&settings, text).unwrap();
        let child = Command::new(BINARY)
            .arg("serve")
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self {
            child,
            address,
            _folder: folder,
        })
    }

    async fn ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        // A process of others tells by its port alone that it is ready.
        while TcpStream::connect(self.address).await.is_err() {
            assert!(Instant::now() < deadline, "the registry does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn push(&self, name: &str, tag: &str, image: &TestImage, authorization: &str) {
        for blob in image
            .layers
            .iter()
            .map(|layer| &layer.blob)
            .chain([&image.config])
        {
            let (status, head) = self
                .send(
                    "POST",
                    &format!("/v2/{name}/blobs/uploads/"),
                    authorization,
                    "",
                    b"",
                )
                .await;
            assert_eq!(status, 202, "{head}");
            let location = head
                .lines()
                .find_map(|line| line.strip_prefix("Location: "))
                .unwrap();
            let path = location
                .split_once(&self.address.to_string())
                .map_or(location, |(_, path)| path);
            let path = format!("{path}&digest={}", Digest::sha256(blob));
            let (status, head) = self
                .send("PUT", &path, authorization, "application/octet-stream", blob)
                .await;
            assert_eq!(status, 201, "{head}");
        }
        let path = format!("/v2/{name}/manifests/{tag}");
        let (status, head) = self
            .send("PUT", &path, authorization, MANIFEST, &image.manifest)
            .await;
        assert_eq!(status, 201, "{head}");
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        authorization: &str,
        kind: &str,
        body: &[u8],
    ) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        );
        for (name, value) in [("Authorization", authorization), ("Content-Type", kind)] {
            if !value.is_empty() {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).replace("\r\n", "\n");
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn image() -> TestImage {
    let base = Tar::default()
        .dir("bin/", 0o755)
        .file("bin/sh", vec![b's'; 2_000_000]);
    let top = Tar::default().file("app", "app").file("bin/.wh.sh", "");
    TestImage::new(vec![Layer::gzip(&base.finish()), Layer::zstd(&top.finish())])
}

#[tokio::test]
async fn pulls_by_tag_and_digest_from_debians_registry() {
    let Some(registry) = Registry::start(None) else {
        return;
    };
    registry.ready().await;
    let image = image();
    registry.push("team/app", "v1", &image, "").await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let pulled = store
        .pull(PullRequest::anonymous(registry.reference("team/app:v1")))
        .await
        .unwrap();
    assert_eq!(pulled.id.to_string(), image.id());
    let by_digest = registry.reference(&format!("team/app@{}", image.digest()));
    assert_eq!(pulled.repo_digests, [by_digest.to_string()]);
    store.remove(&image.id()).await.unwrap();
    let again = store.pull(PullRequest::anonymous(by_digest)).await.unwrap();
    assert_eq!(again.id, pulled.id);
    assert!(again.repo_tags.is_empty());
    let missing = store
        .pull(PullRequest::anonymous(registry.reference("team/app:v2")))
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("MANIFEST_UNKNOWN"), "{missing}");
}

#[tokio::test]
async fn authenticates_to_debians_registry() {
    let Some(registry) = Registry::start(Some(HTPASSWD)) else {
        return;
    };
    registry.ready().await;
    let image = image();
    registry.push("private", "v1", &image, "Basic dXNlcjpwYXNz").await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let reference = registry.reference("private:v1");
    let anonymous = store
        .pull(PullRequest::anonymous(reference.clone()))
        .await
        .unwrap_err();
    assert_eq!(anonymous.kind(), ErrorKind::Unauthorized);
    let basic = |password: &str| Credentials::Basic {
        username: "user".into(),
        password: password.into(),
    };
    let wrong = PullRequest {
        reference: reference.clone(),
        credentials: basic("wrong"),
    };
    assert_eq!(
        store.pull(wrong).await.unwrap_err().kind(),
        ErrorKind::Unauthorized
    );
    let right = PullRequest {
        reference,
        credentials: basic("pass"),
    };
    assert_eq!(store.pull(right).await.unwrap().id.to_string(), image.id());
}
