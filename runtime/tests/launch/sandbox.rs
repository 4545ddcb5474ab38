//! A pod without a supervisor: a root file system of static busybox, a cgroup, and the launch functions.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::CloneFlags;
use runtime::cgroup::{Cgroup, Hierarchies};
use runtime::launch::{
    Ahead, ChildStdio, Cloned, ExactStrings, ExecContext, ExecPlan, IdMapping, IdRange, IpcMode,
    LaunchContext, LaunchMessage, LaunchPlan, Launching, NetworkMode, PidMode, PodNamespaceRequest,
    PodNamespaces, PodPidMode, PodPlan, Received, Rootfs, SetupFailure, Sharing, Stock, StockPlan,
    Surroundings, create_namespaces, launch_alone, launch_container, launch_exec, make_empty_namespace,
};
use runtime::seccomp::Filter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::CpuSet;
use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 26] = [
    "sh", "cat", "ls", "id", "sleep", "stat", "mount", "umount", "readlink", "grep", "mkdir", "touch",
    "echo", "true", "env", "hostname", "ip", "dd", "chmod", "kill", "tty", "head", "rm", "pwd", "mknod",
    "ln",
];
/// Nothing here takes longer unless it hangs, not even where it is emulated and loaded.
const PATIENCE: Timespec = Timespec {
    tv_sec: 180,
    tv_nsec: 0,
};

/// Why the tests cannot run here.
pub(crate) fn unable() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("containers need root");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("no static busybox (Debian: busybox-static)");
    }
    None
}

/// Runs one test in this process, in a mount namespace of its own, and checks that nothing is left.
pub(crate) fn alone(test: fn()) {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private mounts");
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).expect("a subreaper");
    let (mounts, fds) = (mounts(), open_fds());
    test();
    // What was there before may be gone: the host removes a mount point also from under this view of it.
    assert_eq!(added(&mounts, self::mounts()), [""; 0], "mounts are left");
    assert_eq!(
        added(&fds, open_fds()),
        [""; 0].map(PathBuf::from),
        "fds are left"
    );
    assert_eq!(own_cgroups(), [""; 0].map(PathBuf::from), "cgroups are left");
    let children = waitid(
        WaitId::All,
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
    );
    assert_eq!(
        children.unwrap_err(),
        rustix::io::Errno::CHILD,
        "processes are left"
    );
}

/// What is in `after` and was not in `before`, as often as it is there more often.
fn added<T: PartialEq>(before: &[T], mut after: Vec<T>) -> Vec<T> {
    for known in before {
        if let Some(index) = after.iter().position(|other| other == known) {
            after.remove(index);
        }
    }
    after
}

/// The mounts, each with a number of its own. What a line says after the dash is the file system's, and others may change it.
fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let mount = |line: &str| line.split(" - ").next().map(str::to_owned);
    table.lines().filter_map(mount).collect()
}

/// Under which the test in a process makes its cgroups: beside it others may run the same test.
fn cgroup_parent(process: u32) -> Cgroup {
    let hierarchies = Hierarchies::detect().expect("hierarchies");
    Cgroup::new(&hierarchies, "", &format!("crisp-test-{process}")).expect("a path")
}

/// What is left of the cgroups of this process.
fn own_cgroups() -> Vec<PathBuf> {
    let parent = cgroup_parent(std::process::id());
    parent.directories().filter(|path| path.exists()).collect()
}

/// Ends the containers of a test that was killed.
pub(crate) fn clean_up_after(process: u32) {
    let parent = cgroup_parent(process);
    let _ = parent.kill();
    let _ = parent.remove();
}

fn open_fds() -> Vec<PathBuf> {
    let mut fds: Vec<PathBuf> = fs::read_dir("/proc/self/fd")
        .expect("fds")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| !target.starts_with("/proc/"))
        .collect();
    fds.sort();
    fds
}

/// A container to be, with all its files in a temporary directory.
pub(crate) struct Sandbox {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) pod: PodNamespaces,
    pub(crate) hierarchies: Arc<Hierarchies>,
    pub(crate) sharing: Sharing,
    user: Option<IdMapping>,
    empty: OwnedFd,
    next: std::cell::Cell<u32>,
}

/// What to run and in what.
pub(crate) struct Container {
    pub(crate) spec: Value,
    pub(crate) rootfs: Rootfs,
    pub(crate) cgroup: Cgroup,
    pub(crate) exact: ExactStrings,
    pub(crate) target: Option<OwnedFd>,
    pub(crate) filter: Option<Filter>,
    /// Launched alone if its plan allows, as a daemon does; else in two stages.
    pub(crate) alone: bool,
}

/// A process that has been executed.
pub(crate) struct Running {
    pub(crate) pidfd: OwnedFd,
    pub(crate) stdout: File,
    pub(crate) stderr: File,
    pub(crate) console: Option<OwnedFd>,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl Sandbox {
    /// A pod with namespaces of its own.
    pub(crate) fn new() -> Sandbox {
        Sandbox::with(PodPidMode::Container, PidMode::Container)
    }

    pub(crate) fn with(pod_pid: PodPidMode, pid: PidMode) -> Sandbox {
        Sandbox::of(pod_pid, pid, None)
    }

    /// A pod with a user namespace of its own.
    pub(crate) fn with_users(pod_pid: PodPidMode, pid: PidMode) -> Sandbox {
        let ids = vec![IdRange {
            container: 0,
            host: 1_234_560,
            length: 65_536,
        }];
        Sandbox::of(
            pod_pid,
            pid,
            Some(IdMapping::new("linux.", ids.clone(), ids).unwrap()),
        )
    }

    fn of(pod_pid: PodPidMode, pid: PidMode, user: Option<IdMapping>) -> Sandbox {
        let request = PodNamespaceRequest {
            hostname: Some("the-pod".into()),
            network: NetworkMode::Pod,
            ipc: IpcMode::Pod,
            pid: pod_pid,
            user: user.clone(),
            sysctls: vec![
                ("net.ipv4.ip_unprivileged_port_start".into(), "7".into()),
                ("kernel.shmmni".into(), "77".into()),
            ],
        };
        let plan = PodPlan::new(request).unwrap().seal().unwrap();
        let pod = create_namespaces(&PodPlan::from_memfd(plan.as_fd()).unwrap(), None).unwrap();
        let sharing = Sharing {
            network: NetworkMode::Pod,
            ipc: IpcMode::Pod,
            pid,
        };
        let temp = tempfile::Builder::new()
            .prefix("crisp-launch-")
            .tempdir()
            .unwrap();
        make_layer(&temp.path().join("layer"));
        Sandbox {
            temp,
            pod,
            hierarchies: Hierarchies::detect().unwrap(),
            sharing,
            user,
            empty: make_empty_namespace().unwrap(),
            next: 0.into(),
        }
    }

    /// What a daemon has for every container.
    pub(crate) fn ahead(&self) -> Ahead<'_> {
        Ahead {
            root: None,
            empty: Some(self.empty.as_fd()),
            stock: None,
        }
    }

    pub(crate) fn layer(&self) -> PathBuf {
        self.temp.path().join("layer")
    }

    pub(crate) fn canary(&self) -> PathBuf {
        let path = self.temp.path().join("canary");
        if !path.exists() {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "untouched").unwrap();
        }
        path
    }

    pub(crate) fn assert_canary(&self) {
        let names: Vec<_> = fs::read_dir(self.canary())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"], "the canary directory changed");
        assert_eq!(
            fs::read_to_string(self.canary().join("file")).unwrap(),
            "untouched"
        );
    }

    /// A fresh overlay over the layer, a fresh cgroup, and a usual spec that runs `args`.
    pub(crate) fn container(&self, args: &[&str]) -> Container {
        let number = self.next.replace(self.next.get() + 1);
        let base = self.temp.path().join(number.to_string());
        let (upper, work) = (base.join("rw"), base.join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        let parent = cgroup_parent(std::process::id());
        let parent = parent.path().to_str().unwrap();
        let cgroup = Cgroup::new(&self.hierarchies, parent, &number.to_string()).unwrap();
        cgroup.create(None).unwrap();
        Container {
            spec: self.spec(args),
            rootfs: Rootfs::Overlay {
                lower: vec![self.layer()],
                upper,
                work,
            },
            cgroup,
            exact: ExactStrings::default(),
            target: None,
            filter: None,
            alone: true,
        }
    }

    fn spec(&self, args: &[&str]) -> Value {
        let mut spec = usual_spec(args);
        if let Some(ids) = &self.user {
            let ranges = |ranges: &[IdRange]| -> Vec<Value> {
                let one = |range: &IdRange| json!({"containerID": range.container, "hostID": range.host, "size": range.length});
                ranges.iter().map(one).collect()
            };
            spec["linux"]["uidMappings"] = json!(ranges(ids.uids()));
            spec["linux"]["gidMappings"] = json!(ranges(ids.gids()));
            list(&mut spec, "/linux/namespaces").push(json!({"type": "user"}));
        }
        spec
    }

    pub(crate) fn plan(&self, container: &Container) -> LaunchPlan {
        let spec = serde_json::from_value(container.spec.clone()).expect("a spec");
        let context = LaunchContext {
            rootfs: container.rootfs.clone(),
            cgroup: &container.cgroup,
            sharing: self.sharing,
            exact: container.exact.clone(),
            images: Default::default(),
            hooks: None,
        };
        LaunchPlan::from_spec(&spec, &context)
            .expect("a plan")
            .filtered(container.filter.clone())
    }

    /// Launches and waits for `execve`. Every other pair of containers finds in stock what it is made of, as the first of a
    /// pod does.
    pub(crate) fn start(&self, container: &Container) -> Result<Running, SetupFailure> {
        let stocked = container.alone && self.next.get() % 4 < 2;
        let plan = stocked.then(|| StockPlan::of(&self.plan(container))).flatten();
        let stock = plan.map(|plan| Stock::make(&plan)).transpose()?;
        self.start_from(container, stock.as_ref())
    }

    /// As [`start`](Self::start) of one that begins with nothing.
    pub(crate) fn start_without_stock(&self, container: &Container) -> Running {
        self.start_from(container, None).expect("it starts")
    }

    fn start_from(&self, container: &Container, stock: Option<&Stock>) -> Result<Running, SetupFailure> {
        let plan = self.plan(container);
        let (is_alone, root) = (plan.is_alone(), self.root_ahead(container, &plan)?);
        let plan = plan.seal().unwrap();
        let v2 = container.cgroup.open_v2().unwrap();
        let around = Surroundings {
            pod: &self.pod,
            cgroup_v2: v2.as_ref().map(AsFd::as_fd),
            pid_target: container.target.as_ref().map(AsFd::as_fd),
        };
        let terminal = container.spec["process"]["terminal"] == true;
        let (stdio, stdout, stderr) = pipes(terminal);
        let launching = match container.alone && is_alone {
            true => {
                let ahead = Ahead {
                    root: root.as_ref().map(AsFd::as_fd),
                    stock,
                    ..self.ahead()
                };
                launch_alone(plan.as_fd(), stdio, around, ahead)
            }
            false => launch_container(plan.as_fd(), stdio, around),
        };
        follow(launching.unwrap(), stdout, stderr)
    }

    /// Every other root is made ahead, as a daemon does for containers that it has created itself.
    fn root_ahead(&self, container: &Container, plan: &LaunchPlan) -> Result<Option<OwnedFd>, SetupFailure> {
        match plan.root() {
            Some(root) if container.alone && self.next.get().is_multiple_of(2) => root.make(Vec::new()),
            _ => Ok(None),
        }
    }

    /// Launches and expects a failure.
    pub(crate) fn refused(&self, container: &Container) -> SetupFailure {
        match self.start(container) {
            Err(failure) => failure,
            Ok(running) => panic!("it ran: {:?}", running.finish()),
        }
    }

    /// Runs to the end and returns what was printed; the cgroup is removed.
    pub(crate) fn run(&self, container: Container) -> Outcome {
        let outcome = self.start(&container).expect("it starts").finish();
        container.cgroup.remove().unwrap();
        outcome
    }

    /// Runs a shell script in a usual container.
    pub(crate) fn sh(&self, script: &str) -> Outcome {
        self.run(self.container(&["/bin/sh", "-c", script]))
    }

    /// Starts another process in a container.
    pub(crate) fn exec(
        &self,
        container: &Container,
        running: &Running,
        process: &Value,
    ) -> Result<Running, SetupFailure> {
        let context = ExecContext {
            cgroup: &container.cgroup,
            exact: ExactStrings::default(),
            user: self.user.clone(),
        };
        let terminal = process["terminal"] == true;
        let process = serde_json::from_value(process.clone()).expect("a process");
        let plan = ExecPlan::from_process(&process, &context)
            .unwrap()
            .filtered(container.filter.clone())
            .seal()
            .unwrap();
        let v2 = container.cgroup.open_v2().unwrap();
        let around = Surroundings {
            pod: &self.pod,
            cgroup_v2: v2.as_ref().map(AsFd::as_fd),
            pid_target: None,
        };
        let (stdio, stdout, stderr) = pipes(terminal);
        follow(
            launch_exec(plan.as_fd(), stdio, around, running.pidfd.as_fd()).unwrap(),
            stdout,
            stderr,
        )
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(init) = &self.pod.init {
            let _ = pidfd_send_signal(&init.pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(init.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        for directory in cgroup_parent(std::process::id()).directories() {
            // Shared by the sandboxes of a test: the last one to go succeeds.
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        let _ = self.cgroup.remove();
    }
}

impl Running {
    /// Waits for the end of the process and of its output.
    pub(crate) fn finish(mut self) -> Outcome {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let status = reap(&self.pidfd);
        let (code, signal) = (status.exit_status(), status.terminating_signal());
        Outcome {
            stdout,
            stderr,
            code,
            signal,
        }
    }

    /// Reads until the process has printed a line.
    pub(crate) fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while self.stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    pub(crate) fn kill(self) -> Outcome {
        pidfd_send_signal(&self.pidfd, Signal::KILL).unwrap();
        self.finish()
    }
}

impl Outcome {
    /// The output of a process that succeeded.
    pub(crate) fn text(&self) -> &str {
        assert!(self.code == Some(0) && self.stderr.is_empty(), "{self:?}");
        self.stdout.trim_end()
    }
}

fn reap(pidfd: &OwnedFd) -> rustix::process::WaitIdStatus {
    let mut ready = [PollFd::new(pidfd, PollFlags::IN)];
    assert_eq!(
        poll(&mut ready, Some(&PATIENCE)).unwrap(),
        1,
        "the process does not end"
    );
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
        .unwrap()
        .unwrap()
}

pub(crate) fn pipes(terminal: bool) -> (ChildStdio, File, File) {
    let (out, out_child) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (err, err_child) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let stdio = match terminal {
        true => ChildStdio::default(),
        false => ChildStdio {
            stdin: None,
            stdout: Some(out_child),
            stderr: Some(err_child),
        },
    };
    (stdio, out.into(), err.into())
}

/// Follows a launch as the supervisor does.
pub(crate) fn follow(launching: Launching, stdout: File, stderr: File) -> Result<Running, SetupFailure> {
    let (mut started, mut console, mut failed, mut prepared) = (None, None, None, false);
    let stage1 = match launching.cloned {
        Cloned::Stage1(stage1) => Some(stage1),
        Cloned::Init { pid, pidfd } => {
            started = Some((pid, pidfd));
            None
        }
    };
    loop {
        match launching.channel.recv().unwrap() {
            Received::Message(LaunchMessage::Started { pid, pidfd }) => started = Some((pid, pidfd)),
            Received::Message(LaunchMessage::Prepared) => prepared = true,
            Received::Message(LaunchMessage::Console(master)) => console = Some(master),
            Received::Message(LaunchMessage::Failed(failure)) => failed = Some(failure),
            Received::Eof => break,
            Received::WouldBlock => {
                let mut ready = [PollFd::new(&launching.channel, PollFlags::IN)];
                assert_eq!(poll(&mut ready, Some(&PATIENCE)).unwrap(), 1, "the launch hangs");
            }
        }
    }
    match &stage1 {
        Some(stage1) => drop(reap(stage1)),
        None => assert!(prepared || failed.is_some(), "init died without a word"),
    }
    match (started, failed) {
        (Some((_, pidfd)), None) => Ok(Running {
            pidfd,
            stdout,
            stderr,
            console,
        }),
        (Some((_, pidfd)), Some(failure)) => {
            reap(&pidfd);
            Err(failure)
        }
        (None, Some(failure)) => Err(failure),
        (None, None) => panic!("stage-1 died without a word"),
    }
}

/// Whether a process has ended, reaped or not.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).unwrap() == 1
}

/// The first CPU that this process may run on; a cpuset may have taken the lower ones.
pub(crate) fn first_cpu() -> usize {
    let own = rustix::thread::sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU)
        .find(|cpu| own.is_set(*cpu))
        .expect("it runs on one")
}

fn make_layer(layer: &Path) {
    for directory in ["bin", "etc", "tmp", "proc", "dev", "sys", "srv"] {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    fs::copy(BUSYBOX, layer.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
}

/// What a CRI runtime writes for a plain container.
pub(crate) fn usual_spec(args: &[&str]) -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/bin:/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/nonexistent"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// The end of a list in a spec, to push to.
pub(crate) fn list<'a>(spec: &'a mut Value, pointer: &str) -> &'a mut Vec<Value> {
    spec.pointer_mut(pointer).unwrap().as_array_mut().unwrap()
}
