//! The last step: a process as fresh as if nothing had been before it, and `execve`.

use std::ffi::{CStr, CString, OsStr};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Mode, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::thread::CpuSet;

use super::failure::{InStep, StepResult, failure};
use super::plan::ProcessPlan;
use super::values::ProcessString;
use super::{SetupFailure, Step, identity};
use crate::sys;

/// Where programs are looked up when the environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The ELF machine number of this build.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

/// Becomes the program. Returns only the reason why not.
pub(crate) fn become_program(process: &ProcessPlan) -> SetupFailure {
    match identity::filter_at_last(process) {
        Ok(()) => search(process),
        Err(failure) => failure,
    }
}

/// Begins a session, with the terminal if there is one.
pub(crate) fn lead_session(process: &ProcessPlan) -> StepResult<()> {
    // Fails only for a process that leads its group already, as a clone never does.
    rustix::process::setsid().step(Step::Console)?;
    if process.terminal.is_some() {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).step(Step::Console)?;
    }
    Ok(())
}

/// Undoes what the process inherited from its supervisor and `execve` would keep.
pub(crate) fn freshen(process: &ProcessPlan) -> StepResult<()> {
    sys::signal::reset_all();
    let mut every = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| every.set(cpu));
    // The cpuset of the container narrows this down.
    let _ = rustix::thread::sched_setaffinity(None, &every);
    rustix::process::umask(Mode::from(process.umask));
    sys::fds::close_on_exec_from(3).step(Step::Exec)
}

fn search(process: &ProcessPlan) -> SetupFailure {
    let args: Vec<&CStr> = process.args.iter().map(|arg| arg.0.as_c_str()).collect();
    let env: Vec<&CStr> = process.env.iter().map(|variable| variable.0.as_c_str()).collect();
    let program = args[0];
    if program.to_bytes().contains(&b'/') {
        return diagnose(program, sys::exec::execve(program, &args, &env));
    }
    let mut verdict = failure(
        Step::Exec,
        Some(program.to_string_lossy().into_owned()),
        Errno::NOENT,
    );
    for directory in search_path(&process.env).split(|byte| *byte == b':') {
        // An empty or relative entry means the working directory, which the image controls: never searched.
        if !directory.starts_with(b"/") {
            continue;
        }
        let Ok(candidate) = CString::new([directory, b"/", program.to_bytes()].concat()) else {
            continue;
        };
        let errno = sys::exec::execve(&candidate, &args, &env);
        match errno {
            Errno::NOENT if !exists(&candidate) => {}
            Errno::NOTDIR => {}
            // Go on searching, but remember that there was something.
            Errno::ACCESS if verdict.errno == libc::ENOENT => verdict = diagnose(&candidate, errno),
            Errno::ACCESS => {}
            _ => return diagnose(&candidate, errno),
        }
    }
    verdict
}

fn search_path(env: &[ProcessString]) -> &[u8] {
    env.iter()
        .find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH)
}

fn exists(path: &CStr) -> bool {
    rustix::fs::stat(path).is_ok()
}

/// Tells apart what `execve` reports under one number.
fn diagnose(path: &CStr, errno: Errno) -> SetupFailure {
    let (step, errno) = match errno {
        Errno::NOENT if exists(path) => (Step::ExecInterpreter, errno),
        Errno::ACCESS => match rustix::fs::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Directory) => (Step::Exec, Errno::ISDIR),
            _ if on_noexec(path) => (Step::ExecNoexec, errno),
            _ => (Step::Exec, errno),
        },
        Errno::NOEXEC => match elf_machine(path) {
            Some(machine) if machine != MACHINE => (Step::ExecArchitecture, errno),
            _ => (Step::ExecFormat, errno),
        },
        _ => (Step::Exec, errno),
    };
    failure(step, Some(path.to_string_lossy().into_owned()), errno)
}

fn on_noexec(path: &CStr) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// The machine that an ELF file is for (`e_machine` of elf(5)).
fn elf_machine(path: &CStr) -> Option<u16> {
    let mut header = [0; 20];
    std::fs::File::open(OsStr::from_bytes(path.to_bytes()))
        .ok()?
        .read_exact(&mut header)
        .ok()?;
    let machine = [header[18], header[19]];
    match (&header[..4], header[5]) {
        (b"\x7fELF", 1) => Some(u16::from_le_bytes(machine)),
        (b"\x7fELF", 2) => Some(u16::from_be_bytes(machine)),
        _ => None,
    }
}
