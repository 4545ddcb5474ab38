//! A runtime in the race: started by the bench, or given by its socket.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_cri::v1 as cri;
use test_e2e::client::Client;
use test_e2e::harness::Server;
use test_e2e::images::{self, Image};
use test_e2e::registry::Registry;
use test_e2e::specs::{Container, Pod};

use crate::containerd::Containerd;
use crate::options::Options;

/// Where the bench's registry listens, on each contender's loopback.
const PORT: u16 = 5000;

enum Engine {
    Crisp(Box<Server>),
    Containerd(Box<Containerd>),
    Given(Box<Given>),
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

impl Contender {
    /// Starts ours and containerd (when it is installed), and connects to those given.
    pub(crate) async fn start_all(options: &Options, scratch: &Path) -> Vec<Self> {
        let mut engines = vec![(
            "crisp".to_owned(),
            Engine::Crisp(Box::new(Box::pin(Server::start_in(scratch)).await)),
        )];
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
            Engine::Crisp(server) => server.client.clone(),
            Engine::Containerd(containerd) => containerd.client.clone(),
            Engine::Given(given) => given.client.clone(),
        }
    }

    /// A new connection to it, which whoever drives the caller drives.
    pub(crate) async fn connect(&self) -> Client {
        let socket = match &self.engine {
            Engine::Crisp(server) => server.socket(),
            Engine::Containerd(containerd) => containerd.socket(),
            Engine::Given(given) => given.socket.clone(),
        };
        let connected = Client::connect(&socket).await;
        connected.unwrap_or_else(|error| panic!("{} does not answer: {error}", self.name))
    }

    /// The daemon's pid; `None` for a runtime that was given by its socket.
    pub(crate) fn daemon(&self) -> Option<u32> {
        match &self.engine {
            Engine::Crisp(server) => Some(server.pid()),
            Engine::Containerd(containerd) => Some(containerd.pid()),
            Engine::Given(_) => None,
        }
    }

    /// A pod of this contender, with its logs on the scratch.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        let logs = self.scratch.join("logs").join(&self.name).join(name);
        std::fs::create_dir_all(&logs).expect("a log directory on the scratch");
        let cgroup = match &self.engine {
            Engine::Crisp(server) => format!("/{}/kubepods", server.cgroup_root()),
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
            Engine::Crisp(server) => &server.registry,
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
            Engine::Crisp(server) => {
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
            Engine::Crisp(server) => Box::pin(server.close()).await,
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
