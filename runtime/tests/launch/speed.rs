//! How long a plain launch takes. Prints; the only bound is one that a lost design would break.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use runtime::launch::{ChildStdio, LaunchMessage, Received, Surroundings, launch_container};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::Test;
use crate::sandbox::Sandbox;

pub(crate) const TESTS: &[Test] = &[("speed::a_plain_launch", a_plain_launch)];

fn a_plain_launch() {
    let sandbox = Sandbox::new();
    let mut times = Vec::new();
    for _ in 0..60 {
        let container = sandbox.container(&["/bin/true"]);
        let plan = sandbox.plan(&container).seal().unwrap();
        let v2 = container.cgroup.open_v2().unwrap();
        let around = Surroundings {
            pod: &sandbox.pod,
            cgroup_v2: v2.as_ref().map(AsFd::as_fd),
            pid_target: None,
        };
        let begin = Instant::now();
        let launching = launch_container(plan.as_fd(), ChildStdio::default(), around).unwrap();
        let mut started = None;
        loop {
            match launching.channel.recv().unwrap() {
                Received::Message(LaunchMessage::Started { pidfd, .. }) => started = Some(pidfd),
                Received::Message(other) => panic!("{other:?}"),
                Received::Eof => break,
                Received::WouldBlock => {
                    poll(&mut [PollFd::new(&launching.channel, PollFlags::IN)], None).unwrap();
                }
            }
        }
        times.push(begin.elapsed());
        for pidfd in [launching.stage1.as_fd(), started.as_ref().unwrap().as_fd()] {
            waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).unwrap();
        }
    }
    times.sort();
    println!(
        "launch to exec: median {:?}, best {:?}, worst {:?}",
        times[30], times[0], times[59]
    );
    assert!(times[30] < Duration::from_millis(50), "{times:?}");
}
