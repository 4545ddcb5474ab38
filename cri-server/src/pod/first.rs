//! What a sandbox has for its first container, until that comes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::container::Ahead;
use crate::ids::ContainerId;

/// An id and a cgroup without limits: for one container, or for who removes it.
#[derive(Default)]
pub struct First(Mutex<Option<(ContainerId, Ahead)>>);

impl First {
    /// It, once.
    pub fn take(&self) -> Option<(ContainerId, Ahead)> {
        self.slot().take()
    }

    /// It is there, or is being made.
    pub fn put(&self, id: ContainerId, cgroup: Ahead) {
        *self.slot() = Some((id, cgroup));
    }

    fn slot(&self) -> MutexGuard<'_, Option<(ContainerId, Ahead)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
