//! The gRPC services: one line per call. Requests are converted, handed to an operation, and its
//! result converted back; what the calls mean is in [`crate::ops`].

pub mod admin;
pub mod deadline;
mod image;
mod listing;
pub mod observe;
mod runtime;

use std::sync::Arc;

use crate::app::App;

/// CRI's RuntimeService.
pub struct Runtime(pub Arc<App>);

/// CRI's ImageService.
pub struct Images(pub Arc<App>);
