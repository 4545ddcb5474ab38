//! Container Device Interface: devices that a vendor describes in files, so that a pod asks for one by its name.
//!
//! ```text
//!  /etc/cdi/*.{json,yaml}     ─┐ read anew for each container that asks     vendor.com/gpu=0 ─► containerEdits
//!  /var/run/cdi/*.{json,yaml} ─┘ (the later directory wins)                       │
//!                                                                                ▼
//!           OCI specification ◄── environment, device nodes, mounts, hooks, groups
//! ```
//! Names come from `ContainerConfig.CDI_devices` and from annotations `cdi.k8s.io/…`, once each. The files are those of
//! the node's administrator, and so are the hooks in them; the names are the pod's, and are checked.
//!
//! - `name` what a qualified name is,
//! - [`file`] the shape of a file (CDI specification 0.3 to 1.1) and reading a directory of them,
//! - `edits` from edits to the OCI specification.

mod edits;
mod file;
mod name;

use std::path::PathBuf;

use crate::container::ContainerConfig;
use crate::spec::ContainerSpec;
use crate::{Error, Result};

use file::Files;
use name::QualifiedName;

/// The prefix of annotations that name devices.
const ANNOTATION: &str = "cdi.k8s.io/";

/// Adds the devices that a container asks for to its specification.
///
/// # Errors
/// [`Error::Invalid`] naming the device that is misspelt, unknown, or described twice; [`Error::Io`] for a directory
/// that cannot be read.
pub fn inject(directories: &[PathBuf], config: &ContainerConfig, built: &mut ContainerSpec) -> Result<()> {
    let wanted = wanted(config)?;
    if wanted.is_empty() {
        return Ok(());
    }
    let files = Files::read(directories)?;
    let mut general = Vec::new();
    for (field, name) in &wanted {
        let found = files
            .find(name)
            .map_err(|problem| Error::invalid(field, problem))?;
        // What holds for all devices of a file comes before the first of them.
        if !general.contains(&found.file) {
            general.push(found.file);
            edits::apply(&files.all[found.file].spec.container_edits, name, built)?;
        }
        edits::apply(&found.device.container_edits, name, built)?;
    }
    edits::sort_mounts(&mut built.spec);
    Ok(())
}

/// Whether a container asks for any device by a CDI name.
///
/// # Errors
/// [`Error::Invalid`] naming the device that is misspelt.
pub fn asks_any(config: &ContainerConfig) -> Result<bool> {
    Ok(!wanted(config)?.is_empty())
}

/// The devices with the fields that name them, the first mention of each.
fn wanted(config: &ContainerConfig) -> Result<Vec<(String, QualifiedName)>> {
    let fields = config
        .cdi_devices
        .iter()
        .map(|name| ("config.CDI_devices".to_owned(), name.as_str()));
    let annotated = config
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .flat_map(|(key, value)| {
            let field = format!("config.annotations[{key:?}]");
            value.split(',').map(move |name| (field.clone(), name))
        });
    let mut wanted: Vec<(String, QualifiedName)> = Vec::new();
    for (field, text) in fields.chain(annotated) {
        let name = QualifiedName::parse(text).map_err(|problem| Error::invalid(&field, problem))?;
        if !wanted.iter().any(|(_, known)| *known == name) {
            wanted.push((field, name));
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests;
