//! How long a plain launch takes. Prints; the only bound is one that a lost design would break.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use runtime::cgroup::Cgroup;
use runtime::launch::{
    ChildStdio, Cloned, LaunchMessage, Received, Rootfs, Surroundings, launch_alone, launch_container,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use serde_json::json;

use crate::Test;
use crate::sandbox::Sandbox;

pub(crate) const TESTS: &[Test] = &[
    ("speed::a_plain_launch", || measure(false)),
    ("speed::a_launch_alone", || measure(true)),
];

fn measure(alone: bool) {
    let sandbox = Sandbox::new();
    let (mut times, mut processor) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        let (took, on_processor) = launch(&sandbox, alone);
        times.push(took);
        processor.extend(on_processor);
    }
    times.sort();
    println!(
        "launch to exec: median {:?}, best {:?}, worst {:?}",
        times[30], times[0], times[59]
    );
    processor.sort();
    println!("processor time: {:?}", processor.get(30));
    assert!(times[30] < Duration::from_millis(50), "{times:?}");
}

fn launch(sandbox: &Sandbox, alone: bool) -> (Duration, Option<Duration>) {
    let mut container = sandbox.container(&["/bin/true"]);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let (upper, work) = (memory.path().join("rw"), memory.path().join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    container.rootfs = Rootfs::Overlay {
        lower: vec![sandbox.layer()],
        upper,
        work,
    };
    // At the root and with the largest share, so that a busy machine disturbs less.
    let id = format!("crisp-test-speed-{}", std::process::id());
    container.cgroup.remove().unwrap();
    container.cgroup = Cgroup::new(&sandbox.hierarchies, "", &id).unwrap();
    container
        .cgroup
        .create(Some(
            &serde_json::from_value(json!({"cpu": {"shares": 262_144}})).unwrap(),
        ))
        .unwrap();
    let plan = sandbox.plan(&container).seal().unwrap();
    let v2 = container.cgroup.open_v2().unwrap();
    let around = Surroundings {
        pod: &sandbox.pod,
        cgroup_v2: v2.as_ref().map(AsFd::as_fd),
        pid_target: None,
    };
    let begin = Instant::now();
    let launching = match alone {
        true => launch_alone(plan.as_fd(), ChildStdio::default(), around, sandbox.ahead()),
        false => launch_container(plan.as_fd(), ChildStdio::default(), around),
    }
    .unwrap();
    let mut children = Vec::new();
    match launching.cloned {
        Cloned::Stage1(pidfd) | Cloned::Init { pidfd, .. } => children.push(pidfd),
    }
    loop {
        match launching.channel.recv().unwrap() {
            Received::Message(LaunchMessage::Started { pidfd, .. }) => children.push(pidfd),
            Received::Message(LaunchMessage::Prepared) => {}
            Received::Message(other) => panic!("{other:?}"),
            Received::Eof => break,
            Received::WouldBlock => {
                poll(&mut [PollFd::new(&launching.channel, PollFlags::IN)], None).unwrap();
            }
        }
    }
    let took = begin.elapsed();
    for pidfd in &children {
        waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    }
    // What it took on the processor, set-up and program together: the figure that a busy machine shows true.
    let directory = container
        .cgroup
        .directories()
        .find(|path| path.join("cpuacct.usage").exists());
    let processor = directory.map(|directory| {
        let usage = std::fs::read_to_string(directory.join("cpuacct.usage")).unwrap();
        Duration::from_nanos(usage.trim().parse().unwrap())
    });
    (took, processor)
}
