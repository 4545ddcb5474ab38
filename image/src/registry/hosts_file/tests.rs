use super::super::hosts::endpoints;
use super::*;

fn bases(config: &RegistryConfig, registry: &str) -> Vec<String> {
    let endpoints = endpoints(config, registry).unwrap();
    endpoints
        .iter()
        .map(|endpoint| endpoint.base.to_string())
        .collect()
}

fn looking_in(folders: &[&Path]) -> RegistryConfig {
    RegistryConfig {
        hosts_folders: folders.iter().map(|folder| (*folder).to_owned()).collect(),
        ..RegistryConfig::default()
    }
}

fn write(folder: &Path, file: &str, text: &str) {
    let file = folder.join(file);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

#[test]
fn hosts_are_asked_in_the_order_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
        server = "https://quay.io:8443"
        [host."https://z.example"]
          capabilities = ["pull", "resolve"]
          skip_verify = true
        [host."https://push.example"]
          capabilities = ["push"]
        [host."https://none.example"]
          capabilities = []
        [host."https://a.example/registry"]
          capabilities = ["pull"]
          override_path = true
          ca = ["ca.pem"]
          client = [["c.pem", "k.pem"]]
          [host."https://a.example/registry".header]
            x-custom = ["one", "two"]
    "#;
    write(folder.path(), "quay.io_8443_/hosts.toml", text);
    let config = looking_in(&[folder.path()]);
    let found = endpoints(&config, "quay.io:8443").unwrap();
    let shown: Vec<_> = found
        .iter()
        .map(|e| (e.base.as_str(), e.pulls, e.resolves, e.pushes, e.upstream))
        .collect();
    assert_eq!(
        shown,
        [
            ("https://z.example/v2/", true, true, false, false),
            ("https://push.example/v2/", false, false, true, false),
            ("https://a.example/registry/", true, false, false, false),
            ("https://quay.io:8443/v2/", true, true, true, true)
        ]
    );
    let host = folder.path().join("quay.io_8443_");
    assert!(found[0].tls.skip_verify);
    assert_eq!(found[2].tls.authorities, [host.join("ca.pem")]);
    assert_eq!(
        found[2].tls.client,
        Some((host.join("c.pem"), host.join("k.pem")))
    );
    assert_eq!(found[2].headers.len(), 2);
    assert_eq!(bases(&config, "other.io"), ["https://other.io/v2/"]);
}

#[test]
fn settings_without_a_server_are_the_registrys_own() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "docker.io/hosts.toml", "ca = \"/etc/ca.pem\"\n");
    let found = endpoints(&looking_in(&[folder.path()]), "docker.io").unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].upstream);
    assert_eq!(found[0].base.as_str(), "https://registry-1.docker.io/v2/");
    assert_eq!(found[0].tls.authorities, [PathBuf::from("/etc/ca.pem")]);
}

#[test]
fn the_first_place_with_the_host_counts_and_default_comes_last() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mirror = |host: &str| format!("[host.\"https://{host}\"]\n");
    write(one.path(), "_default/hosts.toml", &mirror("any.example"));
    write(two.path(), "a.io/hosts.toml", &mirror("two.example"));
    let config = looking_in(&[one.path(), two.path()]);
    assert_eq!(
        bases(&config, "a.io"),
        ["https://two.example/v2/", "https://a.io/v2/"]
    );
    assert_eq!(
        bases(&config, "b.io"),
        ["https://any.example/v2/", "https://b.io/v2/"]
    );
    let mut keyed = looking_in(&[one.path(), two.path()]);
    let mirrors = vec!["https://key.example".to_owned()];
    keyed.mirrors = [("a.io", &mirrors), ("b.io", &mirrors)]
        .map(|(host, mirrors)| (host.to_owned(), mirrors.clone()))
        .into();
    assert_eq!(
        bases(&keyed, "a.io"),
        ["https://two.example/v2/", "https://a.io/v2/"],
        "a folder of the host's own goes before the key"
    );
    assert_eq!(
        bases(&keyed, "b.io"),
        ["https://key.example/v2/", "https://b.io/v2/"],
        "the key goes before what is for all hosts"
    );
    write(one.path(), "a.io/hosts.toml", &mirror("one.example"));
    assert_eq!(
        bases(&config, "a.io"),
        ["https://one.example/v2/", "https://a.io/v2/"]
    );
}

#[test]
fn dockers_folders_hold_certificates() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["ca.crt", "me.cert", "me.key", "README"] {
        write(folder.path(), &format!("localhost:5000/{file}"), "");
    }
    let config = looking_in(&[folder.path()]);
    let found = endpoints(&config, "localhost:5000").unwrap();
    let host = folder.path().join("localhost:5000");
    assert_eq!(
        found[0].base.as_str(),
        "https://localhost:5000/v2/",
        "certificates mean TLS"
    );
    assert_eq!(found[0].tls.authorities, [host.join("ca.crt")]);
    assert_eq!(
        found[0].tls.client,
        Some((host.join("me.cert"), host.join("me.key")))
    );
    std::fs::remove_file(host.join("me.key")).unwrap();
    let refused = endpoints(&config, "localhost:5000").unwrap_err();
    assert!(refused.to_string().contains("has no key beside it"), "{refused}");
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = looking_in(&[folder.path()]);
    for (text, problem) in [
        ("server = 7", "server must be a string"),
        ("host = 7", "host must be a table"),
        ("[host]\n\"https://a.io\" = 1", "host must be a table of tables"),
        ("capabilities = \"pull\"", "capabilities must be a list"),
        ("skip_verify = \"no\"", "skip_verify must be true or false"),
        ("[host.\"ftp://a.io\"]", "the URL must be http or https"),
        ("[host.\"https://u:p@a.io\"]", "no user, password or query"),
        ("client = 7", "client must be a file"),
        ("ca = 7", "ca must name files"),
        ("[header]\n\"a b\" = \"c\"", "is malformed"),
        ("server = ", "hosts.toml"),
    ] {
        write(folder.path(), "a.io/hosts.toml", text);
        let refused = endpoints(&config, "a.io").unwrap_err().to_string();
        assert!(
            refused.contains(problem) && refused.contains("hosts.toml"),
            "{text}: {refused}"
        );
    }
}
