//! A runtime in the race: started by the bench, or given by its socket.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_cri::v1 as cri;
use test_e2e::client::Client;
use test_e2e::harness::Server;
use test_e2e::images::{self, Image};
use test_e2e::layout::Settings;
use test_e2e::registry::Registry;
use test_e2e::specs::{Container, Pod};

use crate::containerd::Containerd;
use crate::options::Options;

/// Where the bench's registry listens, on each contender's loopback.
const PORT: u16 = 5000;

enum Engine {
    Crisp(Box<Server>, Driver),
    Containerd(Box<Containerd>),
    Given(Box<Given>),
}

/// Who makes the cgroups of containers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Cgroupfs,
    Systemd,
}

impl Driver {
    /// Those that this host has: systemd's takes a host that systemd runs, with cgroup v2 alone.
    fn of_host() -> &'static [Self] {
        let runs = Path::new("/run/systemd/system").is_dir()
            && Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if runs {
            &[Self::Cgroupfs, Self::Systemd]
        } else {
            &[Self::Cgroupfs]
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "crisp",
            Self::Systemd => "crisp (systemd)",
        }
    }

    /// The parent that kubelet would name.
    fn parent(self, server: &Server) -> String {
        match self {
            Self::Cgroupfs => format!("/{}/kubepods", server.cgroup_root()),
            Self::Systemd => {
                let top = top_slice(server);
                format!("/{top}.slice/{top}-kubepods.slice")
            }
        }
    }
}

/// Above the slices of a server's pods, without its suffix.
fn top_slice(server: &Server) -> String {
    server.cgroup_root().replace('-', "_")
}

/// A runtime that serves already, and a registry for it.
struct Given {
    client: Client,
    registry: Registry,
    socket: PathBuf,
}

/// A runtime, its registry and its names.
pub(crate) struct Contender {
    name: String,
    version: String,
    engine: Engine,
    scratch: PathBuf,
    /// The image all plain pods run.
    pub(crate) busybox: String,
    /// The image with the probe.
    pub(crate) probe: String,
}

async fn crisp(driver: Driver, wrapper: Vec<String>, scratch: &Path) -> Engine {
    let settings = Settings {
        systemd: driver == Driver::Systemd,
        base: Some(scratch.to_owned()),
        wrapper,
        ..Settings::default()
    };
    Engine::Crisp(Box::new(Box::pin(settings.start()).await), driver)
}

impl Contender {
    /// Starts ours (with each cgroup driver that there is here), other builds of it and containerd (when it is installed),
    /// and connects to those given.
    pub(crate) async fn start_all(options: &Options, scratch: &Path) -> Vec<Self> {
        let mut engines = Vec::new();
        for driver in Driver::of_host().iter().copied() {
            let ours = crisp(driver, Vec::new(), scratch).await;
            engines.push((driver.name().to_owned(), ours));
        }
        for (name, program) in &options.beside {
            // In place of the program that it is told to exec.
            let instead = ["sh", "-c", r#"shift; exec "$0" "$@""#].map(str::to_owned);
            let wrapper = instead.into_iter().chain([program.display().to_string()]);
            let other = crisp(Driver::Cgroupfs, wrapper.collect(), scratch).await;
            engines.push((name.clone(), other));
        }
        if !options.alone {
            match Containerd::start(scratch).await {
                Ok(containerd) => {
                    engines.push(("containerd".to_owned(), Engine::Containerd(Box::new(containerd))));
                }
                Err(why) => eprintln!("race: without containerd: {why}"),
            }
        }
        for (name, socket) in &options.endpoints {
            let client = Client::connect(socket)
                .await
                .unwrap_or_else(|error| panic!("{name} does not answer on {}: {error}", socket.display()));
            let given = Given {
                client,
                registry: Registry::start_here(PORT).await,
                socket: socket.clone(),
            };
            engines.push((name.clone(), Engine::Given(Box::new(given))));
        }
        let mut contenders = Vec::new();
        for (name, engine) in engines {
            let mut contender = Self {
                name,
                version: String::new(),
                engine,
                scratch: scratch.to_owned(),
                busybox: String::new(),
                probe: String::new(),
            };
            contender.version = contender.ask_version().await;
            contender.busybox = contender.pull("busybox", images::busybox()).await;
            contender.probe = contender.pull("probe", images::probe()).await;
            contenders.push(contender);
        }
        contenders
    }

    /// Name and version, as a column is headed.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Its name alone.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        match &self.engine {
            Engine::Crisp(server, _) => server.client.clone(),
            Engine::Containerd(containerd) => containerd.client.clone(),
            Engine::Given(given) => given.client.clone(),
        }
    }

    /// A new connection to it, which whoever drives the caller drives.
    pub(crate) async fn connect(&self) -> Client {
        let socket = match &self.engine {
            Engine::Crisp(server, _) => server.socket(),
            Engine::Containerd(containerd) => containerd.socket(),
            Engine::Given(given) => given.socket.clone(),
        };
        let connected = Client::connect(&socket).await;
        connected.unwrap_or_else(|error| panic!("{} does not answer: {error}", self.name))
    }

    /// The daemon's pid; `None` for a runtime that was given by its socket.
    pub(crate) fn daemon(&self) -> Option<u32> {
        match &self.engine {
            Engine::Crisp(server, _) => Some(server.pid()),
            Engine::Containerd(containerd) => Some(containerd.pid()),
            Engine::Given(_) => None,
        }
    }

    /// A pod of this contender, with its logs on the scratch.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        let logs = self.scratch.join("logs").join(&self.name).join(name);
        std::fs::create_dir_all(&logs).expect("a log directory on the scratch");
        let cgroup = match &self.engine {
            Engine::Crisp(server, driver) => driver.parent(server),
            Engine::Containerd(containerd) => format!("/{}/kubepods", containerd.cgroup_root()),
            Engine::Given(_) => String::new(),
        };
        Pod::new(name).log_directory(&logs).cgroup_parent(&cgroup)
    }

    /// A container that does nothing until it is killed.
    pub(crate) fn idle(&self) -> Container {
        Container::new("main", &self.busybox).command(&["/bin/sleep", IDLE_SECONDS])
    }

    /// Publishes an image in the contender's registry.
    pub(crate) fn publish(&self, repository: &str, image: &Image) -> String {
        let registry = match &self.engine {
            Engine::Crisp(server, _) => &server.registry,
            Engine::Containerd(containerd) => &containerd.registry,
            Engine::Given(given) => &given.registry,
        };
        registry.publish(repository, "bench", image)
    }

    async fn pull(&self, repository: &str, image: &Image) -> String {
        let reference = self.publish(repository, image);
        let pulled = self.client().pull(&reference).await;
        pulled.unwrap_or_else(|status| panic!("{} pulls {reference}: {status}", self.name));
        reference
    }

    /// Kills the daemon with SIGKILL and starts it again; the time from exec to its first answer. `None` for a
    /// runtime that was given.
    pub(crate) async fn restart(&mut self) -> Option<Duration> {
        let begun = match &mut self.engine {
            Engine::Crisp(server, _) => {
                server.kill9().await;
                let begun = Instant::now();
                let socket = server.socket();
                let (answered, ()) = tokio::join!(first_answer(&socket), server.restart());
                return Some(answered - begun);
            }
            Engine::Containerd(containerd) => {
                containerd.kill9().await;
                let begun = Instant::now();
                containerd.restart().await;
                begun
            }
            Engine::Given(_) => return None,
        };
        Some(begun.elapsed())
    }

    async fn ask_version(&self) -> String {
        let request = cri::VersionRequest::default();
        let answer = self.client().runtime.version(request).await;
        answer.map_or_else(
            |status| panic!("{} tells no version: {status}", self.name),
            |answer| answer.into_inner().runtime_version,
        )
    }

    /// Removes what is there and ends it.
    pub(crate) async fn close(self) {
        match self.engine {
            Engine::Crisp(server, driver) => {
                let slice = format!("{}.slice", top_slice(&server));
                Box::pin(server.close()).await;
                if driver == Driver::Systemd {
                    // What is in it is gone; systemd would keep the empty slices.
                    let _ = Command::new("systemctl").args(["stop", &slice]).status();
                }
            }
            Engine::Containerd(containerd) => containerd.close().await,
            Engine::Given(_) => {}
        }
    }
}

/// What the idle container sleeps for; also how it is told apart from the runtime's processes.
pub(crate) const IDLE_SECONDS: &str = "100000";

/// Waits until a runtime behind `socket` answers Version, looking twice a millisecond.
pub(crate) async fn first_answer(socket: &Path) -> Instant {
    loop {
        if let Ok(mut client) = Client::connect(socket).await
            && client
                .runtime
                .version(cri::VersionRequest::default())
                .await
                .is_ok()
        {
            return Instant::now();
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}
