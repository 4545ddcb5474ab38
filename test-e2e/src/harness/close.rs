//! The end of a server, with nothing left of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Server;
use crate::eventually::stretched;
use crate::layout::BRIDGE;
use crate::leaks::{Trace, left_behind};

impl Server {
    /// Removes all pods and images as kubelet would, stops the daemon, and demands that nothing is
    /// left of any of it.
    ///
    /// # Panics
    /// With the list of what is left.
    pub async fn close(mut self) {
        if self.process.is_none() {
            self.restart().await;
        }
        self.converge().await;
        // The bridge and its permanent port serve until the daemon is stopped.
        let may_stay = |trace: &Trace| matches!(trace, Trace::Link(name) if name.starts_with(BRIDGE));
        self.nothing_left("after removing all pods and images", |trace| {
            may_stay(trace) || self.is_infrastructure(trace)
        })
        .await;
        self.stop().await;
        self.nothing_left("after stopping the daemon", |trace| {
            // Other programs may pin namespaces there, too: it stays shared, as `ip netns` leaves it.
            let pins = matches!(trace, Trace::Mount(text) if text.contains(" /run/netns "));
            pins || self.is_cgroup_of_daemon(trace)
        })
        .await;
        for cgroup in self.layout.scope(&self.host).cgroups().iter().rev() {
            fs::remove_dir(cgroup)
                .unwrap_or_else(|error| panic!("{} is not empty: {error}", cgroup.display()));
        }
        self.closed = true;
    }

    /// The convergence check of kubelet's kind: list, stop, remove, until there is nothing.
    async fn converge(&self) {
        for container in self.client.containers().await.expect("listing containers") {
            self.client
                .stop(&container.id, 0)
                .await
                .expect("stopping a container");
            self.client
                .remove(&container.id)
                .await
                .expect("removing a container");
        }
        for pod in self.client.pods().await.expect("listing pods") {
            self.client.stop_pod(&pod.id).await.expect("stopping a pod");
            self.client.remove_pod(&pod.id).await.expect("removing a pod");
        }
        for image in self.client.all_images().await.expect("listing images") {
            self.client
                .remove_image(&image.id)
                .await
                .expect("removing an image");
        }
        let left = (
            self.client.pods().await,
            self.client.containers().await,
            self.client.all_images().await,
        );
        let left = (
            left.0.expect("listing").len(),
            left.1.expect("listing").len(),
            left.2.expect("listing").len(),
        );
        assert_eq!(left, (0, 0, 0), "pods, containers and images after removing all");
    }

    async fn nothing_left(&self, when: &str, may_stay: impl Fn(&Trace) -> bool) {
        let look = || {
            let after = self.all_traces();
            let left = left_behind(&self.before, &after);
            left.into_iter()
                .filter(|trace| !may_stay(trace))
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        let deadline = std::time::Instant::now() + stretched(Duration::from_secs(10));
        loop {
            let left = look();
            if left.is_empty() {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "left {when}:\n  {}",
                left.join("\n  ")
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What exists as long as the daemon does.
    fn is_infrastructure(&self, trace: &Trace) -> bool {
        match trace {
            Trace::Process(pid, _) => self
                .process
                .as_ref()
                .is_some_and(|process| i64::from(process.pid()) == i64::from(*pid)),
            Trace::Socket(_) => true,
            // Where writable layers are while the data directory cannot carry them, and where namespaces are pinned.
            Trace::Mount(text) => text.ends_with(" tmpfs crisp-rw") || text.contains(" /run/netns "),
            Trace::Cgroup(_) => self.is_cgroup_of_daemon(trace),
            Trace::File(path) => {
                fs::symlink_metadata(self.host.path(path)).is_ok_and(|file| file.is_dir())
                    && self.is_top(path)
            }
            _ => false,
        }
    }

    /// The root, the parent that pods were put below, and the places of daemon and supervisors.
    fn is_cgroup_of_daemon(&self, trace: &Trace) -> bool {
        let top = |path: &Path| path.ends_with(&self.layout.cgroup_root);
        match trace {
            Trace::Cgroup(path) => {
                let known = ["daemon", "sup", "kubepods"]
                    .iter()
                    .any(|name| path.ends_with(name));
                top(path) || (known && path.parent().is_some_and(top))
            }
            Trace::File(path) => {
                fs::symlink_metadata(self.host.path(path)).is_ok_and(|file| file.is_dir())
                    && self.is_top(path)
            }
            _ => false,
        }
    }

    /// The store's own empty shelves: directories directly in the state and data directories.
    fn is_top(&self, path: &Path) -> bool {
        path.parent()
            .is_some_and(|parent| self.layout.files.iter().any(|files| parent == files))
    }
}
