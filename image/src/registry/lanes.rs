//! How many requests may be under way to one host, over all pulls of a store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use reqwest::Url;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The hosts that are being asked, each with its free places.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A place at one host, held for as long as the answer is being read.
pub(super) struct Lane {
    // The semaphore lives as long as somebody is in it.
    _permit: OwnedSemaphorePermit,
}

impl Lanes {
    /// Waits for a free place at the URL's host.
    pub(super) async fn enter(&self, url: &Url, places: usize) -> Option<Lane> {
        let host = self.host(url, places);
        let permit = host.acquire_owned().await.ok()?;
        Some(Lane { _permit: permit })
    }

    fn host(&self, url: &Url, places: usize) -> Arc<Semaphore> {
        let key = url.origin().ascii_serialization();
        let mut hosts = self.hosts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(host) = hosts.get(&key).and_then(Weak::upgrade) {
            return host;
        }
        hosts.retain(|_, host| host.strong_count() > 0);
        let host = Arc::new(Semaphore::new(places.max(1)));
        hosts.insert(key, Arc::downgrade(&host));
        host
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_host_has_so_many_places_and_another_its_own() {
        let lanes = Lanes::default();
        let here = Url::parse("https://a.example/v2/x").unwrap();
        let same = Url::parse("https://a.example:443/v2/y").unwrap();
        let other = Url::parse("https://b.example/v2/x").unwrap();
        let first = lanes.enter(&here, 2).await.unwrap();
        let _second = lanes.enter(&same, 2).await.unwrap();
        assert!(lanes.enter(&here, 2).now_or_never().is_none());
        assert!(lanes.enter(&other, 2).now_or_never().is_some());
        drop(first);
        assert!(lanes.enter(&here, 2).now_or_never().is_some());
    }

    #[tokio::test]
    async fn hosts_that_nobody_asks_are_forgotten() {
        let lanes = Lanes::default();
        for number in 0..10 {
            let url = Url::parse(&format!("https://{number}.example/")).unwrap();
            drop(lanes.enter(&url, 1).await);
        }
        assert_eq!(lanes.hosts.lock().unwrap().len(), 1);
    }
}
