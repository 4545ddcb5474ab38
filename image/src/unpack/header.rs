//! One 512-byte tar header: fixed offsets and two ways to write a number (POSIX.1-1988 ustar,
//! GNU tar).

use super::tar::TarError;

pub(super) const BLOCK: usize = 512;

/// A header block whose checksum is right.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// # Errors
    /// The checksum does not fit: damage, or no tar at all.
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self, TarError> {
        let header = Self(block);
        let wanted = number(&block[148..156], "checksum")?;
        let outside = block[..148].iter().chain(&block[156..]);
        // The field itself counts as spaces. Some old writers summed signed bytes.
        let unsigned = outside.clone().map(|b| i64::from(*b)).sum::<i64>() + 8 * 32;
        let signed = outside.map(|b| i64::from(b.cast_signed())).sum::<i64>() + 8 * 32;
        if wanted == unsigned || wanted == signed {
            Ok(header)
        } else {
            Err(TarError::Checksum)
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        u64::try_from(number(&self.0[124..136], "size")?).map_err(|_| TarError::Number { field: "size" })
    }

    pub(super) fn mode(&self) -> Result<u32, TarError> {
        // Old writers keep the file type in the upper bits.
        Ok((number(&self.0[100..108], "mode")? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u32, TarError> {
        id(number(&self.0[108..116], "uid")?, "uid")
    }

    pub(super) fn gid(&self) -> Result<u32, TarError> {
        id(number(&self.0[116..124], "gid")?, "gid")
    }

    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        number(&self.0[136..148], "mtime")
    }

    pub(super) fn device(&self) -> Result<(u32, u32), TarError> {
        let part = |range: std::ops::Range<usize>| {
            u32::try_from(number(&self.0[range], "device")?).map_err(|_| TarError::Number { field: "device" })
        };
        Ok((part(329..337)?, part(337..345)?))
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    /// The name; POSIX headers have a prefix, GNU's use that space for times.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if &self.0[257..263] == b"ustar\0" {
            text(&self.0[345..500])
        } else {
            b""
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    /// The sparse map of an old GNU header.
    pub(super) fn gnu_sparse(&self) -> Result<GnuSparse, TarError> {
        let size = number(&self.0[483..495], "real size")?;
        let size = u64::try_from(size).map_err(|_| TarError::Number { field: "real size" })?;
        Ok(GnuSparse {
            pairs: sparse_pairs(&self.0[386..482])?,
            size,
            more: self.0[482] != 0,
        })
    }
}

/// What an old GNU header says of a sparse file.
pub(super) struct GnuSparse {
    /// Its first four segments, as offset and length.
    pub(super) pairs: Vec<(u64, u64)>,
    /// Its real size.
    pub(super) size: u64,
    /// Further blocks of segments follow the header.
    pub(super) more: bool,
}

/// `(offset, length)` pairs of 12 bytes each; an empty one ends the list.
pub(super) fn sparse_pairs(bytes: &[u8]) -> Result<Vec<(u64, u64)>, TarError> {
    let mut pairs = Vec::new();
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let half = |half: &[u8]| u64::try_from(number(half, "sparse map")?).map_err(|_| TarError::SparseMap);
        pairs.push((half(&pair[..12])?, half(&pair[12..])?));
    }
    Ok(pairs)
}

pub(super) fn id(value: i64, field: &'static str) -> Result<u32, TarError> {
    // The kernel's (uid_t)-1 means "leave as it is".
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or(TarError::Number { field })
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal digits padded with spaces or NULs, or (high bit set) a big-endian two's complement.
fn number(field: &[u8], name: &'static str) -> Result<i64, TarError> {
    let wrong = || TarError::Number { field: name };
    let first = field[0];
    if first & 0x80 != 0 {
        // 0x80 starts a positive number, 0xff a negative one.
        let mut value: i64 = if first & 0x40 != 0 { -1 } else { 0 };
        let high = if first & 0x40 != 0 { first } else { first & 0x7f };
        for byte in std::iter::once(high).chain(field[1..].iter().copied()) {
            value = value.checked_mul(256).ok_or_else(wrong)?;
            value |= i64::from(byte);
        }
        return Ok(value);
    }
    let digits = field.iter().skip_while(|b| **b == b' ' || **b == 0);
    let mut value: i64 = 0;
    let mut ended = false;
    for byte in digits {
        match byte {
            b'0'..=b'7' if !ended => {
                value = value.checked_mul(8).ok_or_else(wrong)? + i64::from(byte - b'0');
            }
            b' ' | 0 => ended = true,
            _ => return Err(wrong()),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_octal_and_binary_numbers() {
        assert_eq!(number(b"0000644\0", "n").unwrap(), 0o644);
        assert_eq!(number(b"  644 \0\0", "n").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0", "n").unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\x02\0\0", "n").unwrap(), 0x20000);
        assert_eq!(
            number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", "n").unwrap(),
            -2
        );
        assert!(number(b"12x4567\0", "n").is_err());
        assert!(number(b"12 4567\0", "n").is_err());
        assert!(number(b"-1\0\0\0\0\0\0", "n").is_err());
        assert!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "n").is_err());
    }
}
