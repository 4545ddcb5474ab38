//! Names inside a layer. An [`EntryPath`] has no `..`, no empty and no `.` component, so it can
//! only go down.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

const LONGEST_COMPONENT: usize = 255;
/// Names are bounded in total as well: they are kept in memory for directories.
const LONGEST_PATH: usize = 64 << 10;
const DEEPEST: usize = 4096;

/// A cleaned path below the root of a layer; empty for the root itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EntryPath(Vec<u8>);

/// Why a name in an archive is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// It climbs.
    #[error("contains \"..\"")]
    Climbs,
    /// A component over 255 bytes, or too much in total.
    #[error("is too long")]
    TooLong,
    /// A NUL byte.
    #[error("contains a NUL byte")]
    Nul,
    /// A whiteout marker that names nothing, or names `.` or `..`.
    #[error("is a malformed whiteout")]
    Whiteout,
    /// Something other than a directory in the place of the root.
    #[error("would replace the root")]
    Root,
}

impl EntryPath {
    /// Cleans a name from an archive: leading slashes, doubled slashes and `.` vanish.
    ///
    /// # Errors
    /// `..` anywhere is refused rather than resolved: readers disagree about `a/../b` when `a`
    /// is a symlink.
    pub fn parse(raw: &[u8]) -> Result<Self, PathProblem> {
        if raw.len() > LONGEST_PATH {
            return Err(PathProblem::TooLong);
        }
        if raw.contains(&0) {
            return Err(PathProblem::Nul);
        }
        let mut clean = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for component in raw.split(|b| *b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(PathProblem::Climbs),
                _ if component.len() > LONGEST_COMPONENT => return Err(PathProblem::TooLong),
                _ => {}
            }
            depth += 1;
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(component);
        }
        if depth > DEEPEST {
            Err(PathProblem::TooLong)
        } else {
            Ok(Self(clean))
        }
    }

    /// The root of the layer.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, components separated by single slashes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Directory and last component; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &OsStr)> {
        if self.is_root() {
            return None;
        }
        let (parent, name) = match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&b""[..], &self.0[..]),
        };
        Some((Self(parent.to_vec()), OsStr::from_bytes(name)))
    }

    /// The directories above, the nearest first, without the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        let above = |path: &Self| {
            path.split()
                .map(|(parent, _)| parent)
                .filter(|parent| !parent.is_root())
        };
        std::iter::successors(above(self), move |path| above(path))
    }

    /// The components from the top.
    pub fn components(&self) -> impl Iterator<Item = &OsStr> {
        self.0
            .split(|b| *b == b'/')
            .filter(|component| !component.is_empty())
            .map(OsStr::from_bytes)
    }

    /// This path and one more component, which must be clean.
    #[must_use]
    pub fn join(&self, name: &OsStr) -> Self {
        if self.is_root() {
            return Self(name.as_bytes().to_vec());
        }
        Self([self.as_bytes(), b"/", name.as_bytes()].concat())
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names are a stranger's bytes: nothing of them may control a terminal or a log.
        write!(f, "/{}", self.0[..self.0.len().min(256)].escape_ascii())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cleans_or_refuses() {
        let clean = |raw: &str| EntryPath::parse(raw.as_bytes()).map(|path| path.0);
        for root in ["", "/", ".", "./", "./.", "//./"] {
            assert!(EntryPath::parse(root.as_bytes()).unwrap().is_root(), "{root}");
        }
        assert_eq!(clean("./a//b/"), Ok(b"a/b".to_vec()));
        assert_eq!(clean("/etc/passwd"), Ok(b"etc/passwd".to_vec()));
        for climbing in ["..", "a/..", "a/../b", "../a", "a/../..", "/.."] {
            assert_eq!(clean(climbing), Err(PathProblem::Climbs), "{climbing}");
        }
        assert_eq!(clean(&"x".repeat(256)), Err(PathProblem::TooLong));
        assert!(clean(&"x".repeat(255)).is_ok());
        assert_eq!(clean("a\0b"), Err(PathProblem::Nul));
    }

    proptest! {
        #[test]
        fn never_climbs(raw in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), Just(b'a')], 0..24)) {
            if let Ok(path) = EntryPath::parse(&raw) {
                prop_assert!(path.components().all(|c| !matches!(c.as_bytes(), b"" | b"." | b"..")));
                prop_assert_eq!(&EntryPath::parse(path.as_bytes()).unwrap(), &path);
            }
        }
    }
}
