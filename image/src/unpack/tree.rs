//! The names of a layer, in memory: what an archive's paths are resolved against when its files go into one image.
//!
//! It behaves as the directory would that the archive is otherwise unpacked into: symlinks on the way are followed
//! inside the root, `..` in them never leads above it, and the kernel's refusals are told by the kernel's numbers.
//! Nothing of the host is looked at.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::path::EntryPath;
use crate::erofs::{Attributes, Nid};

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// A place in [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct NodeId(u32);

/// All names of a layer.
#[derive(Debug)]
pub(super) struct Tree {
    /// The root first. What is replaced stays, without a name.
    nodes: Vec<Node>,
    /// The last directory looked up: the entries of an archive come directory by directory.
    last: Option<(EntryPath, NodeId)>,
}

#[derive(Debug)]
pub(super) enum Node {
    Directory(Box<Directory>),
    /// Anything else; it is in the image already.
    Leaf(Leaf),
}

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) parent: NodeId,
    /// In its parent; the root has none.
    pub(super) name: Box<[u8]>,
    pub(super) names: BTreeMap<Box<[u8]>, NodeId>,
    /// `None` as long as the archive does not describe it.
    pub(super) attributes: Option<Attributes>,
    pub(super) opaque: bool,
}

#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) nid: Nid,
    pub(super) kind: FileType,
    /// How many names it has.
    pub(super) names: u32,
    /// Of a symlink.
    pub(super) target: Option<Box<[u8]>>,
}

impl Tree {
    pub(super) const ROOT: NodeId = NodeId(0);

    /// A root that nothing is known of.
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::directory(Self::ROOT, OsStr::new(""))],
            last: None,
        }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The directory behind an id that [`Tree::directory`] or [`Tree::make_directories`] gave.
    ///
    /// # Errors
    /// `ENOTDIR`, for another id.
    pub(super) fn as_directory(&mut self, id: NodeId) -> Result<&mut Directory> {
        match self.node_mut(id) {
            Node::Directory(directory) => Ok(directory),
            Node::Leaf(_) => Err(Errno::NOTDIR),
        }
    }

    /// What is called so in a directory.
    pub(super) fn child(&self, directory: NodeId, name: &OsStr) -> Option<NodeId> {
        match self.node(directory) {
            Node::Directory(directory) => directory.names.get(name.as_bytes()).copied(),
            Node::Leaf(_) => None,
        }
    }

    /// The directory at `path`, symlinks followed inside the tree.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`.
    pub(super) fn directory(&mut self, path: &EntryPath) -> Result<NodeId> {
        if let Some((last, id)) = &self.last
            && last == path
        {
            return Ok(*id);
        }
        let id = self.walk(path)?;
        self.last = Some((path.clone(), id));
        Ok(id)
    }

    fn walk(&self, path: &EntryPath) -> Result<NodeId> {
        let mut pending: Vec<&[u8]> = reversed(path.as_bytes()).collect();
        let (mut here, mut links) = (Self::ROOT, 0);
        while let Some(name) = pending.pop() {
            let Node::Directory(directory) = self.node(here) else {
                return Err(Errno::NOTDIR);
            };
            let next = match name {
                b"" | b"." => continue,
                b".." => directory.parent,
                name => *directory.names.get(name).ok_or(Errno::NOENT)?,
            };
            match self.node(next) {
                Node::Directory(_) => here = next,
                Node::Leaf(Leaf {
                    target: Some(target), ..
                }) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with(b"/") {
                        here = Self::ROOT;
                    }
                    pending.extend(reversed(target));
                }
                Node::Leaf(_) => return Err(Errno::NOTDIR),
            }
        }
        Ok(here)
    }

    /// What is at `path`, not following a symlink in the last place; `None` if nothing.
    ///
    /// # Errors
    /// As [`Tree::directory`], except for "there is nothing".
    pub(super) fn find(&mut self, path: &EntryPath) -> Result<Option<NodeId>> {
        let Some((parent, name)) = path.split() else {
            return Ok(Some(Self::ROOT));
        };
        match self.directory(&parent) {
            Ok(parent) => Ok(self.child(parent, name)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// As [`Tree::find`], but only what kind of thing it is.
    ///
    /// # Errors
    /// As [`Tree::find`].
    pub(super) fn kind(&mut self, path: &EntryPath) -> Result<Option<FileType>> {
        Ok(self.find(path)?.map(|id| self.node(id).kind()))
    }

    /// The directory at `path`; what is missing on the way is made, to be described later. Each name made is told.
    ///
    /// # Errors
    /// `EEXIST` for a dangling symlink on the way, else as [`Tree::directory`].
    pub(super) fn make_directories(
        &mut self,
        path: &EntryPath,
        mut made: impl FnMut(&OsStr),
    ) -> Result<NodeId> {
        match self.directory(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (mut here, mut id) = (EntryPath::root(), Self::ROOT);
        for name in path.components() {
            let below = here.join(name);
            id = match self.directory(&below) {
                Err(Errno::NOENT) if self.child(id, name).is_some() => return Err(Errno::EXIST),
                Err(Errno::NOENT) => {
                    made(name);
                    self.insert(id, name, Node::directory(id, name))?
                }
                other => other?,
            };
            here = below;
        }
        Ok(id)
    }

    /// Gives a directory a name for something new, in the place of what had it.
    ///
    /// # Errors
    /// `ENOSPC` beyond 2^32 nodes.
    pub(super) fn insert(&mut self, directory: NodeId, name: &OsStr, node: Node) -> Result<NodeId> {
        self.remove(directory, name)?;
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| Errno::NOSPC)?);
        self.nodes.push(node);
        self.as_directory(directory)?
            .names
            .insert(name.as_bytes().into(), id);
        Ok(id)
    }

    /// Gives something another name, which must be free.
    ///
    /// # Errors
    /// `EPERM` for a directory.
    pub(super) fn link(&mut self, directory: NodeId, name: &OsStr, to: NodeId) -> Result<()> {
        match self.node_mut(to) {
            Node::Directory(_) => return Err(Errno::PERM),
            Node::Leaf(leaf) => leaf.names += 1,
        }
        self.as_directory(directory)?
            .names
            .insert(name.as_bytes().into(), to);
        Ok(())
    }

    /// Takes away a name, with everything below it.
    ///
    /// # Errors
    /// `ENOTDIR`
    pub(super) fn remove(&mut self, directory: NodeId, name: &OsStr) -> Result<()> {
        let removed = self.as_directory(directory)?.names.remove(name.as_bytes());
        let mut left: Vec<NodeId> = removed.into_iter().collect();
        if !left.is_empty() {
            self.last = None;
        }
        while let Some(id) = left.pop() {
            match self.node_mut(id) {
                Node::Directory(directory) => left.extend(std::mem::take(&mut directory.names).into_values()),
                Node::Leaf(leaf) => leaf.names -= 1,
            }
        }
        Ok(())
    }

    /// The leaves that have another number of names than one, and some.
    pub(super) fn linked(&self) -> Vec<(Nid, u32)> {
        let linked = self.nodes.iter().filter_map(|node| match node {
            Node::Leaf(leaf) if leaf.names > 1 => Some((leaf.nid, leaf.names)),
            _ => None,
        });
        linked.collect()
    }
}

impl Node {
    /// A directory that nothing is known of.
    pub(super) fn directory(parent: NodeId, name: &OsStr) -> Self {
        Self::Directory(Box::new(Directory {
            parent,
            name: name.as_bytes().into(),
            names: BTreeMap::new(),
            attributes: None,
            opaque: false,
        }))
    }

    /// Something with one name.
    pub(super) fn leaf(nid: Nid, kind: FileType) -> Self {
        Self::Leaf(Leaf {
            nid,
            kind,
            names: 1,
            target: None,
        })
    }

    /// A symlink with one name.
    pub(super) fn symlink(nid: Nid, target: &[u8]) -> Self {
        Self::Leaf(Leaf {
            nid,
            kind: FileType::Symlink,
            names: 1,
            target: Some(target.into()),
        })
    }

    pub(super) fn kind(&self) -> FileType {
        match self {
            Self::Directory(_) => FileType::Directory,
            Self::Leaf(leaf) => leaf.kind,
        }
    }
}

fn reversed(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').rev()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text.as_bytes()).unwrap()
    }

    fn tree(directories: &[&str], links: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::new();
        for directory in directories {
            tree.make_directories(&path(directory), |_| {}).unwrap();
        }
        for (name, target) in links {
            let (parent, name) = (
                path(name).split().map(|(p, _)| p).unwrap(),
                name.rsplit('/').next().unwrap(),
            );
            let parent = tree.directory(&parent).unwrap();
            let node = Node::symlink(Nid::for_tests(1), target.as_bytes());
            tree.insert(parent, OsStr::new(name), node).unwrap();
        }
        tree
    }

    #[test]
    fn links_are_followed_inside_only() {
        let links = [
            ("up", "../../../a"),
            ("a/abs", "/b"),
            ("loop", "loop"),
            ("gone", "/nowhere"),
            ("via", "a/b/.."),
        ];
        let mut tree = tree(&["a/b", "b/c"], &links);
        let mut same = |one: &str, other: &str| {
            assert_eq!(tree.directory(&path(one)), tree.directory(&path(other)), "{one}");
        };
        same("up/b", "a/b");
        same("a/abs/c", "b/c");
        same("up/abs", "b");
        same("via/b", "a/b");
        assert_eq!(tree.directory(&path("loop/x")), Err(Errno::LOOP));
        assert_eq!(tree.directory(&path("gone")), Err(Errno::NOENT));
        assert_eq!(tree.make_directories(&path("gone/x"), |_| {}), Err(Errno::EXIST));
        assert_eq!(tree.kind(&path("gone")), Ok(Some(FileType::Symlink)));
    }

    #[test]
    fn what_is_replaced_is_gone_with_all_below_it() {
        let mut tree = tree(&["a/b/c"], &[("a/b/link", "/")]);
        let parent = tree.directory(&path("a/b")).unwrap();
        let leaf = tree.child(parent, OsStr::new("link")).unwrap();
        tree.link(Tree::ROOT, OsStr::new("kept"), leaf).unwrap();
        tree.insert(
            Tree::ROOT,
            OsStr::new("a"),
            Node::leaf(Nid::for_tests(2), FileType::Fifo),
        )
        .unwrap();
        assert_eq!(tree.directory(&path("a/b")), Err(Errno::NOTDIR));
        assert_eq!(tree.kind(&path("a/b")), Ok(None));
        let Node::Leaf(leaf) = tree.node(leaf) else {
            panic!()
        };
        assert_eq!(leaf.names, 1, "one of two names is left");
        assert!(tree.linked().is_empty());
    }
}
