//! Names of slices and scopes, and the paths that follow from them (systemd.slice(5), systemd.scope(5)).
//!
//! A dash in a slice's name is a level of the tree: `kubepods-besteffort.slice` is
//! `/kubepods.slice/kubepods-besteffort.slice`.

use std::path::Path;

use crate::cgroup::{Cgroup, CgroupError};

const SLICE: &str = ".slice";
const SCOPE: &str = ".scope";
/// `UNIT_NAME_MAX` with its final NUL.
const NAME_MAX: usize = 255;

/// A slice's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice(String);

impl Slice {
    /// Reads a slice as kubelet names it: `a-b.slice`, or its whole path `/a.slice/a-b.slice`.
    ///
    /// # Errors
    /// [`CgroupError::Path`] for what is neither.
    pub fn parse(text: &str) -> Result<Slice, CgroupError> {
        let refuse = |reason| {
            Err(CgroupError::Path {
                path: text.into(),
                reason,
            })
        };
        let path = text.trim_matches('/');
        let name = path.rsplit('/').next().unwrap_or(path);
        let Some(stem) = name.strip_suffix(SLICE) else {
            return refuse("is no slice of systemd (kubepods-burstable.slice, say)");
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\".contains(&byte);
        let levels = || stem.split('-');
        if name.len() > NAME_MAX || !levels().all(|level| !level.is_empty() && level.bytes().all(plain)) {
            return refuse("is no name of a slice");
        }
        let slice = Slice(name.to_owned());
        // A path that is not where systemd would put the slice names another cgroup than it would be in.
        if path != name && slice.path() != format!("/{path}") {
            return refuse("is not where systemd has that slice");
        }
        Ok(slice)
    }

    /// Its unit's name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Its cgroup's path, with a leading slash.
    pub fn path(&self) -> String {
        let stem = self.0.strip_suffix(SLICE).unwrap_or(&self.0);
        let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
        ends.map(|end| format!("/{}{SLICE}", &stem[..end])).collect()
    }
}

/// A container's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    slice: Slice,
    name: String,
}

impl Scope {
    /// The scope `<prefix>-<id>.scope` in a slice.
    pub fn new(slice: Slice, prefix: &str, id: &str) -> Scope {
        let name = format!("{prefix}-{id}{SCOPE}");
        Scope { slice, name }
    }

    /// The scope that a cgroup is, by its path: `…/<slice>/<name>.scope`.
    pub fn of(cgroup: &Cgroup) -> Option<Scope> {
        Self::at(cgroup.path())
    }

    fn at(path: &Path) -> Option<Scope> {
        let name = path.file_name()?.to_str()?;
        let slice = Slice::parse(path.parent()?.to_str()?).ok()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_-.\\".contains(&byte);
        let valid = name.ends_with(SCOPE) && name.len() <= NAME_MAX && name.bytes().all(plain);
        valid.then(|| Scope {
            slice,
            name: name.to_owned(),
        })
    }

    /// Reads `<slice>:<prefix>:<id>`, which is how an OCI specification names a scope (`linux.cgroupsPath`).
    pub(crate) fn from_oci(text: &str) -> Option<Scope> {
        let mut parts = text.split(':');
        let (slice, prefix, id) = (parts.next()?, parts.next()?, parts.next()?);
        let slice = Slice::parse(slice).ok()?;
        parts.next().is_none().then(|| Scope::new(slice, prefix, id))
    }

    /// As `from_oci` reads it.
    pub fn to_oci(&self) -> String {
        let stem = self.name.strip_suffix(SCOPE).unwrap_or(&self.name);
        let (prefix, id) = stem.rsplit_once('-').unwrap_or(("", stem));
        format!("{}:{prefix}:{id}", self.slice.name())
    }

    /// Its unit's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The slice that it is in.
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// Its cgroup's path, with a leading slash.
    pub fn path(&self) -> String {
        format!("{}/{}", self.slice.path(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slice_is_below_those_that_its_name_begins_with() {
        let path = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice";
        for text in ["kubepods-besteffort-pod1_2.slice", path] {
            let slice = Slice::parse(text).unwrap();
            assert_eq!(slice.name(), "kubepods-besteffort-pod1_2.slice");
            assert_eq!(slice.path(), path);
        }
        assert_eq!(Slice::parse("system.slice").unwrap().path(), "/system.slice");
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        let long = format!("{}.slice", "a".repeat(250));
        for text in [
            "",
            "/",
            "/kubepods/burstable/pod1",
            "-.slice",
            ".slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a b.slice",
            "a\n.slice",
            "../a.slice",
            "/b.slice/a.slice",
            "x/a.slice",
            &long,
        ] {
            let outcome = Slice::parse(text);
            assert!(outcome.is_err(), "{text:?} became {outcome:?}");
        }
    }

    #[test]
    fn only_a_scope_in_a_slice_is_one() {
        let scope = Scope::at(Path::new("a.slice/a-b.slice/crisp-12.scope")).unwrap();
        assert_eq!(
            (scope.slice().name(), scope.name()),
            ("a-b.slice", "crisp-12.scope")
        );
        assert_eq!(scope.to_oci(), "a-b.slice:crisp:12");
        for path in [
            "kubepods/pod/12",
            "a.slice/12",
            "crisp/crisp-12.scope",
            "a.slice/x y.scope",
            "12",
        ] {
            assert_eq!(Scope::at(Path::new(path)), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_scope_is_found_by_its_path_and_by_its_name(
            slice in "[a-z0-9_]{1,8}(-[a-z0-9_]{1,8}){0,3}", prefix in "[a-z-]{1,6}", id in "[0-9a-f]{1,64}",
        ) {
            let slice = Slice::parse(&format!("{slice}.slice")).unwrap();
            prop_assert_eq!(&Slice::parse(&slice.path()).unwrap(), &slice);
            let scope = Scope::new(slice, &prefix, &id);
            let path = scope.path();
            let found = Scope::at(Path::new(path.trim_start_matches('/')));
            prop_assert_eq!(found.as_ref(), Some(&scope));
            prop_assert_eq!(Scope::from_oci(&scope.to_oci()), Some(scope));
        }
    }
}
