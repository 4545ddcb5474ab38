//! What the containers of this node are usually made of.
//!
//! Nearly all have the same `/dev`, devpts and cgroup directory, so what one had is worth [making](StockPlan) for the next
//! before that is asked for: by the supervisor of a [spare](crate::spare) sandbox, in the moment of rest in which it is begun.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime::launch::{LaunchPlan, StockPlan};

/// What the last container could have taken from stock.
#[derive(Default)]
pub struct Usual(Mutex<Option<StockPlan>>);

impl Usual {
    /// Remembers what this container is made of, unless that is known.
    pub fn learn(&self, plan: &LaunchPlan) {
        let mut known = self.known();
        if plan.is_alone() && !known.as_ref().is_some_and(|known| known.suits(plan)) {
            *known = StockPlan::of(plan);
        }
    }

    /// A sealed plan to make that by; `None` as long as there was no container.
    pub fn sealed(&self) -> Option<OwnedFd> {
        let plan = self.known().clone()?;
        plan.seal().ok()
    }

    fn known(&self) -> MutexGuard<'_, Option<StockPlan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
