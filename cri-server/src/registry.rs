//! All pods and containers, by id and by name.
//!
//! The maps are caches of what the records and the supervisors know. They are ordered, so that a
//! truncated id is one range look-up, also among ten thousand containers.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::container::{Container, ContainerName};
use crate::ids::{ContainerId, PodId, is_id_prefix};
use crate::pod::{Pod, PodName};
use crate::{Error, Result};

/// A container with the pod it belongs to.
pub type Member = (Arc<Pod>, Arc<Container>);

#[derive(Default)]
struct Maps {
    pods: BTreeMap<String, Arc<Pod>>,
    names: BTreeMap<PodName, PodId>,
    containers: BTreeMap<String, Member>,
}

/// The maps behind their lock, which is never held across an await.
#[derive(Default)]
pub struct Registry {
    maps: RwLock<Maps>,
}

impl Registry {
    /// The pod that an id or a unique prefix of one names.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Ambiguous`].
    pub fn pod(&self, prefix: &str) -> Result<Arc<Pod>> {
        unique("pod sandbox", prefix, &self.read().pods)
    }

    /// The container that an id or a unique prefix of one names.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Ambiguous`].
    pub fn container(&self, prefix: &str) -> Result<Member> {
        unique("container", prefix, &self.read().containers)
    }

    /// The pod of that name.
    pub fn pod_named(&self, name: &PodName) -> Option<Arc<Pod>> {
        let maps = self.read();
        maps.names
            .get(name)
            .and_then(|id| maps.pods.get(id.as_str()))
            .cloned()
    }

    /// The pod's container of that name.
    pub fn container_named(&self, pod: &Pod, name: &ContainerName) -> Option<Arc<Container>> {
        pod.containers()
            .into_iter()
            .find(|c| c.record.config.name == *name)
    }

    /// All pods, the newest first, as listings show them.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let mut all: Vec<_> = self.read().pods.values().cloned().collect();
        all.sort_by_key(|p| std::cmp::Reverse(p.record.created_at));
        all
    }

    /// All containers, the newest first.
    pub fn containers(&self) -> Vec<Member> {
        let mut all: Vec<_> = self.read().containers.values().cloned().collect();
        all.sort_by_key(|(_, c)| std::cmp::Reverse(c.record.created_at));
        all
    }

    /// Enters a pod.
    pub fn insert_pod(&self, pod: Arc<Pod>) {
        let mut maps = self.write();
        maps.names
            .insert(pod.record.config.name.clone(), pod.id().clone());
        maps.pods.insert(pod.id().to_string(), pod);
    }

    /// Enters a container.
    pub fn insert_container(&self, pod: &Arc<Pod>, container: Arc<Container>) {
        let id = container.record.id.to_string();
        pod.insert(container.clone());
        self.write().containers.insert(id, (pod.clone(), container));
    }

    /// Forgets a pod.
    pub fn remove_pod(&self, pod: &Pod) {
        let mut maps = self.write();
        maps.names.remove(&pod.record.config.name);
        maps.pods.remove(pod.id().as_str());
    }

    /// Forgets a container.
    pub fn remove_container(&self, pod: &Pod, id: &ContainerId) {
        pod.forget(id);
        self.write().containers.remove(id.as_str());
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unique<T: Clone>(kind: &'static str, prefix: &str, map: &BTreeMap<String, T>) -> Result<T> {
    let none = || Error::NotFound {
        kind,
        name: prefix.to_owned(),
    };
    if !is_id_prefix(prefix) {
        return Err(none());
    }
    let mut fitting = map
        .range(prefix.to_owned()..)
        .take_while(|(id, _)| id.starts_with(prefix));
    let (_, found) = fitting.next().ok_or_else(none)?;
    match fitting.next() {
        Some(_) => Err(Error::Ambiguous {
            kind,
            prefix: prefix.to_owned(),
        }),
        None => Ok(found.clone()),
    }
}

#[cfg(test)]
mod tests;
