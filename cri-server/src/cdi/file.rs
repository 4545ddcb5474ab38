//! CDI files: their shape, and which of several describes a device.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use super::name::{QualifiedName, check_kind};
use crate::{Error, Result};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 10 << 20;

/// A CDI file. Fields of later versions are left alone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct File {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// One device of a kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    name: String,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What a device changes in a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<Hook>,
    pub(super) additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<serde::de::IgnoredAny>,
    pub(super) net_devices: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeviceNode {
    pub(super) path: PathBuf,
    pub(super) host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: PathBuf,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: PathBuf,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

/// A file that could be read.
pub(super) struct ReadFile {
    path: PathBuf,
    /// The place of its directory: a later one wins.
    priority: usize,
    pub(super) spec: File,
}

/// All files of all directories.
#[derive(Default)]
pub(super) struct Files {
    pub(super) all: Vec<ReadFile>,
    /// Those that could not be read, with the reason.
    broken: BTreeMap<PathBuf, String>,
}

/// A device and the file that describes it.
pub(super) struct Found<'a> {
    /// Its index among all files.
    pub(super) file: usize,
    pub(super) device: &'a Device,
}

impl Files {
    /// Reads every file of the directories; a directory that does not exist has none. A broken file is remembered: it
    /// matters only to who wants a device that is nowhere else.
    pub(super) fn read(directories: &[PathBuf]) -> Result<Files> {
        let mut files = Files::default();
        for (priority, directory) in directories.iter().enumerate() {
            let entries = match fs::read_dir(directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("read", directory)(error)),
            };
            let mut paths = Vec::new();
            for entry in entries {
                paths.push(entry.map_err(Error::io("read", directory))?.path());
            }
            paths.sort();
            for path in paths {
                match read(&path) {
                    Ok(Some(spec)) => files.all.push(ReadFile { path, priority, spec }),
                    Ok(None) => {}
                    Err(why) => {
                        tracing::warn!(file = %path.display(), error = why, "CDI file cannot be used");
                        files.broken.insert(path, why);
                    }
                }
            }
        }
        Ok(files)
    }

    /// The device of that name. Of two files in one directory neither can be preferred.
    pub(super) fn find(&self, name: &QualifiedName) -> std::result::Result<Found<'_>, String> {
        let fitting = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, file)| file.spec.kind == name.kind);
        let mut found: Vec<_> = fitting
            .flat_map(|(index, file)| {
                let devices = file.spec.devices.iter();
                devices
                    .filter(|device| device.name == name.device)
                    .map(move |device| (file.priority, index, device))
            })
            .collect();
        let highest = found.iter().map(|(priority, ..)| *priority).max();
        found.retain(|(priority, ..)| Some(*priority) == highest);
        match found[..] {
            [(_, file, device)] => Ok(Found { file, device }),
            [] => Err(self.unknown(name)),
            [(_, first, _), (_, second, _), ..] => Err(format!(
                "{:?} is described by both {} and {}; remove one",
                name.to_string(),
                self.all[first].path.display(),
                self.all[second].path.display()
            )),
        }
    }

    fn unknown(&self, name: &QualifiedName) -> String {
        let name = name.to_string();
        match self.broken.iter().next() {
            None => format!("{name:?} is in no CDI file; generate the vendor's, or correct the name"),
            Some((path, why)) => {
                format!(
                    "{name:?} is in no CDI file that can be read; {} cannot: {why}",
                    path.display()
                )
            }
        }
    }
}

/// `None` for a file that is none of ours to read.
fn read(path: &Path) -> std::result::Result<Option<File>, String> {
    let is_json = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("yaml" | "yml") => false,
        _ => return Ok(None),
    };
    // Not waiting for the other end of what is no file.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: fs::File = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| std::io::Error::from(errno).to_string())?
        .into();
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("is no regular file".into());
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err("is larger than 10 MiB".into());
    }
    let spec = match is_json {
        true => serde_json::from_str(&text).map_err(|error| error.to_string())?,
        false => serde_yaml_ng::from_str(&text).map_err(|error| error.to_string())?,
    };
    check(spec).map(Some)
}

fn check(spec: File) -> std::result::Result<File, String> {
    let version = spec.cdi_version.trim_start_matches('v');
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let minor = minor.split('.').next().unwrap_or_default();
    match (major.parse::<u32>(), minor.parse::<u32>()) {
        (Ok(0), Ok(3..)) | (Ok(1), Ok(_)) => {}
        _ => {
            return Err(format!(
                "cdiVersion {:?} is not one from 0.3.0 to 1.x",
                spec.cdi_version
            ));
        }
    }
    check_kind(&spec.kind).map_err(|problem| format!("kind {:?} {problem}", spec.kind))?;
    for (index, device) in spec.devices.iter().enumerate() {
        QualifiedName::parse(&format!("{}={}", spec.kind, device.name))?;
        if spec.devices[..index]
            .iter()
            .any(|other| other.name == device.name)
        {
            return Err(format!("device {:?} is there twice", device.name));
        }
    }
    Ok(spec)
}
