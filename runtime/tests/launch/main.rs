//! Launches real containers and looks at the effect.
//!
//! Every test runs in a process of its own with a single thread, as the supervisor has: it may unshare namespaces, be
//! the parent of its containers, and is checked afterwards for whatever it left behind. So this is a test binary
//! without the usual harness: it executes itself once for each test.

mod attacks;
mod clones;
mod exec;
mod failures;
mod filter;
mod inheritance;
mod isolation;
mod mounts;
mod pod;
mod sandbox;
mod stock;
mod terminal;

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A test by its name.
type Test = (&'static str, fn());

/// How long a test may take: more than all that it waits for with a limit of its own.
const LIMIT: Timespec = Timespec {
    tv_sec: 600,
    tv_nsec: 0,
};

fn main() -> ExitCode {
    let tests: Vec<Test> = [
        inheritance::TESTS,
        failures::TESTS,
        isolation::TESTS,
        mounts::TESTS,
        attacks::TESTS,
        exec::TESTS,
        terminal::TESTS,
        filter::TESTS,
        pod::TESTS,
        clones::TESTS,
        stock::TESTS,
    ]
    .concat();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = args.as_slice()
        && flag == "--alone"
    {
        let (_, test) = tests
            .iter()
            .find(|(other, _)| other == name)
            .expect("a known test");
        sandbox::alone(*test);
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|arg| arg == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = sandbox::unable() {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen = tests
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())));
    run(chosen, args.iter().any(|arg| arg == "--nocapture"))
}

fn run<'a>(tests: impl Iterator<Item = &'a Test>, show: bool) -> ExitCode {
    let myself = std::env::current_exe().expect("the test knows itself");
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, _) in tests {
        let (status, output) = run_alone(Command::new(&myself).args(["--alone", name]).env_clear());
        let ok = status.success();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if !ok || show {
            print!("{output}");
        }
        if ok {
            passed += 1;
        } else {
            failed.push(name);
        }
    }
    println!(
        "\ntest result: {passed} passed, {} failed {failed:?}",
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a test to its end, or ends it, and returns what it said: into a file, for what it leaves behind may hold a pipe.
fn run_alone(test: &mut Command) -> (ExitStatus, String) {
    let mut output = tempfile::tempfile().expect("a file");
    let share = |file: &File| Stdio::from(file.try_clone().expect("a descriptor"));
    let mut child = test
        .stdin(Stdio::null())
        .stdout(share(&output))
        .stderr(share(&output))
        .spawn()
        .expect("the test starts");
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd");
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&LIMIT)).expect("poll");
    if ended == 0 {
        child.kill().expect("it can be killed");
    }
    let status = child.wait().expect("it ends");
    if ended == 0 {
        sandbox::clean_up_after(child.id());
    }
    let mut bytes = Vec::new();
    output.rewind().expect("a file");
    output.read_to_end(&mut bytes).expect("a file");
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if ended == 0 {
        text.push_str("it did not end\n");
    }
    (status, text)
}
