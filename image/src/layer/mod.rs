//! The layers of the store: directories named by chain id, shared by all images that have them.
//!
//! ```text
//!   absent ──claim──► being made (one owner; others wait) ──commit──► present ──unused──► trash
//!                          └───────── failure: absent again ◄┘
//! ```
//!
//! A layer is made in `l/.new-N` and appears by one rename, after the layer below it. Who needs
//! it holds a [`Lease`]; images and snapshots count as users by name. What nobody leases or uses
//! is collected.

mod chain;
pub(crate) mod stream;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

pub use self::chain::ChainId;
pub(crate) use self::chain::LayerKey;
use crate::error::Error;
use crate::trash::Trash;
use crate::unpack::inherit::LayerView;
use crate::unpack::root::Root;
use crate::unpack::whiteout::Style;
use crate::unpack::{DiskUsage, EntryPath, Limits, Unsealed};

const TREE: &str = "fs";
const RECIPE: &str = "tar";
const SIDE_FILE: &str = "whiteouts";
const UNFINISHED: &str = ".new-";

/// What is known of a finished layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerInfo {
    pub(crate) chain: ChainId,
    pub(crate) usage: DiskUsage,
    /// It hides everything below it (overlayfs does not look for that on the root).
    pub(crate) opaque_root: bool,
    /// It has whiteouts that are not devices in its tree.
    pub(crate) side_file: bool,
}

/// All layers of a store.
#[derive(Debug)]
pub(crate) struct Layers {
    folder: PathBuf,
    pub(crate) style: Style,
    pub(crate) limits: Limits,
    trash: Arc<Trash>,
    counter: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    present: HashMap<LayerKey, LayerInfo>,
    making: HashMap<LayerKey, watch::Receiver<()>>,
    leases: HashMap<LayerKey, usize>,
}

/// What [`Layers::claim`] found.
pub(crate) enum Claim {
    /// It is there.
    Present(Lease),
    /// The caller is to make it.
    Mine(Making),
}

/// Keeps a layer from being collected.
#[derive(Debug)]
pub(crate) struct Lease {
    layers: Arc<Layers>,
    pub(crate) key: LayerKey,
}

/// The right and duty to make a layer; given up on drop.
pub(crate) struct Making {
    layers: Arc<Layers>,
    key: LayerKey,
    chain: ChainId,
    /// Closed when this is over, which wakes those who wait.
    _over: watch::Sender<()>,
}

/// A directory that becomes a layer; thrown away on drop.
pub(crate) struct Unfinished {
    layers: Arc<Layers>,
    path: PathBuf,
    committed: bool,
}

impl Layers {
    /// Takes over a folder: what is unfinished or unknown goes to the trash, and the known
    /// layers whose directory is missing are not in the result.
    pub(crate) fn open(
        folder: &Path,
        known: HashMap<LayerKey, LayerInfo>,
        style: Style,
        limits: Limits,
        trash: Arc<Trash>,
    ) -> Result<Self, Error> {
        let mut found = HashSet::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            let name = entry.file_name();
            let key = name
                .to_str()
                .and_then(LayerKey::parse)
                .filter(|key| known.contains_key(key));
            match key.filter(|_| entry.path().join(TREE).is_dir()) {
                Some(key) => drop(found.insert(key)),
                None => trash
                    .discard(&entry.path())
                    .map_err(Error::io("discard", &entry.path()))?,
            }
        }
        let present = known.into_iter().filter(|(key, _)| found.contains(key)).collect();
        Ok(Self {
            folder: folder.into(),
            style,
            limits,
            trash,
            counter: AtomicU64::new(1),
            state: Mutex::new(State {
                present,
                ..State::default()
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What is known of a present layer.
    pub(crate) fn info(&self, key: &LayerKey) -> Option<LayerInfo> {
        self.state().present.get(key).cloned()
    }

    /// The tree of a layer.
    pub(crate) fn tree(&self, key: &LayerKey) -> PathBuf {
        self.folder.join(key.as_str()).join(TREE)
    }

    /// The files of a layer.
    pub(crate) fn root(&self, key: &LayerKey) -> std::io::Result<Root> {
        Ok(Root::open(&self.tree(key))?)
    }

    /// The recipe of a layer's tar.
    pub(crate) fn recipe(&self, key: &LayerKey) -> PathBuf {
        self.folder.join(key.as_str()).join(RECIPE)
    }

    /// What a layer takes beside its tree: its folder, its recipe, its side file.
    pub(crate) fn bookkeeping(&self, key: &LayerKey) -> DiskUsage {
        let folder = self.folder.join(key.as_str());
        let files = [RECIPE, SIDE_FILE].map(|name| folder.join(name));
        let mut usage = DiskUsage::default();
        for path in files.iter().chain([&folder]) {
            usage += DiskUsage::of_one(path);
        }
        usage
    }

    /// Where layers are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens layers for looking, in the order given.
    pub(crate) fn views(&self, keys: impl Iterator<Item = LayerKey>) -> Result<Vec<LayerView>, Error> {
        keys.map(|key| {
            let tree = self.tree(&key);
            LayerView::open(&tree, &self.folder.join(key.as_str()).join(SIDE_FILE))
                .map_err(Error::io("open", &tree))
        })
        .collect()
    }

    /// A lease on a layer that is present.
    pub(crate) fn lease(self: &Arc<Self>, key: &LayerKey) -> Option<Lease> {
        let mut state = self.state();
        if !state.present.contains_key(key) {
            return None;
        }
        *state.leases.entry(key.clone()).or_default() += 1;
        Some(Lease {
            layers: self.clone(),
            key: key.clone(),
        })
    }

    /// Waits for whoever makes the layer now; then it is present, or the caller's to make.
    pub(crate) async fn claim(self: &Arc<Self>, chain: &ChainId) -> Claim {
        let key = chain.key();
        loop {
            let mut waiting = {
                let mut state = self.state();
                if state.present.contains_key(&key) {
                    *state.leases.entry(key.clone()).or_default() += 1;
                    return Claim::Present(Lease {
                        layers: self.clone(),
                        key,
                    });
                }
                match state.making.get(&key) {
                    Some(waiting) => waiting.clone(),
                    None => {
                        let (over, waiting) = watch::channel(());
                        state.making.insert(key.clone(), waiting);
                        return Claim::Mine(Making {
                            layers: self.clone(),
                            key,
                            chain: chain.clone(),
                            _over: over,
                        });
                    }
                }
            };
            // Closed either way: made, or given up.
            let _ = waiting.changed().await;
        }
    }

    /// A new directory to make a layer in.
    pub(crate) fn unfinished(self: &Arc<Self>) -> Result<Unfinished, Error> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{UNFINISHED}{number}"));
        let tree = path.join(TREE);
        std::fs::create_dir(&path).map_err(Error::io("create", &path))?;
        let unfinished = Unfinished {
            layers: self.clone(),
            path,
            committed: false,
        };
        std::fs::create_dir(&tree).map_err(Error::io("create", &tree))?;
        Ok(unfinished)
    }

    /// Discards every layer that nobody leases and `used` does not name; gives their keys.
    ///
    /// `used` is asked under the lock: whoever lets go of a lease has already recorded the use
    /// that replaces it.
    pub(crate) fn collect(&self, used: impl FnOnce() -> HashSet<LayerKey>) -> Vec<LayerKey> {
        let mut state = self.state();
        let used = used();
        let State { present, leases, .. } = &mut *state;
        let free: Vec<LayerKey> = present
            .keys()
            .filter(|key| !used.contains(*key) && !leases.contains_key(*key))
            .cloned()
            .collect();
        for key in &free {
            present.remove(key);
            // Under the lock: a new claim must not find half of the old directory.
            if let Err(error) = self.trash.discard(&self.folder.join(key.as_str())) {
                tracing::warn!(layer = %key, %error, "cannot discard an unused layer; the next start tries again");
            }
        }
        free
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.layers.state();
        if let Some(count) = state.leases.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.leases.remove(&self.key);
            }
        }
    }
}

impl Unfinished {
    /// The tree to fill.
    pub(crate) fn tree(&self) -> PathBuf {
        self.path.join(TREE)
    }

    /// Where its recipe goes.
    pub(crate) fn recipe(&self) -> PathBuf {
        self.path.join(RECIPE)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.layers.trash.discard(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot discard an unfinished layer");
        }
    }
}

impl Making {
    /// Completes the layer with what depends on those below (top first) and makes it present.
    /// Blocks.
    pub(crate) fn commit(
        self,
        mut unfinished: Unfinished,
        unsealed: Unsealed,
        below: &[LayerKey],
    ) -> Result<Lease, Error> {
        let side_file = unfinished.path.join(SIDE_FILE);
        let mut views = match unsealed.needs_layers_below() {
            true => self.layers.views(below.iter().cloned())?,
            false => Vec::new(),
        };
        let usage = unsealed
            .seal(self.layers.style, &side_file, &mut views)
            .map_err(|source| Error::Unpack {
                digest: self.chain.digest().clone(),
                source,
            })?;
        let finished =
            LayerView::open(&unfinished.tree(), &side_file).map_err(Error::io("open", &unfinished.path))?;
        let opaque_root = finished
            .is_opaque(&EntryPath::root())
            .map_err(|errno| Error::io("look at", &unfinished.path)(errno.into()))?;
        let info = LayerInfo {
            chain: self.chain.clone(),
            usage,
            opaque_root,
            side_file: !finished.side().is_empty(),
        };
        let path = self.layers.folder.join(self.key.as_str());
        // Nothing of this name is known, but a discard may have failed.
        self.layers
            .trash
            .discard(&path)
            .map_err(Error::io("discard", &path))?;
        std::fs::rename(&unfinished.path, &path).map_err(Error::io("rename to", &path))?;
        unfinished.committed = true;
        let mut state = self.layers.state();
        state.present.insert(self.key.clone(), info);
        *state.leases.entry(self.key.clone()).or_default() += 1;
        drop(state);
        Ok(Lease {
            layers: self.layers.clone(),
            key: self.key.clone(),
        })
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.layers.state().making.remove(&self.key);
    }
}
