//! A supervisor of one's own, and a client that waits.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use runtime::cgroup::Cgroup;
use runtime::client::{Connected, Spawn, Spawned, SupervisorBinary, connect};
use runtime::exit::ExitDirectory;
use runtime::protocol::{
    Event, Features, Frame, Hello, Listing, PodId, Refusal, RefusalCode, Reply, Request, Socket,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};
use rustix::time::Timespec;

/// How long anything may take that takes milliseconds: long enough for a machine that is emulated and loaded.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// A supervisor; killed and reaped at the end.
pub(crate) struct Pod {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) pid: i32,
    pidfd: OwnedFd,
}

/// A connection that has said hello.
pub(crate) struct Client {
    pub(crate) socket: Socket,
    next_id: u32,
    /// Frames that came while something else was waited for.
    early: Vec<Frame>,
}

pub(crate) fn binary() -> &'static SupervisorBinary {
    static BINARY: OnceLock<SupervisorBinary> = OnceLock::new();
    BINARY.get_or_init(|| SupervisorBinary::load(env!("CARGO_BIN_EXE_crisp-pod").as_ref()).unwrap())
}

impl Pod {
    /// Starts a supervisor; the client is its first connection.
    pub(crate) fn spawn(cgroup: Option<&Cgroup>) -> (Pod, Client) {
        // Longer than a socket's address may be.
        let folder = tempfile::Builder::new()
            .prefix(&"long-".repeat(24))
            .tempdir()
            .unwrap();
        std::fs::create_dir(folder.path().join("exits")).unwrap();
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        let Spawned {
            connection,
            pid,
            pidfd,
            start_time,
        } = binary()
            .spawn(Spawn {
                pod: &PodId::new("pod1").unwrap(),
                directory: folder.path(),
                exits: &folder.path().join("exits"),
                cgroup,
                stderr: Some(stderr),
            })
            .unwrap();
        assert!(start_time > 0);
        (Pod { folder, pid, pidfd }, Client::greet(connection))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    pub(crate) fn exits(&self) -> ExitDirectory {
        ExitDirectory::open(&self.folder.path().join("exits")).unwrap()
    }

    /// A further client, by path.
    pub(crate) fn connect(&self) -> Client {
        let Connected { connection, pid } = connect(&self.socket(), Some(self.pid)).unwrap();
        assert_eq!(pid, self.pid);
        Client::greet(connection)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::pidfd_send_signal(&self.pidfd, signal).unwrap();
    }

    /// Waits for the supervisor's end.
    pub(crate) fn wait(&self) -> WaitIdStatus {
        await_readable(self.pidfd.as_fd(), "the supervisor's end");
        waitid(
            WaitId::PidFd(self.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
        .unwrap()
        .unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

impl Client {
    fn greet(socket: Socket) -> Client {
        let mut client = Client {
            socket,
            next_id: 0,
            early: Vec::new(),
        };
        let hello = Hello {
            features: Features::OURS,
            events: true,
        };
        let Reply::Welcome(welcome) = client.ask(Request::Hello(hello)) else {
            panic!("no welcome")
        };
        assert_eq!(welcome.pod.as_str(), "pod1");
        assert!(welcome.features.contains(Features::REEXEC));
        client
    }

    /// Sends a request; returns its id.
    pub(crate) fn send(&mut self, request: Request) -> u32 {
        self.next_id += 1;
        self.socket.send_frame(&request.into_frame(self.next_id)).unwrap();
        self.next_id
    }

    pub(crate) fn ask(&mut self, request: Request) -> Reply {
        let id = self.send(request);
        self.reply_to(id)
    }

    pub(crate) fn reply_to(&mut self, id: u32) -> Reply {
        let frame = self.wait_for(|frame| frame.kind.is_reply() && frame.request_id == id);
        Reply::from_frame(frame).unwrap()
    }

    pub(crate) fn event(&mut self) -> Event {
        let frame = self.wait_for(|frame| frame.kind.is_event());
        Event::from_frame(&frame).unwrap()
    }

    pub(crate) fn refusal(&mut self, request: Request) -> RefusalCode {
        match self.ask(request) {
            Reply::Refused(Refusal { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn list(&mut self) -> Listing {
        let Reply::Listing(memfd) = self.ask(Request::List) else {
            panic!("no listing")
        };
        Listing::read(memfd).unwrap()
    }

    /// Asks for a re-exec until the answer is another than `Busy`, which is a true one as long as a log's disk is slow.
    pub(crate) fn reexec(&mut self, binary: impl Fn() -> OwnedFd) -> Reply {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.ask(Request::Reexec { binary: binary() }) {
                Reply::Refused(refusal) if refusal.code == RefusalCode::Busy && Instant::now() < deadline => {
                }
                other => return other,
            }
        }
    }

    /// Lets a newer binary take over.
    pub(crate) fn renew(&mut self) {
        let reply = self.reexec(|| binary().to_fd().unwrap());
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    /// Whether an event has come so far.
    pub(crate) fn has_heard_events(&self) -> bool {
        self.early.iter().any(|frame| frame.kind.is_event())
    }

    fn wait_for(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        if let Some(index) = self.early.iter().position(&wanted) {
            return self.early.remove(index);
        }
        loop {
            await_readable(self.socket.as_fd(), "a frame");
            let frame = self.socket.recv_frame().unwrap();
            if wanted(&frame) {
                return frame;
            }
            self.early.push(frame);
        }
    }
}

/// Waits until something holds of whose coming nobody is told.
pub(crate) fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn await_readable(fd: std::os::fd::BorrowedFd<'_>, what: &str) {
    let limit = Timespec {
        tv_sec: LIMIT.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    assert_eq!(
        poll(&mut fds, Some(&limit)).unwrap(),
        1,
        "waited in vain for {what}"
    );
}
