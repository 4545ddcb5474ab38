//! Which of several failures to tell, and to act on, when all places of a registry were asked.

use std::time::Duration;

use super::RegistryError;

/// One place's failure.
pub(super) struct Failure {
    pub(super) error: RegistryError,
    /// How long the registry asked to wait.
    pub(super) wait: Option<Duration>,
    /// It is what the place said, not what became of the connection to it.
    pub(super) answered: bool,
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self {
            answered: !error.is_passing(),
            error,
            wait: None,
        }
    }
}

/// The failures of one round of questions.
#[derive(Default)]
pub(super) struct Round(Option<(bool, Failure)>);

impl Round {
    /// The registry's own word counts for more than a mirror's, an answer for more than a broken
    /// connection (an insecure registry is tried with and without TLS: one of them always breaks).
    pub(super) fn add(&mut self, upstream: bool, failure: Failure) {
        let rank =
            |upstream: bool, failure: &Failure| (upstream, failure.answered, !failure.error.is_passing());
        let better = match &self.0 {
            None => true,
            Some((known_upstream, known)) => rank(upstream, &failure) > rank(*known_upstream, known),
        };
        if better {
            self.0 = Some((upstream, failure));
        }
    }

    /// The failure that counts; `None` when nobody was asked.
    pub(super) fn telling(self) -> Option<Failure> {
        self.0.map(|(_, failure)| failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable(answered: bool) -> Failure {
        let error = RegistryError::Unavailable {
            registry: "r".into(),
            detail: String::new(),
        };
        Failure {
            error,
            wait: None,
            answered,
        }
    }

    fn missing() -> Failure {
        let error = RegistryError::NotFound {
            registry: "r".into(),
            what: "x".into(),
            detail: String::new(),
        };
        error.into()
    }

    fn told(failures: Vec<(bool, Failure)>) -> (bool, bool) {
        let mut round = Round::default();
        for (upstream, failure) in failures {
            round.add(upstream, failure);
        }
        let failure = round.telling().unwrap();
        (failure.answered, failure.error.is_passing())
    }

    #[test]
    fn the_registry_itself_and_answers_count_most() {
        assert_eq!(
            told(vec![(false, missing()), (true, unavailable(false))]),
            (false, true)
        );
        assert_eq!(
            told(vec![(true, missing()), (true, unavailable(false))]),
            (true, false)
        );
        assert_eq!(
            told(vec![(true, unavailable(false)), (true, unavailable(true))]),
            (true, true)
        );
        assert_eq!(
            told(vec![(false, unavailable(false)), (false, missing())]),
            (true, false)
        );
        assert!(Round::default().telling().is_none());
    }
}
