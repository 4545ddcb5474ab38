//! A small host of a test's own: a network namespace with `lo` up, and a mount namespace with its
//! own `/run` and `/dev/shm`, both belonging to one thread.
//!
//! Namespaces belong to threads, and a child inherits those of the thread that forks it. So one
//! thread enters them, once, and does on request what must happen inside: open a listener, connect,
//! spawn a server. Nothing else ever joins them, nothing is pinned: with the thread and the last
//! child they are gone, and with them every link, mount and nftables table.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use futures::TryStreamExt;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid};
use rtnetlink::LinkUnspec;
use tokio::sync::{mpsc, oneshot};

type Job = Box<dyn FnOnce() + Send>;

/// A network and a mount namespace, and the thread that lives in them.
pub struct Host {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: Pid,
}

impl Host {
    /// Makes the namespaces, with the loopback link up.
    ///
    /// # Panics
    /// When the kernel refuses: these tests need root.
    pub async fn new() -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (ready, set_up) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("host".to_owned())
            .spawn(move || {
                enter_new_namespaces();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime for the host's thread");
                runtime.block_on(async move {
                    loopback_up().await;
                    let _ = ready.send(gettid());
                    while let Some(job) = queue.recv().await {
                        job();
                    }
                });
                runtime.shutdown_background();
            })
            .expect("a thread for the host");
        let tid = set_up.await.expect("the host's thread sets up its namespaces");
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid,
        }
    }

    /// Does `work` on the host's thread: sockets it opens and children it spawns are the host's.
    ///
    /// # Panics
    /// When `work` does.
    pub async fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = oneshot::channel();
        self.submit(Box::new(move || {
            let _ = done.send(work());
        }));
        result.await.expect("the work on the host's thread panicked")
    }

    /// Runs a future on the host's thread, to its end.
    ///
    /// # Panics
    /// When the future does.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = oneshot::channel();
        self.submit(Box::new(move || {
            tokio::spawn(async move {
                let _ = done.send(work.await);
            });
        }));
        result.await.expect("the future on the host's thread panicked")
    }

    /// Starts a future on the host's thread and leaves it running; it ends with the host.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.submit(Box::new(move || {
            tokio::spawn(work);
        }));
    }

    /// `/proc/self/task/<tid>/<name>` of the host's thread: its view of mounts and network.
    pub fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc/self/task").join(self.tid.to_string()).join(name)
    }

    /// The thread that lives in the namespaces.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Makes systemd's sockets reachable, which the host's own `/run` covers.
    ///
    /// # Panics
    /// When that was done before.
    pub fn show_systemd(&self) {
        for name in ["dbus", "systemd"] {
            let shown = self.path(Path::new("/run").join(name));
            std::os::unix::fs::symlink(Path::new("/proc/1/root/run").join(name), shown)
                .expect("a link in the host's own /run");
        }
    }

    /// A path as the host's mount namespace sees it, readable from outside.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let below = absolute
            .as_ref()
            .strip_prefix("/")
            .expect("an absolute path")
            .to_owned();
        self.proc("root").join(below)
    }

    /// The identity of one of its namespaces, as the kernel prints it (`net:[4026531840]`).
    ///
    /// # Panics
    /// When the thread is gone, which it is not before the drop.
    pub fn namespace(&self, kind: &str) -> PathBuf {
        fs::read_link(self.proc("ns").join(kind)).expect("the host's thread has namespaces")
    }

    fn submit(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("the queue is open until the drop");
        assert!(jobs.send(job).is_ok(), "the host's thread has died");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Leaves the machine's network and mounts. Mounts made here never reach the machine (slave), but do
/// reach what is cloned from here (shared), as on a node that runs kubelet.
fn enter_new_namespaces() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .expect("new network and mount namespaces (are the tests run as root?)");
    propagate(MsFlags::MS_SLAVE);
    propagate(MsFlags::MS_SHARED);
    // What a distribution keeps below /run and every pod needs.
    let resolv_conf = fs::read("/etc/resolv.conf").unwrap_or_default();
    for private in ["/run", "/dev/shm"] {
        mount(
            Some("tmpfs"),
            private,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=0755"),
        )
        .expect("a tmpfs of the host's own");
    }
    restore_resolv_conf(&resolv_conf);
}

fn propagate(kind: MsFlags) {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | kind,
        None::<&str>,
    )
    .expect("changing the propagation of a mount namespace of our own");
}

/// systemd-resolved keeps resolv.conf below /run, which has just been covered.
fn restore_resolv_conf(content: &[u8]) {
    if fs::metadata("/etc/resolv.conf").is_ok() {
        return;
    }
    let Ok(target) = fs::read_link("/etc/resolv.conf") else {
        return;
    };
    let target = Path::new("/etc").join(target);
    if let Some(parent) = target.parent() {
        let _ = fs::create_dir_all(parent);
    }
    let _ = fs::write(target, content);
}

async fn loopback_up() {
    let (connection, netlink, _) = rtnetlink::new_connection().expect("a netlink socket");
    let served = tokio::spawn(connection);
    let loopback = netlink
        .link()
        .get()
        .match_name("lo".to_owned())
        .execute()
        .try_next()
        .await;
    let index = loopback
        .expect("asking for lo")
        .expect("every network namespace has lo")
        .header
        .index;
    netlink
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .expect("setting lo up");
    served.abort();
}
