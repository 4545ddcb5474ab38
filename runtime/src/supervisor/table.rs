//! A small table whose keys are never used twice, so that an event of something gone cannot reach its successor.

/// Entries under ever-growing keys. A pod has a handful of each kind: a scan beats a tree.
#[derive(Debug)]
pub(super) struct Table<T> {
    next: u32,
    entries: Vec<(u32, T)>,
}

impl<T> Table<T> {
    pub(super) fn new() -> Table<T> {
        Table {
            next: 0,
            entries: Vec::new(),
        }
    }

    /// The key that the next entry is to have.
    pub(super) fn reserve(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    pub(super) fn put(&mut self, key: u32, entry: T) {
        self.entries.push((key, entry));
    }

    pub(super) fn get(&self, key: u32) -> Option<&T> {
        self.iter().find(|(k, _)| *k == key).map(|(_, entry)| entry)
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.entries
            .iter_mut()
            .find(|(k, _)| *k == key)
            .map(|(_, entry)| entry)
    }

    pub(super) fn take(&mut self, key: u32) -> Option<T> {
        let index = self.entries.iter().position(|(k, _)| *k == key)?;
        Some(self.entries.swap_remove(index).1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().map(|(key, entry)| (*key, entry))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.entries.iter_mut().map(|(key, entry)| (*key, entry))
    }

    pub(super) fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<(u32, &T)> {
        self.iter().find(|(_, entry)| wanted(entry))
    }

    /// Keys of the entries that are wanted.
    pub(super) fn keys(&self, wanted: impl Fn(&T) -> bool) -> Vec<u32> {
        self.iter()
            .filter(|(_, entry)| wanted(entry))
            .map(|(key, _)| key)
            .collect()
    }
}
