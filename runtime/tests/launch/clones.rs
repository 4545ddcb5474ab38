//! How many processes a launch takes.

use std::fs::File;
use std::os::fd::AsFd;

use runtime::launch::{ChildStdio, Cloned, Surroundings, launch_alone, launch_container};

use crate::Test;
use crate::sandbox::{Sandbox, follow};

pub(crate) const TESTS: &[Test] = &[(
    "clones::a_plain_container_is_launched_alone",
    a_plain_container_is_launched_alone,
)];

/// A container of the usual kind takes the short way, in which init is the only clone, and the long one comes to the same.
fn a_plain_container_is_launched_alone() {
    let sandbox = Sandbox::new();
    for alone in [true, false] {
        let container = sandbox.container(&["/bin/true"]);
        let plan = sandbox.plan(&container);
        assert!(plan.is_alone());
        let plan = plan.seal().unwrap();
        let v2 = container.cgroup.open_v2().unwrap();
        let around = Surroundings {
            pod: &sandbox.pod,
            cgroup_v2: v2.as_ref().map(AsFd::as_fd),
            pid_target: None,
        };
        let launching = match alone {
            true => launch_alone(plan.as_fd(), ChildStdio::default(), around, sandbox.ahead()),
            false => launch_container(plan.as_fd(), ChildStdio::default(), around),
        }
        .unwrap();
        assert_eq!(matches!(launching.cloned, Cloned::Init { .. }), alone);
        let silent = || File::open("/dev/null").unwrap();
        let running = follow(launching, silent(), silent()).unwrap();
        assert_eq!(running.finish().code, Some(0));
        container.cgroup.remove().unwrap();
    }
}
