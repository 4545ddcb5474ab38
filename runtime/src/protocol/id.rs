//! Names of pods, containers and execs.
//!
//! Ids become file names (`/run/crisp/exits/<id>`), so their alphabet is checked once, where they enter.

use std::fmt;
use std::str::FromStr;

/// Longest id in bytes.
const MAX_LEN: usize = 128;

/// The text is empty, too long, or has a character that an id may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to {MAX_LEN} letters, digits, '-', '_' or '.', the first a letter or digit")]
pub struct InvalidId;

fn valid(id: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric();
    id.len() <= MAX_LEN
        && id.bytes().next().is_some_and(plain)
        && id.bytes().all(|c| plain(c) || matches!(c, b'-' | b'_' | b'.'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks `id` and takes it.
            ///
            /// # Errors
            /// [`InvalidId`]
            pub fn new(id: &str) -> Result<Self, InvalidId> {
                if valid(id) { Ok(Self(id.into())) } else { Err(InvalidId) }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(id: &str) -> Result<Self, InvalidId> {
                Self::new(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                Self::new(d.str()?).map_err(|InvalidId| minicbor::decode::Error::message("invalid id"))
            }
        }
    };
}

id! {
    /// A pod sandbox.
    PodId
}
id! {
    /// A container, unique on the node.
    ContainerId
}
id! {
    /// An exec, unique within its container.
    ExecId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_safe_file_name() {
        for good in ["a", "0f", "web-1_x.y", &"f".repeat(128)] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "a/b",
            "a\0",
            "a\n",
            "-a",
            "ä",
            &"f".repeat(129),
        ] {
            assert_eq!(ContainerId::new(bad), Err(InvalidId), "{bad:?}");
        }
    }
}
