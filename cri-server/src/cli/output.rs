//! Results on stdout: text for people, JSON for programs.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::{CliError, Result};

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// For people; may change.
    Text,
    /// For programs: one document, kept compatible.
    Json,
}

/// Writes to stdout at once.
pub(super) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(stdout_error)
}

/// Writes one indented document.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(CliError::Report)?;
    text.push('\n');
    print(&text)
}

pub(super) fn stdout_error(source: std::io::Error) -> CliError {
    CliError::File {
        name: "standard output".into(),
        source,
    }
}

/// Columns wide enough for what they hold, two blanks between them.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// `850ms`, `42s`, `7m`, `3h`, `12d`: one unit, as kubectl does.
pub(super) fn age(age: Duration) -> String {
    match age.as_secs() {
        0 => format!("{}ms", age.as_millis()),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `512 B`, `3.4 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    format!("{amount:.1} {unit}")
}

/// The first twelve digits of an id, without its `sha256:`.
pub(super) fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_with_their_text() {
        let rows = [
            vec!["a".into(), "long cell".into(), String::new()],
            vec!["bcd".into(), "x".into(), "y".into()],
        ];
        assert_eq!(
            table(&["ID", "NAME", "Z"], &rows),
            "ID   NAME       Z\na    long cell\nbcd  x          y\n"
        );
    }

    #[test]
    fn ages_and_sizes_have_one_unit() {
        for (milliseconds, text) in [
            (850, "850ms"),
            (42_000, "42s"),
            (119_999, "119s"),
            (7_199_000, "119m"),
            (180_000_000, "2d"),
        ] {
            assert_eq!(age(Duration::from_millis(milliseconds)), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (3_565_158, "3.4 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("short"), "short");
    }
}
