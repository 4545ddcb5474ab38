//! Which network serves, whether it can, and what the records tell: the questions that change nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attach::Attachment;
use crate::cache::NetworkRecord;
use crate::chain::Chain;
use crate::conf::NetworkList;
use crate::embedded::Embedded;
use crate::error::Error;
use crate::names::PodId;
use crate::network::{Inner, RecordedAttachment, locked};
use crate::status::{ActiveNetwork, NetworkStatus, Readiness};
use crate::watch::Loaded;

/// STATUS of plugins is asked at most this often; kubelet asks us more often.
const STATUS_EVERY: Duration = Duration::from_secs(10);
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// What the plugins last said of themselves.
#[derive(Debug)]
pub(crate) struct StatusAnswer {
    list: Arc<NetworkList>,
    at: Instant,
    problem: Option<String>,
}

/// The network that a new pod gets.
pub(crate) enum Selected {
    Embedded,
    Plugins(Arc<NetworkList>),
}

impl Inner {
    pub(crate) fn loaded(&self) -> Loaded {
        locked(&self.watched).refresh()
    }

    pub(crate) fn select(&self) -> Result<(Selected, Option<&Embedded>), Error> {
        let loaded = self.loaded();
        match (loaded.network, &self.embedded) {
            (Some(list), embedded) => Ok((Selected::Plugins(list), embedded.as_ref())),
            // A broken file tells that a network of plugins is meant: another one must not step in for it.
            (None, Some(embedded)) if loaded.problems.is_empty() => Ok((Selected::Embedded, Some(embedded))),
            (None, _) => Err(self.no_network()),
        }
    }

    pub(crate) fn no_network(&self) -> Error {
        let mut problems = self.loaded().problems;
        let directory = self.config.config_directory.display();
        problems.push(format!(
            "no valid network configuration in {directory}; install a CNI network"
        ));
        Error::NoNetwork {
            reason: problems.join("; "),
        }
    }

    pub(crate) fn status(&self) -> NetworkStatus {
        let loaded = self.loaded();
        let mut warnings = loaded.problems.clone();
        if loaded.outdated {
            warnings.push("the network serves as last read, because its file is broken now".into());
        }
        let (active, problem) = match (loaded.network, &self.embedded) {
            (Some(list), _) => {
                let problem = self.chain_problem(&list);
                (Some(ActiveNetwork::of_list(&list)), problem)
            }
            (None, Some(embedded)) if loaded.problems.is_empty() => {
                let problem = embedded.verify().err().map(|error| error.to_string());
                (Some(ActiveNetwork::of_embedded(embedded)), problem)
            }
            (None, _) => (None, Some(self.no_network().to_string())),
        };
        let readiness = problem.map_or(Readiness::Ready, |reason| Readiness::NotReady { reason });
        let attachments = self.cache.pods().map(|pods| pods.len()).unwrap_or_default();
        NetworkStatus {
            readiness,
            active,
            warnings,
            attachments,
            config_directory: self.config.config_directory.clone(),
            plugin_directories: self.config.plugin_directories.clone(),
        }
    }

    /// What keeps the chain from serving, asked now or a moment ago.
    fn chain_problem(&self, list: &Arc<NetworkList>) -> Option<String> {
        let mut asked = locked(&self.asked);
        if let Some(answer) = &*asked
            && Arc::ptr_eq(&answer.list, list)
            && answer.problem.is_none()
            && answer.at.elapsed() < STATUS_EVERY
        {
            return None;
        }
        let timeout = self.config.chain_timeout.min(STATUS_TIMEOUT);
        let chain = Chain {
            list,
            directories: &self.directories,
            timeout,
        };
        let problem = chain.status().err().map(|error| error.to_string());
        *asked = Some(StatusAnswer {
            list: list.clone(),
            at: Instant::now(),
            problem: problem.clone(),
        });
        problem
    }

    pub(crate) fn attachments(&self) -> Result<Vec<RecordedAttachment>, Error> {
        let links = Embedded::standing_links()?;
        let found = |pod: PodId| {
            let record = self.cache.read(&pod).ok().flatten();
            let stands = record.filter(|record| match &record.network {
                NetworkRecord::Embedded { host_link, .. } => links.contains(host_link),
                NetworkRecord::Plugins { .. } => true,
            });
            let attachment = stands.and_then(|record| Attachment::of(&pod, &record));
            RecordedAttachment {
                pod_id: pod,
                attachment,
            }
        };
        Ok(self.cache.pods()?.into_iter().map(found).collect())
    }

    /// GC of the current network's plugins.
    pub(crate) fn collect(&self) -> Result<Vec<Error>, Error> {
        let Some(list) = self.loaded().network else {
            return Ok(Vec::new());
        };
        let mut valid = Vec::new();
        for pod in self.cache.pods()? {
            if let Ok(Some(record)) = self.cache.read(&pod) {
                valid.push((pod, record.if_name));
            }
        }
        let chain = Chain {
            list: &list,
            directories: &self.directories,
            timeout: self.config.chain_timeout,
        };
        Ok(chain.gc(&valid))
    }
}
