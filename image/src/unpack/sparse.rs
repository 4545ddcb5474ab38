//! Sparse files: the maps of GNU tar's old format and of its PAX formats 0.0, 0.1 and 1.0.

use std::io::BufRead;

use super::header::{BLOCK, GnuSparse, Header, sparse_pairs};
use super::pax;
use super::tar::{Kind, Segment, Structure, TarError, TarReader};

/// The most pieces a sparse file may have.
const MOST_SEGMENTS: usize = 1 << 16;

impl<R: BufRead, S: Structure> TarReader<R, S> {
    pub(super) fn gnu_sparse(
        &mut self,
        header: &Header<'_>,
        pax_size: Option<u64>,
    ) -> Result<Kind, TarError> {
        let stored = pax_size.map_or_else(|| header.size(), Ok)?;
        let GnuSparse {
            mut pairs,
            size,
            mut more,
        } = header.gnu_sparse()?;
        while more {
            let block = self.block()?;
            pairs.extend(sparse_pairs(&block[..504])?);
            more = block[504] != 0;
            if pairs.len() > MOST_SEGMENTS {
                return Err(TarError::SparseMap);
            }
        }
        self.expect_payload(stored);
        Ok(Kind::File {
            size,
            segments: check_map(pairs, size, stored)?,
        })
    }

    /// PAX sparse 1.0: decimal numbers, one per line, padded to a block, before the data.
    pub(super) fn sparse_map_in_data(&mut self) -> Result<Vec<u64>, TarError> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut wanted: Option<usize> = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            self.payload = self
                .payload
                .checked_sub(BLOCK as u64)
                .ok_or(TarError::SparseMap)?;
            for byte in self.block()? {
                match (byte, wanted) {
                    (_, Some(wanted)) if numbers.len() == wanted => break,
                    (b'\n', None) => {
                        let count = usize::try_from(pax::decimal(&line)?).map_err(|_| TarError::SparseMap)?;
                        if count > MOST_SEGMENTS {
                            return Err(TarError::SparseMap);
                        }
                        wanted = Some(count * 2);
                        line.clear();
                    }
                    (b'\n', Some(_)) => {
                        numbers.push(pax::decimal(&line)?);
                        line.clear();
                    }
                    (byte, _) if line.len() < 20 => line.push(byte),
                    _ => return Err(TarError::SparseMap),
                }
            }
        }
        Ok(numbers)
    }
}

/// In order, without overlap, inside the file, and as long as the data.
pub(super) fn check_map(pairs: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Vec<Segment>, TarError> {
    if pairs.len() > MOST_SEGMENTS {
        return Err(TarError::SparseMap);
    }
    let (mut end, mut total) = (0u64, 0u64);
    let mut segments = Vec::with_capacity(pairs.len());
    for (offset, length) in pairs {
        if offset < end {
            return Err(TarError::SparseMap);
        }
        end = offset
            .checked_add(length)
            .filter(|end| *end <= size)
            .ok_or(TarError::SparseMap)?;
        total += length;
        if length > 0 {
            segments.push(Segment { offset, length });
        }
    }
    if total == stored {
        Ok(segments)
    } else {
        Err(TarError::SparseMap)
    }
}
