//! The spooled archive and the members in it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::ArchiveProblem;
use crate::document::{DocumentError, LARGEST_DOCUMENT};
use crate::error::Error;
use crate::registry::Piece;
use crate::store::Inner;
use crate::unpack::EntryPath;
use crate::unpack::decompress::decompress;
use crate::unpack::tar::{Kind, TarReader};

/// More members than any image archive has.
const MOST_MEMBERS: usize = 100_000;
const CHUNK: usize = 256 << 10;

/// A tar on disk whose regular files can be read in any order.
pub(super) struct Archive {
    pub(super) file: Arc<File>,
    members: HashMap<EntryPath, Member>,
}

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// `docker save` writes equal layers as links.
    Link(EntryPath),
}

impl Archive {
    /// Takes the stream to its end. Blocks. Says when it has the right to be large, which others may wait for.
    pub(super) fn spool(
        inner: &Inner,
        pieces: mpsc::Receiver<Piece>,
        is_large: &watch::Sender<bool>,
    ) -> Result<Self, Error> {
        let (writer, mut file) = inner.blobs.writer()?;
        // Without a name at once: whatever happens, its space comes back.
        drop(writer);
        let root = &inner.config.root;
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::io("spool an archive in", root)(error)
            }
            _ => ArchiveProblem::Unreadable(format!("the archive cannot be decompressed: {error}")).into(),
        };
        let input = PieceReader {
            pieces,
            piece: Bytes::new(),
            ended: false,
        };
        let mut large = None;
        let mut reader = decompress(input, |first| {
            let (log, right) = inner.budget.window_for_archive(first);
            is_large.send_replace(right.is_some());
            large = right;
            log
        })
        .map_err(unreadable)?;
        let mut chunk = vec![0; CHUNK];
        let mut total = 0;
        loop {
            let count = reader.read(&mut chunk).map_err(unreadable)?;
            if count == 0 {
                break;
            }
            total += count as u64;
            if total > inner.config.limits.bytes {
                return Err(ArchiveProblem::Unreadable("it is larger than the limit".into()).into());
            }
            file.write_all(&chunk[..count])
                .map_err(Error::io("spool an archive in", root))?;
        }
        drop(reader);
        drop(large);
        file.rewind().map_err(Error::io("rewind an archive in", root))?;
        let members = members(&file)?;
        Ok(Self {
            file: Arc::new(file),
            members,
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Where a member's bytes are.
    pub(super) fn find(&self, name: &str) -> Result<(u64, u64), ArchiveProblem> {
        let missing = || ArchiveProblem::Missing(name.chars().take(200).collect());
        let mut path = EntryPath::parse(name.as_bytes()).map_err(|_| missing())?;
        // A link to a link is already more than anyone writes.
        for _ in 0..3 {
            match self.members.get(&path) {
                Some(Member::File { offset, size }) => return Ok((*offset, *size)),
                Some(Member::Link(target)) => path = target.clone(),
                None => return Err(missing()),
            }
        }
        Err(missing())
    }

    /// The content of a small member.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let (offset, size) = self.find(name)?;
        if size > LARGEST_DOCUMENT {
            return Err(Error::Document {
                what: name.into(),
                problem: DocumentError::TooLarge { size },
            });
        }
        let mut bytes = vec![0; size as usize];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| ArchiveProblem::Unreadable(format!("{name}: {error}")))?;
        Ok(bytes)
    }
}

fn members(file: &File) -> Result<HashMap<EntryPath, Member>, Error> {
    let unreadable = |problem: String| Error::from(ArchiveProblem::Unreadable(problem));
    let mut members = HashMap::new();
    let mut tar = TarReader::new(BufReader::with_capacity(CHUNK, file), ());
    while let Some(entry) = tar.next_entry().map_err(|error| unreadable(error.to_string()))? {
        let path = EntryPath::parse(&entry.path)
            .map_err(|problem| unreadable(format!("a member's name {problem}")))?;
        let member = match entry.kind {
            Kind::File { size, segments } if segments.len() <= 1 => Member::File {
                offset: tar.position(),
                size,
            },
            Kind::File { .. } => return Err(unreadable("a sparse member".into())),
            Kind::HardLink(target) => match EntryPath::parse(&target) {
                Ok(target) => Member::Link(target),
                Err(_) => continue,
            },
            Kind::Symlink(target) => match relative(&path, &target) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            _ => continue,
        };
        members.insert(path, member);
        if members.len() > MOST_MEMBERS {
            return Err(unreadable("it has too many members".into()));
        }
    }
    Ok(members)
}

/// The member a relative symlink names: only names are compared, nothing is opened.
fn relative(link: &EntryPath, target: &[u8]) -> Option<EntryPath> {
    let (parent, _) = link.split()?;
    let mut components: Vec<&[u8]> = parent
        .as_bytes()
        .split(|b| *b == b'/')
        .filter(|c| !c.is_empty())
        .collect();
    if target.starts_with(b"/") {
        return None;
    }
    for component in target.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()?),
            other => components.push(other),
        }
    }
    EntryPath::parse(&components.join(&b'/')).ok()
}

/// The stream as it comes from the async side.
struct PieceReader {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(piece)) => self.piece = piece,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, count: usize) {
        self.piece = self.piece.split_off(count);
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let path = |text: &str| EntryPath::parse(text.as_bytes()).unwrap();
        assert_eq!(
            relative(&path("a/layer.tar"), b"../b/layer.tar"),
            Some(path("b/layer.tar"))
        );
        assert_eq!(relative(&path("a/layer.tar"), b"../../etc/passwd"), None);
        assert_eq!(relative(&path("a/layer.tar"), b"/etc/passwd"), None);
    }
}
