//! The validated values that plans are made of.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use minicbor::decode::Error as DecodeError;
use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decode, Decoder, Encode, Encoder};

/// Why bytes are not the value they should be.
pub(crate) type Reason = &'static str;

/// One argument or environment variable: any bytes but NUL. Never printed, it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ProcessString(pub(crate) CString);

/// An absolute path on the host, taken as it is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HostPath(CString);

/// A path inside the container: absolute, without empty, `.` and `..` components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ContainerPath(CString);

impl ProcessString {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        CString::new(bytes)
            .map(ProcessString)
            .map_err(|_| "contains a NUL byte")
    }

    pub(crate) fn to_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }
}

impl HostPath {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        match bytes {
            [b'/', ..] if bytes.len() >= libc::PATH_MAX as usize => Err("is longer than a path can be"),
            [b'/', ..] => CString::new(bytes)
                .map(HostPath)
                .map_err(|_| "contains a NUL byte"),
            [] => Err("is empty"),
            _ => Err("is not absolute"),
        }
    }

    pub(crate) fn to_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl ContainerPath {
    /// Cleans lexically, as the OCI runtimes do: `/a/./b/../c` is `/a/c`, and `/..` is `/`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Reason> {
        match bytes {
            [] => return Err("is empty"),
            [b'/', ..] if bytes.len() >= libc::PATH_MAX as usize => {
                return Err("is longer than a path can be");
            }
            [b'/', ..] => {}
            _ => return Err("is not absolute"),
        }
        let mut clean: Vec<&[u8]> = Vec::new();
        for component in bytes.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    clean.pop();
                }
                name if name.len() > 255 => return Err("has a component longer than 255 bytes"),
                name => clean.push(name),
            }
        }
        let mut path = vec![b'/'];
        path.extend(clean.join(&b'/'));
        CString::new(path)
            .map(ContainerPath)
            .map_err(|_| "contains a NUL byte")
    }

    pub(crate) fn to_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }

    /// The path without its leading slash, `.` for the root: what is resolved below a root's fd.
    pub(crate) fn below_root(&self) -> &Path {
        match &self.to_bytes()[1..] {
            [] => Path::new("."),
            rest => Path::new(OsStr::from_bytes(rest)),
        }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.to_bytes() == b"/"
    }

    /// Whether this is `ancestor` or lies below it.
    pub(crate) fn is_within(&self, ancestor: &str) -> bool {
        self.to_bytes()
            .strip_prefix(ancestor.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

impl fmt::Debug for ProcessString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.to_bytes().len())
    }
}

macro_rules! path_value {
    ($($name:ident),*) => { $(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&String::from_utf8_lossy(self.to_bytes()))
            }
        }
    )* };
}

macro_rules! cbor_bytes {
    ($($name:ident),*) => { $(
        impl<C> Encode<C> for $name {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
                e.bytes(self.to_bytes())?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
                $name::parse(d.bytes()?).map_err(DecodeError::message)
            }
        }
    )* };
}

path_value!(HostPath, ContainerPath);
cbor_bytes!(ProcessString, HostPath, ContainerPath);

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(path: &str) -> Result<String, Reason> {
        ContainerPath::parse(path.as_bytes()).map(|path| path.to_string())
    }

    #[test]
    fn container_paths_are_cleaned_and_never_leave_the_root() {
        assert_eq!(clean("/").unwrap(), "/");
        assert_eq!(clean("//a/./b//../c/").unwrap(), "/a/c");
        assert_eq!(clean("/../../etc").unwrap(), "/etc");
        assert_eq!(clean("/a/..").unwrap(), "/");
        assert_eq!(clean("a").unwrap_err(), "is not absolute");
        assert_eq!(clean("").unwrap_err(), "is empty");
        assert!(clean("/a\0b").is_err());
        assert!(clean(&format!("/{}", "x".repeat(256))).is_err());
        assert!(clean(&"/x".repeat(4000)).is_err());
    }

    #[test]
    fn within_compares_components() {
        let path = ContainerPath::parse(b"/proc/sys").unwrap();
        assert!(path.is_within("/proc") && path.is_within("/proc/sys"));
        assert!(!path.is_within("/pro") && !path.is_within("/proc/sys/net"));
    }

    #[test]
    fn a_tampered_encoding_is_refused() {
        let mut bytes = minicbor::to_vec(ContainerPath::parse(b"/a").unwrap()).unwrap();
        assert!(minicbor::decode::<ContainerPath>(&bytes).is_ok());
        bytes[1] = b'.';
        assert!(minicbor::decode::<ContainerPath>(&bytes).is_err());
    }

    #[test]
    fn secrets_are_not_printed() {
        let value = ProcessString::parse(b"TOKEN=hunter2").unwrap();
        assert_eq!(format!("{value:?}"), "<13 bytes>");
        assert!(ProcessString::parse(b"A=\0").is_err());
    }
}
