//! Image references: `[registry[:port]/]repository[:tag][@digest]`.
//!
//! Short names mean what they mean everywhere: `busybox` is `docker.io/library/busybox:latest`.
//! The first component is a registry only when it has a dot or a port, or is `localhost`.
//! (Grammar: distribution-spec and the reference package of distribution, whose limits these are.)

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// The longest repository name a registry has to accept.
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// A full, checked image reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

/// What in the repository is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// Whatever the tag points at now.
    Tag(String),
    /// Exactly this content; a tag beside it is only a remark.
    Digest {
        /// The remark.
        tag: Option<String>,
        /// The content.
        digest: Digest,
    },
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image reference {input:?}: {problem}")]
pub struct ReferenceError {
    /// The text, shortened.
    pub input: String,
    /// What is wrong with it.
    pub problem: ReferenceProblem,
}

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceProblem {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// `https://...`
    #[error("a reference has no scheme; leave out everything up to ://")]
    Scheme,
    /// The repository part is empty or ends early.
    #[error("the repository name is missing")]
    NoRepository,
    /// Bad characters or separators.
    #[error(
        "repository component {0:?}: lower-case letters and digits, separated by one '.', one or two '_', or '-'"
    )]
    Repository(String),
    /// Longer than any registry accepts.
    #[error("the repository name is longer than 255 bytes")]
    TooLong,
    /// Bad host or port.
    #[error("registry {0:?} is no host name with an optional port")]
    Registry(String),
    /// Bad tag.
    #[error("tag {0:?}: up to 128 letters, digits, '_', '.' or '-', not starting with '.' or '-'")]
    Tag(String),
    /// Bad digest.
    #[error("digest: {0}")]
    Digest(DigestError),
    /// A bare 64-digit hex text is an image id.
    #[error("64 hex digits are an image id, not a name")]
    Id,
}

impl Reference {
    /// The registry as named, with its port: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository below the registry: `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Tag or digest.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The tag, when the tag decides (there is no digest).
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest { .. } => None,
        }
    }

    /// The digest, if there is one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest { digest, .. } => Some(digest),
        }
    }

    /// The same repository at exactly this content.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        let version = Version::Digest { tag: None, digest };
        Self {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            version,
        }
    }

    /// The name under which a store keeps it: the remark of a tag beside a digest is dropped.
    #[must_use]
    pub fn canonical(&self) -> Self {
        match &self.version {
            Version::Tag(_) => self.clone(),
            Version::Digest { digest, .. } => self.at(digest.clone()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest {
                tag: Some(tag),
                digest,
            } => write!(f, ":{tag}@{digest}"),
            Version::Digest { tag: None, digest } => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(input: &str) -> Result<Self, ReferenceError> {
        parse(input).map_err(|problem| ReferenceError {
            input: input.chars().take(300).collect(),
            problem,
        })
    }
}

fn parse(input: &str) -> Result<Reference, ReferenceProblem> {
    if input.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    if input.contains("://") {
        return Err(ReferenceProblem::Scheme);
    }
    if input.len() == 64 && input.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(ReferenceProblem::Id);
    }
    let (rest, digest) = match input.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(ReferenceProblem::Digest)?)),
        None => (input, None),
    };
    // A colon after the last slash starts a tag; one before it belongs to a port.
    let tag_at = rest.rfind(':').filter(|colon| !rest[*colon..].contains('/'));
    let (name, tag) = match tag_at {
        Some(colon) => (&rest[..colon], Some(check_tag(&rest[colon + 1..])?)),
        None => (rest, None),
    };
    let (registry, repository) = split_registry(name)?;
    check_repository(&repository)?;
    let version = match (tag, digest) {
        (tag, Some(digest)) => Version::Digest { tag, digest },
        (tag, None) => Version::Tag(tag.unwrap_or_else(|| DEFAULT_TAG.into())),
    };
    Ok(Reference {
        registry,
        repository,
        version,
    })
}

fn split_registry(name: &str) -> Result<(String, String), ReferenceProblem> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    check_registry(registry)?;
    if repository.is_empty() {
        return Err(ReferenceProblem::NoRepository);
    }
    let registry = if registry == "index.docker.io" {
        DEFAULT_REGISTRY
    } else {
        registry
    };
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        return Ok((registry.into(), format!("library/{repository}")));
    }
    Ok((registry.into(), repository.into()))
}

fn is_registry(component: &str) -> bool {
    component == "localhost"
        || component.contains(['.', ':', '['])
        || component.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), ReferenceProblem> {
    let bad = || ReferenceProblem::Registry(registry.into());
    let (host, port) = if let Some(bracketed) = registry.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']').ok_or_else(bad)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return Err(bad()),
        }
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_some_and(|host| host.len() > 253 || !host.split('.').all(label)) {
        return Err(bad());
    }
    let number = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if port.is_some_and(|port| !number(port)) {
        return Err(bad());
    }
    Ok(())
}

fn check_repository(repository: &str) -> Result<(), ReferenceProblem> {
    if repository.len() > LONGEST_NAME {
        return Err(ReferenceProblem::TooLong);
    }
    match repository.split('/').find(|component| !is_component(component)) {
        Some("") => Err(ReferenceProblem::NoRepository),
        Some(bad) => Err(ReferenceProblem::Repository(bad.chars().take(80).collect())),
        None => Ok(()),
    }
}

/// Runs of letters and digits with a separator (`.`, `_`, `__` or any number of `-`) between.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_well = |b: Option<&u8>| b.is_some_and(|b| alphanumeric(*b));
    let bytes = component.as_bytes();
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes.split(|b| alphanumeric(*b)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

fn check_tag(tag: &str) -> Result<String, ReferenceProblem> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if good {
        Ok(tag.into())
    } else {
        Err(ReferenceProblem::Tag(tag.chars().take(140).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn fills_in_what_everyone_leaves_out() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("team/app", "docker.io/team/app:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b/c:v1.2-x_y", "localhost:5000/a/b/c:v1.2-x_y"),
            ("quay.io/a__b/c--d.e", "quay.io/a__b/c--d.e:latest"),
            ("[::1]:5000/app:2", "[::1]:5000/app:2"),
            ("10.0.0.1:80/app", "10.0.0.1:80/app:latest"),
        ] {
            assert_eq!(short.parse::<Reference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn keeps_digests_and_drops_the_tag_beside_one_only_when_canonical() {
        let both: Reference = format!("host:1/app:v1@{DIGEST}").parse().unwrap();
        assert_eq!(both.to_string(), format!("host:1/app:v1@{DIGEST}"));
        assert_eq!(both.canonical().to_string(), format!("host:1/app@{DIGEST}"));
        assert_eq!(both.tag(), None);
        assert_eq!(both.digest().unwrap().as_str(), DIGEST);
    }

    #[test]
    fn says_what_is_wrong() {
        let problem = |text: &str| text.parse::<Reference>().unwrap_err().problem;
        assert_eq!(problem(""), ReferenceProblem::Empty);
        assert_eq!(problem("https://quay.io/a"), ReferenceProblem::Scheme);
        assert_eq!(problem(&DIGEST[7..]), ReferenceProblem::Id);
        assert_eq!(problem("quay.io/"), ReferenceProblem::NoRepository);
        assert_eq!(problem("a//b"), ReferenceProblem::NoRepository);
        assert_eq!(problem("team/App"), ReferenceProblem::Repository("App".into()));
        assert_eq!(problem("a___b"), ReferenceProblem::Repository("a___b".into()));
        assert_eq!(problem("a/../b"), ReferenceProblem::Repository("..".into()));
        assert_eq!(problem("-a.io/b"), ReferenceProblem::Registry("-a.io".into()));
        assert_eq!(
            problem("a.io:99999/b"),
            ReferenceProblem::Registry("a.io:99999".into())
        );
        assert_eq!(problem("a:"), ReferenceProblem::Tag(String::new()));
        assert_eq!(problem("a:.b"), ReferenceProblem::Tag(".b".into()));
        assert!(matches!(
            problem("a@sha256:12"),
            ReferenceProblem::Digest(DigestError::Length { .. })
        ));
        assert_eq!(problem(&"a".repeat(300)), ReferenceProblem::TooLong);
        assert!(matches!(problem("a b"), ReferenceProblem::Repository(_)));
        assert!(matches!(problem("a\n"), ReferenceProblem::Repository(_)));
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_to_the_same(
            host in "([a-z0-9]{1,5}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?/)?",
            path in "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,8}){0,3}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?",
            digest: bool,
        ) {
            let digest = if digest { format!("@{DIGEST}") } else { String::new() };
            // A first component with a dot would be taken for a registry.
            let dotted = path.split('/').next().is_some_and(|first| first.contains('.')) && path.contains('/');
            let host = if host.is_empty() && dotted { "docker.io/".into() } else { host };
            let parsed: Reference = format!("{host}{path}{tag}{digest}").parse().unwrap();
            prop_assert_eq!(&parsed.to_string().parse::<Reference>().unwrap(), &parsed);
        }

        #[test]
        fn nothing_makes_it_panic_or_escape(text in "\\PC{0,80}") {
            if let Ok(parsed) = text.parse::<Reference>() {
                prop_assert!(!parsed.repository().split('/').any(|c| c.is_empty() || c == ".."));
                prop_assert!(!parsed.registry().contains('/'));
            }
        }
    }
}
