//! What the daemon has to give: nobody can hand on a capability that they lack.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::thread::CapabilitySet;

/// The capabilities that containers can get.
#[derive(Debug)]
pub struct Held {
    set: CapabilitySet,
    warned: AtomicBool,
}

impl Held {
    /// Those of this process. A daemon in a container, or one whose unit limits it, has not all of them.
    pub fn by_this_process() -> Self {
        let permitted = rustix::thread::capabilities(None).map(|sets| sets.permitted);
        // If the kernel does not tell, the launch finds out.
        Self::of(permitted.unwrap_or(CapabilitySet::all()))
    }

    fn of(set: CapabilitySet) -> Self {
        Self {
            set,
            warned: AtomicBool::new(false),
        }
    }

    /// Takes from `names`, without `CAP_`, those that cannot be given, with one warning in the daemon's life: privileged
    /// containers must start all the same.
    pub fn narrow(&self, names: &mut BTreeSet<&'static str>) {
        let lacking: Vec<_> = names.iter().copied().filter(|name| !self.has(name)).collect();
        if lacking.is_empty() {
            return;
        }
        names.retain(|name| self.has(name));
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                capabilities = lacking.join(" "),
                "crisp lacks capabilities that a container asks for; containers start without them: give them to crisp's \
                 unit, or drop them from the pods"
            );
        }
    }

    fn has(&self, name: &str) -> bool {
        CapabilitySet::from_name(name).is_some_and(|capability| self.set.contains(capability))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_cannot_be_given() {
        let held = Held::of(CapabilitySet::CHOWN | CapabilitySet::SYS_ADMIN);
        let mut names: BTreeSet<_> = ["CHOWN", "SYS_RESOURCE"].into();
        held.narrow(&mut names);
        assert_eq!(names, ["CHOWN"].into());
        assert!(held.warned.load(Ordering::Relaxed));
    }

    #[test]
    fn the_kernels_names_are_known() {
        let held = Held::of(CapabilitySet::all());
        let mut names = crate::spec::capabilities::all();
        held.narrow(&mut names);
        assert_eq!(names, crate::spec::capabilities::all());
    }
}
