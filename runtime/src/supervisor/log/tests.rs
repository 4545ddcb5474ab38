//! The writer as a whole: pipes in, files out.

use std::fs::File;
use std::io::{PipeWriter, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::line::tests::parse;
use super::slot::{Buffers, Pumped};
use super::{LogFile, LogPump, LogSlot, Report, Source, StreamName};
use crate::sys::memfd;

const STDOUT: StreamName = StreamName::Stdout;

/// A container's end of a pipe, and ours as a source.
fn stream(name: StreamName) -> (PipeWriter, Source) {
    let (ours, child) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&ours, true).unwrap();
    (child, Source::new(name, Some(OwnedFd::from(ours))))
}

fn slot(key: u32, stdout: Source, stderr: Source, file: Option<&File>) -> Box<LogSlot> {
    let file = file.map(|file| OwnedFd::from(file.try_clone().unwrap()));
    Box::new(LogSlot::new(key, stdout, stderr, LogFile::new(file)))
}

fn silent() -> Source {
    Source::new(StreamName::Stderr, None)
}

/// A file to append to, as the daemon opens it.
fn log_file() -> File {
    let file = memfd::scratch(c"log").unwrap();
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND).unwrap();
    file
}

fn content(file: &File) -> Vec<u8> {
    let mut file = file.try_clone().unwrap();
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn next_report(pump: &mut LogPump) -> Report {
    loop {
        if let Some(report) = pump.next_report() {
            return report;
        }
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            pump.bell(),
            rustix::event::PollFlags::IN,
        )];
        let limit = rustix::time::Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(
            rustix::event::poll(&mut fds, Some(&limit)).unwrap(),
            1,
            "no report in ten seconds"
        );
        pump.hush();
    }
}

fn finished(pump: &mut LogPump) -> Box<LogSlot> {
    match next_report(pump) {
        Report::Finished(slot) => slot,
        other => panic!("{other:?}"),
    }
}

/// A directory on a tmpfs of so many bytes that is mounted nowhere.
fn small_disk(bytes: u64) -> OwnedFd {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "size", bytes.to_string()).unwrap();
    fsconfig_create(&context).unwrap();
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

fn create(directory: &OwnedFd, name: &str) -> File {
    let flags = OFlags::CREATE | OFlags::APPEND | OFlags::RDWR | OFlags::CLOEXEC;
    File::from(openat(directory, name, flags, Mode::RUSR | Mode::WUSR).unwrap())
}

#[test]
fn two_containers_with_two_streams_each_keep_apart() {
    let mut pump = LogPump::new().unwrap();
    pump.ensure_running().unwrap();
    let files = [log_file(), log_file()];
    let mut writers = Vec::new();
    for (key, file) in (1..).zip(&files) {
        let (out, stdout) = stream(STDOUT);
        let (err, stderr) = stream(StreamName::Stderr);
        pump.open(slot(key, stdout, stderr, Some(file)));
        writers.push((key, out, err));
    }
    for (key, out, err) in &mut writers {
        writeln!(out, "out of {key}").unwrap();
        writeln!(err, "err of {key}").unwrap();
        write!(out, "tail of {key}").unwrap();
    }
    for key in 1..=2 {
        pump.finish(key);
        assert_eq!(finished(&mut pump).key, key);
    }
    for (key, file) in (1..).zip(&files) {
        let log = content(file);
        assert_eq!(
            parse(&log, "stdout"),
            format!("out of {key}\ntail of {key}").as_bytes()
        );
        assert_eq!(parse(&log, "stderr"), format!("err of {key}\n").as_bytes());
    }
    drop(writers);
}

#[test]
fn an_exit_takes_the_last_bytes_along_though_somebody_holds_the_pipe() {
    let mut pump = LogPump::new().unwrap();
    pump.ensure_running().unwrap();
    let file = log_file();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(7, stdout, silent(), Some(&file)));
    let text = vec![b'x'; 60_000];
    out.write_all(&text).unwrap();
    pump.finish(7);
    finished(&mut pump);
    assert_eq!(parse(&content(&file), "stdout"), text);
    // The read end is closed: who writes on gets EPIPE, not a full pipe.
    assert!(out.write_all(b"late").is_err());
}

#[test]
fn whoever_writes_without_end_does_not_hold_up_an_exit() {
    let mut pump = LogPump::new().unwrap();
    pump.ensure_running().unwrap();
    let file = File::options().append(true).open("/dev/null").unwrap();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(1, stdout, silent(), Some(&file)));
    let flood = std::thread::spawn(move || while out.write_all(&[b'y'; 65_536]).is_ok() {});
    let asked = Instant::now();
    pump.finish(1);
    finished(&mut pump);
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    flood.join().unwrap();
}

#[test]
fn reopening_under_load_loses_and_tears_nothing() {
    const LINES: usize = 200_000;
    const FILES: usize = 12;
    let mut pump = LogPump::new().unwrap();
    pump.ensure_running().unwrap();
    let (mut out, stdout) = stream(STDOUT);
    let mut files = vec![log_file()];
    pump.open(slot(1, stdout, silent(), Some(&files[0])));
    let writer = std::thread::spawn(move || {
        let mut batch = Vec::new();
        for line in 0..LINES {
            writeln!(batch, "line {line} {}", "x".repeat(line % 90)).unwrap();
            if batch.len() > 1000 {
                out.write_all(&batch).unwrap();
                batch.clear();
            }
        }
        out.write_all(&batch).unwrap();
    });
    while files.len() < FILES {
        // The next file comes when the last one has got something.
        if !content(&files[files.len() - 1]).is_empty() {
            let next = log_file();
            pump.reopen(1, next.try_clone().unwrap().into());
            files.push(next);
        }
    }
    writer.join().unwrap();
    pump.finish(1);
    finished(&mut pump);
    let all: Vec<u8> = files
        .iter()
        .flat_map(|file| parse(&content(file), "stdout"))
        .collect();
    let mut expected = Vec::new();
    for line in 0..LINES {
        writeln!(expected, "line {line} {}", "x".repeat(line % 90)).unwrap();
    }
    assert!(all == expected, "{} bytes of {}", all.len(), expected.len());
}

#[test]
fn a_full_disk_loses_whole_records_says_so_once_and_goes_on_in_the_next_file() {
    let disk = small_disk(256 * 1024);
    let file = create(&disk, "log");
    let mut pump = LogPump::new().unwrap();
    pump.ensure_running().unwrap();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(3, stdout, silent(), Some(&file)));
    let mut written = Vec::new();
    for line in 0..8000 {
        writeln!(written, "line {line} {}", "z".repeat(100)).unwrap();
    }
    out.write_all(&written).unwrap();
    let fault = next_report(&mut pump);
    assert!(
        matches!(
            fault,
            Report::Fault {
                key: 3,
                errno: libc::ENOSPC
            }
        ),
        "{fault:?}"
    );
    let elsewhere = log_file();
    pump.reopen(3, elsewhere.try_clone().unwrap().into());
    // What the full disk had to take is gone from the pipe before this line comes.
    while !content(&elsewhere).ends_with(b"after\n") {
        out.write_all(b"after\n").unwrap();
    }
    pump.finish(3);
    let slot = finished(&mut pump);
    let kept = content(&file);
    // Whole lines in their order; what came when there was a little room again may follow a gap, and some of the
    // lines after the flood may have come before the next file took over.
    let after = std::iter::repeat_n(&b"after\n"[..], 100_000);
    let mut rest = written.split_inclusive(|c| *c == b'\n').chain(after);
    for line in parse(&kept, "stdout").split_inclusive(|c| *c == b'\n') {
        assert!(
            rest.any(|other| other == line),
            "{}",
            String::from_utf8_lossy(line)
        );
    }
    assert!(
        kept.len() > 100_000 && slot.file.lost() > 100_000,
        "{} {}",
        kept.len(),
        slot.file.lost()
    );
}

#[test]
fn a_container_without_a_log_file_is_drained() {
    let mut pump = LogPump::new().unwrap();
    pump.ensure_running().unwrap();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(1, stdout, silent(), None));
    out.write_all(&vec![b'x'; 1 << 20]).unwrap();
    pump.finish(1);
    assert_eq!(finished(&mut pump).file.lost(), 0);
}

#[test]
fn a_suspended_writer_gives_back_the_line_it_holds() {
    let mut pump = LogPump::new().unwrap();
    pump.ensure_running().unwrap();
    let file = log_file();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(1, stdout, silent(), Some(&file)));
    out.write_all(b"whole\nhalf").unwrap();
    while content(&file).is_empty() {
        std::thread::yield_now();
    }
    pump.suspend();
    let Report::Surrendered(surrendered) = next_report(&mut pump) else {
        panic!("no slot")
    };
    assert!(matches!(next_report(&mut pump), Report::Suspended));
    assert!(!pump.is_running());
    assert_eq!(surrendered.source(STDOUT).parts().1, b"half");
    out.write_all(b" and half\n").unwrap();
    pump.ensure_running().unwrap();
    pump.open(surrendered);
    pump.finish(1);
    finished(&mut pump);
    assert_eq!(parse(&content(&file), "stdout"), b"whole\nhalf and half\n");
}

/// What happens to one stream.
#[derive(Clone, Debug)]
enum Step {
    /// Bytes, all the same but for the line ends in them.
    Write {
        length: usize,
        line_every: usize,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (1..60_000usize, prop_oneof![1..300usize, 1..40_000usize])
        .prop_map(|(length, line_every)| Step::Write { length, line_every });
    proptest::collection::vec(prop_oneof![4 => write, 1 => Just(Step::Reopen)], 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_files_together_hold_what_was_written(steps in steps()) {
        let (mut out, stdout) = stream(STDOUT);
        let mut files = vec![log_file()];
        let mut slot = slot(1, stdout, silent(), Some(&files[0]));
        let mut buffers = Buffers::new();
        let mut written = Vec::new();
        for step in steps {
            match step {
                Step::Write { length, line_every } => {
                    let bytes: Vec<u8> =
                        (1..=length).map(|i| if i % line_every == 0 { b'\n' } else { b'a' }).collect();
                    out.write_all(&bytes).unwrap();
                    written.extend(bytes);
                    while slot.pump(STDOUT, &mut buffers) == Pumped::Bytes {}
                }
                Step::Reopen => {
                    files.push(log_file());
                    slot.file.succeed_by(files[files.len() - 1].try_clone().unwrap().into());
                    slot.pass_on();
                }
            }
        }
        drop(out);
        prop_assert_eq!(slot.pump(STDOUT, &mut buffers), Pumped::Ended);
        slot.end(STDOUT, &mut buffers);
        let mut read = Vec::new();
        for file in &files {
            read.extend(parse(&content(file), "stdout"));
        }
        prop_assert!(read == written);
    }
}
