//! Who logs in how, and where credentials never go.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use image::{Credentials, ErrorKind, PullRequest, Reference, Store};
use support::config;
use support::images::{Layer, Tar, TestImage};
use support::registry::{self, TestRegistry};
use support::tls::{Authority, write};

fn small(content: &str) -> TestImage {
    TestImage::new(vec![Layer::gzip(&Tar::default().file("a", content).finish())])
}

/// A credential helper of that name.
fn helper(folder: &Path, name: &str, script: &str) {
    let path = folder.join(format!("docker-credential-{name}"));
    support::program(&path, &format!("#!/bin/sh\n{script}"));
}

fn demand_login(seen: &registry::Seen) -> Option<registry::Answer> {
    let challenge = || registry::with_header(401, "www-authenticate", "Basic realm=x");
    seen.authorization.is_none().then(challenge)
}

#[tokio::test]
async fn dockers_configuration_and_its_helpers_log_in() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, mirror) = (TestRegistry::start().await, TestRegistry::start().await);
    registry.add("app:v1", &small("private"));
    registry.fault(demand_login);
    mirror.fault(|seen| match seen.authorization {
        None => Some(registry::with_header(401, "www-authenticate", "Basic realm=x")),
        Some(_) => Some(registry::status(404)),
    });
    // A helper says what it was asked and given, and knows just this registry.
    let script = format!(
        "read server\nenv | cut -d= -f1 >> {0}/environment\necho \"$1 $server\" >> {0}/asked\n\
         [ \"$server\" = '{1}' ] || {{ echo 'credentials not found in native keychain'; exit 1; }}\n\
         echo '{{\"ServerURL\":\"x\",\"Username\":\"helped\",\"Secret\":\"by-helper\"}}'\n",
        folder.path().display(),
        registry.address
    );
    helper(folder.path(), "crisptest", &script);
    // user:pass is for the mirror.
    let docker = format!(
        r#"{{"credsStore":"crisptest","auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#,
        mirror.address
    );
    let mut settings = config(&folder.path().join("store"));
    settings.registry.docker_config = Some(write(folder.path(), "config.json", &docker));
    settings.registry.mirrors.insert(
        registry.address.to_string(),
        vec![format!("http://{}", mirror.address)],
    );
    let mut registries = settings.registry.clone();
    let store = Store::open(settings).await.unwrap();
    let request = || registry.request("app:v1");

    let missing = store.pull(request()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unauthorized);
    assert!(
        missing.to_string().contains("\"crisptest\" cannot be run"),
        "not in PATH: {missing}"
    );
    registries.credential_helpers = Some(folder.path().to_owned());
    store.set_registry(registries);
    store.pull(request()).await.unwrap();

    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let asked = read("asked");
    assert!(asked.contains(&format!("get {}\n", registry.address)), "{asked}");
    assert!(asked.contains(&format!("get {}\n", mirror.address)), "{asked}");
    assert!(!read("environment").contains("CARGO"), "a clean environment");
    let sent = |registry: &TestRegistry| -> Vec<String> {
        let mut sent: Vec<String> = registry
            .seen()
            .into_iter()
            .filter_map(|seen| seen.authorization)
            .collect();
        sent.dedup();
        sent
    };
    assert_eq!(
        sent(&registry),
        ["Basic aGVscGVkOmJ5LWhlbHBlcg=="],
        "helped:by-helper"
    );
    assert_eq!(sent(&mirror), ["Basic dXNlcjpwYXNz"], "each its own");

    // What the request brings goes before what the node has.
    let own = PullRequest {
        reference: registry.reference("app:v1"),
        credentials: Credentials::Basic {
            username: "me".into(),
            password: "too".into(),
        },
    };
    store.pull(own).await.unwrap();
    assert!(sent(&registry).contains(&"Basic bWU6dG9v".to_owned()));
    assert!(
        sent(&mirror).iter().all(|sent| sent == "Basic dXNlcjpwYXNz"),
        "and not to mirrors"
    );
}

/// The helper of one registry goes before the store of all; one that does not answer is killed with its children.
#[tokio::test]
async fn a_registrys_own_helper_is_asked_and_not_waited_for_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let (known, slow) = (TestRegistry::start().await, TestRegistry::start().await);
    for registry in [&known, &slow] {
        registry.add("app:v1", &small("private"));
        registry.fault(demand_login);
    }
    let answer = r#"echo '{"ServerURL":"x","Username":"own","Secret":"helper"}'"#;
    helper(folder.path(), "known", answer);
    helper(
        folder.path(),
        "all",
        "echo all >> \"${0%/*}/asked\"; echo nonsense\n",
    );
    // Its child holds the pipe open, and would for longer than any test waits.
    helper(
        folder.path(),
        "slow",
        "sleep 1000 & echo $! > \"${0%/*}/child\"; wait\n",
    );
    let docker = format!(
        r#"{{"credsStore":"all","credHelpers":{{"{}":"known","{}":"slow"}}}}"#,
        known.address, slow.address
    );
    let mut settings = config(&folder.path().join("store"));
    settings.registry.docker_config = Some(write(folder.path(), "config.json", &docker));
    settings.registry.credential_helpers = Some(folder.path().to_owned());
    // Enough for a shell on a loaded machine to answer, or to have started its child.
    settings.registry.helper_timeout = Duration::from_secs(5);
    let store = Store::open(settings).await.unwrap();

    store.pull(known.request("app:v1")).await.unwrap();
    let sent = known.seen().into_iter().find_map(|seen| seen.authorization);
    assert_eq!(sent.as_deref(), Some("Basic b3duOmhlbHBlcg=="), "own:helper");
    assert!(
        !folder.path().join("asked").exists(),
        "the store of all is not asked"
    );

    let begun = Instant::now();
    let refused = store.pull(slow.request("app:v1")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{refused}");
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "nobody waits for the helper's child"
    );
    assert!(
        slow.seen().is_empty(),
        "nobody is asked without the credentials that are to be had"
    );
    let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
    let status = format!("/proc/{}/stat", child.trim());
    let alive = || std::fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") Z "));
    // Killed by now; it dies when it gets a processor.
    let deadline = Instant::now() + Duration::from_secs(60);
    while alive() {
        assert!(Instant::now() < deadline, "the helper's child lives on");
        tokio::task::yield_now().await;
    }
}

/// What is asked over TLS must not come without, unless the administrator has given up TLS for that registry; and then
/// still without the credentials.
#[tokio::test]
async fn who_redirects_from_tls_to_none_is_refused_unless_insecure() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let registry = TestRegistry::start_at("127.0.0.1:0", Some(authority.server(&["http/1.1"], None))).await;
    let plain = TestRegistry::start().await;
    let image = small("moved");
    for registry in [&registry, &plain] {
        registry.add("app:v1", &image);
    }
    let elsewhere = plain.address;
    registry.fault(move |seen| {
        let location = format!("http://{elsewhere}{}", seen.path);
        let moved = || registry::with_header(307, "location", &location);
        demand_login(seen).or_else(|| seen.path.contains("/blobs/").then(moved))
    });
    let host = format!("localhost:{}", registry.address.port());
    let hosts = format!("certs.d/{host}/hosts.toml");
    let server = format!("server = \"https://{host}\"\n");
    write(folder.path(), &format!("certs.d/{host}/ca.pem"), &authority.pem());
    write(folder.path(), &hosts, &format!("{server}ca = \"ca.pem\"\n"));
    let mut settings = config(&folder.path().join("store"));
    settings.registry.hosts_folders = vec![folder.path().join("certs.d")];
    let store = Store::open(settings).await.unwrap();
    let reference: Reference = format!("{host}/app:v1").parse().unwrap();
    let request = || PullRequest {
        reference: reference.clone(),
        credentials: Credentials::Basic {
            username: "me".into(),
            password: "secret".into(),
        },
    };
    let refused = store.pull(request()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(plain.seen().is_empty());
    assert!(store.list().is_empty());

    write(folder.path(), &hosts, &format!("{server}skip_verify = true\n"));
    store.pull(request()).await.unwrap();
    let seen = plain.seen();
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
}

/// A registry may name any token service over TLS, but none without, and none that hands the request on.
#[tokio::test]
async fn secrets_are_not_shown_to_a_token_service_that_is_not_vetted() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let registry = TestRegistry::start_at("127.0.0.1:0", Some(authority.server(&["http/1.1"], None))).await;
    let tokens = TestRegistry::start_at("127.0.0.1:0", Some(authority.server(&["http/1.1"], None))).await;
    let plain = TestRegistry::start().await;
    registry.add("app:v1", &small("private"));
    let host = format!("localhost:{}", registry.address.port());
    write(folder.path(), &format!("certs.d/{host}/ca.pem"), &authority.pem());
    let hosts = format!("server = \"https://{host}\"\nca = \"ca.pem\"\n");
    write(folder.path(), &format!("certs.d/{host}/hosts.toml"), &hosts);
    let mut settings = config(&folder.path().join("store"));
    settings.registry.hosts_folders = vec![folder.path().join("certs.d")];
    let store = Store::open(settings).await.unwrap();
    let pull = || {
        store.pull(PullRequest {
            reference: format!("{host}/app:v1").parse().unwrap(),
            credentials: Credentials::Basic {
                username: "me".into(),
                password: "hunter2".into(),
            },
        })
    };
    let challenge = |realm: String| {
        registry.fault(move |seen| match seen.authorization.as_deref() {
            Some("Bearer good") => None,
            _ => Some(registry::with_header(
                401,
                "www-authenticate",
                &format!("Bearer realm=\"{realm}\",service=\"s\""),
            )),
        });
    };

    challenge(format!("http://localhost:{}/token", plain.address.port()));
    let refused = pull().await.unwrap_err().to_string();
    assert!(refused.contains("not reached by https"), "{refused}");

    let secure = format!("https://localhost:{}/token?key=s3cret", tokens.address.port());
    challenge(secure);
    let elsewhere = format!("http://{}/stolen", plain.address);
    tokens.fault(move |_| Some(registry::with_header(307, "location", &elsewhere)));
    let refused = pull().await.unwrap_err().to_string();
    assert!(
        !refused.contains("hunter2") && !refused.contains("s3cret"),
        "{refused}"
    );
    assert!(plain.seen().is_empty(), "{:?}", plain.seen());

    tokens.fault(|_| Some(registry::body(br#"{"token":"good"}"#)));
    pull().await.unwrap();
    let asked = tokens.seen();
    let asked = asked.last().unwrap();
    assert!(asked.authorization.as_deref().unwrap().starts_with("Basic "));
    assert!(asked.query.contains("key=s3cret") && asked.query.contains("service=s"));
}
