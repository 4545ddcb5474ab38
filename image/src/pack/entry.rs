//! Tar entries as they are written here: ustar headers, and PAX records for what those cannot hold
//! (POSIX.1-2001, pax Interchange Format; extended attributes as `SCHILY.xattr.*`).

use std::io::{self, Write};

const BLOCK: usize = 512;
const NAME: usize = 100;
/// Eleven octal digits.
const LARGEST_SIZE: u64 = (1 << 33) - 1;
/// Seven octal digits.
const LARGEST_ID: u32 = (1 << 21) - 1;

/// Name and value of an extended attribute.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// What an entry is.
pub(super) enum Kind<'a> {
    /// So many bytes follow.
    File(u64),
    Directory,
    Symlink(&'a [u8]),
    HardLink(&'a [u8]),
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// What all entries have.
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, and nanoseconds from there on.
    pub(super) modified: (i64, u32),
    pub(super) xattrs: Vec<Xattr>,
}

/// Writes the header of an entry, and before it what does not fit in.
pub(super) fn header(
    output: &mut impl Write,
    path: &[u8],
    attributes: &Attributes,
    kind: &Kind<'_>,
) -> io::Result<()> {
    let records = records(path, attributes, kind);
    if !records.is_empty() {
        let size = records.len() as u64;
        output.write_all(&block(b"pax", 0o644, 0, 0, 0, b'x', size))?;
        output.write_all(&records)?;
        pad(output, size)?;
    }
    let (flag, link, size) = match kind {
        Kind::File(size) => (b'0', &b""[..], *size),
        Kind::HardLink(target) => (b'1', *target, 0),
        Kind::Symlink(target) => (b'2', *target, 0),
        Kind::CharacterDevice { .. } => (b'3', &b""[..], 0),
        Kind::BlockDevice { .. } => (b'4', &b""[..], 0),
        Kind::Directory => (b'5', &b""[..], 0),
        Kind::Fifo => (b'6', &b""[..], 0),
    };
    let modified = u64::try_from(attributes.modified.0)
        .unwrap_or(0)
        .min(LARGEST_SIZE);
    let (uid, gid) = (attributes.uid.min(LARGEST_ID), attributes.gid.min(LARGEST_ID));
    let mut block = block(
        path,
        attributes.mode,
        uid,
        gid,
        modified,
        flag,
        size.min(LARGEST_SIZE),
    );
    copy(&mut block[157..257], link);
    if let Kind::CharacterDevice { major, minor } | Kind::BlockDevice { major, minor } = kind {
        octal(&mut block[329..337], u64::from(*major));
        octal(&mut block[337..345], u64::from(*minor));
    }
    checksum(&mut block);
    output.write_all(&block)
}

/// Fills the last block of a content of `size` bytes.
pub(super) fn pad(output: &mut impl Write, size: u64) -> io::Result<()> {
    let padding = (size.wrapping_neg() % BLOCK as u64) as usize;
    output.write_all(&[0; BLOCK][..padding])
}

/// Two empty blocks.
pub(super) fn end(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&[0; 2 * BLOCK])
}

fn records(path: &[u8], attributes: &Attributes, kind: &Kind<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    if path.len() > NAME {
        record(&mut records, b"path", path);
    }
    match kind {
        Kind::Symlink(target) | Kind::HardLink(target) if target.len() > NAME => {
            record(&mut records, b"linkpath", target);
        }
        Kind::File(size) if *size > LARGEST_SIZE => {
            record(&mut records, b"size", size.to_string().as_bytes());
        }
        _ => {}
    }
    for (key, id) in [(&b"uid"[..], attributes.uid), (b"gid", attributes.gid)] {
        if id > LARGEST_ID {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    let (seconds, nanoseconds) = attributes.modified;
    if nanoseconds != 0 || !(0..=LARGEST_SIZE.cast_signed()).contains(&seconds) {
        record(&mut records, b"mtime", timestamp(seconds, nanoseconds).as_bytes());
    }
    for (name, value) in &attributes.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    records
}

/// Decimal; before 1970 the fraction counts downwards as the seconds do.
fn timestamp(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (
        total.unsigned_abs() / 1_000_000_000,
        total.unsigned_abs() % 1_000_000_000,
    );
    format!("{sign}{whole}.{fraction:09}")
}

/// `<length> <key>=<value>\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

fn block(path: &[u8], mode: u32, uid: u32, gid: u32, modified: u64, flag: u8, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    copy(&mut block[..NAME], path);
    octal(&mut block[100..108], u64::from(mode & 0o7777));
    octal(&mut block[108..116], u64::from(uid));
    octal(&mut block[116..124], u64::from(gid));
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], modified);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    checksum(&mut block);
    block
}

fn checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn copy(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

fn octal(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    copy(field, format!("{number:0digits$o}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for length in (0..120).chain(980..1010) {
            let mut records = Vec::new();
            record(&mut records, b"key", &vec![b'\n'; length]);
            let digits: Vec<u8> = records.iter().copied().take_while(u8::is_ascii_digit).collect();
            let told: usize = String::from_utf8(digits).unwrap().parse().unwrap();
            assert_eq!(told, records.len(), "a value of {length} bytes");
        }
    }

    #[test]
    fn times_are_decimal_on_both_sides_of_1970() {
        assert_eq!(timestamp(1, 5), "1.000000005");
        assert_eq!(timestamp(-2, 500_000_000), "-1.500000000");
        assert_eq!(timestamp(-1, 999_999_999), "-0.000000001");
    }
}
