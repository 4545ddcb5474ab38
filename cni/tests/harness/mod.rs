//! A host and pods to try the network on: namespaces that the test makes itself and that end with it.
//!
//! The host is a thread in a network and mount namespace of its own, with an async runtime whose threads it makes,
//! so all of the crate's work happens there. Bridge, nftables, forwarding: all of it is per network namespace.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni::{AttachRequest, EmbeddedConfig, LinkName, Netns, Network, NetworkConfig, PodId, Settings, Subnets};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;

/// Runs a test on a host of its own. Skips, saying why, where namespaces cannot be made.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let host = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
            println!("SKIPPED: cannot make namespaces: {errno}");
            return;
        }
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("a /run of our own");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(test());
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The directories of a daemon.
pub(crate) struct Place {
    pub(crate) root: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("net.d")).expect("net.d");
        std::fs::create_dir_all(root.path().join("bin")).expect("bin");
        Place { root }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn config(&self, subnets: &[&str]) -> NetworkConfig {
        let nets: Vec<_> = subnets
            .iter()
            .map(|text| text.parse().expect("a subnet"))
            .collect();
        NetworkConfig {
            config_directory: self.path("net.d"),
            plugin_directories: vec![self.path("bin"), "/usr/lib/cni".into()],
            data_directory: self.path("data"),
            netns_directory: "/run/netns".into(),
            chain_timeout: Duration::from_secs(30),
            chains_at_once: 4,
            embedded: (!nets.is_empty()).then(|| EmbeddedConfig {
                subnets: Subnets::new(&nets).expect("subnets"),
                ..EmbeddedConfig::default()
            }),
        }
    }

    pub(crate) async fn network(&self, subnets: &[&str]) -> Network {
        Network::open(self.config(subnets))
            .await
            .expect("the network opens")
    }

    pub(crate) fn conflist(&self, file: &str, text: &str) {
        std::fs::write(self.path("net.d").join(file), text).expect("a configuration");
    }

    /// The files of the attachment records.
    pub(crate) fn records(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path("data/attachments"))
            .expect("records")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

/// A pod: no process, only a network namespace. Dropped, the namespace is the kernel's to delete.
pub(crate) struct Pod {
    pub(crate) id: PodId,
    pub(crate) netns: OwnedFd,
}

impl Pod {
    pub(crate) fn new(number: u64) -> Self {
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("the namespace"))
        });
        let id = format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(4);
        Pod {
            id: PodId::parse(&id).expect("an id"),
            netns: netns.join().expect("a namespace"),
        }
    }

    pub(crate) fn request(&self) -> AttachRequest {
        AttachRequest {
            pod_id: self.id.clone(),
            namespace: "default".into(),
            name: "web".into(),
            uid: "0001".into(),
            netns: Netns {
                fd: self.netns.try_clone().expect("a descriptor"),
                path: None,
            },
            if_name: LinkName::default(),
            settings: Settings::default(),
        }
    }

    pub(crate) async fn attach(&self, network: &Network) -> cni::Attachment {
        network.attach(self.request()).await.expect("attaches")
    }

    /// Runs something in the pod.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let pod = scope.spawn(|| {
                setns(self.netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("enters the pod");
                work()
            });
            pod.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(crate) fn listen(&self) -> TcpListener {
        self.inside(|| {
            TcpListener::bind("[::]:0")
                .or_else(|_| TcpListener::bind("0.0.0.0:0"))
                .expect("listens")
        })
    }
}

/// The pod's address.
pub(crate) fn address(attachment: &cni::Attachment) -> IpAddr {
    attachment.ips[0].addr()
}

/// Sends a word to a listener at `to` and back; returns how often the caller had to repeat itself and whom the listener saw.
#[track_caller]
pub(crate) fn converse(listener: &TcpListener, to: IpAddr) -> (u64, IpAddr) {
    let port = listener.local_addr().expect("an address").port();
    converse_by(listener, SocketAddr::new(to, port))
}

/// As [`converse`], by an address and port that lead to the listener.
#[track_caller]
pub(crate) fn converse_by(listener: &TcpListener, to: SocketAddr) -> (u64, IpAddr) {
    let before = timeouts();
    let mut caller = match TcpStream::connect_timeout(&to, Duration::from_secs(60)) {
        Ok(caller) => caller,
        Err(error) => panic!("connect to {to}: {error}"),
    };
    caller.write_all(b"hello").expect("sends");
    let (mut callee, seen) = listener.accept().expect("accepts");
    let mut word = [0; 5];
    callee.read_exact(&mut word).expect("receives");
    callee.write_all(&word).expect("answers");
    caller.read_exact(&mut word).expect("gets the answer");
    assert_eq!(&word, b"hello");
    (timeouts() - before, seen.ip().to_canonical())
}

/// How often a connection of this network namespace has waited in vain for an answer, and so repeated a segment or, before
/// its neighbour was found, tried to. How long something took would tell of the machine as well.
fn timeouts() -> u64 {
    let counters = std::fs::read_to_string("/proc/thread-self/net/netstat").expect("counters");
    let mut of_tcp = counters.lines().filter(|line| line.starts_with("TcpExt: "));
    let names = of_tcp.next().expect("names").split(' ');
    let mut values = names.zip(of_tcp.next().expect("values").split(' '));
    let (_, value) = values
        .find(|(name, _)| *name == "TCPTimeouts")
        .expect("TCPTimeouts");
    value.parse().expect("a number")
}

/// What a tool prints about the test's host, or None, saying so, if it is not installed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Option<String> {
    let path = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program));
    let Some(path) = path.into_iter().find(|path| path.exists()) else {
        println!("SKIPPED: {program} is not installed");
        return None;
    };
    let output = std::process::Command::new(path)
        .args(arguments)
        .output()
        .expect("runs");
    Some(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

pub(crate) fn sysctl(name: &str) -> String {
    std::fs::read_to_string(Path::new("/proc/sys").join(name))
        .expect("a parameter")
        .trim()
        .to_owned()
}

/// Whether the host has a link of that name; asked of the kernel, not of our own code.
pub(crate) fn has_link(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

/// The descriptors that this process was started with and passes on: those without close-on-exec.
pub(crate) fn inherited_descriptors() -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc/self/fdinfo").expect("descriptors");
    let passed_on = |name: String| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{name}")).ok()?;
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))?
            .trim()
            .to_owned();
        let closes = u32::from_str_radix(&flags, 8).ok()? & 0o2_000_000 != 0;
        (!closes).then(|| name.parse().ok()).flatten()
    };
    numbers
        .filter_map(|entry| passed_on(entry.ok()?.file_name().into_string().ok()?))
        .collect()
}
