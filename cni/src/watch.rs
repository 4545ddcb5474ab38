//! The configuration directory, as it is now.
//!
//! Nothing watches in the background. Whoever needs the state asks, and the directory is compared with what
//! was seen last: names, inodes, sizes and times of a handful of files cost some 10 µs. An inotify watch would
//! save those and bring its own troubles (a directory that does not exist yet or is replaced, queue overflow,
//! half-written files seen at the wrong moment).
//!
//! The first file in lexical order that is valid wins; broken ones are skipped and reported. Only when the file
//! of the *current* network itself breaks does the network stay as it was: a file caught half-written, or
//! a typo, must not move new pods to another network.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::conf::NetworkList;
use crate::error::Error;

/// What the directory says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    /// The network that new pods get; none if no file is valid.
    pub(crate) network: Option<Arc<NetworkList>>,
    /// What is wrong with the files that were skipped, each naming its file and position.
    pub(crate) problems: Vec<String>,
    /// The current network's file is broken now and the network as last read still serves.
    pub(crate) outdated: bool,
}

/// A directory of network configurations and what was last read from it.
#[derive(Debug)]
pub(crate) struct ConfigDirectory {
    path: PathBuf,
    seen: Option<Vec<Stamp>>,
    loaded: Loaded,
}

/// What changes when a file changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    name: OsString,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl ConfigDirectory {
    pub(crate) fn new(path: PathBuf) -> Self {
        ConfigDirectory {
            path,
            seen: None,
            loaded: Loaded::default(),
        }
    }

    /// Reads the directory again if anything in it changed. Blocks on the file system.
    pub(crate) fn refresh(&mut self) -> Loaded {
        // Stamps are taken first: a change while the files are read makes the next refresh read again.
        match stamps(&self.path) {
            Ok(stamps) if self.seen.as_ref() == Some(&stamps) => {}
            Ok(stamps) => {
                self.loaded = read(&self.path, self.loaded.network.take());
                self.seen = Some(stamps);
            }
            Err(error) => {
                // Not knowing is no reason to change the network.
                self.seen = None;
                self.loaded.problems = vec![error.to_string()];
                self.loaded.outdated = self.loaded.network.is_some();
            }
        }
        self.loaded.clone()
    }
}

fn read(directory: &Path, current: Option<Arc<NetworkList>>) -> Loaded {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    files.retain(|file| is_configuration(file));
    files.sort();

    let mut first = None;
    let mut problems = Vec::new();
    let mut current_broke = false;
    for file in &files {
        match NetworkList::load(file) {
            Ok(list) => {
                first.get_or_insert(list);
            }
            Err(error) => {
                current_broke |= current.as_ref().is_some_and(|current| current.source() == file);
                problems.push(error.to_string());
            }
        }
    }
    match current {
        Some(current) if current_broke => Loaded {
            network: Some(current),
            problems,
            outdated: true,
        },
        _ => Loaded {
            network: first.map(Arc::new),
            problems,
            outdated: false,
        },
    }
}

fn is_configuration(file: &Path) -> bool {
    let known =
        |extension: &std::ffi::OsStr| matches!(extension.to_str(), Some("conf" | "conflist" | "json"));
    file.extension().is_some_and(known) && !file.is_dir()
}

/// The directory's files and, for plugin folders, theirs. A directory that does not exist is an empty one.
fn stamps(directory: &Path) -> Result<Vec<Stamp>, Error> {
    let mut all = Vec::new();
    collect(directory, &mut all, 1).map_err(|source| Error::ReadConfiguration {
        path: directory.into(),
        source,
    })?;
    all.sort();
    Ok(all)
}

fn collect(directory: &Path, into: &mut Vec<Stamp>, deeper: u32) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        // Links are followed: Kubernetes mounts change what a link points to.
        let Ok(meta) = std::fs::metadata(&path) else {
            continue;
        };
        if meta.is_dir() && deeper > 0 {
            collect(&path, into, deeper - 1)?;
        }
        into.push(Stamp {
            name: path.into_os_string(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        directory: tempfile::TempDir,
        watched: ConfigDirectory,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let watched = ConfigDirectory::new(directory.path().join("net.d"));
            Fixture { directory, watched }
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.directory.path().join("net.d");
            std::fs::create_dir_all(&path).expect("net.d");
            std::fs::write(path.join(file), text).expect("a file");
        }

        fn remove(&self, file: &str) {
            std::fs::remove_file(self.directory.path().join("net.d").join(file)).expect("removed");
        }

        fn network(&mut self) -> Option<String> {
            self.watched
                .refresh()
                .network
                .map(|network| network.name().to_owned())
        }
    }

    fn list(name: &str) -> String {
        format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"bridge"}}]}}"#)
    }

    #[test]
    fn the_first_valid_file_wins_as_soon_as_it_appears() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.network(), None);
        fixture.write("20-b.conflist", &list("b"));
        assert_eq!(fixture.network().as_deref(), Some("b"));
        fixture.write("10-a.conflist", &list("a"));
        fixture.write("00-readme.txt", "not a configuration");
        assert_eq!(fixture.network().as_deref(), Some("a"));
        fixture.remove("10-a.conflist");
        assert_eq!(fixture.network().as_deref(), Some("b"));
        fixture.remove("20-b.conflist");
        assert_eq!(fixture.network(), None);
    }

    #[test]
    fn a_broken_file_is_skipped_and_named() {
        let mut fixture = Fixture::new();
        fixture.write("10-a.conflist", "{ nonsense");
        fixture.write("20-b.conflist", &list("b"));
        let loaded = fixture.watched.refresh();
        assert_eq!(loaded.network.expect("b serves").name(), "b");
        assert!(!loaded.outdated);
        assert!(
            loaded.problems[0].contains("10-a.conflist: line 1 column"),
            "{:?}",
            loaded.problems
        );
    }

    #[test]
    fn a_network_whose_file_breaks_stays_until_the_file_is_valid_or_gone() {
        let mut fixture = Fixture::new();
        fixture.write("10-a.conflist", &list("a"));
        fixture.write("20-b.conflist", &list("b"));
        assert_eq!(fixture.network().as_deref(), Some("a"));
        fixture.write("10-a.conflist", "");
        let loaded = fixture.watched.refresh();
        assert!(loaded.outdated && loaded.problems.len() == 1);
        assert_eq!(loaded.network.expect("the old one").name(), "a");
        fixture.write("10-a.conflist", &list("c"));
        assert_eq!(fixture.network().as_deref(), Some("c"));
        fixture.write("10-a.conflist", "");
        assert_eq!(fixture.network().as_deref(), Some("c"));
        fixture.remove("10-a.conflist");
        assert_eq!(fixture.network().as_deref(), Some("b"));
    }

    #[test]
    fn a_change_in_a_plugin_folder_is_seen() {
        let mut fixture = Fixture::new();
        fixture.write("10-a.conflist", &list("a"));
        assert_eq!(fixture.watched.refresh().network.expect("a").plugins().len(), 1);
        let folder = fixture.directory.path().join("net.d/a");
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("1.conf"), r#"{"type":"tuning"}"#).expect("a file");
        assert_eq!(fixture.watched.refresh().network.expect("a").plugins().len(), 2);
    }
}
