//! The attachment cache: a file per attachment, `<data>/cni/attachments/<pod id>.json`.
//!
//! Written before anything is made and, for plugins, once more with the result, so that a detach needs nothing
//! but this: not the conflist, which may have changed or vanished since, and not the daemon's memory.
//! Records are replaced by rename. They are not synced: killing the daemon loses nothing, and after a power loss
//! the namespaces, links and addresses that they speak of are gone as well.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::names::PodId;
use crate::netns::Identity;
use crate::request::{PortMapping, Settings};

const VERSION: u32 = 1;

/// What is known of one attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    version: u32,
    pub(crate) pod_id: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) if_name: String,
    pub(crate) netns: NetnsRecord,
    pub(crate) network: NetworkRecord,
    /// Keys of a newer version, kept as they are.
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// Which namespace it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetnsRecord {
    pub(crate) path: Option<PathBuf>,
    /// The path is a pin of ours, to be removed with the attachment.
    pub(crate) pinned: bool,
    pub(crate) identity: Identity,
}

/// Which network, with what its detach needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(crate) enum NetworkRecord {
    /// The embedded bridge network.
    #[serde(rename_all = "camelCase")]
    Embedded {
        name: String,
        addresses: Vec<IpNet>,
        gateways: Vec<IpNet>,
        host_link: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ports: Vec<PortMapping>,
    },
    /// A chain of plugins.
    #[serde(rename_all = "camelCase")]
    Plugins {
        source: PathBuf,
        conflist: Value,
        settings: Box<Settings>,
        result: Option<Value>,
    },
}

impl Record {
    pub(crate) fn new(
        pod: &PodId,
        labels: [&str; 3],
        if_name: &str,
        netns: NetnsRecord,
        network: NetworkRecord,
    ) -> Self {
        let [namespace, name, uid] = labels.map(str::to_owned);
        Record {
            version: VERSION,
            pod_id: pod.as_str().into(),
            namespace,
            name,
            uid,
            if_name: if_name.into(),
            netns,
            network,
            unknown: Map::new(),
        }
    }
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens the folder, making it if need be.
    pub(crate) fn open(data: &Path) -> Result<Self, Error> {
        let folder = data.join("attachments");
        let failed = |source| Error::Record {
            step: "create",
            path: folder.clone(),
            source,
        };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        Ok(Cache { folder })
    }

    pub(crate) fn write(&self, pod: &PodId, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec(record).map_err(|error| self.nonsense(pod, error))?;
        replace_file(&self.path(pod), &text)
    }

    pub(crate) fn read(&self, pod: &PodId) -> Result<Option<Record>, Error> {
        let path = self.path(pod);
        match std::fs::read(&path) {
            Ok(text) => {
                let record: Record =
                    serde_json::from_slice(&text).map_err(|error| self.nonsense(pod, error))?;
                if record.version > VERSION {
                    return Err(Error::RecordNewer {
                        path,
                        version: record.version,
                    });
                }
                Ok(Some(record))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Record {
                step: "read",
                path,
                source,
            }),
        }
    }

    pub(crate) fn remove(&self, pod: &PodId) -> Result<(), Error> {
        let path = self.path(pod);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Record {
                step: "remove",
                path,
                source: error,
            }),
            _ => Ok(()),
        }
    }

    /// Moves an unreadable record out of the way, kept for whoever wants to know.
    pub(crate) fn set_aside(&self, pod: &PodId) -> Result<(), Error> {
        let path = self.path(pod);
        std::fs::rename(&path, path.with_extension("broken")).map_err(|source| Error::Record {
            step: "set aside",
            path,
            source,
        })
    }

    /// The pods that have a record, readable or not.
    pub(crate) fn pods(&self) -> Result<Vec<PodId>, Error> {
        let failed = |source| Error::Record {
            step: "list",
            path: self.folder.clone(),
            source,
        };
        let mut pods = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let id = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .map(PodId::parse);
            pods.extend(id.and_then(Result::ok));
        }
        pods.sort();
        Ok(pods)
    }

    fn path(&self, pod: &PodId) -> PathBuf {
        self.folder.join(format!("{pod}.json"))
    }

    fn nonsense(&self, pod: &PodId, problem: impl ToString) -> Error {
        Error::RecordContent {
            path: self.path(pod),
            problem: problem.to_string(),
        }
    }
}

/// Replaces a file whole: a reader sees the old text or the new one.
pub(crate) fn replace_file(path: &Path, text: &[u8]) -> Result<(), Error> {
    let failed = |step| {
        move |source| Error::Record {
            step,
            path: path.into(),
            source,
        }
    };
    // The name ends differently from a record's, so that a leftover of a killed daemon is never read.
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).map_err(failed("write"))?;
    std::fs::rename(&draft, path).map_err(failed("replace"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netns::current;

    fn record(pod: &PodId) -> Record {
        let identity = Identity::of(current().as_fd()).expect("a namespace");
        let netns = NetnsRecord {
            path: Some("/run/netns/x".into()),
            pinned: true,
            identity,
        };
        let network = NetworkRecord::Embedded {
            name: "crisp".into(),
            addresses: vec!["10.1.0.2/16".parse().expect("an address")],
            gateways: vec!["10.1.0.1/16".parse().expect("an address")],
            host_link: pod.host_link(),
            ports: Vec::new(),
        };
        Record::new(pod, ["default", "web", "u-1"], "eth0", netns, network)
    }

    #[test]
    fn a_record_comes_back_as_it_was_until_removed() {
        let data = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(data.path()).expect("opens");
        let pod = PodId::parse("abc").expect("an id");
        assert_eq!(cache.read(&pod).expect("reads"), None);
        cache.write(&pod, &record(&pod)).expect("writes");
        let again = Cache::open(data.path()).expect("opens again");
        assert_eq!(again.read(&pod).expect("reads"), Some(record(&pod)));
        assert_eq!(again.pods().expect("lists"), std::slice::from_ref(&pod));
        again.remove(&pod).expect("removes");
        again.remove(&pod).expect("and once more");
        assert_eq!(again.pods().expect("lists"), []);
    }

    #[test]
    fn keys_of_a_newer_version_are_kept_and_newer_records_refused() {
        let data = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(data.path()).expect("opens");
        let pod = PodId::parse("abc").expect("an id");
        let mut raw = serde_json::to_value(record(&pod)).expect("JSON");
        raw["future"] = 7.into();
        std::fs::write(cache.path(&pod), raw.to_string()).expect("a file");
        let read = cache.read(&pod).expect("reads").expect("exists");
        assert_eq!(serde_json::to_value(&read).expect("JSON")["future"], 7);
        raw["version"] = 2.into();
        std::fs::write(cache.path(&pod), raw.to_string()).expect("a file");
        assert!(cache.read(&pod).is_err());
    }

    #[test]
    fn a_draft_left_by_a_killed_daemon_is_no_record() {
        let data = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(data.path()).expect("opens");
        std::fs::write(data.path().join("attachments/abc.draft"), "{").expect("a file");
        assert_eq!(cache.pods().expect("lists"), []);
    }
}
