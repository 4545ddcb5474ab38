//! The names under which pods and containers are known.
//!
//! Both are 64 lower-case hex digits, because agents on a node recognise containers by exactly
//! that shape in cgroup and mount paths. An id is always ours: what a client sends is looked up,
//! never used as a path.

use std::fmt;
use std::io::Read;

/// Length of an id in hex digits.
const DIGITS: usize = 64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, minicbor::Encode, minicbor::Decode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] String);

        impl $name {
            /// A fresh id from the kernel's random source.
            ///
            /// # Errors
            /// When `/dev/urandom` cannot be read.
            pub fn generate() -> std::io::Result<Self> {
                random_hex().map(Self)
            }

            /// The id behind a string that came from our own records.
            pub fn parse(text: &str) -> Option<Self> {
                is_id(text).then(|| Self(text.to_owned()))
            }

            /// All 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve digits: enough for a person, used in names that are short of room.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }
    };
}

id!(
    /// A pod sandbox.
    PodId
);
id!(
    /// A container.
    ContainerId
);

fn is_id(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(is_digit)
}

fn is_digit(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

fn random_hex() -> std::io::Result<String> {
    let mut bytes = [0u8; DIGITS / 2];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// What a client may send to name an object: a whole id or a prefix of one.
///
/// The check comes before any look-up, so that a name can never become part of a path or a query.
pub fn is_id_prefix(text: &str) -> bool {
    !text.is_empty() && text.len() <= DIGITS && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_hex_digits_and_differ() {
        let (a, b) = (PodId::generate().unwrap(), PodId::generate().unwrap());
        assert!(is_id(a.as_str()));
        assert_ne!(a, b);
        assert_eq!(PodId::parse(a.as_str()), Some(a));
    }

    #[test]
    fn prefixes_are_hex_only() {
        assert!(is_id_prefix("0af3"));
        for bad in ["", "../x", "0AF", "g", "a/b", &"a".repeat(65)] {
            assert!(!is_id_prefix(bad), "{bad:?}");
        }
    }
}
