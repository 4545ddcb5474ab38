//! How registries are reached: TLS of every configuration, mirrors, HTTP/2, IPv6.

mod support;

use std::path::Path;

use image::{ErrorKind, PullRequest, Reference, Store};
use rcgen::ExtendedKeyUsagePurpose;
use support::config;
use support::images::{Layer, Tar, TestImage};
use support::registry::TestRegistry;
use support::tls::{Authority, write};

fn small(content: &str) -> TestImage {
    TestImage::new(vec![Layer::gzip(&Tar::default().file("a", content).finish())])
}

/// A store that reads `certs.d` below its own folder.
async fn open(root: &Path) -> Store {
    let mut settings = config(root);
    settings.registry.hosts_folders = vec![root.join("certs.d")];
    Store::open(settings).await.unwrap()
}

/// `localhost:<port>/<name>`: the name that the certificates are for.
fn named(registry: &TestRegistry, name: &str) -> Reference {
    format!("localhost:{}/{name}", registry.address.port())
        .parse()
        .unwrap()
}

#[tokio::test]
async fn an_authority_of_the_administrators_own_is_trusted_once_configured() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let registry = TestRegistry::start_at("127.0.0.1:0", Some(authority.server(&["http/1.1"], None))).await;
    let image = small("tls");
    registry.add("app:v1", &image);
    let store = open(folder.path()).await;
    let request = || PullRequest::anonymous(named(&registry, "app:v1"));
    let host = format!("certs.d/localhost:{}", registry.address.port());
    let server = format!("server = \"https://localhost:{}\"\n", registry.address.port());

    let hosts = format!("{host}/hosts.toml");
    write(folder.path(), &hosts, &server);
    let unknown = store.pull(request()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::RegistryUnavailable, "{unknown}");
    assert!(unknown.to_string().contains("certificate"), "{unknown}");

    // Files are read anew for each pull: no restart in between.
    write(folder.path(), &format!("{host}/ca.pem"), &authority.pem());
    write(folder.path(), &hosts, &format!("{server}ca = \"ca.pem\"\n"));
    assert_eq!(store.pull(request()).await.unwrap().id.to_string(), image.id());

    store.remove(&image.id()).await.unwrap();
    write(folder.path(), &hosts, &format!("{server}skip_verify = true\n"));
    assert_eq!(store.pull(request()).await.unwrap().id.to_string(), image.id());

    // Docker's way: certificates alone.
    store.remove(&image.id()).await.unwrap();
    std::fs::remove_file(folder.path().join(&hosts)).unwrap();
    write(folder.path(), &format!("{host}/ca.crt"), &authority.pem());
    assert_eq!(store.pull(request()).await.unwrap().id.to_string(), image.id());
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_asks_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, clients) = (Authority::new(), Authority::new());
    let server = authority.server(&["h2", "http/1.1"], Some(&clients));
    let registry = TestRegistry::start_at("127.0.0.1:0", Some(server)).await;
    let image = small("mutual");
    registry.add("app:v1", &image);
    let store = open(folder.path()).await;
    let request = || PullRequest::anonymous(named(&registry, "app:v1"));
    let port = registry.address.port();
    let host = format!("certs.d/localhost_{port}_");
    write(folder.path(), &format!("{host}/ca.pem"), &authority.pem());
    let pair = clients.sign(&["node"], ExtendedKeyUsagePurpose::ClientAuth);
    write(folder.path(), &format!("{host}/node.pem"), &pair.certificate);
    write(folder.path(), &format!("{host}/node.key"), &pair.key);
    let server = format!("server = \"https://localhost:{port}\"\nca = [\"ca.pem\"]\n");
    let hosts = format!("{host}/hosts.toml");
    write(folder.path(), &hosts, &server);
    let refused = store.pull(request()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::RegistryUnavailable, "{refused}");
    let client = "client = [[\"node.pem\", \"node.key\"]]\n";
    write(folder.path(), &hosts, &format!("{server}{client}"));
    assert_eq!(store.pull(request()).await.unwrap().id.to_string(), image.id());
    let seen = registry.seen();
    assert!(
        seen.iter().all(|seen| seen.version == http::Version::HTTP_2),
        "what both speak is spoken"
    );
}

#[tokio::test]
async fn ipv6_and_an_insecure_name_with_and_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let image = small("six");
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else {
        println!("skipped: no IPv6 on this host");
        return;
    };
    drop(probe);
    let plain = TestRegistry::start_at("[::1]:0", None).await;
    plain.add("app:v1", &image);
    let store = open(folder.path()).await;
    let pulled = store.pull(plain.request("app:v1")).await.unwrap();
    assert!(pulled.repo_tags[0].starts_with("[::1]:"), "{pulled:?}");

    // Names that only this test knows; one answers with TLS, the other without.
    let tls = TestRegistry::start_at("127.0.0.1:0", Some(Authority::new().server(&["http/1.1"], None))).await;
    tls.add("app:v2", &image);
    let hosts = write(
        folder.path(),
        "hosts",
        "::1 plain.test\n127.0.0.1 tls.test\n127.0.0.1 both.test\n",
    );
    let names = [
        format!("plain.test:{}", plain.address.port()),
        format!("tls.test:{}", tls.address.port()),
    ];
    let mut registries = config(folder.path()).registry;
    registries.names.hosts = hosts;
    registries.names.servers = folder.path().join("no-resolv.conf");
    registries.insecure = names.to_vec();
    store.set_registry(registries);
    let pull = async |reference: String| {
        store
            .pull(PullRequest::anonymous(reference.parse().unwrap()))
            .await
    };
    pull(format!("{}/app:v1", names[0])).await.unwrap();
    pull(format!("{}/app:v2", names[1])).await.unwrap();
    // A definite answer is not hidden by the other scheme's failure, in either order.
    for name in &names {
        let missing = pull(format!("{name}/no:thing")).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    }
    let secure = pull(format!("both.test:{}/app:v2", tls.address.port()))
        .await
        .unwrap_err();
    assert_eq!(
        secure.kind(),
        ErrorKind::RegistryUnavailable,
        "not declared insecure: {secure}"
    );
    let unknown = pull("nowhere.test/app:v1".into()).await.unwrap_err();
    assert!(unknown.to_string().contains("no name server to ask"), "{unknown}");
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_only_those_that_resolve_get_tags() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, own) = (
        TestRegistry::start().await,
        TestRegistry::start().await,
        TestRegistry::start().await,
    );
    let image = small("mirrored");
    // The first has nothing; the second only content, for it may not resolve; both are asked before the third.
    second.add("team/app:v1", &small("stale"));
    second.add("team/app:other", &image);
    own.add("team/app:v1", &image);
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n\
         header = {{ x-node = \"n1\" }}\n",
        own.address, first.address, second.address
    );
    write(folder.path(), "certs.d/example.test/hosts.toml", &text);
    let store = open(folder.path()).await;
    let reference: Reference = "example.test/team/app:v1".parse().unwrap();
    let pulled = store.pull(PullRequest::anonymous(reference)).await.unwrap();
    assert_eq!(pulled.id.to_string(), image.id());
    assert_eq!(
        pulled.repo_tags,
        ["example.test/team/app:v1"],
        "named as asked for"
    );
    assert!(
        first.count("manifests/v1") == 1 && second.count("manifests") == 0 && own.count("manifests/v1") == 1
    );
    assert_eq!(first.count("blobs"), 2, "asked first for each");
    assert_eq!(second.count("blobs"), 2);
    assert_eq!(own.count("blobs"), 0);
    assert!(second.seen().iter().all(|seen| seen.headers["x-node"] == "n1"));
    assert!(own.seen().iter().all(|seen| !seen.headers.contains_key("x-node")));
}
