//! What a user may write, and what it must answer.

use std::fs;

use super::keys::KEYS;
use super::raw::Raw;
use super::*;

fn error(text: &str) -> String {
    Config::from_toml(text).expect_err("must be refused").to_string()
}

#[test]
fn no_file_is_needed() {
    let config = Config::from_toml("").expect("defaults");
    assert_eq!(config.socket, Path::new("/run/crisp/crisp.sock"));
    assert_eq!(config.network.chain_timeout, Duration::from_secs(220));
    assert_eq!(config.network.embedded.gateway().to_string(), "10.85.0.1");
    assert_eq!(config.limits.open_files, (1024, 524_288));
    assert_eq!(config.limits.pids, None);
}

#[test]
fn every_key_is_documented_once_and_every_documented_key_exists() {
    let mut leaves = Vec::new();
    collect(&render::table(&Raw::default()), "", &mut leaves);
    let mut documented: Vec<String> = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
    leaves.sort();
    documented.sort();
    assert_eq!(documented, leaves);
    assert!(
        KEYS.iter()
            .all(|(_, about)| about.ends_with('.') && about.len() < 100)
    );
}

fn collect(table: &toml::Table, prefix: &str, leaves: &mut Vec<String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value.as_table() {
            Some(table) if !keys::is_free_form(&key) => collect(table, &format!("{key}."), leaves),
            _ => leaves.push(key),
        }
    }
}

#[test]
fn an_unknown_key_names_file_line_and_the_nearest_known_key() {
    assert_eq!(
        error("# first\n\n[network.embedded]\nbrigde = \"br0\"\n"),
        "config.toml:4: unknown key `network.embedded.brigde`; did you mean `network.embedded.bridge`?"
    );
    assert_eq!(
        error("bridge = \"br0\""),
        "config.toml:1: unknown key `bridge`; did you mean `network.embedded.bridge`?"
    );
    assert_eq!(
        error("[netwrok]\n"),
        "config.toml:1: unknown key `netwrok`; did you mean `network`?"
    );
    assert_eq!(
        error("[log]\nlevle.x = 1"),
        "config.toml:2: unknown key `log.levle`; did you mean `log.level`?"
    );
    assert_eq!(
        error("quux = 1"),
        "config.toml:1: unknown key `quux`; `crisp config` lists all keys"
    );
    assert!(
        error("[handlers.nvidia]\nruntime = \"nvidia\"\n")
            .starts_with("config.toml:2: `handlers.nvidia.runtime`")
    );
}

#[test]
fn a_wrong_type_names_line_and_key() {
    assert_eq!(
        error("[image]\nkeep_compressed = true\nmax_parallel_layers = \"three\"\n"),
        "config.toml:3: `image.max_parallel_layers`: invalid type: string \"three\", expected u32"
    );
    assert!(
        error("[image]\npinned = [\"a\", 7]\n").starts_with("config.toml:2: `image.pinned`: invalid type")
    );
    assert!(error("log = 3").starts_with("config.toml:1: `log`: invalid type"));
    assert!(error("socket = \n").starts_with("config.toml:1: "));
}

#[test]
fn a_bad_value_says_what_would_be_right() {
    for (text, expected) in [
        (
            "socket = \"crisp.sock\"",
            "config.toml:1: `socket`: \"crisp.sock\" must be an absolute path without `..`",
        ),
        (
            "socket = \"/run/containerd/containerd.sock\"",
            "kubelet would take crisp for that runtime",
        ),
        (
            "data_dir = \"/run/crisp/data\"",
            "must not contain, or lie in, `state_dir`",
        ),
        ("data_dir = \"/\"", "the root directory cannot be used"),
        ("data_dir = \"/var/../etc\"", "without `..`"),
        (
            "\n[cgroup]\ndriver = \"v2\"",
            "config.toml:3: `cgroup.driver`: \"v2\" must be \"auto\", \"cgroupfs\" or \"systemd\"",
        ),
        ("[cgroup]\nroot = \"/\"", "the root directory cannot be used"),
        ("[log]\nlevel = \"info,[\"", "`log.level`"),
        ("[metrics]\naddress = \"9477\"", "such as 127.0.0.1:9477"),
        ("[log]\nformat = \"xml\"", "must be \"text\" or \"json\""),
        (
            "[network]\nchain_timeout = \"220\"",
            "is no duration: write 500ms, 90s, 5m or 4h",
        ),
        ("[network]\nchain_timeout = \"0s\"", "must be from 1s to 3600s"),
        ("[network]\nbin_dirs = []", "needs at least one directory"),
        (
            "[network.embedded]\nsubnet = \"10.85.0.1/16\"",
            "write 10.85.0.0/16",
        ),
        (
            "[network.embedded]\nsubnet = \"10.85.0.0/30\"",
            "must be from /8 to /29",
        ),
        (
            "[network.embedded]\nsubnet = \"127.0.0.0/8\"",
            "use a private subnet",
        ),
        (
            "[network.embedded]\nsubnet6 = \"10.0.0.0/8\"",
            "is no IPv6 subnet",
        ),
        ("[network.embedded]\nbridge = \"eleven-byte\"", "must be 1 to 10"),
        ("[network.embedded]\nmtu = 500", "must be 0 or from 1280 to 65536"),
        (
            "[registry]\ninsecure = [\"http://registry:5000\"]",
            "must be a host or host:port",
        ),
        (
            "[registry.mirrors]\n\"docker.io\" = [\"mirror\"]",
            "config.toml:2: `registry.mirrors.docker.io`",
        ),
        ("[image]\nmax_parallel_layers = 0", "must be from 1 to 64"),
        ("[handlers.Nvidia]\n", "lower-case letters"),
        (
            "[limits]\nopen_files_soft = 4096\nopen_files_hard = 1024",
            "config.toml:2: `limits.open_files_soft`",
        ),
    ] {
        let message = error(text);
        assert!(message.contains(expected), "{text:?} gave {message:?}");
    }
}

#[test]
fn drop_ins_win_in_the_order_of_their_names_and_flags_over_all() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.toml");
    let drop_ins = directory.path().join("config.toml.d");
    fs::create_dir(&drop_ins).expect("drop-ins");
    let write = |name: &str, text: &str| fs::write(drop_ins.join(name), text).expect("a drop-in");
    fs::write(
        &file,
        "[network.embedded]\nbridge = \"one\"\nmtu = 1400\n[image]\npinned = [\"a\", \"b\"]\n",
    )
    .expect("a file");
    write(
        "20-late.toml",
        "[network.embedded]\nbridge = \"late\"\n[log]\nlevel = \"debug\"\n",
    );
    write(
        "10-early.toml",
        "[network.embedded]\nbridge = \"early\"\n[image]\npinned = [\"c\"]\n",
    );
    write("30-old.toml.dpkg-old", "nonsense = true\n");
    write(".40-hidden.toml", "nonsense = true\n");

    let mut flags = Overrides::default();
    let config = Config::load(Some(&file), &flags).expect("a configuration");
    assert_eq!(config.network.embedded.bridge, "late");
    assert_eq!(config.network.embedded.mtu, Some(1400), "tables merge");
    assert_eq!(
        config.image.pinned,
        ["docker.io/library/c:latest"],
        "lists are replaced"
    );

    flags.set("--log-level", "log.level", "warn");
    flags.set("--socket", "socket", "relative");
    let refused = Config::load(Some(&file), &flags)
        .expect_err("a relative socket")
        .to_string();
    assert!(
        refused.starts_with("--socket: `socket`: \"relative\" must be"),
        "{refused}"
    );

    write("50-bad.toml", "\n[cgroup]\ndriver = \"runit\"\n");
    let refused = Config::load(Some(&file), &Overrides::default())
        .expect_err("a bad drop-in")
        .to_string();
    assert!(refused.contains("50-bad.toml:3: `cgroup.driver`"), "{refused}");
}

#[test]
fn a_named_file_must_exist() {
    let missing = Config::load(Some(Path::new("/nonexistent/crisp.toml")), &Overrides::default());
    let message = missing.expect_err("no such file").to_string();
    assert!(
        message.starts_with("/nonexistent/crisp.toml: cannot be read: "),
        "{message}"
    );
}

#[test]
fn what_is_printed_reads_back_as_the_same_configuration() {
    let text = "socket = \"/run/other/crisp.sock\"\n[handlers.nvidia]\n[registry.mirrors]\n\"docker.io\" = [\"https://m\"]\n\
                [network]\nbin_dirs = [\"/a\", \"/b\"]\n[network.embedded]\nenabled = false\nsubnet6 = \"fd00:85::/64\"\n\
                [image]\nprogress_timeout = \"90s\"\n[limits]\npids = 4096\n";
    let config = Config::from_toml(text).expect("a configuration");
    let printed = config.to_toml();
    let again = Config::from_toml(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(again.raw, config.raw, "{printed}");
    assert_eq!(again.to_toml(), printed);
    assert!(again.handlers.contains_key("nvidia"));
    assert!(printed.contains("\nsocket = \"/run/other/crisp.sock\"\n"));
    assert!(
        printed.contains("\n#state_dir = \"/run/crisp\"\n"),
        "defaults are commented out"
    );

    // And so do the defaults, once their marks are taken away.
    let defaults = Config::from_toml("").expect("defaults");
    let uncommented: String = defaults
        .to_toml()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(
        Config::from_toml(&uncommented)
            .unwrap_or_else(|e| panic!("{e}\n{uncommented}"))
            .raw,
        defaults.raw
    );
}

#[test]
fn durations_are_whole_numbers_with_a_unit() {
    for (text, milliseconds) in [
        ("500ms", Some(500)),
        ("90s", Some(90_000)),
        ("4h", Some(14_400_000)),
        ("5", None),
        ("s", None),
        ("1.5s", None),
        ("-1s", None),
        ("99999999999999999999s", None),
        ("18446744073709551615h", None),
    ] {
        assert_eq!(
            duration::parse(text),
            milliseconds.map(Duration::from_millis),
            "{text}"
        );
    }
}

#[test]
fn the_manifests_configure_this_daemon() {
    let packaged = Config::from_toml(include_str!("../../../manifests/config.toml")).expect("config.toml");
    assert!(
        !packaged.network.embedded.enabled,
        "a cluster's node waits for its network add-on"
    );
    let k3s = Config::from_toml(include_str!("../../../manifests/k3s/20-k3s.toml")).expect("20-k3s.toml");
    assert!(k3s.network.conf_dir.starts_with("/var/lib/rancher"));

    let socket = Config::from_toml("")
        .expect("defaults")
        .socket
        .display()
        .to_string();
    for manifest in [
        include_str!("../../../manifests/systemd/crisp.socket"),
        include_str!("../../../manifests/crictl.yaml"),
        include_str!("../../../manifests/kubeadm/kubeadm.yaml"),
        include_str!("../../../manifests/kubeadm/kubeadm-join.yaml"),
        include_str!("../../../manifests/kind/cluster.yaml"),
        include_str!("../../../manifests/k3s/config.yaml"),
    ] {
        assert!(manifest.contains(&socket), "{socket} is not in\n{manifest}");
    }
}
