//! Attaching and detaching one pod, step by step. Everything here blocks and runs on a thread of its own.
//!
//! Attach: record the intent ─► pin (plugins) ─► make ─► record the result (plugins).
//! Detach: read the record ─► unmake ─► unpin ─► forget. What fails leaves the record, so that it can be tried again.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::cache::{NetnsRecord, NetworkRecord, Record};
use crate::chain::{Chain, kubernetes_arguments};
use crate::conf::NetworkList;
use crate::embedded::lease::HardwareAddress;
use crate::embedded::pod_link::raise_loopback;
use crate::embedded::{Embedded, Lease};
use crate::error::Error;
use crate::names::{PodId, refuse};
use crate::netns::{self, Identity, OneWay, aside};
use crate::network::Inner;
use crate::plugin::Variables;
use crate::request::AttachRequest;
use crate::result::{Dns, NetworkResult};

/// Undoing a failed ADD gets this long: the call that failed may have used up its caller's patience.
const UNDO_TIMEOUT: Duration = Duration::from_secs(20);

/// A pod's place on the network.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "an attachment stays until it is detached"]
pub struct Attachment {
    /// The pod.
    pub pod_id: PodId,
    /// The network's name.
    pub network: String,
    /// The link in the pod.
    pub if_name: String,
    /// The pod's addresses, in the network's order: the first is the pod's IP.
    pub ips: Vec<IpNet>,
    /// The gateways of those addresses.
    pub gateways: Vec<IpAddr>,
    /// The Ethernet address of the link in the pod.
    pub mac: Option<String>,
    /// The host's end of the link.
    pub host_link: Option<String>,
    /// Name server settings.
    pub dns: Dns,
    /// The CNI result as JSON.
    pub result: Value,
}

impl Attachment {
    /// From a record; none if the attach did not come to its end.
    pub(crate) fn of(pod: &PodId, record: &Record) -> Option<Self> {
        let (network, raw) = match &record.network {
            NetworkRecord::Embedded {
                name,
                addresses,
                gateways,
                host_link,
                ..
            } => (
                name.clone(),
                embedded_result(record, addresses, gateways, host_link),
            ),
            NetworkRecord::Plugins { conflist, result, .. } => {
                let name = conflist.get("name").and_then(Value::as_str).unwrap_or_default();
                (name.to_owned(), result.clone()?)
            }
        };
        let parsed = NetworkResult::parse(&raw).ok()?;
        let addresses = parsed.pod_addresses();
        Some(Attachment {
            pod_id: pod.clone(),
            network,
            if_name: record.if_name.clone(),
            ips: addresses.iter().map(|address| address.address).collect(),
            gateways: addresses.iter().filter_map(|address| address.gateway).collect(),
            mac: parsed
                .pod_link(&record.if_name)
                .map(|link| link.mac.clone())
                .filter(|mac| !mac.is_empty()),
            host_link: parsed.host_link().map(|link| link.name.clone()),
            dns: parsed.dns,
            result: raw,
        })
    }
}

/// The embedded network's attachment in the words of CNI.
fn embedded_result(record: &Record, addresses: &[IpNet], gateways: &[IpNet], host_link: &str) -> Value {
    let sandbox = record
        .netns
        .path
        .as_deref()
        .unwrap_or(Path::new("pod"))
        .display()
        .to_string();
    let mac = addresses
        .first()
        .map(|address| HardwareAddress::of(address.addr()).to_string());
    let ips: Vec<Value> = addresses
        .iter()
        .zip(gateways)
        .map(|(address, gateway)| json!({"address": address, "gateway": gateway.addr(), "interface": 1}))
        .collect();
    let routes: Vec<Value> = gateways
        .iter()
        .map(|gateway| {
            let all = if matches!(gateway, IpNet::V4(_)) {
                "0.0.0.0/0"
            } else {
                "::/0"
            };
            json!({"dst": all, "gw": gateway.addr()})
        })
        .collect();
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": host_link}, {"name": record.if_name, "mac": mac, "sandbox": sandbox}],
        "ips": ips,
        "routes": routes,
        "dns": {},
    })
}

impl Inner {
    pub(crate) fn attach_embedded(
        &self,
        embedded: &Embedded,
        thread: OneWay,
        request: &AttachRequest,
    ) -> Result<Attachment, Error> {
        let pod = &request.pod_id;
        let identity = Identity::of(request.netns.fd.as_fd())?;
        embedded.ensure()?;
        let mut lease = embedded.lease(pod)?;
        lease.ports.clone_from(&request.settings.port_mappings);
        if let Err(cause) = embedded.reserve_ports(pod, &lease) {
            embedded.release(pod, &lease.host_link);
            self.janitor.notify_one();
            return Err(cause);
        }
        let network = NetworkRecord::Embedded {
            name: embedded.config().name.clone(),
            addresses: lease.addresses.clone(),
            gateways: lease.gateways.clone(),
            host_link: lease.host_link.clone(),
            ports: lease.ports.clone(),
        };
        let netns = NetnsRecord {
            path: request.netns.path.clone(),
            pinned: false,
            identity,
        };
        let record = record(request, netns, network);
        let connect =
            |thread| embedded.connect(thread, pod, &lease, request.netns.fd.as_fd(), &request.if_name);
        let made = self
            .cache
            .write(pod, &record)
            .and_then(|()| embedded.open_ports(&lease))
            // A thread that has entered the pod cannot close the host's ports any more, should it fail.
            .and_then(|()| {
                if lease.ports.is_empty() {
                    connect(thread)
                } else {
                    aside(connect)
                }
            });
        match made {
            Ok(()) => Attachment::of(pod, &record).ok_or_else(|| unreadable(pod)),
            Err(cause) => Err(self.undo_embedded(embedded, pod, &lease, cause)),
        }
    }

    fn undo_embedded(&self, embedded: &Embedded, pod: &PodId, lease: &Lease, cause: Error) -> Error {
        // A link of that name that is not this pod's is not ours to delete.
        let unlinked = if matches!(cause, Error::LinkTaken { .. }) {
            Ok(())
        } else {
            embedded.disconnect(lease)
        };
        let closed = embedded.close_ports(pod);
        embedded.release(pod, &lease.host_link);
        self.janitor.notify_one();
        with_undo(
            cause,
            [unlinked.err(), closed.err(), self.cache.remove(pod).err()]
                .into_iter()
                .flatten()
                .collect(),
        )
    }

    pub(crate) fn attach_plugins(
        &self,
        list: &Arc<NetworkList>,
        request: &AttachRequest,
    ) -> Result<Attachment, Error> {
        let pod = &request.pod_id;
        let identity = Identity::of(request.netns.fd.as_fd())?;
        let (path, pinned) = match &request.netns.path {
            Some(path) => (path.clone(), false),
            None => (netns::pin_path(&self.config.netns_directory, pod.as_str()), true),
        };
        let mut settings = request.settings.clone();
        if settings.ip_ranges.is_empty() {
            settings.ip_ranges = self.pod_cidr_ranges();
        }
        let network = NetworkRecord::Plugins {
            source: list.source().into(),
            conflist: list.raw().clone(),
            settings: Box::new(settings.clone()),
            result: None,
        };
        let mut record = record(
            request,
            NetnsRecord {
                path: Some(path.clone()),
                pinned,
                identity,
            },
            network,
        );
        self.cache.write(pod, &record)?;

        let variables = variables(pod, &record, Some(path.clone()));
        let chain = Chain {
            list,
            directories: &self.directories,
            timeout: self.config.chain_timeout,
        };
        let add = || {
            if pinned {
                netns::pin(request.netns.fd.as_fd(), &path)?;
            }
            aside(|thread| raise_loopback(thread, request.netns.fd.as_fd()))
        };
        if let Err(cause) = add() {
            return Err(with_undo(cause, self.forget(pod, &record)));
        }
        let made = chain.add(&variables, &settings).and_then(|raw| {
            if let NetworkRecord::Plugins { result, .. } = &mut record.network {
                *result = Some(raw);
            }
            self.cache.write(pod, &record)?;
            Attachment::of(pod, &record).ok_or_else(|| unreadable(pod))
        });
        made.map_err(|cause| {
            let undo = Chain {
                timeout: self.config.chain_timeout.min(UNDO_TIMEOUT),
                ..chain
            };
            let mut failures = undo.del(&variables, &settings, None);
            if failures.is_empty() {
                failures = self.forget(pod, &record);
            }
            with_undo(cause, failures)
        })
    }

    /// Detaches a pod by its record; a pod without one is detached.
    pub(crate) fn detach(&self, pod: &PodId, netns: Option<&Path>) -> Result<(), Error> {
        let record = match self.cache.read(pod) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(()),
            Err(Error::RecordContent { problem, .. }) => {
                // It will never be readable, and the pod must be removable. GC frees what plugins hold for it.
                tracing::warn!(pod = %pod, problem, "unreadable attachment record set aside");
                return self.cache.set_aside(pod);
            }
            Err(error) => return Err(error),
        };
        let failures = match &record.network {
            NetworkRecord::Embedded { host_link, .. } => {
                // Only ports are unmade: the link goes with the namespace, and only then its address is free.
                let closed = self.embedded.as_ref().map_or(Ok(()), |embedded| {
                    embedded.close_ports(pod)?;
                    embedded.release(pod, host_link);
                    self.janitor.notify_one();
                    Ok(())
                });
                closed.err().into_iter().collect()
            }
            NetworkRecord::Plugins {
                source,
                conflist,
                settings,
                result,
            } => {
                let list = NetworkList::parse(source, conflist.clone())?;
                let chain = Chain {
                    list: &list,
                    directories: &self.directories,
                    timeout: self.config.chain_timeout,
                };
                let variables = variables(pod, &record, standing_path(&record, netns));
                chain.del(&variables, settings, result.as_ref())
            }
        };
        let failures = if failures.is_empty() {
            self.forget(pod, &record)
        } else {
            failures
        };
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Error::Detach { failures })
        }
    }

    /// Compares an attachment with what is there.
    pub(crate) fn check(&self, pod: &PodId) -> Result<(), Error> {
        let not_attached = || Error::NotAttached { pod: pod.clone() };
        let record = self.cache.read(pod)?.ok_or_else(not_attached)?;
        match &record.network {
            NetworkRecord::Embedded { host_link, .. } => match &self.embedded {
                Some(embedded) => embedded.check(pod, host_link),
                None => Err(Error::NoNetwork {
                    reason: "the embedded network is switched off".into(),
                }),
            },
            NetworkRecord::Plugins {
                source,
                conflist,
                settings,
                result,
            } => {
                let list = NetworkList::parse(source, conflist.clone())?;
                let chain = Chain {
                    list: &list,
                    directories: &self.directories,
                    timeout: self.config.chain_timeout,
                };
                let result = result.as_ref().ok_or_else(not_attached)?;
                chain.check(
                    &variables(pod, &record, standing_path(&record, None)),
                    settings,
                    result,
                )
            }
        }
    }

    /// The last two steps of every detach: the pin, then the record.
    fn forget(&self, pod: &PodId, record: &Record) -> Vec<Error> {
        let unpinned = match &record.netns {
            NetnsRecord {
                path: Some(path),
                pinned: true,
                ..
            } => netns::unpin(path),
            _ => Ok(()),
        };
        unpinned
            .and_then(|()| self.cache.remove(pod))
            .err()
            .into_iter()
            .collect()
    }
}

/// A pod on the host's network has no attachment; making one would give the host itself an `eth0` and a new default
/// route.
pub(crate) fn refuse_host(request: &AttachRequest) -> Result<(), Error> {
    let host = Identity::at(Path::new("/proc/thread-self/ns/net"));
    if host == Some(Identity::of(request.netns.fd.as_fd())?) {
        return Err(refuse(
            "netns",
            "the host's",
            "a pod needs a network namespace of its own to be attached",
        ));
    }
    Ok(())
}

fn record(request: &AttachRequest, netns: NetnsRecord, network: NetworkRecord) -> Record {
    let labels = [
        request.namespace.as_str(),
        request.name.as_str(),
        request.uid.as_str(),
    ];
    Record::new(&request.pod_id, labels, request.if_name.as_str(), netns, network)
}

fn variables(pod: &PodId, record: &Record, netns: Option<PathBuf>) -> Variables {
    Variables {
        container_id: pod.as_str().into(),
        netns,
        if_name: record.if_name.clone(),
        args: kubernetes_arguments(&record.namespace, &record.name, pod, &record.uid),
    }
}

/// Where the pod's namespace can be opened now. None if it is gone or another one is in its place: plugins then
/// release what they hold outside of it (CNI spec: DEL with an empty `CNI_NETNS`).
fn standing_path(record: &Record, known: Option<&Path>) -> Option<PathBuf> {
    let candidates = [known, record.netns.path.as_deref()];
    let same = |path: &&Path| Identity::at(path) == Some(record.netns.identity);
    candidates.into_iter().flatten().find(same).map(Path::to_path_buf)
}

fn with_undo(cause: Error, undo: Vec<Error>) -> Error {
    if undo.is_empty() {
        cause
    } else {
        Error::Undo {
            cause: Box::new(cause),
            undo,
        }
    }
}

fn unreadable(pod: &PodId) -> Error {
    Error::Check {
        pod: pod.clone(),
        problem: "its result cannot be read back".into(),
    }
}
