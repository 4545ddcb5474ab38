//! What a path of a cgroup may be.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::CgroupError;

/// Checks a path component by component; `..` never gets past here.
pub(super) fn checked(path: &str, may_be_empty: bool) -> Result<PathBuf, CgroupError> {
    let refuse = |reason| {
        Err(CgroupError::Path {
            path: path.into(),
            reason,
        })
    };
    let relative = path.strip_prefix('/').unwrap_or(path);
    let mut clean = PathBuf::new();
    for component in relative.split('/').filter(|_| !relative.is_empty()) {
        let plain = Path::new(component)
            .components()
            .eq([Component::Normal(OsStr::new(component))]);
        if !plain {
            return refuse("has an empty or dotted component");
        }
        if component.len() > 255 || component.bytes().any(|byte| byte.is_ascii_control()) {
            return refuse("has a component that is no name");
        }
        clean.push(component);
    }
    if clean.as_os_str().is_empty() && !may_be_empty {
        return refuse("is empty");
    }
    if clean.as_os_str().as_bytes().len() > 3000 {
        return refuse("is too long");
    }
    Ok(clean)
}
