//! From a file to a network: the three file forms, and the folder of further plugins.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::conf::{LONGEST_NAME, NetworkList, flag};
use crate::error::Error;
use crate::names::name_problem;

/// A file above this size is not a configuration.
const LARGEST_FILE: u64 = 1 << 20;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conf::SpecVersion;
    use crate::result::NetworkResult;

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

    /// JSON made of the words of a configuration, put together at random.
    fn json() -> impl Strategy<Value = Value> {
        let key = prop::sample::select(vec![
            "name",
            "cniVersion",
            "cniVersions",
            "plugins",
            "type",
            "capabilities",
            "ips",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::sample::select(vec!["1.0.0", "net", "bridge", "../sh", "", "10.0.0.1/8"])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever the file holds, it is a network whose parts hold what they promise, or a clear refusal.
        #[test]
        fn any_json_is_a_sound_network_or_refused(raw in json()) {
            match list_form(raw, Path::new("a.conf")).and_then(|raw| NetworkList::parse(Path::new("a.conf"), raw)) {
                Ok(list) => {
                    prop_assert!(!list.plugins().is_empty());
                    prop_assert!(list.plugins().iter().all(|plugin| !plugin.kind().contains('/')));
                    let again = NetworkList::parse(list.source(), list.raw().clone());
                    prop_assert_eq!(again.ok(), Some(list));
                }
                Err(error) => prop_assert!(error.to_string().starts_with("a.conf: ")),
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let directory = tempfile::tempdir().expect("a directory");
            let file = directory.path().join("a.conflist");
            std::fs::write(&file, text).expect("a file");
            prop_assert!(NetworkList::load(&file).is_err());
        }

        #[test]
        fn any_json_is_a_result_or_refused(raw in json()) {
            if let Ok(result) = NetworkResult::parse(&raw) {
                prop_assert!(result.pod_addresses().len() <= result.ips.len());
            }
        }
    }
}
