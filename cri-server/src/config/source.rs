//! Reading and merging, remembering for each key the place that set it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::error::{ConfigError, Place};
use super::keys;
use super::raw::Raw;

/// Settings of the command line: they win over all files.
#[derive(Debug, Clone, Default)]
pub struct Overrides(Vec<(&'static str, &'static str, Value)>);

impl Overrides {
    /// Sets `key` (dotted) because `flag` was given.
    pub fn set(&mut self, flag: &'static str, key: &'static str, value: impl Into<Value>) {
        self.0.push((flag, key, value.into()));
    }
}

/// All sources so far, the later ones over the earlier.
#[derive(Debug, Default)]
pub(super) struct Merged {
    table: Table,
    places: Places,
}

/// For each dotted key the place that set it last.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, Place>);

impl Places {
    /// Where the key was set; that of its table when only a part of a list or table is meant.
    pub(super) fn of(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(place) = self.0.get(key) {
                return place.clone();
            }
            match key.rsplit_once('.') {
                Some((table, _)) => key = table,
                None => return Place::Default,
            }
        }
    }
}

impl Merged {
    pub(super) fn read(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| read_error(path, source))?;
        self.add(path, &text)
    }

    pub(super) fn read_if_present(&mut self, path: &Path) -> Result<(), ConfigError> {
        match self.read(path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            read => read,
        }
    }

    /// `<file>.d/*.toml` in the order of their names.
    pub(super) fn read_drop_ins(&mut self, file: &Path) -> Result<(), ConfigError> {
        let mut directory = file.as_os_str().to_owned();
        directory.push(".d");
        let directory = PathBuf::from(directory);
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|source| read_error(&directory, source))?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| read_error(&directory, source))?.path();
            // Editors' and package managers' left-overs (.toml~, .toml.dpkg-old, .#x) are none of ours.
            let hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
                files.push(path);
            }
        }
        files.sort();
        files.iter().try_for_each(|file| self.read(file))
    }

    pub(super) fn add(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let document = Document { path, text };
        let table = DeTable::parse(text).map_err(|error| document.syntax(&error))?;
        let mut found = Vec::new();
        document.walk("", table.get_ref(), &mut found)?;
        // Types are checked file by file, while the parser still knows the lines.
        if let Err(error) = toml::from_str::<Raw>(text) {
            return Err(document.wrong_type(&error, &found));
        }
        for (key, span) in found {
            self.places.0.insert(key, document.place(span.start));
        }
        merge(
            &mut self.table,
            text.parse::<Table>().map_err(|error| document.syntax(&error))?,
        );
        Ok(())
    }

    pub(super) fn apply(&mut self, overrides: &Overrides) {
        for (flag, key, value) in &overrides.0 {
            let (tables, name) = key.rsplit_once('.').unwrap_or(("", key));
            let mut layer = Table::from_iter([(name.to_owned(), value.clone())]);
            for table in tables.rsplit('.').filter(|table| !table.is_empty()) {
                layer = Table::from_iter([(table.to_owned(), Value::Table(layer))]);
            }
            merge(&mut self.table, layer);
            self.places.0.insert((*key).to_owned(), Place::Flag(flag));
        }
    }

    pub(super) fn into_raw(self) -> Result<(Raw, Places), ConfigError> {
        match Raw::deserialize(self.table) {
            Ok(raw) => Ok((raw, self.places)),
            Err(error) => Err(ConfigError::Syntax {
                place: Place::Default,
                problem: one_line(error.message()),
            }),
        }
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// One file while it is being read.
struct Document<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Document<'_> {
    /// Collects every key with the span of its value, and refuses the first that nobody knows.
    fn walk(
        &self,
        table: &str,
        entries: &DeTable<'_>,
        found: &mut Vec<(String, Range<usize>)>,
    ) -> Result<(), ConfigError> {
        for (name, value) in entries {
            let key = if table.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{table}.{}", name.get_ref())
            };
            if !keys::is_known(&key) && !keys::is_free_form(table) && !keys::is_free_form(parent(table)) {
                let nearest = keys::nearest(&key);
                return Err(ConfigError::UnknownKey {
                    place: self.place(name.span().start),
                    key,
                    nearest,
                });
            }
            // From the key on: a table's own span need not hold its entries.
            found.push((key.clone(), name.span().start..value.span().end));
            if let DeValue::Table(entries) = value.get_ref() {
                self.walk(&key, entries, found)?;
            }
        }
        Ok(())
    }

    fn wrong_type(&self, error: &toml::de::Error, found: &[(String, Range<usize>)]) -> ConfigError {
        let Some(span) = error.span() else {
            return self.syntax(error);
        };
        let innermost = found.iter().filter(|(_, value)| value.contains(&span.start));
        match innermost.min_by_key(|(_, value)| value.len()) {
            Some((key, _)) => ConfigError::Value {
                place: self.place(span.start),
                key: key.clone(),
                problem: one_line(error.message()),
            },
            None => self.syntax(error),
        }
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let at = error.span().map_or(0, |span| span.start);
        ConfigError::Syntax {
            place: self.place(at),
            problem: one_line(error.message()),
        }
    }

    fn place(&self, offset: usize) -> Place {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Place::File(
            self.path.to_owned(),
            1 + before.iter().filter(|byte| **byte == b'\n').count(),
        )
    }
}

fn parent(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(table, _)| table)
}

fn read_error(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Read {
        path: path.to_owned(),
        source,
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
