//! PAX extended headers (POSIX.1-2001): `<length> <key>=<value>\n` records that override the
//! fields of the next header. Anything out of form is fatal: two readers that recover
//! differently see different files.

use super::header;
use super::tar::{TarError, Xattr};

/// What one extended header says about the next entry.
#[derive(Debug, Default, Clone)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: Option<Sparse>,
}

/// The three ways GNU tar writes a sparse file in PAX.
#[derive(Debug, Default, Clone)]
pub(super) struct Sparse {
    /// 1.0: the map is at the head of the data.
    pub(super) map_in_data: bool,
    pub(super) real_size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// 0.0 and 0.1: offsets and lengths in turn.
    pub(super) numbers: Vec<u64>,
}

impl Overrides {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, TarError> {
        let mut overrides = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = record(bytes)?;
            overrides.set(record.key, record.value)?;
            bytes = rest;
        }
        Ok(overrides)
    }

    /// A global header may carry remarks (git writes its commit), but what would move or resize
    /// entries is read differently by different readers.
    pub(super) fn check_global(bytes: &[u8]) -> Result<(), TarError> {
        let global = Self::parse(bytes)?;
        let harmless = global.path.is_none()
            && global.link.is_none()
            && global.size.is_none()
            && global.uid.is_none()
            && global.gid.is_none()
            && global.xattrs.is_empty()
            && global.sparse.is_none();
        if harmless {
            Ok(())
        } else {
            Err(TarError::GlobalOverride)
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link = Some(name(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(id(value, "uid")?),
            b"gid" => self.gid = Some(id(value, "gid")?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    if attribute.is_empty() || attribute.contains(&0) {
                        return Err(TarError::Pax);
                    }
                    self.xattrs.push((attribute.to_vec(), value.to_vec()));
                } else if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.set_sparse(field, value)?;
                }
            }
        }
        Ok(())
    }

    fn set_sparse(&mut self, field: &[u8], value: &[u8]) -> Result<(), TarError> {
        let sparse = self.sparse.get_or_insert_default();
        match field {
            b"major" => sparse.map_in_data = decimal(value)? == 1,
            b"realsize" | b"size" => sparse.real_size = Some(decimal(value)?),
            b"name" => sparse.name = Some(name(value)?),
            b"offset" | b"numbytes" => sparse.numbers.push(decimal(value)?),
            b"map" => {
                for number in value.split(|b| *b == b',') {
                    sparse.numbers.push(decimal(number)?);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

/// Splits off one record.
fn record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), TarError> {
    let space = bytes
        .iter()
        .take(20)
        .position(|b| *b == b' ')
        .ok_or(TarError::Pax)?;
    let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| TarError::Pax)?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return Err(TarError::Pax);
    }
    let pair = &bytes[space + 1..length - 1];
    let equals = pair
        .iter()
        .position(|b| *b == b'=')
        .filter(|at| *at > 0)
        .ok_or(TarError::Pax)?;
    Ok((
        Record {
            key: &pair[..equals],
            value: &pair[equals + 1..],
        },
        &bytes[length..],
    ))
}

fn name(value: &[u8]) -> Result<Vec<u8>, TarError> {
    if value.is_empty() || value.contains(&0) {
        Err(TarError::Pax)
    } else {
        Ok(value.to_vec())
    }
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64, TarError> {
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(TarError::Pax);
    }
    Ok(digits
        .iter()
        .fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

fn id(value: &[u8], field: &'static str) -> Result<u32, TarError> {
    header::id(decimal(value)?.try_into().map_err(|_| TarError::Pax)?, field)
}

/// Seconds with an optional fraction; before 1970 with a sign.
fn time(value: &[u8]) -> Result<(i64, u32), TarError> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let (seconds, fraction) = match digits.iter().position(|b| *b == b'.') {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(TarError::Pax);
    }
    let seconds = i64::try_from(decimal(seconds)?).map_err(|_| TarError::Pax)?;
    let nanos = (0..9).fold(0, |nanos, at| {
        nanos * 10 + fraction.get(at).map_or(0, |d| u32::from(d - b'0'))
    });
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_records() {
        let parsed =
            Overrides::parse(b"12 path=a/b\n19 mtime=-1.250000\n27 SCHILY.xattr.user.a=b=c\n").unwrap();
        assert_eq!(parsed.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(parsed.mtime, Some((-2, 750_000_000)));
        assert_eq!(parsed.xattrs, [(b"user.a".to_vec(), b"b=c".to_vec())]);
    }

    #[test]
    fn refuses_what_is_out_of_form() {
        for bad in [
            &b"12 path=a/b"[..],
            b"99 path=a/b\n",
            b"3 a\n",
            b"5 =a\n\n",
            b"-1 path=a\n",
            b"12 path=a\0b\n",
            b"0 path=a/b\n",
            b" path=a/b\n",
            b"99999999999999999999 path=a\n",
        ] {
            assert!(Overrides::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn global_headers_may_only_remark() {
        assert!(Overrides::check_global(b"14 comment=git\n").is_err());
        assert!(Overrides::check_global(b"15 comment=git\n").is_ok());
        assert!(matches!(
            Overrides::check_global(b"12 path=a/b\n"),
            Err(TarError::GlobalOverride)
        ));
    }
}
