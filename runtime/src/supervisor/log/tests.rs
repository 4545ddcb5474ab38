//! The writer as a whole: pipes in, files out.

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::replay::parse;
use super::slot::{Flushed, Pumped};
use super::{LogFile, LogPump, LogSlot, Report, Source, StreamName};
use crate::sys::memfd;

const STDOUT: StreamName = StreamName::Stdout;
/// How long anything may take that takes milliseconds: long enough for a machine that is emulated and loaded.
const LIMIT: Duration = Duration::from_secs(180);

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

/// By position: the offset is the writer's as well, who moves it with each record.
fn content(file: &File) -> Vec<u8> {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match file.read_at(&mut chunk, bytes.len() as u64).unwrap() {
            0 => return bytes,
            length => bytes.extend(&chunk[..length]),
        }
    }
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
            tv_sec: LIMIT.as_secs() as i64,
            tv_nsec: 0,
        };
        assert_eq!(
            rustix::event::poll(&mut fds, Some(&limit)).unwrap(),
            1,
            "waited in vain for a report"
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
    let files = [log_file(), log_file()];
    let mut writers = Vec::new();
    for (key, file) in (1..).zip(&files) {
        let (out, stdout) = stream(STDOUT);
        let (err, stderr) = stream(StreamName::Stderr);
        pump.open(slot(key, stdout, stderr, Some(file))).unwrap();
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
    let file = log_file();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(7, stdout, silent(), Some(&file))).unwrap();
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
    let file = File::options().append(true).open("/dev/null").unwrap();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(1, stdout, silent(), Some(&file))).unwrap();
    let flood = std::thread::spawn(move || while out.write_all(&[b'y'; 65_536]).is_ok() {});
    pump.finish(1);
    finished(&mut pump);
    flood.join().unwrap();
}

#[test]
fn reopening_under_load_loses_and_tears_nothing() {
    const FILES: usize = 12;
    // What memory takes, should a file be waited for in vain.
    const LINES_MAX: usize = 2_000_000;
    let line = |number: usize| format!("line {number} {}\n", "x".repeat(number % 90));
    let mut pump = LogPump::new().unwrap();
    let (mut out, stdout) = stream(STDOUT);
    let mut files = vec![log_file()];
    pump.open(slot(1, stdout, silent(), Some(&files[0]))).unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&enough);
    // Writes until told; gives back how many lines.
    let writer = std::thread::spawn(move || {
        let (mut batch, mut lines) = (String::new(), 0);
        while !told.load(Relaxed) && lines < LINES_MAX {
            while batch.len() <= 1000 {
                batch.push_str(&line(lines));
                lines += 1;
            }
            out.write_all(batch.as_bytes()).unwrap();
            batch.clear();
        }
        lines
    });
    // The next file comes when the last one has got something.
    loop {
        let last = &files[files.len() - 1];
        await_that(|| last.metadata().unwrap().len() > 0);
        if files.len() == FILES {
            break;
        }
        let next = log_file();
        pump.reopen(1, next.try_clone().unwrap().into());
        files.push(next);
    }
    enough.store(true, Relaxed);
    let lines = writer.join().unwrap();
    pump.finish(1);
    finished(&mut pump);
    let all: Vec<u8> = files
        .iter()
        .flat_map(|file| parse(&content(file), "stdout"))
        .collect();
    let expected: String = (0..lines).map(line).collect();
    assert!(
        all == expected.as_bytes(),
        "{} bytes of {}",
        all.len(),
        expected.len()
    );
}

/// Takes all the room that a disk has, until it is truncated.
fn fill(disk: &OwnedFd) -> File {
    let mut filler = create(disk, "filler");
    while filler.write(&[b'f'; 4096]).is_ok_and(|written| written > 0) {}
    filler
}

#[test]
fn a_full_disk_holds_its_container_says_so_once_and_loses_nothing() {
    let disk = small_disk(4 << 20);
    let file = create(&disk, "log");
    let mut pump = LogPump::new().unwrap();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(3, stdout, silent(), Some(&file))).unwrap();
    // More than a wide pipe holds, and the writer's hands.
    let mut written = Vec::new();
    for line in 0..10_000 {
        writeln!(written, "line {line} {}", "z".repeat(100)).unwrap();
    }
    let flood = written.clone();
    let filler = fill(&disk);
    let writer = std::thread::spawn(move || out.write_all(&flood).unwrap());
    let fault = next_report(&mut pump);
    let no_space = |report: &Report| {
        matches!(
            report,
            Report::Fault {
                key: 3,
                errno: libc::ENOSPC
            }
        )
    };
    assert!(no_space(&fault), "{fault:?}");
    // A little room at a time: each time the file grows by more than half of it, and ends with a whole record. What it ends
    // with while it is written to does not count: a record that finds no room is there for a moment, and cut.
    let mut kept = 0;
    for room in [4_000_000, 3_800_000] {
        filler.set_len(room).unwrap();
        let mut log = Vec::new();
        await_that(|| {
            log = content(&file);
            log.len() > kept + 100_000 && log.ends_with(b"\n")
        });
        kept = log.len();
        let parsed = parse(&log, "stdout");
        assert!(written.starts_with(&parsed) && parsed.len() < written.len());
        assert!(!writer.is_finished(), "the container waits");
    }
    filler.set_len(0).unwrap();
    writer.join().unwrap();
    pump.finish(3);
    let slot = finished(&mut pump);
    assert!(parse(&content(&file), "stdout") == written);
    assert_eq!(slot.file.lost(), 0);
}

#[test]
fn a_full_disk_is_left_for_the_next_file_at_once() {
    let disk = small_disk(256 * 1024);
    let file = create(&disk, "log");
    let _filler = fill(&disk);
    let mut pump = LogPump::new().unwrap();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(3, stdout, silent(), Some(&file))).unwrap();
    out.write_all(b"one\ntwo\nthr").unwrap();
    assert!(matches!(next_report(&mut pump), Report::Fault { key: 3, .. }));
    let elsewhere = log_file();
    pump.reopen(3, elsewhere.try_clone().unwrap().into());
    await_that(|| content(&elsewhere).ends_with(b"two\n"));
    out.write_all(b"ee\n").unwrap();
    pump.finish(3);
    finished(&mut pump);
    assert_eq!(parse(&content(&elsewhere), "stdout"), b"one\ntwo\nthree\n");
    assert!(content(&file).is_empty());
}

#[test]
fn what_never_found_room_is_counted_when_the_container_has_ended() {
    let file = File::options().append(true).open("/dev/full").unwrap();
    let mut pump = LogPump::new().unwrap();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(5, stdout, silent(), Some(&file))).unwrap();
    out.write_all(b"one\ntwo").unwrap();
    assert!(matches!(next_report(&mut pump), Report::Fault { key: 5, .. }));
    pump.finish(5);
    let slot = finished(&mut pump);
    // A record of four bytes and its prefix, and the tail that was held back.
    assert_eq!(slot.file.lost(), 30 + 10 + 4 + 3);
}

/// A log whose writer sleeps in the kernel as on a frozen disk: a pipe that is full, and whoever reads it thaws it.
fn frozen() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'i'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (File::from(OwnedFd::from(reader)), writer.into())
}

#[test]
fn a_write_that_sleeps_parks_its_container_alone() {
    let mut pump = LogPump::new().unwrap();
    let (mut disk, file) = frozen();
    let (mut stuck, stdout) = stream(STDOUT);
    let log = LogFile::new(Some(file));
    pump.open(Box::new(LogSlot::new(1, stdout, silent(), log)))
        .unwrap();
    stuck.write_all(b"asleep\n").unwrap();
    let log = log_file();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(2, stdout, silent(), Some(&log))).unwrap();
    out.write_all(b"awake\n").unwrap();
    await_that(|| content(&log).ends_with(b"awake\n"));
    pump.finish(1);
    pump.finish(2);
    assert_eq!(finished(&mut pump).key, 2);
    // Another container gets a writer all the same, and the sleeper's slot comes back when it wakes up.
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(3, stdout, silent(), Some(&log))).unwrap();
    out.write_all(b"later\n").unwrap();
    await_that(|| content(&log).ends_with(b"later\n"));
    assert_eq!(pump.serving(), 2);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        disk.read_to_end(&mut all).unwrap();
        all
    });
    let slot = finished(&mut pump);
    assert_eq!((slot.key, slot.file.lost()), (1, 0));
    drop(slot);
    let written = reader.join().unwrap();
    let ice = written.iter().take_while(|byte| **byte == b'i').count();
    assert_eq!(parse(&written[ice..], "stdout"), b"asleep\n");
}

fn await_that(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::yield_now();
    }
}

#[test]
fn a_container_without_a_log_file_is_drained() {
    let mut pump = LogPump::new().unwrap();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(1, stdout, silent(), None)).unwrap();
    out.write_all(&vec![b'x'; 1 << 20]).unwrap();
    pump.finish(1);
    assert_eq!(finished(&mut pump).file.lost(), 0);
}

#[test]
fn a_writer_gives_back_the_line_it_holds() {
    let mut pump = LogPump::new().unwrap();
    let file = log_file();
    let (mut out, stdout) = stream(STDOUT);
    pump.open(slot(1, stdout, silent(), Some(&file))).unwrap();
    out.write_all(b"whole\nhalf").unwrap();
    await_that(|| !content(&file).is_empty());
    pump.surrender();
    let Report::Surrendered(surrendered) = next_report(&mut pump) else {
        panic!("no slot")
    };
    assert_eq!(pump.serving(), 0);
    assert_eq!(surrendered.source(STDOUT).parts().1, b"half");
    out.write_all(b" and half\n").unwrap();
    pump.open(surrendered).unwrap();
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
        let mut written = Vec::new();
        for step in steps {
            match step {
                Step::Write { length, line_every } => {
                    let bytes: Vec<u8> =
                        (1..=length).map(|i| if i % line_every == 0 { b'\n' } else { b'a' }).collect();
                    out.write_all(&bytes).unwrap();
                    written.extend(bytes);
                    while let Pumped::Bytes(_) = slot.read(STDOUT) {
                        prop_assert_eq!(slot.flush(), Flushed::All);
                    }
                }
                Step::Reopen => {
                    files.push(log_file());
                    slot.file.succeed_by(files[files.len() - 1].try_clone().unwrap().into());
                    prop_assert_eq!(slot.flush(), Flushed::All);
                }
            }
        }
        drop(out);
        prop_assert_eq!(slot.read(STDOUT), Pumped::Ended);
        slot.end(STDOUT);
        prop_assert_eq!(slot.flush(), Flushed::All);
        let mut read = Vec::new();
        for file in &files {
            read.extend(parse(&content(file), "stdout"));
        }
        prop_assert!(read == written);
    }
}
