//! The layers of the store, named by chain id and format, shared by all images that have them.
//!
//! ```text
//!   absent ──claim──► being made (one owner; others wait) ──commit──► present ──unused──► trash
//!                          └───────── failure: absent again ◄┘
//! ```
//!
//! A layer is made in `l/.new-N` and appears by one rename, after the layer below it. Who needs
//! it holds a [`Lease`]; images and snapshots count as users by name. What nobody leases or uses
//! is collected.
//!
//! What is in `l/<key>/`:
//!
//! | file | of | holds |
//! |---|---|---|
//! | `fs/` | a [directory](LayerFormat::Directory) | its files |
//! | `whiteouts` | a directory where devices cannot be made | what it deletes |
//! | `erofs` | an [image](LayerFormat::Erofs) | its files, whiteouts among them |
//! | `tar` | either | how to make its archive again |

mod chain;
mod format;
mod making;
mod mounts;
mod pin;
pub(crate) mod stream;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::{Mode, OFlags};
use tokio::sync::watch;

pub use self::chain::ChainId;
pub(crate) use self::chain::LayerKey;
pub(crate) use self::format::choose;
pub use self::format::{LayerFormat, LayerFormatChoice, LayerFormatInUse, LayerFormatReason};
pub(crate) use self::making::{Making, Unfinished, Unpacked};
pub(crate) use self::mounts::Mounts;
use crate::erofs;
use crate::error::Error;
use crate::trash::Trash;
use crate::unpack::inherit::LayerView;
use crate::unpack::root::Root;
use crate::unpack::whiteout::Style;
use crate::unpack::{DiskUsage, Limits};

const TREE: &str = "fs";
const IMAGE: &str = "erofs";
const RECIPE: &str = "tar";
const SIDE_FILE: &str = "whiteouts";
const UNFINISHED: &str = ".new-";

/// What is known of a finished layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerInfo {
    pub(crate) chain: ChainId,
    pub(crate) format: LayerFormat,
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
    /// Of layers to be made.
    pub(crate) format: LayerFormatInUse,
    pub(crate) limits: Limits,
    /// Where there are (or may be) layers to be mounted.
    mounts: Option<Mounts>,
    trash: Arc<Trash>,
    counter: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    present: HashMap<LayerKey, LayerInfo>,
    making: HashMap<ChainId, watch::Receiver<()>>,
    leases: HashMap<LayerKey, usize>,
    /// Without a record, because those were lost, but containers have them: they stay until those are gone, or become
    /// present again when somebody makes the same.
    orphans: HashSet<LayerKey>,
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

impl Layers {
    /// Takes over a folder: what is unfinished, damaged or unknown goes to the trash (unless it is `used` by a container),
    /// and the known layers that are missing are not in the result.
    pub(crate) fn open(
        folder: &Path,
        known: HashMap<LayerKey, LayerInfo>,
        used: &HashSet<LayerKey>,
        (format, style): (LayerFormatInUse, Style),
        mounts: Option<Mounts>,
        limits: Limits,
        trash: Arc<Trash>,
    ) -> Result<Self, Error> {
        let (mut found, mut orphans) = (HashSet::new(), HashSet::new());
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            let name = entry.file_name();
            let key = name.to_str().and_then(LayerKey::parse);
            let whole = |key: &LayerKey| known.get(key).is_some_and(|info| is_whole(&entry.path(), info));
            match key {
                Some(key) if whole(&key) => drop(found.insert(key)),
                // It was whole when it got this name.
                Some(key) if used.contains(&key) && !known.contains_key(&key) => {
                    tracing::warn!(layer = %key, "a layer without a record is kept: a container has it");
                    orphans.insert(key);
                }
                _ => trash
                    .discard(&entry.path())
                    .map_err(Error::io("discard", &entry.path()))?,
            }
        }
        if let Some(mounts) = &mounts {
            let is_here = |key: &LayerKey| found.contains(key) || orphans.contains(key);
            mounts.forget(|name| !LayerKey::parse(name).as_ref().is_some_and(is_here));
        }
        let present = known.into_iter().filter(|(key, _)| found.contains(key)).collect();
        Ok(Self {
            folder: folder.into(),
            style,
            format,
            limits,
            mounts,
            trash,
            counter: AtomicU64::new(1),
            state: Mutex::new(State {
                present,
                orphans,
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

    /// The layer of a chain, in whichever format it is there.
    pub(crate) fn find(&self, chain: &ChainId) -> Option<(LayerKey, LayerInfo)> {
        self.state().find(chain)
    }

    /// The tree of a layer that is a directory.
    pub(crate) fn tree(&self, key: &LayerKey) -> PathBuf {
        self.folder.join(key.as_str()).join(TREE)
    }

    /// Sees to it that a layer that is an image is mounted; gives the file where the namespace of all such mounts is
    /// pinned. Blocks.
    pub(crate) fn mount(&self, key: &LayerKey) -> Result<PathBuf, Error> {
        self.mounted(key).map(|(namespace, _)| namespace)
    }

    /// As [`Self::mount`], with a clone of the mount.
    pub(crate) fn mounted(&self, key: &LayerKey) -> Result<(PathBuf, OwnedFd), Error> {
        let image = self.folder.join(key.as_str()).join(IMAGE);
        let nowhere = || Error::io("mount", &image)(std::io::ErrorKind::Unsupported.into());
        let mounts = self.mounts.as_ref().ok_or_else(nowhere)?;
        Ok((mounts.namespace(), mounts.get(key, &image)?))
    }

    /// The files of a layer. Blocks.
    pub(crate) fn root(&self, key: &LayerKey) -> Result<Root, Error> {
        let path = self.folder.join(key.as_str());
        let io = |errno: rustix::io::Errno| Error::io("open", &path)(errno.into());
        if self.info(key).map(|info| info.format) != Some(LayerFormat::Erofs) {
            return Root::open(&self.tree(key)).map_err(io);
        }
        let (_, mount) = self.mounted(key)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&mount, ".", flags, Mode::empty())
            .map(Root::of)
            .map_err(io)
    }

    /// Unmounts all layers, when no container has one any more; they are mounted anew when needed.
    pub(crate) fn unmount_all(&self) {
        if let Some(mounts) = &self.mounts {
            mounts.forget(|_| true);
        }
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
            let side_file = self.folder.join(key.as_str()).join(SIDE_FILE);
            LayerView::new(self.root(&key)?, &side_file).map_err(Error::io("read", &side_file))
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
        loop {
            let mut waiting = {
                let mut state = self.state();
                if let Some((key, _)) = state.find(chain) {
                    *state.leases.entry(key.clone()).or_default() += 1;
                    return Claim::Present(Lease {
                        layers: self.clone(),
                        key,
                    });
                }
                match state.making.get(chain) {
                    Some(waiting) => waiting.clone(),
                    None => return Claim::Mine(state.making(self, chain)),
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
        std::fs::create_dir(&path).map_err(Error::io("create", &path))?;
        let unfinished = Unfinished {
            layers: self.clone(),
            format: self.format.format,
            path,
            committed: false,
        };
        if unfinished.format == LayerFormat::Directory {
            let tree = unfinished.files();
            std::fs::create_dir(&tree).map_err(Error::io("create", &tree))?;
        }
        Ok(unfinished)
    }

    /// Discards every layer that nobody leases and `used` does not name; gives their keys.
    ///
    /// `used` is asked under the lock: whoever lets go of a lease has already recorded the use
    /// that replaces it.
    pub(crate) fn collect(self: &Arc<Self>, used: impl FnOnce() -> HashSet<LayerKey>) -> Vec<LayerKey> {
        let (free, claims) = self.withdraw_unused(used);
        if let Some(mounts) = self.mounts.as_ref().filter(|_| !free.is_empty()) {
            mounts.forget(|name| free.iter().any(|key| key.as_str() == name));
        }
        for key in &free {
            self.discard(key);
        }
        // Who wants one of them again makes it anew from here on.
        drop(claims);
        free
    }

    fn discard(&self, key: &LayerKey) {
        if let Err(error) = self.trash.discard(&self.folder.join(key.as_str())) {
            tracing::warn!(layer = %key, %error, "cannot discard an unused layer; the next start tries again");
        }
    }

    /// The unused layers, which are not present any more, with the right to make them: a new claim must not find half of
    /// an old directory.
    fn withdraw_unused(
        self: &Arc<Self>,
        used: impl FnOnce() -> HashSet<LayerKey>,
    ) -> (Vec<LayerKey>, Vec<Making>) {
        let mut state = self.state();
        let used = used();
        // Under the lock: afterwards somebody may make a layer of that name.
        for key in state.orphans.extract_if(|key| !used.contains(key)) {
            self.discard(&key);
        }
        let free: Vec<(LayerKey, ChainId)> = state
            .present
            .iter()
            .filter(|(key, _)| !used.contains(*key) && !state.leases.contains_key(*key))
            .map(|(key, info)| (key.clone(), info.chain.clone()))
            .collect();
        let mut claims = Vec::new();
        for (key, chain) in &free {
            state.present.remove(key);
            // In another format it may be in the making, or withdrawn just now.
            if !state.making.contains_key(chain) {
                claims.push(state.making(self, chain));
            }
        }
        (free.into_iter().map(|(key, _)| key).collect(), claims)
    }
}

impl State {
    fn find(&self, chain: &ChainId) -> Option<(LayerKey, LayerInfo)> {
        LayerFormat::ALL.iter().find_map(|format| {
            let key = chain.key(*format);
            let info = self.present.get(&key)?.clone();
            Some((key, info))
        })
    }

    /// The right to make a layer that nobody makes now.
    fn making(&mut self, layers: &Arc<Layers>, chain: &ChainId) -> Making {
        let (over, waiting) = watch::channel(());
        self.making.insert(chain.clone(), waiting);
        Making {
            layers: layers.clone(),
            chain: chain.clone(),
            _over: over,
        }
    }
}

/// Whether a layer's directory has what its record says, as far as one look tells.
fn is_whole(path: &Path, info: &LayerInfo) -> bool {
    match info.format {
        LayerFormat::Directory => path.join(TREE).is_dir(),
        LayerFormat::Erofs => std::fs::File::open(path.join(IMAGE))
            .and_then(|image| erofs::check(&image))
            .inspect_err(|error| {
                tracing::warn!(layer = %info.chain, %error, "a layer is damaged");
            })
            .is_ok(),
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
