//! Every key and the one line that documents it, in the order of `crisp config`: keys of the top level first, then
//! table by table. A test holds this list against the defaults in [`super::raw`].

/// (dotted key, what it is).
pub(super) const KEYS: &[(&str, &str)] = &[
    (
        "socket",
        "Where CRI is served; kubelet's --container-runtime-endpoint.",
    ),
    (
        "state_dir",
        "What dies with the boot: supervisors' sockets, exit records, files of each pod.",
    ),
    ("data_dir", "What stays: records, images, writable layers."),
    (
        "handlers",
        "Further names of the runtime for RuntimeClasses, each an empty table: { nvidia = {} }.",
    ),
    (
        "log.level",
        "error, warn, info, debug or trace, or a filter such as \"info,image=debug\".",
    ),
    ("log.format", "\"text\", or \"json\" with one object a line."),
    (
        "cgroup.driver",
        "\"cgroupfs\", \"systemd\" (cgroup v2), or \"auto\" to let crisp choose; kubelet asks and follows.",
    ),
    (
        "cgroup.root",
        "Parent cgroup of pods that name none; of \"/crisp\" systemd makes crisp.slice.",
    ),
    (
        "cgroup.prefix",
        "First part of the names of containers' systemd scopes.",
    ),
    (
        "supervisor.path",
        "The crisp-pod binary; a bare name is looked up beside crisp, then in PATH.",
    ),
    (
        "network.conf_dir",
        "Where CNI conflists appear; the first by name serves new pods.",
    ),
    (
        "network.bin_dirs",
        "Where CNI plugins are looked up, in this order.",
    ),
    (
        "network.chain_timeout",
        "For one ADD or DEL of a whole plugin chain; kubelet waits four minutes.",
    ),
    (
        "network.embedded.enabled",
        "Serve pods with a bridge of our own while there is no conflist.",
    ),
    (
        "network.embedded.bridge",
        "Name of that bridge, at most 10 bytes.",
    ),
    (
        "network.embedded.subnet",
        "IPv4 addresses of its pods, /8 to /29; the first is the bridge's.",
    ),
    (
        "network.embedded.subnet6",
        "IPv6 addresses of its pods, /48 to /120; empty for none.",
    ),
    (
        "network.embedded.mtu",
        "MTU of its links; 0 for that of the default route.",
    ),
    (
        "registry.mirrors",
        "URLs to try before a registry: { \"docker.io\" = [\"https://mirror.example\"] }.",
    ),
    (
        "registry.insecure",
        "Registries spoken to without verified TLS, as host or host:port.",
    ),
    (
        "registry.docker_config",
        "Docker's config.json, for pulls that bring no credentials; empty for none.",
    ),
    (
        "registry.connections_per_host",
        "Requests under way to one registry host at a time, 1 to 64.",
    ),
    (
        "registry.config_dirs",
        "Searched for <host>/hosts.toml; the first that has the host counts.",
    ),
    (
        "image.max_parallel_layers",
        "Layers fetched at once for one image, 1 to 64.",
    ),
    (
        "image.keep_compressed",
        "Keep layers as they were fetched, beside the unpacked ones.",
    ),
    (
        "image.layer_format",
        "\"erofs\": one file per layer (Linux 6.15); \"directory\"; \"auto\": the first where it works.",
    ),
    (
        "image.progress_timeout",
        "A pull that receives nothing for so long fails; so does an import that keeps others waiting.",
    ),
    (
        "image.pinned",
        "Images that kubelet's garbage collection must leave alone.",
    ),
    (
        "image.verifier",
        "Program asked whether an image may be pulled; empty for none.",
    ),
    (
        "image.verifier_timeout",
        "The verifier's time limit; an image that it says nothing of is refused.",
    ),
    (
        "limits.pids",
        "Processes of a container that sets no limit; 0 for no limit.",
    ),
    ("limits.open_files_soft", "Soft RLIMIT_NOFILE of containers."),
    ("limits.open_files_hard", "Hard RLIMIT_NOFILE of containers."),
    (
        "limits.exec_drain",
        "How long ExecSync waits for output after its command has exited.",
    ),
    (
        "security.seccomp_when_unset",
        "Seccomp of containers that name no profile: \"Unconfined\" or \"RuntimeDefault\".",
    ),
    (
        "streaming.address",
        "Where exec, attach and port-forward are served; kubelet comes from the node itself.",
    ),
    ("streaming.port", "Their port; 0 for any that is free."),
    (
        "streaming.tls_certificate",
        "Certificate chain in PEM, read again when it changes; empty for plain HTTP.",
    ),
    ("streaming.tls_key", "Its private key in PEM."),
    (
        "streaming.idle_timeout",
        "A session on which nothing moves for so long is closed.",
    ),
    (
        "streaming.max_sessions",
        "Sessions at once; further ones are answered 429.",
    ),
    (
        "metrics.address",
        "Where the daemon's own metrics are served, such as \"127.0.0.1:9477\"; empty for nowhere.",
    ),
    (
        "cdi.spec_dirs",
        "Searched for CDI files, which describe devices by name; a later directory wins.",
    ),
];

/// The known key closest to an unknown one: a misspelling in the same table, else the same name in another table.
pub(super) fn nearest(unknown: &str) -> Option<&'static str> {
    let (table, name) = unknown.rsplit_once('.').unwrap_or(("", unknown));
    let known = || KEYS.iter().flat_map(|(key, _)| prefixes(key));
    let siblings = known().filter(|key| key.rsplit_once('.').map_or("", |(table, _)| table) == table);
    let misspelt = siblings
        .map(|key| (distance(name, last(key)), key))
        .filter(|(edits, _)| *edits <= 1 + name.len() / 4)
        .min();
    misspelt
        .map(|(_, key)| key)
        .or_else(|| known().find(|key| last(key) == name))
}

/// Whether it is a key or a table.
pub(super) fn is_known(key: &str) -> bool {
    KEYS.iter()
        .any(|(known, _)| prefixes(known).any(|known| known == key))
}

/// Whether what is below it is the user's own to name.
pub(super) fn is_free_form(key: &str) -> bool {
    matches!(key, "handlers" | "registry.mirrors")
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// `a.b.c` → `a`, `a.b`, `a.b.c`.
fn prefixes(key: &'static str) -> impl Iterator<Item = &'static str> {
    key.match_indices('.').map(|(at, _)| &key[..at]).chain([key])
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
