//! Inodes, in the long form of 64 bytes, with extended attributes behind them.

use rustix::fs::FileType;

use super::BLOCK;

/// Inodes are numbered by their place, in units of this many bytes.
pub(super) const SLOT: u64 = 32;
const CORE: usize = 64;
const AT_LINKS: u64 = 44;

/// How content is laid out; bits 1 to 3 of the format.
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;
const CHUNK_BASED: u16 = 4;
/// Bit 0 of the format: the long form.
const EXTENDED: u16 = 1;
/// The longest attribute area that its 16-bit count can tell.
const MOST_XATTR_BYTES: usize = (u16::MAX as usize - 1) * 4 + XATTR_HEADER;
const XATTR_HEADER: usize = 12;

/// The number of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nid(pub(super) u64);

impl Nid {
    pub(super) fn at(offset: u64) -> Self {
        Self(offset / SLOT)
    }

    #[cfg(test)]
    pub(crate) fn for_tests(number: u64) -> Self {
        Self(number)
    }

    /// Where its count of links is, for corrections.
    pub(super) fn links_at(self) -> u64 {
        self.0 * SLOT + AT_LINKS
    }
}

/// What is said about a file besides its name and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits, up to `0o7777`.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    /// Names with their namespace.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What has no content but a word in its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// Where an inode's content is.
pub(super) enum Content {
    /// Whole blocks from this one on, the last one filled up with zeros.
    Blocks { first: u32, size: u64 },
    /// Whole blocks from this one on; what is left follows the inode.
    Tail { first: u32, size: u64 },
    /// A map of chunks of `BLOCK << bits` bytes follows the inode.
    Chunks { bits: u8, size: u64 },
    /// None; of a device, its number.
    None { device: u32 },
}

impl Node {
    /// What the kernel calls it.
    pub(crate) fn kind(self) -> FileType {
        match self {
            Self::Character(..) => FileType::CharacterDevice,
            Self::Block(..) => FileType::BlockDevice,
            Self::Fifo => FileType::Fifo,
        }
    }

    /// As the kernel encodes it (`new_encode_dev`): 12 bits of major within 20 bits of minor.
    pub(super) fn device(self) -> u32 {
        match self {
            Self::Character(major, minor) | Self::Block(major, minor) => {
                (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
            }
            Self::Fifo => 0,
        }
    }
}

/// The bytes of an inode with its attributes; `None` when those are too large.
pub(super) fn encode(
    attributes: &Attributes,
    kind: FileType,
    links: u32,
    number: u32,
    content: &Content,
) -> Option<Vec<u8>> {
    let xattrs = encode_xattrs(&attributes.xattrs)?;
    let (layout, size, word) = match *content {
        Content::Blocks { first, size } => (FLAT_PLAIN, size, first),
        Content::Tail { first, size } => (FLAT_INLINE, size, first),
        Content::Chunks { bits, size } => (CHUNK_BASED, size, u32::from(bits)),
        Content::None { device } => (FLAT_PLAIN, 0, device),
    };
    let xattr_count = match xattrs.len() {
        0 => 0,
        length => u16::try_from((length - XATTR_HEADER) / 4 + 1).ok()?,
    };
    let mode = (kind.as_raw_mode() | (attributes.mode & 0o7777)) as u16;
    let (seconds, nanos) = attributes.mtime;
    let mut raw = Vec::with_capacity(CORE + xattrs.len());
    raw.extend_from_slice(&(EXTENDED | layout << 1).to_le_bytes());
    raw.extend_from_slice(&xattr_count.to_le_bytes());
    raw.extend_from_slice(&mode.to_le_bytes());
    raw.extend_from_slice(&[0; 2]);
    raw.extend_from_slice(&size.to_le_bytes());
    raw.extend_from_slice(&word.to_le_bytes());
    raw.extend_from_slice(&number.to_le_bytes());
    raw.extend_from_slice(&attributes.uid.to_le_bytes());
    raw.extend_from_slice(&attributes.gid.to_le_bytes());
    raw.extend_from_slice(&seconds.to_le_bytes());
    raw.extend_from_slice(&nanos.to_le_bytes());
    raw.extend_from_slice(&links.to_le_bytes());
    raw.resize(CORE, 0);
    raw.extend_from_slice(&xattrs);
    Some(raw)
}

/// The length that [`encode`] gives; `None` when the attributes are too large.
pub(super) fn length(attributes: &Attributes) -> Option<u64> {
    encode_xattrs(&attributes.xattrs).map(|xattrs| (CORE + xattrs.len()) as u64)
}

/// Whether an inode of this length and what follows it fit into one block: a tail may not lie across two.
pub(super) fn fits(inode: u64, tail: u64) -> bool {
    inode + tail <= BLOCK
}

fn encode_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<u8>> {
    if xattrs.is_empty() {
        return Some(Vec::new());
    }
    // No filter, no shared attributes.
    let mut raw = vec![0; XATTR_HEADER];
    for (name, value) in xattrs {
        let (index, rest) = name_index(name)?;
        raw.push(u8::try_from(rest.len()).ok()?);
        raw.push(index);
        raw.extend_from_slice(&u16::try_from(value.len()).ok()?.to_le_bytes());
        raw.extend_from_slice(rest);
        raw.extend_from_slice(value);
        raw.resize(raw.len().next_multiple_of(4), 0);
    }
    (raw.len() <= MOST_XATTR_BYTES).then_some(raw)
}

/// Names are kept as a number for the namespace and the rest.
fn name_index(name: &[u8]) -> Option<(u8, &[u8])> {
    const PREFIXES: [(u8, &[u8]); 5] = [
        (1, b"user."),
        (2, b"system.posix_acl_access"),
        (3, b"system.posix_acl_default"),
        (4, b"trusted."),
        (6, b"security."),
    ];
    PREFIXES
        .iter()
        .find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(xattrs: &[(&str, usize)]) -> Attributes {
        Attributes {
            mode: 0o4755,
            uid: 1,
            gid: 2,
            mtime: (-1, 5),
            xattrs: xattrs
                .iter()
                .map(|(name, length)| (name.as_bytes().to_vec(), vec![b'v'; *length]))
                .collect(),
        }
    }

    #[test]
    fn lengths_are_told_before_and_bounds_are_kept() {
        for xattrs in [
            &[][..],
            &[("user.a", 3)],
            &[("user.a", 0), ("security.capability", 20)],
        ] {
            let attributes = attributes(xattrs);
            let content = Content::Tail { first: 0, size: 7 };
            let raw = encode(&attributes, FileType::RegularFile, 1, 1, &content).unwrap();
            assert_eq!(raw.len() as u64, length(&attributes).unwrap());
            assert_eq!(raw.len() % 4, 0);
        }
        assert_eq!(length(&attributes(&[("user.a", 65_536)])), None);
        assert_eq!(length(&attributes(&[("user.a", 60_000); 5])), None);
        assert_eq!(length(&attributes(&[("btrfs.compression", 1)])), None);
    }

    #[test]
    fn devices_are_numbered_as_the_kernel_does() {
        assert_eq!(Node::Character(1, 3).device(), 0x103);
        assert_eq!(Node::Block(0xfff, 0xfffff).device(), 0xffff_ffff);
        assert_eq!(Node::Fifo.device(), 0);
    }
}
