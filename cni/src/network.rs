//! [`Network`]: the front of the crate. It chooses the network, keeps one operation per pod, and moves everything that
//! blocks off the async threads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, Semaphore};

use crate::attach::Attachment;
use crate::cache::{Cache, NetworkRecord};
use crate::conf::NetworkList;
use crate::embedded::lease::Subnets;
use crate::embedded::{Embedded, EmbeddedConfig, Lease};
use crate::error::Error;
use crate::names::PodId;
use crate::netns::on_own_thread;
use crate::plugin::PluginDirectories;
use crate::request::{AttachRequest, IpRange};
use crate::select::{Selected, StatusAnswer};
use crate::status::NetworkStatus;
use crate::watch::ConfigDirectory;

/// Threads that set up embedded links at once. The kernel serialises most of it; more would only wait.
const EMBEDDED_AT_ONCE: usize = 32;
/// How often draining links are looked at while there are some.
const JANITOR_EVERY: Duration = Duration::from_secs(1);

/// Where things are and how long they may take.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Network configurations, usually `/etc/cni/net.d`.
    pub config_directory: PathBuf,
    /// Plugins, searched in order, usually `/opt/cni/bin` and `/usr/lib/cni`.
    pub plugin_directories: Vec<PathBuf>,
    /// Our records, usually `/var/lib/crisp/cni`.
    pub data_directory: PathBuf,
    /// Where namespaces are pinned for plugins, usually `/run/netns`.
    pub netns_directory: PathBuf,
    /// For a chain of plugins as a whole.
    pub chain_timeout: Duration,
    /// Chains that run at once.
    pub chains_at_once: usize,
    /// The network when there is no configuration; none to have none.
    pub embedded: Option<EmbeddedConfig>,
}

impl Default for NetworkConfig {
    /// The usual places, the embedded network on, and 220 s for a chain: just under kubelet's four minutes.
    fn default() -> Self {
        NetworkConfig {
            config_directory: "/etc/cni/net.d".into(),
            plugin_directories: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            data_directory: "/var/lib/crisp/cni".into(),
            netns_directory: "/run/netns".into(),
            chain_timeout: Duration::from_secs(220),
            chains_at_once: 16,
            embedded: Some(EmbeddedConfig::default()),
        }
    }
}

/// The pod network of this node. Clones share it.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

/// What all operations share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: NetworkConfig,
    pub(crate) directories: PluginDirectories,
    pub(crate) cache: Cache,
    pub(crate) embedded: Option<Embedded>,
    /// Told when an address begins to drain.
    pub(crate) janitor: Arc<Notify>,
    pub(crate) watched: Mutex<ConfigDirectory>,
    pod_cidr: Mutex<Vec<IpNet>>,
    pub(crate) asked: Mutex<Option<StatusAnswer>>,
    pods: Mutex<HashMap<PodId, Weak<AsyncMutex<()>>>>,
    chains: Arc<Semaphore>,
    links: Arc<Semaphore>,
}

/// An attachment found in the records.
#[derive(Debug, Clone)]
pub struct RecordedAttachment {
    /// The pod.
    pub pod_id: PodId,
    /// The attachment; none if its attach did not come to its end, or what it made is gone, or the record
    /// cannot be read. Detach it in these cases.
    pub attachment: Option<Attachment>,
}

/// How far the first of two threads came.
enum Progress {
    Attached(Attachment),
    /// A chain of plugins is to run, which needs a place among the chains.
    Chain(Arc<NetworkList>, AttachRequest, OwnedMutexGuard<()>),
}

impl Network {
    /// Opens the network: reads the records, adopts what they and the host's links tell of, and sets up the
    /// embedded network if it is the one to serve. A network that cannot serve yet is no error: see
    /// [`Network::status`].
    ///
    /// # Errors
    /// A configuration that can never work, or a data directory that cannot be used.
    pub async fn open(config: NetworkConfig) -> Result<Self, Error> {
        let inner = on_own_thread(move |_| Inner::open(config)).await?;
        let inner = Arc::new(inner);
        tokio::spawn(tend(inner.janitor.clone(), Arc::downgrade(&inner)));
        Ok(Network { inner })
    }

    /// Whether pods can be attached now, and to what. Reads the configuration directory again if it changed.
    pub async fn status(&self) -> NetworkStatus {
        let inner = self.inner.clone();
        let answer = on_own_thread(move |_| Ok(inner.status())).await;
        answer.unwrap_or_else(|error| NetworkStatus::unknown(&error))
    }

    /// Attaches a pod. One that is recorded already, from an attempt whose end nobody saw, is detached first.
    ///
    /// The work goes on when the caller stops waiting; the record tells what came of it.
    ///
    /// # Errors
    /// Everything that was made is unmade again; if that fails too, [`Error::Undo`] names both, and the attachment
    /// stays recorded.
    pub async fn attach(&self, request: AttachRequest) -> Result<Attachment, Error> {
        request.check()?;
        let pod = self.inner.clone().only(&request.pod_id).await;
        let place = self.inner.links.clone().acquire_owned().await;
        let inner = self.inner.clone();
        let progress = on_own_thread(move |thread| {
            let _place = place;
            crate::attach::refuse_host(&request)?;
            inner.detach(&request.pod_id, None)?;
            match inner.select()? {
                (Selected::Embedded, Some(embedded)) => {
                    let attachment = inner.attach_embedded(embedded, thread, &request)?;
                    drop(pod);
                    Ok(Progress::Attached(attachment))
                }
                (Selected::Plugins(list), _) => Ok(Progress::Chain(list, request, pod)),
                (Selected::Embedded, None) => Err(inner.no_network()),
            }
        })
        .await?;
        let (list, request, pod) = match progress {
            Progress::Attached(attachment) => return Ok(attachment),
            Progress::Chain(list, request, pod) => (list, request, pod),
        };
        let place = self.inner.chains.clone().acquire_owned().await;
        let inner = self.inner.clone();
        on_own_thread(move |_| {
            let _held = (pod, place);
            inner.attach_plugins(&list, &request)
        })
        .await
    }

    /// Detaches a pod, by its record alone: its configuration may have gone since. A pod without a record is
    /// detached. `netns` is a path at which the pod's namespace can be opened now, if the caller knows a better one
    /// than attach was given; a namespace that is gone or replaced is no obstacle.
    ///
    /// # Errors
    /// [`Error::Detach`] with every step that failed; the others were done, and it can be tried again.
    pub async fn detach(&self, pod_id: &PodId, netns: Option<&Path>) -> Result<(), Error> {
        let pod = self.inner.clone().only(pod_id).await;
        let place = self.inner.chains.clone().acquire_owned().await;
        let (inner, pod_id, netns) = (self.inner.clone(), pod_id.clone(), netns.map(Path::to_path_buf));
        on_own_thread(move |_| {
            let _held = (pod, place);
            inner.detach(&pod_id, netns.as_deref())
        })
        .await
    }

    /// Compares a pod's attachment with what is there: CHECK of the plugins, or a look at the embedded link.
    ///
    /// # Errors
    /// What differs, or [`Error::NotAttached`].
    pub async fn check(&self, pod_id: &PodId) -> Result<(), Error> {
        let pod = self.inner.clone().only(pod_id).await;
        let (inner, pod_id) = (self.inner.clone(), pod_id.clone());
        on_own_thread(move |_| {
            let _held = pod;
            inner.check(&pod_id)
        })
        .await
    }

    /// Detaches every recorded pod that is not `live`, and has the plugins collect what belongs to no record.
    /// Returns the pods that were detached.
    ///
    /// # Errors
    /// [`Error::Detach`] with all that failed; everything else was done.
    pub async fn gc(&self, live: &[PodId]) -> Result<Vec<PodId>, Error> {
        let inner = self.inner.clone();
        let recorded = on_own_thread(move |_| inner.cache.pods()).await?;
        let mut detached = Vec::new();
        let mut failures = Vec::new();
        for pod in recorded.into_iter().filter(|pod| !live.contains(pod)) {
            match self.detach(&pod, None).await {
                Ok(()) => detached.push(pod),
                Err(error) => failures.push(error),
            }
        }
        let place = self.inner.chains.clone().acquire_owned().await;
        let inner = self.inner.clone();
        let collected = on_own_thread(move |_| {
            let _place = place;
            inner.collect()
        });
        failures.extend(collected.await?);
        if failures.is_empty() {
            Ok(detached)
        } else {
            Err(Error::Detach { failures })
        }
    }

    /// All recorded attachments, for the daemon's recovery.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub async fn attachments(&self) -> Result<Vec<RecordedAttachment>, Error> {
        let inner = self.inner.clone();
        on_own_thread(move |_| inner.attachments()).await
    }

    /// Sets the subnets that new pods get addresses of: those of the embedded network, and of plugins that declare
    /// the capability `ipRanges`. Kept over restarts. Pods that are attached keep theirs.
    ///
    /// # Errors
    /// [`Error::Subnets`] if they are not usable; then nothing was changed.
    pub async fn set_pod_cidr(&self, nets: Vec<IpNet>) -> Result<(), Error> {
        let subnets = Subnets::new(&nets)?;
        let inner = self.inner.clone();
        on_own_thread(move |_| {
            if let Some(embedded) = &inner.embedded {
                embedded.set_subnets(subnets, &embedded_leases(&inner.cache)?)?;
            }
            *locked(&inner.pod_cidr) = nets;
            Ok(())
        })
        .await
    }

    /// For a clean stop of the daemon: takes bridge, nftables table and changed kernel parameters away if no pod is
    /// attached to the embedded network. Says whether it did.
    ///
    /// # Errors
    /// The first step that failed.
    pub async fn shutdown(&self) -> Result<bool, Error> {
        let inner = self.inner.clone();
        on_own_thread(move |_| match &inner.embedded {
            Some(embedded) if embedded_leases(&inner.cache)?.is_empty() => embedded.shutdown(),
            _ => Ok(false),
        })
        .await
    }
}

impl Inner {
    fn open(config: NetworkConfig) -> Result<Self, Error> {
        crate::netns::warn_of_inherited_descriptors();
        let cache = Cache::open(&config.data_directory)?;
        let embedded = match &config.embedded {
            Some(embedded) => Some(Embedded::open(
                embedded.clone(),
                &config.data_directory,
                &embedded_leases(&cache)?,
            )?),
            None => None,
        };
        let inner = Inner {
            directories: PluginDirectories(config.plugin_directories.clone()),
            watched: Mutex::new(ConfigDirectory::new(config.config_directory.clone())),
            chains: Arc::new(Semaphore::new(config.chains_at_once.max(1))),
            links: Arc::new(Semaphore::new(EMBEDDED_AT_ONCE)),
            pod_cidr: Mutex::new(embedded.as_ref().map(Embedded::pod_cidr).unwrap_or_default()),
            asked: Mutex::new(None),
            pods: Mutex::new(HashMap::new()),
            janitor: Arc::new(Notify::new()),
            config,
            cache,
            embedded,
        };
        if let (Ok((Selected::Embedded, _)), Some(embedded)) = (inner.select(), &inner.embedded)
            && let Err(error) = embedded.ensure()
        {
            tracing::warn!(%error, "the embedded network cannot serve yet");
        }
        // What drained when the daemon was killed still does.
        inner.janitor.notify_one();
        Ok(inner)
    }

    pub(crate) fn pod_cidr_ranges(&self) -> Vec<Vec<IpRange>> {
        locked(&self.pod_cidr)
            .iter()
            .map(|subnet| vec![IpRange { subnet: *subnet }])
            .collect()
    }

    /// Waits until nothing else is done to the pod.
    async fn only(self: Arc<Self>, pod: &PodId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut pods = locked(&self.pods);
            pods.retain(|_, lock| lock.strong_count() > 0);
            let known = pods.get(pod).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(AsyncMutex::new(()));
                pods.insert(pod.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// Looks after draining addresses, whenever there are some, until the network is dropped.
async fn tend(wanted: Arc<Notify>, network: Weak<Inner>) {
    loop {
        wanted.notified().await;
        loop {
            let Some(inner) = network.upgrade() else { return };
            match on_own_thread(move |_| inner.embedded.as_ref().map_or(Ok(0), Embedded::reap)).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    // Tried again with the next pod that goes, or when addresses run out.
                    tracing::warn!(%error, "look after draining addresses");
                    break;
                }
            }
            tokio::time::sleep(JANITOR_EVERY).await;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The janitor wakes, finds nothing to look after, and ends.
        self.janitor.notify_one();
    }
}

/// The leases that the records tell of. An unreadable record is reported when its pod is detached.
fn embedded_leases(cache: &Cache) -> Result<Vec<(PodId, Lease)>, Error> {
    let mut leases = Vec::new();
    for pod in cache.pods()? {
        if let Ok(Some(record)) = cache.read(&pod)
            && let NetworkRecord::Embedded {
                addresses,
                gateways,
                host_link,
                ports,
                ..
            } = record.network
        {
            leases.push((
                pod,
                Lease {
                    addresses,
                    gateways,
                    host_link,
                    ports,
                },
            ));
        }
    }
    Ok(leases)
}

// A panic while one of these is held leaves it whole: every change is one assignment.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
