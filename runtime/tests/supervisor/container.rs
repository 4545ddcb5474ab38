//! A container to run: a root with busybox in it, a cgroup, a log file.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use runtime::cgroup::{Cgroup, Hierarchies};
use runtime::launch::{
    ExactStrings, ExecContext, ExecPlan, IdMapping, IdRange, IpcMode, LaunchContext, LaunchPlan, NetworkMode,
    PidMode, PodNamespaceRequest, PodPidMode, PodPlan, Rootfs, Sharing, StockPlan,
};
use runtime::protocol::{
    ContainerId, Event, Exec, ExecId, Exited, Given, Process, Reply, Request, Signal, SignalScope,
    StartContainer, Started, Target,
};
use serde_json::{Value, json};

use crate::pod::{Client, LIMIT, Pod};

const APPLETS: [&str; 12] = [
    "sh", "cat", "sleep", "true", "echo", "env", "wc", "stty", "tail", "seq", "head", "id",
];

/// A container that can be started, and started again under the same name.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) cgroup: Cgroup,
    folder: tempfile::TempDir,
    process: Value,
    resources: Value,
    pid: PidMode,
    user: Option<IdMapping>,
}

/// The first id on the host of pods with a user namespace.
pub(crate) const USERS: u32 = 1_234_560;

fn users() -> IdMapping {
    let ids = vec![IdRange {
        container: 0,
        host: USERS,
        length: 65_536,
    }];
    IdMapping::new("linux.", ids.clone(), ids).unwrap()
}

fn hierarchies() -> &'static Arc<Hierarchies> {
    static HIERARCHIES: OnceLock<Arc<Hierarchies>> = OnceLock::new();
    HIERARCHIES.get_or_init(|| Hierarchies::detect().unwrap())
}

/// A pod whose namespaces exist.
pub(crate) fn pod() -> (Pod, Client) {
    pod_with(PodPidMode::Container)
}

/// A pod whose containers have that pid namespace.
pub(crate) fn pod_with(pid: PodPidMode) -> (Pod, Client) {
    pod_of(pid, None)
}

/// As [`pod_with`], with a user namespace.
pub(crate) fn pod_with_users(pid: PodPidMode) -> (Pod, Client) {
    pod_of(pid, Some(users()))
}

fn pod_of(pid: PodPidMode, user: Option<IdMapping>) -> (Pod, Client) {
    let (pod, mut client) = Pod::spawn(None);
    // As a pod has whose sandbox was begun in advance: for the first container, if that is launched alone.
    let stocked = client.ask(Request::Stock {
        plan: Container::new(&["true"]).stock(),
    });
    assert!(matches!(stocked, Reply::Done), "{stocked:?}");
    let request = PodNamespaceRequest {
        hostname: Some("pod1".into()),
        network: NetworkMode::Pod,
        ipc: IpcMode::Pod,
        pid,
        user,
        sysctls: vec![],
    };
    let plan = || PodPlan::new(request.clone()).unwrap().seal().unwrap();
    for _ in 0..2 {
        let asked = Request::CreatePod {
            plan: plan(),
            network: None,
        };
        let Reply::PodCreated(created) = client.ask(asked) else {
            panic!()
        };
        assert!(created.network.is_some() && created.ipc.is_some() && created.uts.is_some());
        assert_eq!(created.init_pid.is_some(), pid == PodPidMode::Pod);
    }
    (pod, client)
}

impl Container {
    /// A container that runs `script` in a shell.
    pub(crate) fn shell(script: &str) -> Container {
        Container::new(&["sh", "-c", script])
    }

    pub(crate) fn new(args: &[&str]) -> Container {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        for directory in ["bin", "proc", "dev", "tmp"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        // By another process: what this one has open for writing another test's child may have for a moment, and what is
        // open for writing cannot be executed.
        let copied = Command::new("cp")
            .arg("/bin/busybox")
            .arg(root.join("bin"))
            .status();
        assert!(copied.unwrap().success());
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let cgroup = format!("crisp-test-{}-{number}", std::process::id());
        let cgroup = Cgroup::new(hierarchies(), "/", &cgroup).unwrap();
        let id = ContainerId::new(&format!("container-{number}")).unwrap();
        Container {
            id,
            cgroup,
            folder,
            process: process(args),
            resources: json!({}),
            pid: PidMode::Container,
            user: None,
        }
    }

    /// With so much memory and no swap, into which a host that has some would let it grow.
    pub(crate) fn with_memory(mut self, bytes: u64) -> Container {
        self.resources = json!({ "memory": { "limit": bytes, "swap": bytes } });
        self
    }

    pub(crate) fn with_pid(mut self, pid: PidMode) -> Container {
        self.pid = pid;
        self
    }

    /// In a pod of [`pod_with_users`].
    pub(crate) fn with_users(mut self) -> Container {
        self.user = Some(users());
        self
    }

    pub(crate) fn with_terminal(mut self) -> Container {
        self.process["terminal"] = true.into();
        self
    }

    pub(crate) fn with_process(mut self, key: &str, value: Value) -> Container {
        self.process[key] = value;
        self
    }

    /// Its root directory, as the host sees it.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// A log file of that name, as the daemon opens it.
    pub(crate) fn log(&self, name: &str) -> File {
        let path = self.folder.path().join(name);
        File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(path)
            .unwrap()
    }

    /// Waits until that log holds a record.
    pub(crate) fn await_log(&self, name: &str) {
        await_file(&self.folder.path().join(name), |text| text.ends_with('\n'));
    }

    pub(crate) fn read_log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn plan(&self) -> LaunchPlan {
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "process": self.process,
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                {
                    "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
                },
                {
                    "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
                },
            ],
            "linux": {
                "namespaces": [
                    { "type": "mount" }, { "type": "pid" }, { "type": "network" },
                    { "type": "ipc" }, { "type": "uts" }, { "type": "cgroup" },
                ],
            },
        });
        if self.user.is_some() {
            let ids = json!([{ "containerID": 0, "hostID": USERS, "size": 65_536 }]);
            spec["linux"]["uidMappings"] = ids.clone();
            spec["linux"]["gidMappings"] = ids;
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({ "type": "user" }));
        }
        let spec = serde_json::from_value(spec).unwrap();
        let sharing = Sharing {
            network: NetworkMode::Pod,
            ipc: IpcMode::Pod,
            pid: self.pid,
        };
        let context = LaunchContext {
            rootfs: Rootfs::Directory(self.root()),
            cgroup: &self.cgroup,
            sharing,
            exact: ExactStrings::default(),
            images: Default::default(),
            hooks: None,
        };
        LaunchPlan::from_spec(&spec, &context).unwrap()
    }

    /// The sealed plan of what it can take from stock.
    pub(crate) fn stock(&self) -> OwnedFd {
        let plan = StockPlan::of(&self.plan()).expect("it is launched alone");
        plan.seal().unwrap()
    }

    /// The request that starts it, logging to `log`.
    pub(crate) fn request(&self) -> Request {
        self.request_with(|_| {})
    }

    pub(crate) fn request_with(&self, change: impl FnOnce(&mut StartContainer)) -> Request {
        self.cgroup
            .create(Some(&serde_json::from_value(self.resources.clone()).unwrap()))
            .unwrap();
        let text = |path: PathBuf| path.into_os_string().into_string().unwrap();
        let mut start = StartContainer::new(self.id.clone());
        start.tty = self.process["terminal"] == true;
        start.oom_file = self.cgroup.oom_counter().map(text);
        start.cgroup = self.cgroup.directories().next().map(text);
        let plan = self.plan();
        start.alone = plan.is_alone();
        change(&mut start);
        let given = Given {
            log: Some(self.log("log").into()),
            cgroup: self.cgroup.open_v2().unwrap(),
            ..Given::new(plan.seal().unwrap())
        };
        Request::StartContainer { start, given }
    }

    /// Starts it and returns its init.
    pub(crate) fn start(&self, client: &mut Client) -> Process {
        let reply = client.ask(self.request());
        started(reply)
    }

    /// A request to run a further process.
    pub(crate) fn exec(&self, id: &str, args: &[&str], change: impl FnOnce(&mut Exec)) -> Request {
        let mut exec = Exec::new(self.id.clone(), ExecId::new(id).unwrap());
        change(&mut exec);
        let mut process = process(args);
        process["terminal"] = exec.tty.into();
        let process = serde_json::from_value(process).unwrap();
        let context = ExecContext {
            cgroup: &self.cgroup,
            exact: ExactStrings::default(),
            user: self.user.clone(),
        };
        let plan = ExecPlan::from_process(&process, &context)
            .unwrap()
            .seal()
            .unwrap();
        Request::Exec {
            exec,
            plan,
            cgroup: self.cgroup.open_v2().unwrap(),
        }
    }

    pub(crate) fn signal(&self, signal: i32, scope: SignalScope) -> Request {
        Request::Signal(Signal {
            target: self.target(),
            signal,
            scope,
        })
    }

    pub(crate) fn target(&self) -> Target {
        Target::init(self.id.clone())
    }

    /// Waits for its exit.
    pub(crate) fn exited(&self, client: &mut Client) -> Exited {
        exited(client, &self.target())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        let _ = self.cgroup.remove();
    }
}

pub(crate) fn started(reply: Reply) -> Process {
    match reply {
        Reply::Started(Started { process, exit: None }) => process,
        other => panic!("{other:?}"),
    }
}

/// Waits for the exit of `target`, whatever else happens before.
pub(crate) fn exited(client: &mut Client, target: &Target) -> Exited {
    loop {
        match client.event() {
            Event::Exited(exited) if exited.target == *target => return exited,
            _ => {}
        }
    }
}

fn process(args: &[&str]) -> Value {
    json!({
        "args": args,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": { "uid": 0, "gid": 0 },
        "capabilities": { "bounding": [], "effective": [], "permitted": [] },
    })
}

/// The lines of a log without their stamps, which are checked.
pub(crate) fn records(log: &str) -> Vec<&str> {
    let mut last = "";
    log.split_inclusive('\n')
        .map(|line| {
            let line = line.strip_suffix('\n').expect("torn record");
            let (stamp, rest) = line.split_once(' ').unwrap();
            assert!(
                stamp.len() == 30 && stamp.ends_with('Z') && stamp >= last,
                "{line}"
            );
            last = stamp;
            rest
        })
        .collect()
}

/// Waits until a file exists and `ready` holds for what is in it.
///
/// Whoever writes it wakes us; procfs and the lower side of an overlay tell nobody, and are looked at now and then.
pub(crate) fn await_file(path: &Path, ready: impl Fn(&str) -> bool) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let deadline = std::time::Instant::now() + LIMIT;
    let now_and_then = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    let directory = path.parent().expect("a file is in a directory");
    add_watch(
        &watch,
        directory,
        WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO,
    )
    .unwrap();
    while !fs::read_to_string(path).is_ok_and(|text| ready(&text)) {
        assert!(
            std::time::Instant::now() < deadline,
            "waited in vain for {}",
            path.display()
        );
        poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&now_and_then)).unwrap();
        // What it says does not matter; that it was read does.
        let _ = rustix::io::read(&watch, &mut [0; 4096]);
    }
}
