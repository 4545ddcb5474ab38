//! Filters of profiles that were compiled before.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{LinuxSeccomp, LinuxSyscall};

use super::abi::Machine;
use super::compile::{Compiled, compile};
use super::error::SeccompError;

/// A node has few profiles, and the containers of a pod mostly share one: the last ones used are kept.
#[derive(Debug)]
pub struct Cache {
    machine: Machine,
    capacity: usize,
    /// The one used last comes last.
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    profile: LinuxSeccomp,
    compiled: Arc<Compiled>,
}

impl Cache {
    /// Keeps up to `capacity` filters for a machine.
    pub fn new(machine: Machine, capacity: usize) -> Self {
        Self {
            machine,
            capacity,
            entries: Mutex::default(),
        }
    }

    /// The filter of a profile: see [`compile`]. Errors are not kept.
    ///
    /// # Errors
    /// Those of [`compile`].
    pub fn compile(&self, profile: &LinuxSeccomp) -> Result<Arc<Compiled>, SeccompError> {
        let hash = fingerprint(profile);
        if let Some(compiled) = self.find(hash, profile) {
            return Ok(compiled);
        }
        // Without the lock: two who come at once with a new profile both compile it, and nobody else waits.
        let compiled = Arc::new(compile(profile, self.machine)?);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.capacity && !entries.is_empty() {
            entries.remove(0);
        }
        if self.capacity > 0 {
            entries.push(Entry {
                hash,
                profile: profile.clone(),
                compiled: Arc::clone(&compiled),
            });
        }
        Ok(compiled)
    }

    fn find(&self, hash: u64, profile: &LinuxSeccomp) -> Option<Arc<Compiled>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries
            .iter()
            .position(|entry| entry.hash == hash && entry.profile == *profile)?;
        let entry = entries.remove(at);
        let compiled = Arc::clone(&entry.compiled);
        entries.push(entry);
        Some(compiled)
    }
}

/// Tells profiles apart quickly; equality is what decides.
fn fingerprint(profile: &LinuxSeccomp) -> u64 {
    let mut hasher = DefaultHasher::new();
    discriminant(&profile.default_action()).hash(&mut hasher);
    profile.default_errno_ret().hash(&mut hasher);
    for arch in profile.architectures().iter().flatten() {
        discriminant(arch).hash(&mut hasher);
    }
    for entry in profile.syscalls().iter().flatten() {
        hash_entry(entry, &mut hasher);
    }
    hasher.finish()
}

fn hash_entry(entry: &LinuxSyscall, hasher: &mut impl Hasher) {
    entry.names().hash(hasher);
    discriminant(&entry.action()).hash(hasher);
    entry.errno_ret().hash(hasher);
    for arg in entry.args().iter().flatten() {
        discriminant(&arg.op()).hash(hasher);
        (arg.index(), arg.value(), arg.value_two()).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxSeccompAction;

    use super::*;

    fn profile(errno: u32) -> LinuxSeccomp {
        let mut profile = LinuxSeccomp::default();
        profile
            .set_default_action(LinuxSeccompAction::ScmpActErrno)
            .set_default_errno_ret(Some(errno));
        profile
    }

    #[test]
    fn a_profile_is_compiled_once() {
        let cache = Cache::new(Machine::X86_64, 2);
        let first = cache.compile(&profile(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.compile(&profile(1)).unwrap()));
        let other = cache.compile(&profile(2)).unwrap();
        assert_ne!(first.filter, other.filter);
    }

    #[test]
    fn the_one_unused_for_longest_goes() {
        let cache = Cache::new(Machine::X86_64, 2);
        let [one, two] = [1, 2].map(|errno| cache.compile(&profile(errno)).unwrap());
        cache.compile(&profile(1)).unwrap();
        cache.compile(&profile(3)).unwrap();
        assert!(Arc::ptr_eq(&one, &cache.compile(&profile(1)).unwrap()));
        assert!(!Arc::ptr_eq(&two, &cache.compile(&profile(2)).unwrap()));
    }
}
