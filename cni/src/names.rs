//! The names that reach file names, environment variables and link names: checked once, here.

use std::fmt;

use crate::error::{Error, quote};

/// A pod's id, which is CNI's container id: letters, digits, `_ . -`, not starting with a sign (CNI spec,
/// section 2), at most 128 bytes. Safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(String);

impl PodId {
    /// Checks an id.
    ///
    /// # Errors
    /// [`Error::Request`] naming `pod_id`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match name_problem(text, 128) {
            None => Ok(PodId(text.into())),
            Some(problem) => Err(refuse("pod_id", text, problem)),
        }
    }

    /// The id as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the pod's link on the host: `cr` and 11 hexadecimal digits, those that the id starts with.
    pub fn host_link(&self) -> String {
        let prefix = self.0.get(..11).filter(|prefix| {
            prefix
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        match prefix {
            Some(prefix) => format!("cr{prefix}"),
            None => format!("cr{:011x}", fingerprint(self.0.as_bytes()) & 0xfff_ffff_ffff),
        }
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a link in a pod or on the host: 1 to 15 bytes, as the kernel's `dev_valid_name` has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkName(String);

impl LinkName {
    /// Checks a link's name.
    ///
    /// # Errors
    /// [`Error::Request`] naming `if_name`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let problem = if text.is_empty() || text.len() > 15 {
            Some("a link's name has 1 to 15 bytes")
        } else if matches!(text, "." | "..")
            || text.bytes().any(|b| !b.is_ascii_graphic() || b"/:%".contains(&b))
        {
            Some("a link's name has no slash, colon, percent sign or blank")
        } else {
            None
        };
        problem.map_or_else(
            || Ok(LinkName(text.into())),
            |problem| Err(refuse("if_name", text, problem)),
        )
    }

    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LinkName {
    /// A name of our own, known to be good.
    pub(crate) fn known(name: &'static str) -> Self {
        LinkName(name.into())
    }
}

impl Default for LinkName {
    /// `eth0`, what Kubernetes expects in a pod.
    fn default() -> Self {
        LinkName::known("eth0")
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Kubernetes name, namespace or uid that goes into `CNI_ARGS`, whose syntax has no quoting: a `;` in a
/// value would smuggle in a key.
pub(crate) fn check_argument(field: &'static str, text: &str) -> Result<(), Error> {
    if text.len() > 512 {
        return Err(refuse(field, text, "longer than 512 bytes"));
    }
    if text
        .bytes()
        .any(|byte| !byte.is_ascii_graphic() || matches!(byte, b';' | b'='))
    {
        return Err(refuse(
            field,
            text,
            "only printable ASCII without ';' and '=' can be passed to CNI plugins",
        ));
    }
    Ok(())
}

/// What is wrong with a name by the rules of the CNI spec for networks and containers.
pub(crate) fn name_problem(text: &str, longest: usize) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    match text.as_bytes() {
        [] => Some("empty"),
        bytes if bytes.len() > longest => Some("too long"),
        [first, ..] if !first.is_ascii_alphanumeric() => Some("must start with a letter or digit"),
        bytes if !bytes.iter().copied().all(allowed) => {
            Some("only letters, digits, '_', '.' and '-' are allowed")
        }
        _ => None,
    }
}

pub(crate) fn refuse(field: &'static str, value: &str, problem: &'static str) -> Error {
    Error::Request {
        field,
        value: quote(value.as_bytes()),
        problem,
    }
}

/// FNV-1a: the name must only be the same on every run, not unguessable.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_no_file_names_are_refused() {
        for bad in ["", "../x", "a/b", ".hidden", "-x", "a b", "ü", &"x".repeat(129)] {
            assert!(PodId::parse(bad).is_err(), "{bad}");
        }
        assert!(PodId::parse("a1_.-").is_ok());
    }

    #[test]
    fn host_links_fit_the_kernel_and_follow_the_id() {
        let hex = PodId::parse(&format!("0123456789abcdef{}", "0".repeat(48))).expect("an id");
        assert_eq!(hex.host_link(), "cr0123456789a");
        let other = PodId::parse("cnitool-77").expect("an id").host_link();
        assert_eq!(other.len(), 13);
        assert_ne!(other, PodId::parse("cnitool-78").expect("an id").host_link());
    }

    #[test]
    fn link_names_follow_the_kernel() {
        for bad in ["", "a/b", "a b", "..", "a:b", "eth%d", "sixteen-bytes-xx"] {
            assert!(LinkName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(LinkName::parse("net1").expect("a name").as_str(), "net1");
    }

    #[test]
    fn arguments_cannot_smuggle_a_key() {
        for bad in ["a;K8S_POD_UID=0", "a=b", "a\nb", "a b"] {
            assert!(check_argument("name", bad).is_err(), "{bad}");
        }
        assert!(check_argument("name", "web-0.prod").is_ok());
    }
}
