//! A `crisp` of a test's own: started, killed, restarted, stopped, and closed with nothing left.

mod close;
mod limit;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tonic::Status;

use crate::built;
use crate::client::Client;
use crate::daemon::spawn;
use crate::eventually::{eventually, stretched, until};
use crate::host::Host;
use crate::images::Image;
use crate::layout::{Layout, REGISTRY_PORT, Settings};
use crate::leaks::{self, Trace};
use crate::pods::RunningPod;
use crate::process::Process;
use crate::programs;
use crate::registry::Registry;
use crate::specs::Pod;

impl Settings {
    /// Starts a server so.
    pub async fn start(self) -> Server {
        Server::launch(self).await
    }
}

/// A running daemon, its host, its registry and its client.
pub struct Server {
    /// Connected to it; made anew at every restart.
    pub client: Client,
    /// A registry it may pull from.
    pub registry: Registry,
    /// The host it runs on.
    pub host: Host,
    layout: Layout,
    process: Option<Process>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    before: BTreeSet<Trace>,
    closed: bool,
    _limit: limit::Limit,
}

impl Server {
    /// Starts a server with the embedded network and nothing in its store.
    ///
    /// # Panics
    /// When it does not become ready; its log is printed.
    pub async fn start() -> Self {
        Self::launch(Settings::default()).await
    }

    async fn launch(mut settings: Settings) -> Self {
        let host = Host::new().await;
        let layout = Layout::new(settings.base.as_deref());
        let registry = Registry::start(&host, REGISTRY_PORT).await;
        fs::write(layout.path("config.toml"), layout.config(&settings)).expect("writing the configuration");
        for (name, text) in &settings.conflists {
            fs::write(layout.path("net.d").join(name), text).expect("writing a conflist");
        }
        for (name, script) in &settings.plugins {
            programs::write(&layout.path("plugins").join(name), script);
        }
        if settings.systemd {
            host.show_systemd();
        }
        if let Some(prepare) = settings.prepare.take() {
            let directory = layout.directory.path().to_owned();
            host.enter(move || prepare(&directory)).await;
        }
        let before = layout.scope(&host).list();
        let limit = limit::Limit::begin(&layout);
        let (environment, wrapper) = (settings.environment, settings.wrapper);
        match spawn(&host, &layout, &environment, &wrapper).await {
            Ok((process, client)) => Self {
                client,
                registry,
                host,
                layout,
                process: Some(process),
                environment,
                wrapper,
                before,
                closed: false,
                _limit: limit,
            },
            Err(why) => {
                layout.print_log();
                layout.scope(&host).sweep();
                panic!("crisp does not start: {why}");
            }
        }
    }

    /// The directory all files of this server lie below.
    pub fn directory(&self) -> &Path {
        self.layout.directory.path()
    }

    /// Its data directory; what is mounted there is seen through [`Host::path`].
    pub fn data_dir(&self) -> &Path {
        &self.layout.files[1]
    }

    /// Its state directory.
    pub fn state_dir(&self) -> &Path {
        &self.layout.files[0]
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.layout.path("crisp.sock")
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.layout.path("config.toml")
    }

    /// Its CNI configuration directory.
    pub fn conf_dir(&self) -> PathBuf {
        self.layout.path("net.d")
    }

    /// The root of its cgroups, without a leading slash.
    pub fn cgroup_root(&self) -> &str {
        &self.layout.cgroup_root
    }

    /// The daemon's pid.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").pid()
    }

    /// What the daemon and its supervisors have printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.layout.path("log")).unwrap_or_default()
    }

    /// What there is now of mounts, links, cgroups, processes, sockets and files.
    ///
    /// Without the layers that are mounted for all containers (whoever looks into an image may be the first to need them)
    /// and what is about to be deleted in the background.
    pub fn traces(&self) -> BTreeSet<Trace> {
        let mut traces = self.all_traces();
        let passing = ["/state/layers", "/data/trash/"];
        traces.retain(|trace| !passing.iter().any(|path| trace.to_string().contains(path)));
        traces
    }

    fn all_traces(&self) -> BTreeSet<Trace> {
        self.layout.scope(&self.host).list()
    }

    /// Processes of this server: the daemon, supervisors, containers.
    pub fn processes(&self) -> Vec<(i32, String)> {
        self.layout.scope(&self.host).processes()
    }

    /// The supervisor of a pod, while there is one.
    pub fn supervisor(&self, pod: &str) -> Option<i32> {
        let mut processes = self.processes().into_iter();
        let (pid, _) = processes.find(|(_, what)| what.contains("crisp-pod") && what.contains(pod))?;
        Some(pid)
    }

    /// Publishes an image in the server's registry and pulls it; the reference.
    ///
    /// # Panics
    /// When it cannot be pulled.
    pub async fn pull(&self, repository: &str, image: &Image) -> String {
        let reference = self.registry.publish(repository, "test", image);
        self.client
            .pull(&reference)
            .await
            .expect("a healthy registry serves");
        reference
    }

    /// [`crate::images::busybox`], pulled.
    ///
    /// # Panics
    /// As [`Self::pull`].
    pub async fn busybox(&self) -> String {
        self.pull("busybox", crate::images::busybox()).await
    }

    /// [`crate::images::probe`], pulled.
    ///
    /// # Panics
    /// As [`Self::pull`].
    pub async fn probe(&self) -> String {
        self.pull("probe", crate::images::probe()).await
    }

    /// A pod's configuration with its log directory and cgroup below this server's.
    pub fn pod(&self, name: &str) -> Pod {
        Pod::new(name)
            .log_directory(&self.layout.path("logs").join(name))
            .cgroup_parent(&format!("/{}/kubepods", self.layout.cgroup_root))
    }

    /// Runs a plain pod.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn run_pod(&self, name: &str) -> RunningPod {
        self.run(&self.pod(name)).await.expect("a plain pod runs")
    }

    /// Runs a pod, and waits until the daemon has begun the next sandbox in advance and made the cgroup of the pod's first
    /// container: a test that compares what there is before and after must not see that happen.
    ///
    /// # Errors
    /// What the runtime answers.
    ///
    /// # Panics
    /// When none is begun.
    pub async fn run(&self, pod: &Pod) -> Result<RunningPod, Status> {
        let parent = pod.0.linux.as_ref().map_or("", |linux| &linux.cgroup_parent);
        let mut known: BTreeSet<_> = leaks::cgroups_in(parent).into_iter().flatten().collect();
        let running = RunningPod::run(&self.client, pod).await?;
        eventually("the next sandbox is begun", || async {
            let pods = self.client.pods().await.ok()?;
            let is_pods = |what: &str| pods.iter().any(|pod| what.contains(&pod.id));
            self.processes()
                .iter()
                .any(|(_, what)| what.starts_with("[crisp-pod] S ") && !is_pods(what))
                .then_some(())
        })
        .await;
        // A pod that was there already has had its own; and where systemd makes them, it makes none without a process.
        let is_new = known.insert(running.id.clone());
        if is_new && !parent.is_empty() && !parent.ends_with(".slice") {
            until("the first container's cgroup is there", || {
                leaks::cgroups_in(parent)
                    .iter()
                    .all(|names| !names.is_subset(&known))
            })
            .await;
        }
        Ok(running)
    }

    /// Runs the command line with this server's configuration.
    ///
    /// # Panics
    /// When the program cannot be run.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with_input(arguments, Vec::new()).await
    }

    /// As [`Self::cli`], with something on stdin.
    ///
    /// # Panics
    /// When the program cannot be run.
    pub async fn cli_with_input(&self, arguments: &[&str], input: Vec<u8>) -> Output {
        let mut command = Command::new(built::crisp());
        command.arg("--config").arg(self.config_file()).args(arguments);
        self.output(command, input).await
    }

    /// Runs any command on the server's host.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn output(&self, mut command: Command, input: Vec<u8>) -> Output {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .host
            .enter(move || command.spawn())
            .await
            .expect("the program is there");
        let finished = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut stdin = child.stdin.take().expect("stdin is a pipe");
            // A program that does not read its input closes the pipe.
            let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
            let output = child.wait_with_output();
            let _ = feed.join();
            output
        });
        finished
            .await
            .expect("waiting does not panic")
            .expect("the program's output is readable")
    }

    /// Kills the daemon with SIGKILL and waits until it is gone. Its pods go on.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill9(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        process.signal(Signal::KILL);
        process.exited().await;
    }

    /// Starts the daemon again, after [`Self::kill9`] or [`Self::stop`], and reconnects.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "the daemon runs already");
        let started = spawn(&self.host, &self.layout, &self.environment, &self.wrapper).await;
        let (process, client) = started.unwrap_or_else(|why| panic!("crisp does not start again: {why}"));
        (self.process, self.client) = (Some(process), client);
    }

    /// Stops the daemon as a service manager does. Its pods go on.
    ///
    /// # Panics
    /// When it does not exit with 0 in good time.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        process.signal(Signal::TERM);
        let status = tokio::time::timeout(stretched(Duration::from_secs(20)), process.exited()).await;
        let status = status.expect("the daemon exits on SIGTERM");
        assert!(status.success(), "the daemon's exit on SIGTERM: {status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        self.layout.print_log();
        self.layout.scope(&self.host).sweep();
        assert!(
            std::thread::panicking(),
            "a test ends with Server::close, which looks for leaks"
        );
    }
}
