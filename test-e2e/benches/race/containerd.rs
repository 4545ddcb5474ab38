//! Debian's containerd with runc, on a host of its own, everything below the scratch.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use test_e2e::client::Client;
use test_e2e::host::Host;
use test_e2e::images;
use test_e2e::process::Process;
use test_e2e::registry::Registry;

use crate::contender::first_answer;

const PROGRAM: &str = "/usr/bin/containerd";
/// In its directory.
const SOCKET: &str = "containerd.sock";

/// The daemon, its host and its client.
pub(crate) struct Containerd {
    pub(crate) client: Client,
    pub(crate) registry: Registry,
    host: Host,
    directory: PathBuf,
    process: Option<Process>,
    cgroup_root: String,
}

impl Containerd {
    /// Starts it with a configuration as short as a cluster's.
    ///
    /// # Errors
    /// Why it does not run here.
    pub(crate) async fn start(scratch: &Path) -> Result<Self, String> {
        for program in [PROGRAM, "/usr/sbin/runc"] {
            if !Path::new(program).exists() {
                return Err(format!("{program} is missing (Debian: containerd, runc)"));
            }
        }
        let directory = scratch.join("containerd");
        let cgroup_root = format!("crisp-race-{}", std::process::id());
        let host = Host::new().await;
        let registry = Registry::start(&host, 5000).await;
        let pause = registry.publish("pause", "bench", images::probe());
        fs::create_dir_all(directory.join("net.d")).map_err(|error| error.to_string())?;
        fs::write(directory.join("net.d/10-bench.conflist"), CONFLIST).map_err(|error| error.to_string())?;
        fs::write(directory.join("config.toml"), configuration(&directory, &pause))
            .map_err(|error| error.to_string())?;
        let process = spawn(&host, &directory).await?;
        let socket = directory.join(SOCKET);
        let client = tokio::time::timeout(Duration::from_secs(30), connected(&socket))
            .await
            .map_err(|_| format!("it does not answer: see {}/log", directory.display()))?;
        Ok(Self {
            client,
            registry,
            host,
            directory,
            process: Some(process),
            cgroup_root,
        })
    }

    /// The daemon's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }

    /// The root of its pods' cgroups, without a leading slash.
    pub(crate) fn cgroup_root(&self) -> &str {
        &self.cgroup_root
    }

    /// Kills the daemon; its pods go on.
    pub(crate) async fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.exited().await;
        }
    }

    /// Starts it again and waits for its first answer.
    pub(crate) async fn restart(&mut self) {
        self.process = Some(
            spawn(&self.host, &self.directory)
                .await
                .expect("it has started before"),
        );
        self.client = connected(&self.socket()).await;
    }

    /// Ends the daemon; its pods have been removed.
    pub(crate) async fn close(mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM);
            process.exited().await;
        }
        remove_cgroups(&self.cgroup_root);
    }
}

async fn connected(socket: &Path) -> Client {
    first_answer(socket).await;
    Client::connect(socket).await.expect("it has just answered")
}

async fn spawn(host: &Host, directory: &Path) -> Result<Process, String> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .map_err(|error| error.to_string())?;
    let errors = log.try_clone().map_err(|error| error.to_string())?;
    // A bench that is interrupted takes it along.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", PROGRAM, "--config"])
        .arg(directory.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    let child = host.enter(move || command.spawn()).await;
    child.map(Process::watch).map_err(|error| error.to_string())
}

fn configuration(directory: &Path, pause: &str) -> String {
    let directory = directory.display();
    // The OOM score and rlimits of the service are the machine's business; a nested one may not raise them.
    format!(
        "version = 2\nroot = \"{directory}/root\"\nstate = \"{directory}/state\"\n\n\
         [grpc]\naddress = \"{directory}/{SOCKET}\"\n\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{pause}\"\nrestrict_oom_score_adj = true\n\
         disable_apparmor = true\n\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{directory}/net.d\"\n\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"
    )
}

/// What a plain node has: a bridge with addresses and a masquerade, and host ports.
const CONFLIST: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "bench",
  "plugins": [
    {"type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.92.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}],
              "dataDir": "/run/bench-cni"}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}"#;

/// Empty directories of the bench's name in every hierarchy, deepest first.
fn remove_cgroups(name: &str) {
    fn remove(directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(directory);
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        remove(&hierarchy.path().join(name));
    }
    remove(&Path::new("/sys/fs/cgroup").join(name));
}
