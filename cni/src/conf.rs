//! Network configurations: one parsed value, whichever of the three file forms it came from.
//!
//! A `.conflist` holds a list of plugins (CNI spec 1.1.0, section 1); a `.conf` or `.json` may instead hold a
//! single plugin, which is read as a list of one. Keys that we do not know are kept: they belong to the plugins.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;
use crate::names::name_problem;

/// A file above this size is not a configuration.
const LARGEST_FILE: u64 = 1 << 20;
const LONGEST_NAME: usize = 255;

/// A version of the CNI spec that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecVersion {
    /// 0.3.1: ADD and DEL.
    V0_3_1,
    /// 0.4.0: CHECK, and DEL gets the result of ADD.
    V0_4_0,
    /// 1.0.0: results without the `version` of an address.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

impl SpecVersion {
    const ALL: [SpecVersion; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// As it is written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of that name, if we speak it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One plugin of a list: its configuration with the two things that we need of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    kind: String,
    capabilities: BTreeSet<String>,
    conf: Map<String, Value>,
}

impl Plugin {
    /// The plugin's `type`: a bare file name.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The plugin declares this capability.
    pub fn wants(&self, capability: &str) -> bool {
        self.capabilities.contains(capability)
    }

    /// The configuration as written.
    pub(crate) fn conf(&self) -> &Map<String, Value> {
        &self.conf
    }
}

/// A network: a name and the chain of plugins that make it.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    source: PathBuf,
    name: String,
    version: SpecVersion,
    plugins: Vec<Plugin>,
    disable_check: bool,
    disable_gc: bool,
    raw: Value,
}

impl NetworkList {
    /// Reads a configuration file, with the plugins of its folder `<directory>/<network name>/*.conf` unless
    /// it says `loadOnlyInlinedPlugins`.
    ///
    /// # Errors
    /// [`Error::ReadConfiguration`], or [`Error::Configuration`] naming file and position.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let mut raw = list_form(read_json(file)?, file)?;
        let name = raw
            .get("name")
            .and_then(Value::as_str)
            .filter(|name| name_problem(name, LONGEST_NAME).is_none());
        let folder = name.and_then(|name| Some(file.parent()?.join(name)));
        if let (false, Some(folder)) = (flag(&raw, "loadOnlyInlinedPlugins"), folder) {
            append_folder(&mut raw, &folder)?;
        }
        Self::parse(file, raw)
    }

    /// Checks a list that is already JSON: one just read, or one kept with an attachment.
    ///
    /// # Errors
    /// [`Error::Configuration`] naming the file and the field.
    pub fn parse(source: &Path, raw: Value) -> Result<Self, Error> {
        let wrong = |at: &str, problem: &str| Error::Configuration {
            file: source.into(),
            at: at.into(),
            problem: problem.into(),
        };
        let name = raw
            .get("name")
            .and_then(Value::as_str)
            .ok_or_else(|| wrong("name", "missing, or no text"))?;
        if let Some(problem) = name_problem(name, LONGEST_NAME) {
            return Err(wrong("name", problem));
        }
        let version = version_of(&raw).map_err(|problem| wrong("cniVersion", &problem))?;
        let entries = match raw.get("plugins") {
            Some(Value::Array(entries)) if !entries.is_empty() => entries,
            Some(Value::Array(_)) => return Err(wrong("plugins", "empty list")),
            Some(_) => return Err(wrong("plugins", "not a list")),
            None => return Err(wrong("plugins", "missing")),
        };
        let plugins = entries
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                parse_plugin(entry)
                    .map_err(|(field, problem)| wrong(&format!("plugins[{index}]{field}"), &problem))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(NetworkList {
            source: source.into(),
            name: name.into(),
            version,
            plugins,
            disable_check: flag(&raw, "disableCheck"),
            disable_gc: flag(&raw, "disableGC"),
            raw,
        })
    }

    /// The file it came from.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of the spec that the plugins are spoken to in.
    pub fn version(&self) -> SpecVersion {
        self.version
    }

    /// The plugins, in the order of ADD.
    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// CHECK makes sense with this network.
    pub fn can_check(&self) -> bool {
        !self.disable_check && self.version >= SpecVersion::V0_4_0
    }

    /// GC makes sense with this network.
    pub fn can_collect(&self) -> bool {
        !self.disable_gc && self.version >= SpecVersion::V1_1_0
    }

    /// The whole list as JSON, in the form of a `.conflist`.
    pub fn raw(&self) -> &Value {
        &self.raw
    }
}

/// Reads a file as JSON; the error of a file that is none names line and column.
fn read_json(file: &Path) -> Result<Value, Error> {
    let unreadable = |source| Error::ReadConfiguration {
        path: file.into(),
        source,
    };
    let wrong = |at: String, problem: String| Error::Configuration {
        file: file.into(),
        at,
        problem,
    };
    let size = std::fs::metadata(file).map_err(unreadable)?.len();
    if size > LARGEST_FILE {
        return Err(wrong("whole file".into(), "larger than 1 MiB".into()));
    }
    let text = std::fs::read(file).map_err(unreadable)?;
    serde_json::from_slice(&text).map_err(|error| {
        // serde_json ends its message with the position, which stands before it here.
        let message = error.to_string();
        let problem = message.split(" at line ").next().unwrap_or(&message).to_owned();
        wrong(
            format!("line {} column {}", error.line(), error.column()),
            problem,
        )
    })
}

/// Turns a single plugin's configuration into a list of one; a list stays as it is.
fn list_form(raw: Value, file: &Path) -> Result<Value, Error> {
    let is_list_file = file.extension().is_some_and(|extension| extension == "conflist");
    match raw {
        Value::Object(fields) if fields.contains_key("plugins") || is_list_file => Ok(Value::Object(fields)),
        Value::Object(fields) => {
            let mut list = Map::new();
            for key in ["name", "cniVersion"] {
                if let Some(value) = fields.get(key) {
                    list.insert(key.into(), value.clone());
                }
            }
            list.insert("plugins".into(), Value::Array(vec![Value::Object(fields)]));
            Ok(Value::Object(list))
        }
        _ => Err(Error::Configuration {
            file: file.into(),
            at: "line 1 column 1".into(),
            problem: "a network configuration is a JSON object".into(),
        }),
    }
}

fn append_folder(raw: &mut Value, folder: &Path) -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    let Some(fields) = raw.as_object_mut() else {
        return Ok(());
    };
    let plugins = fields
        .entry("plugins")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(plugins) = plugins {
        for file in files {
            plugins.push(read_json(&file)?);
        }
    }
    Ok(())
}

/// The newest version that the list offers and we speak.
fn version_of(raw: &Value) -> Result<SpecVersion, String> {
    let single = raw
        .get("cniVersion")
        .map(|value| value.as_str().ok_or("not a text"))
        .transpose()?;
    let several = match raw.get("cniVersions") {
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        Some(_) => return Err("cniVersions is not a list".into()),
        None => Vec::new(),
    };
    let offered: Vec<&str> = several.into_iter().chain(single).collect();
    if offered.is_empty() {
        return Err("missing; 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are spoken".into());
    }
    offered
        .iter()
        .filter_map(|text| SpecVersion::parse(text))
        .max()
        .ok_or_else(|| {
            format!(
                "{} is not spoken, only 0.3.1, 0.4.0, 1.0.0 and 1.1.0",
                offered.join(", ")
            )
        })
}

fn parse_plugin(entry: &Value) -> Result<Plugin, (&'static str, String)> {
    let Value::Object(conf) = entry else {
        return Err(("", "not an object".into()));
    };
    let kind = match conf.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(_) => return Err((".type", "not a text".into())),
        None => return Err((".type", "missing".into())),
    };
    // It is looked up in the plugin directories: with a slash it could name any program of the host.
    if kind.is_empty() || matches!(kind.as_str(), "." | "..") || kind.contains(['/', '\0']) {
        return Err((".type", format!("{kind:?} is not a bare file name")));
    }
    let capabilities = match conf.get("capabilities") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(Value::Object(all)) => all
            .iter()
            .filter(|(_, wanted)| **wanted == Value::Bool(true))
            .map(|(name, _)| name.clone())
            .collect(),
        Some(_) => return Err((".capabilities", "not an object".into())),
    };
    Ok(Plugin {
        kind,
        capabilities,
        conf: conf.clone(),
    })
}

/// A flag that some tools write as a text.
fn flag(raw: &Value, key: &str) -> bool {
    match raw.get(key) {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, text: &str) -> Result<NetworkList, Error> {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join(name);
        std::fs::write(&file, text).expect("a file");
        NetworkList::load(&file)
    }

    fn problem(name: &str, text: &str) -> String {
        let error = load(name, text).expect_err("must be refused").to_string();
        error
            .split_once(name)
            .map(|(_, rest)| rest.trim_start_matches(": ").to_owned())
            .expect("names the file")
    }

    #[test]
    fn a_list_keeps_what_it_does_not_know() {
        let list = load(
            "10-a.conflist",
            r#"{"cniVersion":"1.0.0","name":"a","disableCheck":true,
                "plugins":[{"type":"bridge","x":{"y":1}},{"type":"portmap","capabilities":{"portMappings":true,"dns":false}}]}"#,
        )
        .expect("valid");
        assert_eq!((list.name(), list.version()), ("a", SpecVersion::V1_0_0));
        assert_eq!(list.plugins()[0].conf()["x"]["y"], 1);
        assert!(list.plugins()[1].wants("portMappings") && !list.plugins()[1].wants("dns"));
        assert!(!list.can_check() && !list.can_collect());
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = load("a.conf", r#"{"cniVersion":"0.3.1","name":"a","type":"bridge"}"#).expect("valid");
        assert_eq!(list.plugins().len(), 1);
        assert_eq!(list.raw()["plugins"][0]["type"], "bridge");
    }

    #[test]
    fn the_newest_offered_version_is_taken() {
        let text = |versions: &str| {
            format!(
                r#"{{"cniVersion":"1.0.0","cniVersions":{versions},"name":"a","plugins":[{{"type":"b"}}]}}"#
            )
        };
        assert_eq!(
            load("a.conflist", &text(r#"["0.4.0","1.1.0","9.9.9"]"#))
                .expect("ok")
                .version(),
            SpecVersion::V1_1_0
        );
        assert_eq!(
            load("a.conflist", &text("[]")).expect("ok").version(),
            SpecVersion::V1_0_0
        );
    }

    #[test]
    fn plugins_of_the_folder_are_appended_unless_switched_off() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a.conflist");
        std::fs::create_dir(directory.path().join("net")).expect("a folder");
        std::fs::write(directory.path().join("net/5.conf"), r#"{"type":"tuning"}"#).expect("a file");
        std::fs::write(
            &file,
            r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"b"}]}"#,
        )
        .expect("a file");
        assert_eq!(
            NetworkList::load(&file).expect("ok").plugins()[1].kind(),
            "tuning"
        );
        let inlined =
            r#"{"cniVersion":"1.1.0","name":"net","loadOnlyInlinedPlugins":true,"plugins":[{"type":"b"}]}"#;
        std::fs::write(&file, inlined).expect("a file");
        assert_eq!(NetworkList::load(&file).expect("ok").plugins().len(), 1);
    }

    #[test]
    fn errors_name_file_and_position() {
        let cases = [
            ("{\n  \"name\": oops }", "line 2 column 11: expected value"),
            ("", "line 1 column 0: EOF while parsing a value"),
            ("[]", "line 1 column 1: a network configuration is a JSON object"),
            (
                r#"{"cniVersion":"1.0.0","plugins":[{"type":"b"}]}"#,
                "name: missing, or no text",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"../x","plugins":[{"type":"b"}]}"#,
                "name: must start with a letter or digit",
            ),
            (
                r#"{"name":"a","plugins":[{"type":"b"}]}"#,
                "cniVersion: missing; 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are spoken",
            ),
            (
                r#"{"cniVersion":"0.2.0","name":"a","plugins":[{"type":"b"}]}"#,
                "cniVersion: 0.2.0 is not spoken, only 0.3.1, 0.4.0, 1.0.0 and 1.1.0",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#,
                "plugins: empty list",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"a","type":"b"}"#,
                "plugins: missing",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"b"},{"type":"../../bin/sh"}]}"#,
                "plugins[1].type: \"../../bin/sh\" is not a bare file name",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"a","plugins":[{}]}"#,
                "plugins[0].type: missing",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(problem("a.conflist", text), expected, "{text}");
        }
    }
}
