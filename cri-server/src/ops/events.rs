//! GetContainerEvents: what happens to pods and containers, told as it happens, with full statuses.
//!
//! ```text
//!   operation ── state recorded ──► publish ── statuses as they are now ──► ring of the last events
//!                                                                            │        │        │
//!                                                          subscriber ◄──────┘        │        └──────► too slow: cut off
//!                                                                     subscriber ◄────┘
//! ```
//!
//! A kubelet that lives by events asks nothing more about a pod until the next one, so an event carries the statuses
//! of the moment it was published in, and events reach every subscriber in that order, their times rising. Nothing is
//! lost while a subscriber keeps up; one that does not is told so and comes back after a listing.

use std::sync::{Arc, Mutex, PoisonError};

use cri_api::v1::{self, ContainerEventType};
use futures::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::container::Container;
use crate::pod::Pod;
use crate::time::{Nanos, now};
use crate::{Error, Result, convert};

/// Events that a subscriber may be behind: a node's worth of pods restarting at once.
const BACKLOG: usize = 4096;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It exists and does not run yet.
    Created,
    /// Its first process runs; a pod's network stands.
    Started,
    /// It ended, however.
    Stopped,
    /// It is forgotten.
    Deleted,
}

/// One event, shared by all who hear it.
type Published = Arc<v1::ContainerEventResponse>;

/// The events of this daemon's life.
pub struct Events {
    ring: broadcast::Sender<Published>,
    /// The time of the latest event. Held while an event is put together, so that order, times and statuses agree.
    latest: Mutex<Nanos>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            ring: broadcast::Sender::new(BACKLOG),
            latest: Mutex::default(),
        }
    }
}

impl Events {
    /// Tells what happened to a container.
    pub fn container(&self, pod: &Pod, container: &Container, happened: Happened) {
        self.publish(pod, container.record.id.as_str(), happened);
    }

    /// Tells what happened to a sandbox, which goes by its id among the containers.
    pub fn pod(&self, pod: &Pod, happened: Happened) {
        self.publish(pod, pod.id().as_str(), happened);
    }

    fn publish(&self, pod: &Pod, object: &str, happened: Happened) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ring.receiver_count() == 0 {
            return;
        }
        // Times tell events apart and in order, also when the clock is set back.
        *latest = now().max(*latest + 1);
        let event = v1::ContainerEventResponse {
            container_id: object.to_owned(),
            container_event_type: kind(happened).into(),
            created_at: *latest,
            pod_sandbox_status: Some(convert::pod::status(pod)),
            containers_statuses: pod
                .containers()
                .iter()
                .map(|container| convert::container::status(container))
                .collect(),
        };
        // Whoever subscribed may have left just now.
        let _ = self.ring.send(Arc::new(event));
    }

    /// Every event from now on, until the subscriber leaves or is [too slow](Error::Lagging).
    pub fn subscribe(&self) -> BoxStream<'static, Result<v1::ContainerEventResponse>> {
        unfold(Some(self.ring.subscribe()), |subscription| async {
            let mut ring = subscription?;
            match ring.recv().await {
                Ok(event) => Some((Ok(Arc::unwrap_or_clone(event)), Some(ring))),
                // The last that a subscriber hears: what it missed cannot be made good here.
                Err(RecvError::Lagged(_)) => Some((Err(Error::Lagging), None)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}

fn kind(happened: Happened) -> ContainerEventType {
    match happened {
        Happened::Created => ContainerEventType::ContainerCreatedEvent,
        Happened::Started => ContainerEventType::ContainerStartedEvent,
        Happened::Stopped => ContainerEventType::ContainerStoppedEvent,
        Happened::Deleted => ContainerEventType::ContainerDeletedEvent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PodId;
    use crate::pod::{PodConfig, PodNetwork, PodRecord, PodState};
    use futures::FutureExt;

    fn pod() -> Pod {
        let record = PodRecord {
            id: PodId::generate().unwrap(),
            config: PodConfig::default(),
            created_at: 1,
            cgroup: String::new(),
            boot_id: String::new(),
            first: None,
        };
        Pod::new(
            record,
            PodState::NotReady {
                since: 2,
                released: false,
            },
            PodNetwork::default(),
        )
    }

    #[tokio::test]
    async fn all_subscribers_hear_everything_in_order_and_at_rising_times() {
        let (events, pod) = (Events::default(), pod());
        events.pod(&pod, Happened::Created);
        let subscribers = [events.subscribe(), events.subscribe()];
        for happened in [Happened::Started, Happened::Stopped, Happened::Deleted] {
            events.pod(&pod, happened);
        }
        for subscriber in subscribers {
            let heard: Vec<_> = subscriber.take(3).map(Result::unwrap).collect().await;
            let kinds: Vec<_> = heard.iter().map(|event| event.container_event_type).collect();
            assert_eq!(kinds, [1, 2, 3]);
            assert!(heard.is_sorted_by(|a, b| a.created_at < b.created_at));
            for event in heard {
                assert_eq!(event.container_id, pod.id().as_str());
                assert_eq!(event.pod_sandbox_status.unwrap().id, pod.id().as_str());
            }
        }
    }

    #[tokio::test]
    async fn who_falls_behind_is_told_so_and_can_come_back() {
        let (events, pod) = (Events::default(), pod());
        let (mut slow, mut quick) = (events.subscribe(), events.subscribe());
        for _ in 0..=BACKLOG {
            events.pod(&pod, Happened::Created);
            assert!(quick.next().await.unwrap().is_ok());
        }
        assert!(matches!(slow.next().await, Some(Err(Error::Lagging))));
        assert!(slow.next().await.is_none(), "an error is the end");
        let mut again = events.subscribe();
        assert!(again.next().now_or_never().is_none());
        events.pod(&pod, Happened::Deleted);
        assert!(again.next().await.unwrap().is_ok() && quick.next().await.unwrap().is_ok());
    }
}
