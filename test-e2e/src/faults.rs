//! What the test registry can be told to do wrong, and where.

use std::time::Duration;

/// Which requests a fault strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// Manifests and indexes.
    Manifest,
    /// Any blob.
    AnyBlob,
    /// The blob with this digest.
    Blob(String),
    /// The token endpoint.
    Token,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status instead of the answer, with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection breaks after so many bytes of the body.
    CutAfter(usize),
    /// The right length, one byte changed.
    Corrupt,
    /// The body and its stated length are shorter by so many bytes.
    Short(usize),
    /// The body comes in pieces of this size with this pause before each.
    Trickle {
        /// Bytes in a piece.
        piece: usize,
        /// The pause before it.
        pause: Duration,
    },
    /// So many bytes, then silence until the client gives up.
    StallAfter(usize),
}

impl Fault {
    /// A plain status.
    pub fn status(code: u16) -> Self {
        Self::Status(code, Vec::new())
    }
}

/// The faults still to come; the first that fits is used, so many times as it was given.
#[derive(Debug, Default)]
pub(crate) struct Pending(Vec<(On, Fault, usize)>);

impl Pending {
    pub(crate) fn add(&mut self, on: On, fault: Fault, times: usize) {
        self.0.push((on, fault, times));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes a fault for a request; `blob` is its digest if it asks for one.
    pub(crate) fn take(&mut self, on: &On) -> Option<Fault> {
        let fits = |planned: &On| planned == on || (*planned == On::AnyBlob && matches!(on, On::Blob(_)));
        let place = self
            .0
            .iter()
            .position(|(planned, _, times)| fits(planned) && *times > 0)?;
        let (_, fault, times) = &mut self.0[place];
        *times = times.saturating_sub(1);
        Some(fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, On, Pending};

    #[test]
    fn a_fault_strikes_as_often_as_it_was_given() {
        let mut pending = Pending::default();
        pending.add(On::AnyBlob, Fault::Corrupt, 1);
        pending.add(On::Manifest, Fault::status(500), 2);
        let blob = On::Blob("sha256:00".to_owned());
        assert!(matches!(pending.take(&blob), Some(Fault::Corrupt)));
        assert!(pending.take(&blob).is_none());
        assert!(pending.take(&On::Manifest).is_some() && pending.take(&On::Manifest).is_some());
        assert!(pending.take(&On::Manifest).is_none());
        assert!(pending.take(&On::Token).is_none());
    }
}
