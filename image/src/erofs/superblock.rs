//! The superblock: where the kernel begins to read, and what we write last.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::BLOCK;
use super::inode::Nid;

/// Where it is in the image; what comes before is left to boot loaders.
const OFFSET: u64 = 1024;
const SIZE: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// The checksum covers the rest of the first block.
const CHECKED: usize = (BLOCK - OFFSET) as usize;

const COMPAT_CHECKSUM: u32 = 0x1;
const COMPAT_MTIME: u32 = 0x2;
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;

const AT_CHECKSUM: usize = 4;
const AT_FEATURE_COMPAT: usize = 8;
const AT_BLOCK_BITS: usize = 12;
const AT_ROOT: usize = 14;
const AT_INODES: usize = 16;
const AT_BLOCKS: usize = 36;
const AT_FEATURE_INCOMPAT: usize = 80;

/// The first byte after it, where the root's inode is: the superblock has only 16 bits for its number.
pub(super) const ROOT_AT: u64 = OFFSET + SIZE as u64;

/// What the superblock says.
pub(super) struct Superblock {
    pub(super) inodes: u64,
    /// Of the whole image.
    pub(super) blocks: u32,
    /// Some file has a map of chunks.
    pub(super) chunked: bool,
}

impl Superblock {
    /// Puts it into the first block, whose other content must be in place: the checksum covers it.
    pub(super) fn write(&self, block: &mut [u8]) {
        let root = u16::try_from(Nid::at(ROOT_AT).0).unwrap_or(0);
        let incompatible = if self.chunked { INCOMPAT_CHUNKED_FILE } else { 0 };
        let raw = &mut block[OFFSET as usize..];
        put(raw, 0, &MAGIC.to_le_bytes());
        put(
            raw,
            AT_FEATURE_COMPAT,
            &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes(),
        );
        raw[AT_BLOCK_BITS] = BLOCK.trailing_zeros() as u8;
        put(raw, AT_ROOT, &root.to_le_bytes());
        put(raw, AT_INODES, &self.inodes.to_le_bytes());
        put(raw, AT_BLOCKS, &self.blocks.to_le_bytes());
        put(raw, AT_FEATURE_INCOMPAT, &incompatible.to_le_bytes());
        let checksum = crc32c(&raw[..CHECKED]);
        put(raw, AT_CHECKSUM, &checksum.to_le_bytes());
    }
}

/// Whether an image is whole as far as its first block tells: the checksum is right and the length is as said.
///
/// # Errors
/// `InvalidData` when it is not, or the file cannot be read.
pub(crate) fn check(image: &File) -> io::Result<()> {
    let mut block = [0; BLOCK as usize];
    image.read_exact_at(&mut block, 0)?;
    let raw = &mut block[OFFSET as usize..];
    let word = |raw: &[u8], at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&raw[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    let (magic, checksum, blocks) = (word(raw, 0), word(raw, AT_CHECKSUM), word(raw, AT_BLOCKS));
    put(raw, AT_CHECKSUM, &[0; 4]);
    let whole = magic == MAGIC
        && checksum == crc32c(&raw[..CHECKED])
        && image.metadata()?.len() == u64::from(blocks) * BLOCK;
    if whole {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a whole EROFS image",
        ))
    }
}

fn put(raw: &mut [u8], at: usize, bytes: &[u8]) {
    raw[at..at + bytes.len()].copy_from_slice(bytes);
}

/// CRC-32C (Castagnoli) as the kernel's `crc32c(~0, …)`: without the final inversion. Three kilobytes per image need
/// no table.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4: 32 bytes of zeros, there with the final inversion.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_cut_or_changed_image_is_told() {
        let file = tempfile::tempfile().unwrap();
        let mut block = vec![0; BLOCK as usize];
        let superblock = Superblock {
            inodes: 1,
            blocks: 2,
            chunked: false,
        };
        superblock.write(&mut block);
        file.write_all_at(&block, 0).unwrap();
        assert!(check(&file).is_err(), "a block is missing");
        file.set_len(2 * BLOCK).unwrap();
        check(&file).unwrap();
        file.write_all_at(&[1], BLOCK - 1).unwrap();
        assert!(check(&file).is_err());
    }
}
