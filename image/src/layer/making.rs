//! A layer in the making: a folder of its own, which by one rename becomes the layer or goes to the trash.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::{ChainId, IMAGE, LayerFormat, LayerInfo, Layers, Lease, RECIPE, SIDE_FILE, TREE};
use crate::error::Error;
use crate::unpack::inherit::LayerView;
use crate::unpack::{EntryPath, UnpackError, Unsealed, UnsealedImage};

/// The right and duty to make a layer; given up on drop.
pub(crate) struct Making {
    pub(super) layers: Arc<Layers>,
    pub(super) chain: ChainId,
    /// Closed when this is over, which wakes those who wait.
    pub(super) _over: watch::Sender<()>,
}

/// A layer as unpacked, before what depends on the layers below it.
pub(crate) enum Unpacked {
    Directory(Unsealed),
    Image(UnsealedImage),
}

/// A directory that becomes a layer; thrown away on drop.
pub(crate) struct Unfinished {
    pub(super) layers: Arc<Layers>,
    pub(crate) format: LayerFormat,
    pub(super) path: PathBuf,
    pub(super) committed: bool,
}

impl Unfinished {
    /// The tree to fill, or the image to write.
    pub(crate) fn files(&self) -> PathBuf {
        self.path.join(match self.format {
            LayerFormat::Directory => TREE,
            LayerFormat::Erofs => IMAGE,
        })
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
        unpacked: Unpacked,
        below: &[ChainId],
    ) -> Result<Lease, Error> {
        let key = self.chain.key(unfinished.format);
        let below = || below.iter().filter_map(|chain| Some(self.layers.find(chain)?.0));
        let info = match unpacked {
            Unpacked::Directory(unsealed) => {
                let views = match unsealed.needs_layers_below() {
                    true => self.layers.views(below())?,
                    false => Vec::new(),
                };
                self.seal_directory(&unfinished, unsealed, views)?
            }
            Unpacked::Image(unsealed) => {
                let views = match unsealed.needs_layers_below() {
                    true => self.layers.views(below())?,
                    false => Vec::new(),
                };
                self.seal_image(unsealed, views)?
            }
        };
        // Where containers have the same files already, theirs stay, and the new ones go.
        if !self.layers.state().orphans.remove(&key) {
            let path = self.layers.folder.join(key.as_str());
            // Nothing of this name is known, but a discard may have failed.
            self.layers
                .trash
                .discard(&path)
                .map_err(Error::io("discard", &path))?;
            std::fs::rename(&unfinished.path, &path).map_err(Error::io("rename to", &path))?;
            unfinished.committed = true;
        }
        let mut state = self.layers.state();
        state.present.insert(key.clone(), info);
        *state.leases.entry(key.clone()).or_default() += 1;
        drop(state);
        Ok(Lease {
            layers: self.layers.clone(),
            key,
        })
    }

    fn seal_directory(
        &self,
        unfinished: &Unfinished,
        unsealed: Unsealed,
        mut below: Vec<LayerView>,
    ) -> Result<LayerInfo, Error> {
        let side_file = unfinished.path.join(SIDE_FILE);
        let usage = unsealed
            .seal(self.layers.style, &side_file, &mut below)
            .map_err(|source| self.refused(source))?;
        let finished =
            LayerView::open(&unfinished.files(), &side_file).map_err(Error::io("open", &unfinished.path))?;
        let opaque_root = finished
            .is_opaque(&EntryPath::root())
            .map_err(|errno| Error::io("look at", &unfinished.path)(errno.into()))?;
        Ok(LayerInfo {
            chain: self.chain.clone(),
            format: LayerFormat::Directory,
            usage,
            opaque_root,
            side_file: !finished.side().is_empty(),
        })
    }

    fn seal_image(&self, unsealed: UnsealedImage, mut below: Vec<LayerView>) -> Result<LayerInfo, Error> {
        let sealed = unsealed.seal(&mut below).map_err(|source| self.refused(source))?;
        Ok(LayerInfo {
            chain: self.chain.clone(),
            format: LayerFormat::Erofs,
            usage: sealed.usage,
            opaque_root: sealed.opaque_root,
            side_file: false,
        })
    }

    fn refused(&self, source: UnpackError) -> Error {
        Error::Unpack {
            digest: self.chain.digest().clone(),
            source,
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.layers.state().making.remove(&self.chain);
    }
}
