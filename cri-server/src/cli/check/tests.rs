//! Hosts that a test makes up.

use std::os::unix::net::UnixListener;

use super::*;

/// A host made of files in a temporary directory.
struct Invented {
    directory: tempfile::TempDir,
    host: Host,
}

impl Invented {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let host = Host {
            root: directory.path().to_owned(),
        };
        for (path, text) in files {
            let path = host.path(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("a file");
        }
        Self { directory, host }
    }
}

fn lacking(findings: &[Finding]) -> Vec<&str> {
    findings
        .iter()
        .filter(|f| f.verdict != Verdict::Has)
        .map(|f| f.what.as_str())
        .collect()
}

fn essential(findings: &[Finding]) -> Vec<&str> {
    findings
        .iter()
        .filter(|f| f.is_essential())
        .map(|f| f.what.as_str())
        .collect()
}

const MODERN: &[(&str, &str)] = &[
    ("/proc/sys/kernel/osrelease", "6.18.5-amd64\n"),
    (
        "/proc/filesystems",
        "nodev\ttmpfs\nnodev\toverlay\n\text4\n\terofs\n",
    ),
    ("/proc/sys/user/max_user_namespaces", "65536\n"),
    ("/proc/self/ns/user", ""),
    (
        "/proc/sys/kernel/seccomp/actions_avail",
        "kill_process errno allow\n",
    ),
    (
        "/proc/self/status",
        "Name:\tcrisp\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n",
    ),
    ("/proc/sys/vm/memfd_noexec", "0\n"),
    ("/proc/pressure/cpu", "some avg10=0.00\n"),
    ("/sys/kernel/security/lsm", "capability,apparmor"),
];

fn modern_but(path: &str, text: &str) -> Invented {
    let files: Vec<_> = MODERN
        .iter()
        .map(|(p, t)| if *p == path { (*p, text) } else { (*p, *t) })
        .collect();
    Invented::new(&files)
}

#[test]
fn a_modern_kernel_lacks_nothing() {
    let invented = Invented::new(MODERN);
    assert_eq!(lacking(&kernel::findings(&invented.host)), Vec::<&str>::new());
    assert_eq!(lacking(&privilege::findings(&invented.host)), Vec::<&str>::new());
}

#[test]
fn an_old_kernel_is_essential_and_an_older_one_loses_features() {
    let lacks = |release| {
        let invented = modern_but("/proc/sys/kernel/osrelease", release);
        let findings = kernel::findings(&invented.host);
        (lacking(&findings).join(","), essential(&findings).join(","))
    };
    assert_eq!(
        lacks("6.1.0-25"),
        ("layers by descriptor,user namespaces,EROFS".into(), String::new())
    );
    assert_eq!(lacks("5.14.0").1, "release");
    assert_eq!(lacks("").1, "release");
    assert_eq!(lacks("7.0").0, "");
}

#[test]
fn each_lack_of_the_kernel_is_seen() {
    for (file, text, what) in [
        ("/proc/filesystems", "nodev\ttmpfs\n\terofs\n", "overlayfs"),
        ("/proc/sys/user/max_user_namespaces", "0", "user namespaces"),
        ("/proc/self/status", "Seccomp:\t2\n", "seccomp"),
        ("/proc/sys/vm/memfd_noexec", "2", "executable memory files"),
    ] {
        let invented = modern_but(file, text);
        assert_eq!(lacking(&kernel::findings(&invented.host)), [what]);
    }
}

#[test]
fn missing_capabilities_have_their_effects() {
    // All but SYS_RESOURCE (24).
    let invented = modern_but(
        "/proc/self/status",
        "Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\n",
    );
    let findings = privilege::findings(&invented.host);
    assert_eq!(lacking(&findings), ["CAP_SYS_RESOURCE"]);
    assert_eq!(essential(&findings), Vec::<&str>::new());
    let Verdict::Lacks { effect, .. } = &findings[1].verdict else {
        panic!("{findings:?}")
    };
    assert!(effect.starts_with("oom_score_adj"), "{effect}");

    // All but SYS_ADMIN (21), as somebody else.
    let invented = modern_but(
        "/proc/self/status",
        "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t000001ffffdfffff\n",
    );
    assert_eq!(
        essential(&privilege::findings(&invented.host)),
        ["user", "CAP_SYS_ADMIN"]
    );
}

const V2: &str = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
const V1: &str = "35 24 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                  36 24 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  37 24 0:32 / /sys/fs/cgroup/pids rw shared:3 - cgroup cgroup rw,pids\n\
                  38 24 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                  39 24 0:34 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

#[test]
fn cgroups_are_told_apart() {
    let all = "cpuset cpu io memory hugetlb pids\n";
    let v2 = Invented::new(&[
        ("/proc/self/mountinfo", V2),
        ("/sys/fs/cgroup/cgroup.controllers", all),
    ]);
    let findings = cgroup::findings(&v2.host);
    assert_eq!(lacking(&findings), Vec::<&str>::new());
    assert_eq!(findings[0].detail, "v2");

    let hybrid = Invented::new(&[
        ("/proc/self/mountinfo", V1),
        ("/sys/fs/cgroup/unified/cgroup.controllers", ""),
    ]);
    let findings = cgroup::findings(&hybrid.host);
    assert_eq!(findings[0].detail, "v1 (hybrid)");
    assert_eq!(lacking(&findings), ["mode", "cpuset", "io", "hugetlb"]);

    let none = Invented::new(&[("/proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")]);
    assert_eq!(essential(&cgroup::findings(&none.host)), ["mode"]);
}

fn network(text: &str) -> crate::config::Network {
    Config::from_toml(text).expect("a configuration").network
}

#[test]
fn without_a_conflist_the_embedded_network_serves_or_the_node_is_not_ready() {
    let files = [
        ("/proc/sys/net/ipv4/ip_forward", "0"),
        ("/proc/sys/net/bridge/bridge-nf-call-iptables", "1"),
    ];
    let invented = Invented::new(&files);
    assert_eq!(
        lacking(&network::findings(&invented.host, &network(""))),
        Vec::<&str>::new()
    );
    let off = network("[network.embedded]\nenabled = false\n");
    assert_eq!(
        lacking(&network::findings(&invented.host, &off)),
        ["provider", "IPv4 forwarding"]
    );
}

#[test]
fn a_conflist_is_only_as_good_as_its_plugins() {
    let conflist = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#;
    let invented = Invented::new(&[
        ("/etc/cni/net.d/20-later.conflist", "{}"),
        ("/etc/cni/net.d/10-first.conflist", conflist),
        ("/opt/cni/bin/bridge", ""),
        ("/usr/lib/cni/host-local", ""),
        ("/usr/lib/cni/portmap", ""),
    ]);
    for path in ["/opt/cni/bin/bridge", "/usr/lib/cni/host-local"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(invented.host.path(path), mode).expect("executable");
    }
    let findings = network::findings(&invented.host, &network(""));
    assert_eq!(findings[0].detail, "net from /etc/cni/net.d/10-first.conflist");
    assert_eq!(
        lacking(&findings),
        ["plugin portmap", "IPv4 forwarding", "bridge netfilter"]
    );

    fs::write(
        invented.host.path("/etc/cni/net.d/10-first.conflist"),
        "{\"name\": ",
    )
    .expect("half a file");
    let findings = network::findings(&invented.host, &network(""));
    assert_eq!(findings[0].what, "conflist");
    assert!(
        findings[0].detail.contains("10-first.conflist: EOF"),
        "{}",
        findings[0].detail
    );
}

#[test]
fn a_missing_supervisor_is_essential_and_one_of_another_build_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let binary = directory.path().join("crisp-pod");
    assert!(node::supervisor(&binary).is_essential());
    for (version, verdict_is_has) in [(env!("CARGO_PKG_VERSION"), true), ("0.0.1", false)] {
        let script = directory.path().join("script");
        fs::write(&script, format!("#!/bin/sh\necho crisp-pod {version}\n")).expect("a script");
        assert!(node::supervisor(&script).is_essential(), "it is not executable");
        crate::testing::install(&script, &binary);
        let finding = node::supervisor(&binary);
        assert_eq!(finding.verdict == Verdict::Has, verdict_is_has, "{finding:?}");
        assert!(!finding.is_essential());
    }
}

#[test]
fn another_runtime_counts_only_while_it_answers() {
    let invented = Invented::new(&[("/run/crio/x", "")]);
    let own = Path::new("/run/crisp/crisp.sock");
    let socket = UnixListener::bind(invented.host.path("/run/crio/crio.sock")).expect("a socket");
    assert_eq!(lacking(&node::neighbours(&invented.host, own)), ["only runtime"]);
    drop(socket);
    assert_eq!(
        lacking(&node::neighbours(&invented.host, own)),
        Vec::<&str>::new()
    );
    drop(invented.directory);
}

#[test]
fn the_text_ends_with_the_verdict_and_shows_effect_and_remedy() {
    let good = Finding::has("kernel", "release", "6.18");
    let bad = Finding::lacks("network", "forwarding", "off", "lonely pods", "turn it on");
    let shown = text(&[good.clone(), bad.clone()]);
    assert!(
        shown.contains("kernel\n  ok     release     6.18\nnetwork\n  lacks  forwarding  off\n"),
        "{shown}"
    );
    assert!(
        shown.contains("effect: lonely pods\n         remedy: turn it on\n"),
        "{shown}"
    );
    assert!(
        shown.ends_with("\ncrisp runs here; lacking: 1, none of it essential\n"),
        "{shown}"
    );
    assert!(text(&[good]).ends_with("nothing is lacking\n"));
    assert!(text(&[bad.clone().essential()]).ends_with("crisp cannot run pods here: 1 essential\n"));
    let json = serde_json::to_value(bad).expect("JSON");
    assert_eq!(
        (&json["verdict"], &json["remedy"]),
        (&"lacks".into(), &"turn it on".into())
    );
}

#[test]
fn a_node_with_apparmor_wants_its_parser() {
    const ENABLED: (&str, &str) = ("/sys/module/apparmor/parameters/enabled", "Y\n");
    let lacks = |files: &[(&str, &str)]| {
        let invented = Invented::new(files);
        lacking(&kernel::findings(&invented.host)).contains(&"AppArmor")
    };
    assert!(lacks(&[ENABLED]));
    assert!(!lacks(&[ENABLED, ("/usr/sbin/apparmor_parser", "")]));
    assert!(!lacks(&[]), "a node without AppArmor lacks nothing");
}
