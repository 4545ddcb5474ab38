//! The shape of the file, with all defaults. "Not set" is an empty string or zero, so that every key has a value that
//! can be shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

macro_rules! table {
    ($name:ident { $($field:ident: $type:ty = $default:expr),* $(,)? }) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name { $(pub(super) $field: $type),* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }
    };
}

table!(Raw {
    socket: String = "/run/crisp/crisp.sock".into(),
    state_dir: String = "/run/crisp".into(),
    data_dir: String = "/var/lib/crisp".into(),
    handlers: BTreeMap<String, Handler> = BTreeMap::new(),
    log: Log = Log::default(),
    cgroup: Cgroup = Cgroup::default(),
    supervisor: Supervisor = Supervisor::default(),
    network: Network = Network::default(),
    registry: Registry = Registry::default(),
    image: Image = Image::default(),
    limits: Limits = Limits::default(),
    metrics: Metrics = Metrics::default(),
    security: Security = Security::default(),
    streaming: Streaming = Streaming::default(),
    cdi: Cdi = Cdi::default(),
});

table!(Handler {});

table!(Log {
    level: String = "info".into(),
    format: String = "text".into()
});

table!(Cgroup {
    driver: String = "auto".into(),
    root: String = "/crisp".into(),
    prefix: String = "crisp".into(),
});

table!(Supervisor {
    path: String = "crisp-pod".into()
});

table!(Network {
    conf_dir: String = "/etc/cni/net.d".into(),
    bin_dirs: Vec<String> = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
    // Just below the four minutes that kubelet gives RunPodSandbox.
    chain_timeout: String = "220s".into(),
    embedded: Embedded = Embedded::default(),
});

table!(Embedded {
    enabled: bool = true,
    bridge: String = "crisp0".into(),
    subnet: String = "10.85.0.0/16".into(),
    subnet6: String = String::new(),
    mtu: u32 = 0,
});

table!(Registry {
    mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new(),
    insecure: Vec<String> = Vec::new(),
    docker_config: String = String::new(),
    connections_per_host: u32 = 6,
    config_dirs: Vec<String> =
        vec!["/etc/crisp/certs.d".into(), "/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()],
});

table!(Image {
    max_parallel_layers: u32 = 3,
    keep_compressed: bool = false,
    layer_format: String = "auto".into(),
    progress_timeout: String = "5m".into(),
    pinned: Vec<String> = Vec::new(),
    verifier: String = String::new(),
    verifier_timeout: String = "10s".into(),
});

table!(Security {
    // As both peers; kubelet has a switch of its own, seccompDefault.
    seccomp_when_unset: String = "Unconfined".into(),
});

table!(Cdi {
    spec_dirs: Vec<String> = vec!["/etc/cdi".into(), "/var/run/cdi".into()],
});

table!(Limits {
    pids: u64 = 0,
    open_files_soft: u64 = 1024,
    open_files_hard: u64 = 524_288,
    exec_drain: String = "5s".into(),
});

table!(Streaming {
    address: String = "127.0.0.1".into(),
    port: u16 = 0,
    tls_certificate: String = String::new(),
    tls_key: String = String::new(),
    idle_timeout: String = "4h".into(),
    max_sessions: u32 = 4096,
});

table!(Metrics {
    address: String = String::new()
});
