//! crisp beside what a node would run otherwise, through one CRI client, in one run.
//!
//! ```text
//!            one client (k8s-cri)
//!      ┌────────────┼──────────────────┐
//!   crisp      containerd + runc     --endpoint NAME=SOCKET …
//!      └────────────┴── scratch: ext4 with a journal, on a loop device, in a mount namespace of the bench
//! ```
//! Where systemd runs a host with cgroup v2, crisp is there twice: with cgroups of its own and with systemd's scopes.
//!
//! Each started contender has a small host of its own (network and mount namespace), its own cgroup
//! parent, and everything on disk below the scratch file system. The contenders take turns cycle by
//! cycle, so that what the machine does meanwhile hits all alike. Beside them runs the bare sequence of system
//! calls that a pod cannot do without (`limit`): what remains above it is a runtime's own.
//!
//! `cargo bench -p test-e2e --bench race -- [--cycles N] [--only PART] [--alone] [--beside NAME=CRISP]
//! [--endpoint NAME=SOCKET] [--report DIR]`; parts: `cycle crowd memory answer logs pull`. `--alone` is without containerd,
//! `--beside` with another build of crisp: a machine that is faster or slower for minutes is so for both. The report is a
//! Markdown table and an SVG plot.

mod containerd;
mod contender;
mod crowd;
mod cycle;
mod limit;
mod limit_network;
mod limit_pull;
mod logs;
mod machine;
mod memory;
mod options;
mod plot;
mod pull;
mod report;
mod sample;
mod scratch;

use std::process::ExitCode;

use contender::Contender;
use options::{Options, Part};
use report::Report;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("race: {why}");
            return ExitCode::from(2);
        }
    };
    // Before any thread exists, so that all of them share the namespace the scratch is mounted in.
    let scratch = match scratch::mount() {
        Ok(scratch) => scratch,
        Err(why) => {
            eprintln!(
                "race: no scratch file system: {why} (the bench needs root, mkfs.ext4 and a loop device)"
            );
            return ExitCode::FAILURE;
        }
    };
    machine::adopt_orphans();
    race(&options, scratch.directory());
    ExitCode::SUCCESS
}

fn race(options: &Options, scratch: &std::path::Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut contenders = runtime.block_on(Contender::start_all(options, scratch));
    let mut report = Report::new(machine::describe(), contenders.iter().map(Contender::title));
    for part in options.parts() {
        eprintln!("race: {}", part.name());
        match part {
            Part::Cycle => cycle::measure(&contenders, options.cycles, scratch, &mut report),
            Part::Crowd => runtime.block_on(crowd::measure(&mut contenders, &mut report)),
            Part::Memory => runtime.block_on(memory::measure(&mut contenders, &mut report)),
            Part::Answer => runtime.block_on(memory::first_answer(&mut contenders, &mut report)),
            Part::Logs => runtime.block_on(logs::measure(&mut contenders, &mut report)),
            Part::Pull => runtime.block_on(pull::measure(&mut contenders, scratch, &mut report)),
        }
    }
    runtime.block_on(async {
        for contender in contenders {
            contender.close().await;
        }
    });
    report.print();
    if let Err(why) = report.write(&options.report) {
        eprintln!(
            "race: the report cannot be written to {}: {why}",
            options.report.display()
        );
    }
}
