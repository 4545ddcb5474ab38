//! Whatever a container writes, and however it comes, is read back from its logs as it was written.
//!
//! For a fuzzer; its seeds, `fuzz/corpus/log_encoder`, are replayed by every test run.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;

use super::slot::{Flushed, Pumped};
use super::{LogFile, LogSlot, Source, StreamName};

/// Length of a record's stamp, stream name, tag, and the spaces between.
const PREFIX: usize = 40;

/// What a reader of a log makes of it: the stream's bytes.
///
/// # Panics
/// At a record that is not whole.
pub(super) fn parse(log: &[u8], stream: &str) -> Vec<u8> {
    let mut content = Vec::new();
    for record in log.split_inclusive(|c| *c == b'\n') {
        let (record, end) = record.split_at(record.len() - 1);
        assert_eq!(end, b"\n", "torn record at the end");
        let (prefix, line) = record.split_at(PREFIX);
        let prefix = std::str::from_utf8(prefix).expect("a prefix of text");
        let fields: Vec<&str> = prefix.split(' ').collect();
        assert!(matches!(fields[..], [stamp, "stdout" | "stderr", "F" | "P", ""] if stamp.len() == 30));
        assert!(line.len() <= super::line::PIECE);
        if fields[1] == stream {
            content.extend(line);
            content.extend((fields[2] == "F").then_some(b'\n'));
        }
    }
    content
}

/// The first byte says after how many writes the log is reopened, the second how long a write is; the rest is written.
///
/// # Panics
/// When the logs do not hold what was written, or hold a record that is not whole.
pub(crate) fn replay(input: &[u8]) {
    let [every, length, data @ ..] = input else { return };
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&reader, true).expect("a pipe that does not wait");
    let stdout = Source::new(StreamName::Stdout, Some(OwnedFd::from(reader)));
    let mut files = vec![memory()];
    let log = LogFile::new(Some(share(&files[0])));
    let mut slot = LogSlot::new(1, stdout, Source::new(StreamName::Stderr, None), log);
    // At most what a pipe holds.
    for (number, chunk) in (1..).zip(data.chunks(1 + 257 * usize::from(*length))) {
        writer.write_all(chunk).expect("room in the pipe");
        while let Pumped::Bytes(_) = slot.read(StreamName::Stdout) {
            assert_eq!(slot.flush(), Flushed::All);
        }
        if number % (1 + usize::from(*every)) == 0 {
            files.push(memory());
            slot.file.succeed_by(share(&files[files.len() - 1]));
        }
    }
    drop(writer);
    assert_eq!(slot.read(StreamName::Stdout), Pumped::Ended);
    slot.end(StreamName::Stdout);
    assert_eq!(slot.flush(), Flushed::All);
    let mut read = Vec::new();
    for mut file in files {
        let mut log = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut log))
            .expect("a log");
        read.extend(parse(&log, "stdout"));
    }
    assert!(read == data, "{} bytes read of {}", read.len(), data.len());
}

fn memory() -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    File::from(rustix::fs::memfd_create(c"log", flags).expect("a file in memory"))
}

fn share(file: &File) -> OwnedFd {
    file.try_clone().expect("a descriptor").into()
}

#[test]
fn the_corpus_is_read_back() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/log_encoder");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        let path = entry.expect("an entry").path();
        eprintln!("{}", path.display());
        replay(&std::fs::read(path).expect("a seed"));
        replayed += 1;
    }
    assert!(replayed >= 8);
}
