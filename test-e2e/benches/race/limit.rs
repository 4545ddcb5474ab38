//! The machine's own limit: the system calls that a pod and a container cannot do without, and nothing else.
//!
//! No daemon, no protocol, no records, no log, no seccomp: threads enter namespaces, mount, and spawn the
//! probe. It is a floor, not a runtime. Where the kernel refuses a step, the step's limit is left out.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chdir, pivot_root};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::limit_network;
use crate::sample::Samples;

/// What the floor of a cycle is made of, under the names of the rows it stands beside.
#[derive(Default)]
struct Floor {
    sandbox: Samples,
    container: Samples,
    exec: Samples,
    end: Samples,
}

/// The prepared lower layer, and what was measured so far.
pub(crate) struct Bench {
    directory: PathBuf,
    hierarchies: Vec<PathBuf>,
    /// The network namespace that stands for the host's.
    host: File,
    floor: Floor,
    round: u32,
    refused: bool,
}

impl Bench {
    /// Prepares a lower layer with the probe in it.
    pub(crate) fn new(scratch: &Path) -> Self {
        let directory = scratch.join("limit");
        let lower = directory.join("lower");
        for name in ["proc", "sys", "dev", "old"] {
            fs::create_dir_all(lower.join(name)).expect("a directory on the scratch");
        }
        fs::copy(test_e2e::built::probe(), lower.join("probe")).expect("the probe is there");
        let controllers = [
            "cpu", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "unified",
        ];
        let root = Path::new("/sys/fs/cgroup");
        let mut hierarchies: Vec<_> = controllers
            .iter()
            .map(|name| root.join(name))
            .filter(|path| path.join("cgroup.procs").exists())
            .collect();
        if root.join("cgroup.controllers").exists() {
            hierarchies.push(root.to_owned());
        }
        Self {
            directory,
            hierarchies,
            host: std::thread::spawn(network_namespace)
                .join()
                .expect("the thread does not panic")
                .expect("a network namespace (the bench needs root)"),
            floor: Floor::default(),
            round: 0,
            refused: false,
        }
    }

    /// One pod's worth of system calls.
    pub(crate) fn round(&mut self, counted: bool) {
        self.round += 1;
        if self.refused {
            return;
        }
        match self.once() {
            Ok(_) if !counted => {}
            Ok([sandbox, container, exec, end]) => {
                self.floor.sandbox.push(sandbox);
                self.floor.container.push(container);
                self.floor.exec.push(exec);
                self.floor.end.push(end);
            }
            Err(why) => {
                // One refusal is one too many: a median of those that went well would be no floor.
                eprintln!("race: no limit is measured: {why}");
                self.refused = true;
            }
        }
    }

    /// The floor of the row of that name, if it has one.
    pub(crate) fn of(&self, row: &str) -> Option<Duration> {
        let samples = match row {
            "RunPodSandbox" => &self.floor.sandbox,
            "Create + Start" => &self.floor.container,
            "ExecSync" => &self.floor.exec,
            "Stop + RemoveContainer" => &self.floor.end,
            _ => return None,
        };
        let median = samples.quantile(0.5);
        (!median.is_zero()).then_some(median)
    }

    fn once(&self) -> io::Result<[Duration; 4]> {
        let name = format!("crisp-limit-{}-{}", std::process::id(), self.round);
        let cgroups: Vec<_> = self.hierarchies.iter().map(|path| path.join(&name)).collect();
        let (directory, made) = (self.directory.join(self.round.to_string()), cgroups.clone());
        let lower = self.directory.join("lower");
        let link = format!("crl{}", self.round);
        let host = self.host.try_clone()?;
        let result = pod(link, host, directory, lower, made);
        // The thread that was in them is gone; what empties last may need a moment.
        for cgroup in &cgroups {
            for _ in 0..1000 {
                match fs::remove_dir(cgroup) {
                    Err(error) if error.raw_os_error() == Some(16) => std::thread::yield_now(),
                    _ => break,
                }
            }
        }
        result
    }
}

/// One pod's floor, step by step.
fn pod(
    link: String,
    host: File,
    directory: PathBuf,
    lower: PathBuf,
    cgroups: Vec<PathBuf>,
) -> io::Result<[Duration; 4]> {
    // A thread's namespaces are its own, and what it spawns is born into them.
    let (ran, started, mut guest) = on_a_thread(move || {
        let begun = Instant::now();
        sandbox(&link, &host)?;
        let ran = begun.elapsed();
        let begun = Instant::now();
        let guest = container(&directory, &lower, &cgroups)?;
        Ok((ran, begun.elapsed(), guest))
    })?;
    let begun = Instant::now();
    let pid = guest.0.id();
    on_a_thread(move || exec(pid))?;
    let executed = begun.elapsed();
    let begun = Instant::now();
    guest.end()?;
    Ok([ran, started, executed, begun.elapsed()])
}

fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    std::thread::spawn(work)
        .join()
        .expect("a thread of the limit does not panic")
}

/// A new one; it lives as long as the file is open.
fn network_namespace() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    File::open("/proc/thread-self/ns/net")
}

/// The pod's namespaces and its link.
fn sandbox(link: &str, host: &File) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
    limit_network::wire(link, host.as_fd())
}

/// A writable root of one layer, its mounts, its cgroups, and the probe running in it.
fn container(directory: &Path, lower: &Path, cgroups: &[PathBuf]) -> io::Result<Guest> {
    let (upper, work, root) = (directory.join("u"), directory.join("w"), directory.join("r"));
    for path in [&upper, &work, &root] {
        fs::create_dir_all(path)?;
    }
    let mut unified = None;
    for cgroup in cgroups {
        fs::create_dir(cgroup)?;
        let tasks = cgroup.join("tasks");
        if !tasks.exists() {
            if cgroups.len() > 1 {
                // Beside v1 it limits nothing, and moving there costs up to 10 ms.
                continue;
            }
            // Cgroup v2 takes processes, not threads.
            unified = Some(File::options().write(true).open(cgroup.join("cgroup.procs"))?);
            continue;
        }
        // An empty cpuset takes nobody.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Some(parent) = cgroup.parent().filter(|_| cgroup.join(file).exists()) {
                fs::write(cgroup.join(file), fs::read(parent.join(file))?)?;
            }
        }
        fs::write(tasks, "0")?;
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWCGROUP)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some("tmpfs"),
        &root.join("dev"),
        Some("tmpfs"),
        plain,
        Some("mode=755,size=64k"),
    )?;
    mount(
        Some("sysfs"),
        &root.join("sys"),
        Some("sysfs"),
        plain | MsFlags::MS_RDONLY,
        none,
    )?;
    pivot_root(&root, &root.join("old"))?;
    chdir("/")?;
    umount2("/old", MntFlags::MNT_DETACH)?;
    let mut guest = Guest(
        Command::new("/probe")
            .arg("hello")
            .stdout(Stdio::piped())
            .spawn()?,
    );
    if let Some(mut procs) = unified {
        procs.write_all(guest.0.id().to_string().as_bytes())?;
    }
    let mut first = [0];
    if let Some(stdout) = &mut guest.0.stdout {
        stdout.read_exact(&mut first)?;
    }
    Ok(guest)
}

/// The probe in its container; no step that fails leaves it behind.
struct Guest(Child);

impl Guest {
    fn end(&mut self) -> io::Result<()> {
        pidfd_send_signal(pidfd(self.0.id())?, Signal::KILL)?;
        self.0.wait().map(drop)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Dead and waited for already, after an end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The probe once more, inside the namespaces of `pid`.
fn exec(pid: u32) -> io::Result<()> {
    let pidfd = pidfd(pid)?;
    // Entering a mount namespace wants a file-system view that no other thread shares.
    unshare(CloneFlags::CLONE_FS)?;
    setns(
        pidfd.as_fd(),
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )?;
    let status = Command::new("/probe").args(["exit", "0"]).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("the probe exits with {status}")))
    }
}

fn pidfd(pid: u32) -> io::Result<std::os::fd::OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a child's pid is positive"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
