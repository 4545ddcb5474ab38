//! A program of the administrator's that decides which images may be used.
//!
//! It is run after a name was resolved and before any layer is fetched, and speaks the protocol that
//! image verifiers for other runtimes speak, so that those serve here, too:
//!
//! ```text
//!   <verifier> -name docker.io/library/app:1 -digest sha256:… \
//!              -stdin-media-type application/vnd.oci.descriptor.v1+json   < descriptor as JSON
//!   exit code 0: may be used;   anything else: refused, with the reason on stdout
//! ```
//!
//! A verifier that cannot be run, fails or takes too long refuses: no answer is no permission.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::error::Error;
use crate::external::{Program, one_line};
use crate::manifest::Descriptor;
use crate::reference::Reference;

const DESCRIPTOR: &str = "application/vnd.oci.descriptor.v1+json";

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    /// The program; it finds nothing but PATH in its environment.
    pub program: PathBuf,
    /// How long it may take.
    pub limit: Duration,
}

impl Verifier {
    /// Asks whether `reference`, which means what `descriptor` points at, may be used.
    pub(crate) async fn verify(&self, reference: &Reference, descriptor: &Descriptor) -> Result<(), Error> {
        let refused = |reason: String| Error::Unverified {
            image: reference.to_string(),
            reason,
        };
        let input = json!({
            "mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size,
        });
        let arguments = [
            "-name",
            &reference.to_string(),
            "-digest",
            descriptor.digest.as_str(),
            "-stdin-media-type",
            DESCRIPTOR,
        ];
        let program = Program {
            name: &self.program,
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            input: input.to_string().into_bytes(),
            limit: self.limit,
        };
        let said = program.run().await.map_err(|error| {
            refused(format!(
                "the verifier {} {error}; correct image.verifier",
                self.program.display()
            ))
        })?;
        if said.success {
            return Ok(());
        }
        let reason = [said.output, said.complaint]
            .iter()
            .map(|text| one_line(text))
            .find(|reason| !reason.is_empty());
        Err(refused(reason.unwrap_or_else(|| {
            "the verifier refuses it without a reason".into()
        })))
    }
}
