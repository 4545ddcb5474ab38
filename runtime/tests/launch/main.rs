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
mod terminal;

use std::process::{Command, ExitCode};

/// A test by its name.
type Test = (&'static str, fn());

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
        let outcome = Command::new(&myself)
            .args(["--alone", name])
            .env_clear()
            .output()
            .expect("the test starts");
        let ok = outcome.status.success();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if !ok || show {
            print!(
                "{}{}",
                String::from_utf8_lossy(&outcome.stdout),
                String::from_utf8_lossy(&outcome.stderr)
            );
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
