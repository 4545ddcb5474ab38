//! Watching pulls.

use std::sync::Mutex;
use std::time::SystemTime;

use crate::digest::Digest;

/// A pull under way, as seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// What is pulled.
    pub reference: String,
    /// When it started.
    pub started: SystemTime,
    /// What it does now.
    pub stage: PullStage,
    /// Its layers, lowest first; empty until the manifest is known.
    pub layers: Vec<LayerProgress>,
}

/// What a pull does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStage {
    /// Asking the registry for manifest and configuration.
    Resolving,
    /// Asking the administrator's verifier.
    Verifying,
    /// Fetching and unpacking layers.
    Layers,
    /// Making the image durable.
    Committing,
}

/// One layer of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Of the compressed layer.
    pub digest: Digest,
    /// Compressed bytes received.
    pub received: u64,
    /// Compressed bytes in all.
    pub total: u64,
    /// What happens with it.
    pub stage: LayerStage,
}

/// What happens with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStage {
    /// Waiting for its turn, or for another pull that fetches the same layer.
    Waiting,
    /// On its way from the registry to the disk.
    Fetching,
    /// Unpacked, waiting for the layers below.
    Unpacked,
    /// In the store.
    Done,
}

/// The live side of a [`PullProgress`].
#[derive(Debug)]
pub(crate) struct Watch {
    reference: String,
    started: SystemTime,
    state: Mutex<(PullStage, Vec<LayerWatch>)>,
}

#[derive(Debug)]
struct LayerWatch {
    digest: Digest,
    total: u64,
    received: u64,
    stage: LayerStage,
}

impl Watch {
    pub(crate) fn new(reference: String, started: SystemTime) -> Self {
        Self {
            reference,
            started,
            state: Mutex::new((PullStage::Resolving, Vec::new())),
        }
    }

    pub(crate) fn stage(&self, stage: PullStage) {
        self.state().0 = stage;
    }

    pub(crate) fn expect(&self, layers: impl Iterator<Item = (Digest, u64)>) {
        let watches = layers.map(|(digest, total)| LayerWatch {
            digest,
            total,
            received: 0,
            stage: LayerStage::Waiting,
        });
        *self.state() = (PullStage::Layers, watches.collect());
    }

    pub(crate) fn layer(&self, index: usize, stage: LayerStage) {
        if let Some(layer) = self.state().1.get_mut(index) {
            layer.stage = stage;
        }
    }

    pub(crate) fn received(&self, index: usize, bytes: u64) {
        if let Some(layer) = self.state().1.get_mut(index) {
            layer.received = bytes;
        }
    }

    pub(crate) fn look(&self) -> PullProgress {
        let state = self.state();
        let layers = state.1.iter().map(|layer| LayerProgress {
            digest: layer.digest.clone(),
            received: layer.received,
            total: layer.total,
            stage: layer.stage,
        });
        PullProgress {
            reference: self.reference.clone(),
            started: self.started,
            stage: state.0,
            layers: layers.collect(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, (PullStage, Vec<LayerWatch>)> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
