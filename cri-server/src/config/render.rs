//! The effective configuration as a file that documents itself.

use std::fmt::Write;

use toml::{Table, Value};

use super::keys::KEYS;
use super::raw::Raw;

pub(super) fn toml(raw: &Raw) -> String {
    let (effective, defaults) = (table(raw), table(&Raw::default()));
    let mut text = String::from(
        "# The effective configuration of crisp. What is commented out is the default.\n\
         # Files: /etc/crisp/config.toml, then /etc/crisp/config.toml.d/*.toml; a later one wins.\n\n",
    );
    let mut section = "";
    for (key, about) in KEYS {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        if table != section {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n[{table}]\n");
            section = table;
        }
        let value = lookup(&effective, key);
        let mark = if value == lookup(&defaults, key) { "#" } else { "" };
        let value = value.map(Value::to_string).unwrap_or_default();
        let _ = write!(text, "# {about}\n{mark}{name} = {value}\n");
    }
    text
}

/// The table behind the derive; it cannot fail, for no value of ours is outside TOML.
pub(super) fn table(raw: &Raw) -> Table {
    Table::try_from(raw).unwrap_or_default()
}

pub(super) fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((first, rest)) => lookup(table.get(first)?.as_table()?, rest),
        None => table.get(key),
    }
}
