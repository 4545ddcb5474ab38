//! What was made before a container was asked for, and what is taken of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use runtime::cgroup::Layout;
use runtime::launch::{Stock, StockPlan, Surroundings, launch_alone};
use serde_json::{Value, json};

use crate::Test;
use crate::sandbox::{Container, Outcome, Sandbox, follow, list, pipes};

pub(crate) const TESTS: &[Test] = &[
    (
        "stock::just_what_is_asked_for_is_taken",
        just_what_is_asked_for_is_taken,
    ),
    (
        "stock::what_is_in_stock_is_as_if_made_then",
        what_is_in_stock_is_as_if_made_then,
    ),
    ("stock::one_piece_is_for_one_mount", one_piece_is_for_one_mount),
    ("stock::what_nobody_takes_ends", what_nobody_takes_ends),
    (
        "stock::a_plan_suits_what_it_was_made_of_and_nothing_else",
        a_plan_suits_what_it_was_made_of_and_nothing_else,
    ),
];

/// The usual container shows of which file systems its mounts are.
const SHOW: &str = "for at in /dev /dev/pts /sys/fs/cgroup /sys/firmware; do stat -c '%d' $at; done";

fn stock_of(sandbox: &Sandbox, container: &Container) -> Stock {
    let plan = StockPlan::of(&sandbox.plan(container)).expect("it is launched alone");
    let sealed = plan.seal().unwrap();
    let plan = StockPlan::from_memfd(sealed.as_fd()).unwrap();
    Stock::make(&plan).unwrap()
}

/// The numbers of the file systems that a stock holds.
fn devices_of(stock: &dyn Fn() -> Stock) -> (Stock, BTreeSet<u64>) {
    let open = || -> BTreeSet<String> {
        let fds = fs::read_dir("/proc/self/fd").unwrap();
        fds.map(|fd| fd.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let before = open();
    let stock = stock();
    let device = |fd: &String| Some(fs::metadata(format!("/proc/self/fd/{fd}")).ok()?.dev());
    let made = open().difference(&before).filter_map(device).collect();
    (stock, made)
}

fn run(sandbox: &Sandbox, container: &Container, stock: &Stock) -> Outcome {
    let plan = sandbox.plan(container).seal().unwrap();
    let v2 = container.cgroup.open_v2().unwrap();
    let around = Surroundings {
        pod: &sandbox.pod,
        cgroup_v2: v2.as_ref().map(AsFd::as_fd),
        pid_target: None::<BorrowedFd<'_>>,
    };
    let (stdio, stdout, stderr) = pipes(false);
    let ahead = runtime::launch::Ahead {
        stock: Some(stock),
        ..sandbox.ahead()
    };
    let launching = launch_alone(plan.as_fd(), stdio, around, ahead).unwrap();
    let outcome = follow(launching, stdout, stderr).expect("it starts").finish();
    container.cgroup.remove().unwrap();
    outcome
}

fn numbers(outcome: &Outcome) -> Vec<u64> {
    outcome.text().lines().map(|line| line.parse().unwrap()).collect()
}

fn has_v1(sandbox: &Sandbox) -> bool {
    sandbox.hierarchies.layout() != Layout::V2
}

fn just_what_is_asked_for_is_taken() {
    let sandbox = Sandbox::new();
    let container = sandbox.container(&["/bin/sh", "-c", SHOW]);
    let (stock, made) = devices_of(&|| stock_of(&sandbox, &container));
    let [dev, pts, cgroup, masked] = numbers(&run(&sandbox, &container, &stock))[..] else {
        panic!("four lines")
    };
    assert!(made.contains(&dev) && made.contains(&pts), "{made:?} {dev} {pts}");
    assert_eq!(made.contains(&cgroup), has_v1(&sandbox), "{made:?} {cgroup}");
    assert!(made.contains(&masked), "{made:?} {masked}");

    // Another size, another device, other attributes: made as asked for, from nothing.
    let mut other = sandbox.container(&["/bin/sh", "-c", SHOW]);
    other.spec["mounts"][1]["options"] = json!(["nosuid", "strictatime", "mode=755", "size=32m"]);
    other.spec["mounts"][5]["options"] = json!(["nosuid", "noexec", "nodev", "relatime"]);
    let (stock, made) = devices_of(&|| stock_of(&sandbox, &container));
    let [dev, pts, cgroup, masked] = numbers(&run(&sandbox, &other, &stock))[..] else {
        panic!("four lines")
    };
    assert!(
        !made.contains(&dev) && made.contains(&pts),
        "{made:?} {dev} {pts}"
    );
    assert!(!made.contains(&cgroup), "{made:?} {cgroup}");
    assert!(made.contains(&masked), "{made:?} {masked}");
    let mut more = sandbox.container(&["/bin/sh", "-c", "ls -l /dev/extra"]);
    more.spec["linux"]["devices"] = json!([
        {"path": "/dev/extra", "type": "c", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 0, "gid": 0}
    ]);
    let outcome = run(&sandbox, &more, &stock_of(&sandbox, &container));
    assert!(outcome.text().starts_with("crw-------"), "{outcome:?}");
}

fn what_is_in_stock_is_as_if_made_then() {
    let sandbox = Sandbox::new();
    let script = "ls -la /dev /dev/pts /sys/fs/cgroup | grep -v '\\.\\.$'; grep -v overlay /proc/self/mountinfo; \
                  echo no > /sys/fs/cgroup/new; mkdir /sys/firmware/new; echo > /dev/null && echo written";
    // Without what differs from one container to the next: numbers of mounts and file systems, times, its own cgroup.
    let plain = |outcome: &Outcome, container: &Container| {
        let cgroup = container.cgroup.path().to_str().unwrap().to_owned();
        let line = |line: &str| -> String {
            let line = line.replace(&cgroup, "CGROUP");
            let skip = if line.contains(" - ") { 3 } else { 0 };
            let words = line.split_whitespace().skip(skip);
            words
                .filter(|word| !word.contains(':'))
                .collect::<Vec<_>>()
                .join(" ")
        };
        outcome.stdout.lines().map(line).collect::<Vec<_>>()
    };
    let container = sandbox.container(&["/bin/sh", "-c", script]);
    let with = run(&sandbox, &container, &stock_of(&sandbox, &container));
    let with = plain(&with, &container);
    let container = sandbox.container(&["/bin/sh", "-c", script]);
    let without = sandbox.start_without_stock(&container).finish();
    let without = plain(&without, &container);
    container.cgroup.remove().unwrap();
    assert!(with.iter().any(|line| line == "written"), "{with:?}");
    assert!(with.len() > 30, "{with:?}");
    assert_eq!(with, without);
}

fn one_piece_is_for_one_mount() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/sh", "-c", "stat -c %d /dev/pts /srv/pts"]);
    let again = |mount: &Value| {
        let mut mount = mount.clone();
        mount["destination"] = json!("/srv/pts");
        mount
    };
    let second = again(&container.spec["mounts"][2]);
    list(&mut container.spec, "/mounts").push(second);
    let plain = sandbox.container(&["/bin/true"]);
    let stock = stock_of(&sandbox, &plain);
    plain.cgroup.remove().unwrap();
    let [first, second] = numbers(&run(&sandbox, &container, &stock))[..] else {
        panic!("two lines")
    };
    assert_ne!(first, second, "one devpts is in two places");
}

/// Mounts that are attached nowhere, and what they took: gone with the descriptors.
fn what_nobody_takes_ends() {
    let sandbox = Sandbox::new();
    let container = sandbox.container(&["/bin/true"]);
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let stock = stock_of(&sandbox, &container);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    drop(stock);
    container.cgroup.remove().unwrap();
}

fn a_plan_suits_what_it_was_made_of_and_nothing_else() {
    let sandbox = Sandbox::new();
    let usual = sandbox.container(&["/bin/true"]);
    let plan = StockPlan::of(&sandbox.plan(&usual)).unwrap();
    let mut other = sandbox.container(&["/bin/sh", "-c", "another program in another cgroup"]);
    assert!(plan.suits(&sandbox.plan(&other)));
    let changes: [(&str, Value); 4] = [
        ("/mounts/1/options", json!(["mode=755"])),
        ("/mounts/2/options", json!(["newinstance", "mode=0600"])),
        ("/mounts/2", json!({"destination": "/dev/pts", "type": "mqueue"})),
        (
            "/linux/devices",
            json!([{"path": "/dev/extra", "type": "c", "major": 1, "minor": 7}]),
        ),
    ];
    for (at, value) in changes {
        let before = other.spec.clone();
        match other.spec.pointer_mut(at) {
            Some(place) => *place = value,
            None => other.spec["linux"]["devices"] = value,
        }
        assert!(!plan.suits(&sandbox.plan(&other)), "{at}");
        let learnt = StockPlan::of(&sandbox.plan(&other)).unwrap();
        assert!(
            learnt.suits(&sandbox.plan(&other)) && !learnt.suits(&sandbox.plan(&usual)),
            "{at}"
        );
        other.spec = before;
    }
    for container in [usual, other] {
        container.cgroup.remove().unwrap();
    }
}
