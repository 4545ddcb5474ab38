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

pub(crate) const LONGEST_NAME: usize = 255;

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
pub(crate) fn flag(raw: &Value, key: &str) -> bool {
    match raw.get(key) {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}
