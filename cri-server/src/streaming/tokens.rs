//! Tokens: what the URL of a streaming session is worth, once and for a minute.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How long a client may take to come with its URL.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// Most tokens that wait for their clients.
const MAX_WAITING: usize = 8192;
/// Bytes of a token: 128 bits, which nobody guesses within its lifetime.
const BYTES: usize = 16;

/// Requests that wait to be taken up, each under a token of its own.
pub struct Tokens<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    waiting: HashMap<String, Waiting<T>>,
    /// When those whose time is over were last dropped: a request holds its pod.
    swept: Instant,
}

struct Waiting<T> {
    request: T,
    until: Instant,
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: HashMap::new(),
                swept: Instant::now(),
            }),
        }
    }
}

impl<T> Tokens<T> {
    /// Keeps a request, and gives its token: 32 hex digits.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait already.
    pub fn issue(&self, request: T) -> Result<String> {
        let token = random()?;
        let now = Instant::now();
        let mut state = self.state();
        if state.waiting.len() >= MAX_WAITING || now - state.swept >= LIFETIME {
            state.waiting.retain(|_, waiting| waiting.until > now);
            state.swept = now;
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(Error::Busy("streaming requests that no client has taken up"));
        }
        let until = now + LIFETIME;
        state.waiting.insert(token.clone(), Waiting { request, until });
        Ok(token)
    }

    /// The request behind a token, which is worth nothing from now on.
    pub fn redeem(&self, token: &str) -> Option<T> {
        let found = self.state().waiting.remove(token)?;
        (found.until > Instant::now()).then_some(found.request)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random() -> Result<String> {
    let mut bytes = [0; BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(Error::io("read", "/dev/urandom"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_worth_its_request_once() {
        let tokens = Tokens::default();
        let (one, two) = (tokens.issue(1).unwrap(), tokens.issue(2).unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 32);
        assert_eq!(tokens.redeem("0"), None);
        assert_eq!(tokens.redeem(&one), Some(1));
        assert_eq!(tokens.redeem(&one), None, "a second time");
        assert_eq!(tokens.redeem(&two), Some(2));
    }

    #[test]
    fn tokens_expire_and_are_bounded() {
        let tokens = Tokens::default();
        let first = tokens.issue(0).unwrap();
        for _ in 1..MAX_WAITING {
            tokens.issue(0).unwrap();
        }
        assert!(matches!(tokens.issue(0), Err(Error::Busy(_))));
        let expire = |waiting: &mut Waiting<_>| waiting.until = Instant::now();
        tokens.state().waiting.values_mut().for_each(expire);
        assert_eq!(tokens.redeem(&first), None, "too late");
        assert!(tokens.issue(0).is_ok(), "room again");
    }

    #[test]
    fn what_nobody_takes_up_is_not_kept_for_ever() {
        let tokens = Tokens::default();
        let request = std::sync::Arc::new(());
        tokens.issue(request.clone()).unwrap();
        let mut state = tokens.state();
        state
            .waiting
            .values_mut()
            .for_each(|waiting| waiting.until = Instant::now());
        state.swept -= LIFETIME;
        drop(state);
        tokens.issue(std::sync::Arc::default()).unwrap();
        assert_eq!(std::sync::Arc::strong_count(&request), 1);
    }
}
