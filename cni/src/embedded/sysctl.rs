//! Kernel parameters of the host that the network needs, changed only when they differ and put back at the end.
//!
//! What a parameter was is written down before it is changed, with the id of the boot: after a reboot the
//! parameters are the host's own again and the note is void. A parameter that someone changed since is left alone.
//!
//! `/proc/sys/net` shows the namespace of the thread that looks, so the same functions serve host and pod.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cache::replace_file;
use crate::error::Error;

const NET: &str = "/proc/sys/net";

/// Whether the kernel has IPv6 at all (`ipv6.disable=1` leaves no trace of it).
pub(super) fn kernel_has_ipv6() -> bool {
    Path::new(NET).join("ipv6").exists()
}

/// Makes a link ignore router advertisements: anyone on the bridge could otherwise send some and become the
/// router of the host or of its neighbours (CVE-2020-10749).
pub(super) fn ignore_router_advertisements(link: &str) -> Result<(), Error> {
    if !kernel_has_ipv6() {
        return Ok(());
    }
    let path = Path::new(NET).join("ipv6/conf").join(link).join("accept_ra");
    std::fs::write(&path, "0").map_err(|source| Error::Sysctl {
        step: "write",
        path,
        source,
    })
}

/// Lets a link carry packets from 127.0.0.0/8, so that the host's loopback reaches pods through its ports. It is a
/// link of ours, so nothing is to be put back.
pub(super) fn carry_loopback(link: &str) -> Result<(), Error> {
    write(
        &Path::new(NET).join("ipv4/conf").join(link).join("route_localnet"),
        "1",
    )
}

/// What is to outlive the daemon: parameters changed on the host, and the subnets it was given.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Notes {
    boot_id: String,
    /// In the order of the changes.
    changes: Vec<Change>,
    /// The pod CIDR as last set; none means as configured.
    pod_cidr: Vec<IpNet>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Change {
    path: PathBuf,
    was: String,
    set: String,
}

/// The notes on disk, and the changes made through them.
#[derive(Debug)]
pub(super) struct HostNotes {
    file: PathBuf,
    notes: Notes,
}

impl HostNotes {
    /// Reads the notes of an earlier run; those of an earlier boot are kept only as far as they still hold.
    pub(super) fn open(data: &Path) -> Self {
        let file = data.join("host.json");
        let mut notes: Notes = std::fs::read(&file)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        if notes.boot_id.trim() != boot_id.trim() {
            notes.changes.clear();
            notes.boot_id = boot_id.trim().into();
        }
        HostNotes { file, notes }
    }

    pub(super) fn pod_cidr(&self) -> &[IpNet] {
        &self.notes.pod_cidr
    }

    pub(super) fn set_pod_cidr(&mut self, nets: &[IpNet]) -> Result<(), Error> {
        self.notes.pod_cidr = nets.to_vec();
        self.save()
    }

    /// Lets the host forward between its links.
    pub(super) fn enable_forwarding(&mut self, ipv6: bool) -> Result<(), Error> {
        self.set(&Path::new(NET).join("ipv4/ip_forward"), "1")?;
        if ipv6 && kernel_has_ipv6() {
            self.keep_learned_routes()?;
            self.set(&Path::new(NET).join("ipv6/conf/all/forwarding"), "1")?;
        }
        Ok(())
    }

    /// A host that forwards IPv6 stops to listen to its router, and loses its default route when that expires,
    /// unless `accept_ra` is 2.
    fn keep_learned_routes(&mut self) -> Result<(), Error> {
        let Ok(links) = std::fs::read_dir(Path::new(NET).join("ipv6/conf")) else {
            return Ok(());
        };
        let listening: Vec<PathBuf> = links
            .filter_map(|entry| Some(entry.ok()?.path().join("accept_ra")))
            .filter(|path| read(path).is_ok_and(|value| value == "1"))
            .collect();
        listening.iter().try_for_each(|path| self.set(path, "2"))
    }

    fn set(&mut self, path: &Path, value: &str) -> Result<(), Error> {
        let was = read(path)?;
        if was == value {
            return Ok(());
        }
        if !self.notes.changes.iter().any(|change| change.path == path) {
            self.notes.changes.push(Change {
                path: path.into(),
                was,
                set: value.into(),
            });
            self.save()?;
        }
        write(path, value)?;
        // The kernel may accept a write and not follow it.
        match read(path)? {
            now if now == value => Ok(()),
            _ => Err(Error::Sysctl {
                step: "verify",
                path: path.into(),
                source: io::ErrorKind::InvalidData.into(),
            }),
        }
    }

    /// Puts back what was changed, the last first.
    pub(super) fn restore(&mut self) -> Result<(), Error> {
        while let Some(change) = self.notes.changes.pop() {
            // The link may be gone, or the value no longer ours.
            if read(&change.path).is_ok_and(|now| now == change.set) {
                write(&change.path, &change.was)?;
            }
        }
        self.save()
    }

    fn save(&self) -> Result<(), Error> {
        let text = serde_json::to_vec(&self.notes).map_err(|error| Error::RecordContent {
            path: self.file.clone(),
            problem: error.to_string(),
        })?;
        replace_file(&self.file, &text)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().into()),
        Err(source) => Err(Error::Sysctl {
            step: "read",
            path: path.into(),
            source,
        }),
    }
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    std::fs::write(path, value).map_err(|source| Error::Sysctl {
        step: "write",
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        data: tempfile::TempDir,
        parameter: PathBuf,
    }

    impl Fixture {
        fn new() -> Self {
            let data = tempfile::tempdir().expect("a directory");
            let parameter = data.path().join("parameter");
            std::fs::write(&parameter, "0\n").expect("a parameter");
            Fixture { data, parameter }
        }

        fn value(&self) -> String {
            read(&self.parameter).expect("a value")
        }
    }

    #[test]
    fn a_parameter_is_put_back_by_whoever_comes_after_a_kill() {
        let fixture = Fixture::new();
        HostNotes::open(fixture.data.path())
            .set(&fixture.parameter, "1")
            .expect("sets");
        assert_eq!(fixture.value(), "1");
        let mut later = HostNotes::open(fixture.data.path());
        // Set again: what it was before the first time still counts.
        later.set(&fixture.parameter, "1").expect("sets");
        later.restore().expect("restores");
        assert_eq!(fixture.value(), "0");
    }

    #[test]
    fn a_parameter_that_was_right_or_was_changed_by_others_is_left_alone() {
        let fixture = Fixture::new();
        let mut notes = HostNotes::open(fixture.data.path());
        notes.set(&fixture.parameter, "0").expect("nothing to do");
        assert!(notes.notes.changes.is_empty());
        notes.set(&fixture.parameter, "1").expect("sets");
        std::fs::write(&fixture.parameter, "2").expect("someone else");
        notes.restore().expect("restores");
        assert_eq!(fixture.value(), "2");
    }

    #[test]
    fn a_note_of_an_earlier_boot_is_void_but_the_pod_cidr_stays() {
        let fixture = Fixture::new();
        let mut notes = HostNotes::open(fixture.data.path());
        notes.notes.boot_id = "another".into();
        notes.set(&fixture.parameter, "1").expect("sets");
        notes
            .set_pod_cidr(&["10.5.0.0/24".parse().expect("a subnet")])
            .expect("notes");
        let mut later = HostNotes::open(fixture.data.path());
        assert_eq!(later.pod_cidr()[0].to_string(), "10.5.0.0/24");
        later.restore().expect("nothing to do");
        assert_eq!(fixture.value(), "1");
    }
}
