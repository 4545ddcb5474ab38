//! From an image reference to a mounted root. (The chapter grows with the crate.)

mod assemble;
mod blob;
mod catalog;
pub mod config;
pub mod database;
pub mod digest;
pub mod document;
mod error;
mod export;
mod import;
mod layer;
pub mod manifest;
pub mod merged;
pub mod platform;
mod progress;
mod pull;
mod records;
pub mod reference;
pub mod registry;
mod snapshot;
mod store;
mod trash;
pub mod unpack;
mod usage;

pub use error::{Error, ErrorKind};
pub use import::{ArchiveProblem, ImportOptions};
pub use layer::ChainId;
pub use progress::{LayerProgress, LayerStage, PullProgress, PullStage};
pub use pull::PullRequest;
pub use reference::Reference;
pub use registry::{AuthFields, Credentials, RegistryConfig, RegistryError, RetryPolicy};
pub use snapshot::{Snapshot, SnapshotChoice, SnapshotMode, SnapshotRoot};
pub use store::{Image, ImageId, OpenReport, Removed, Store, StoreConfig};
pub use unpack::{DiskUsage, Limits, UnpackError};
pub use usage::StoreUsage;
