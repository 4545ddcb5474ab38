//! CRI log files, read strictly: `<RFC3339Nano> stdout|stderr F|P <bytes>\n`.

use std::fs;
use std::path::Path;

/// One line of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The time as written.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the application's line goes on in the next one.
    pub partial: bool,
    /// The application's bytes, without the newline.
    pub content: Vec<u8>,
}

/// Reads a log; nothing when there is no file yet.
///
/// # Panics
/// When a line does not have the format, or the file ends within one.
pub fn read(path: &Path) -> Vec<Line> {
    let Ok(bytes) = fs::read(path) else {
        return Vec::new();
    };
    parse(&bytes)
}

/// Splits a log's bytes into lines.
///
/// # Panics
/// As [`read`].
pub fn parse(bytes: &[u8]) -> Vec<Line> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let body = bytes.strip_suffix(b"\n").expect("a log ends with a whole line");
    body.split(|byte| *byte == b'\n').map(line).collect()
}

fn line(bytes: &[u8]) -> Line {
    let shown = String::from_utf8_lossy(bytes);
    let mut fields = bytes.splitn(4, |byte| *byte == b' ');
    let mut next = || {
        let field = fields
            .next()
            .unwrap_or_else(|| panic!("a log line has four fields: {shown:?}"));
        String::from_utf8_lossy(field).into_owned()
    };
    let (time, stream, tag) = (next(), next(), next());
    let content = fields
        .next()
        .unwrap_or_else(|| panic!("a log line has four fields: {shown:?}"))
        .to_vec();
    assert!(is_time(&time), "RFC 3339 with nanoseconds: {shown:?}");
    assert!(
        stream == "stdout" || stream == "stderr",
        "a stream's name: {shown:?}"
    );
    let partial = match tag.as_str() {
        "F" => false,
        "P" => true,
        _ => panic!("a tag F or P: {shown:?}"),
    };
    Line {
        time,
        stream,
        partial,
        content,
    }
}

/// `2026-11-20T18:05:00.123456789Z` or with an offset; what kubelet's parser accepts.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20
        && bytes[..19]
            .iter()
            .zip(b"dddd-dd-ddTdd:dd:dd")
            .all(|(byte, shape)| match shape {
                b'd' => byte.is_ascii_digit(),
                other => byte == other,
            })
        && (text.ends_with('Z') || text[19..].contains(['+', '-']))
}

/// What one stream's application wrote: contents joined, a newline after each full line.
pub fn stream(lines: &[Line], name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines.iter().filter(|line| line.stream == name) {
        bytes.extend_from_slice(&line.content);
        if !line.partial {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// What the application wrote to stdout, as text.
pub fn stdout(path: &Path) -> String {
    String::from_utf8_lossy(&stream(&read(path), "stdout")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{parse, stream};

    #[test]
    fn lines_are_joined_again() {
        let log = b"2026-11-20T18:05:00.123456789Z stdout P one \n2026-11-20T18:05:00.2Z stderr F oops\n\
                    2026-11-20T18:05:00.3+01:00 stdout F two\n";
        let lines = parse(log);
        assert_eq!(lines.len(), 3);
        assert_eq!(stream(&lines, "stdout"), b"one two\n");
        assert_eq!(stream(&lines, "stderr"), b"oops\n");
    }

    #[test]
    #[should_panic(expected = "whole line")]
    fn a_torn_line_is_found() {
        parse(b"2026-11-20T18:05:00.123456789Z stdout F on");
    }

    #[test]
    #[should_panic(expected = "four fields")]
    fn a_short_line_is_found() {
        parse(b"2026-11-20T18:05:00.123456789Z stdout\n");
    }
}
