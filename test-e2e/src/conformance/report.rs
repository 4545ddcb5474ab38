//! What came out: from ginkgo's report to a tally in which nothing is left out silently.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use serde_json::Value;

/// Cases not run at all (a part of their name, as a regular expression), and why.
pub const LEFT_OUT_BY_NAME: [(&str, &str); 2] = [
    (
        "public image with digest should be pulled and removed",
        "names a digest of an image on a public registry, which cannot be made again; image.rs tests the same",
    ),
    ("benchmark", "measures, judges nothing"),
];

/// Why the other cases of a run with a focus are left out.
const NOT_ASKED_FOR: &str = "not asked for";

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Not run, for a reason that holds on this machine.
    LeftOut(String),
    /// What it says, in one line.
    Failed(String),
}

/// What became of all.
#[derive(Debug, Default)]
pub struct Tally {
    cases: BTreeMap<String, Outcome>,
}

impl Tally {
    /// From ginkgo's JSON report of a run that was asked for every case, or only for some.
    ///
    /// # Panics
    /// When it is none.
    pub fn read(report: &[u8], only_some: bool) -> Self {
        let suites: Value = serde_json::from_slice(report).expect("ginkgo's report is JSON");
        let suites = suites.as_array().cloned().unwrap_or_default();
        let specs = suites
            .iter()
            .flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
        let mut cases = BTreeMap::new();
        for spec in specs {
            let (name, outcome) = (name(spec), outcome(spec, only_some));
            let of_suite = spec["LeafNodeType"] != "It";
            if (of_suite && outcome == Outcome::Passed) || spec["State"] == "" {
                continue;
            }
            cases.insert(name, outcome);
        }
        Self { cases }
    }

    /// Whether any failed, or none was run.
    pub fn is_failure(&self) -> bool {
        let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
        !self.cases.values().any(|outcome| *outcome == Outcome::Passed) || self.cases.values().any(failed)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut passed, mut left_out, mut failed) = (0, BTreeMap::<&str, Vec<&str>>::new(), Vec::new());
        for (name, outcome) in &self.cases {
            match outcome {
                Outcome::Passed => passed += 1,
                Outcome::LeftOut(why) => left_out.entry(why).or_default().push(name),
                Outcome::Failed(why) => failed.push((name, why)),
            }
        }
        for (why, names) in &left_out {
            writeln!(to, "left out ({}): {why}", names.len())?;
            for name in names.iter().filter(|_| *why != NOT_ASKED_FOR) {
                writeln!(to, "    {name}")?;
            }
        }
        for (name, why) in &failed {
            writeln!(to, "FAILED: {name}\n    {why}")?;
        }
        let skipped: usize = left_out.values().map(Vec::len).sum();
        write!(to, "{passed} passed, {} failed, {skipped} left out", failed.len())
    }
}

fn name(spec: &Value) -> String {
    let text = |value: &Value| {
        value
            .as_str()
            .unwrap_or_default()
            .trim_start_matches("[k8s.io] ")
            .to_owned()
    };
    let mut words: Vec<String> = spec["ContainerHierarchyTexts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    let leaf = text(&spec["LeafNodeText"]);
    words.push(if leaf.is_empty() {
        text(&spec["LeafNodeType"])
    } else {
        leaf
    });
    words.join(": ")
}

fn outcome(spec: &Value, only_some: bool) -> Outcome {
    let said = spec["Failure"]["Message"].as_str().unwrap_or_default();
    match spec["State"].as_str().unwrap_or_default() {
        "passed" => Outcome::Passed,
        "skipped" | "pending" => match reason(&name(spec), said, only_some) {
            Some(why) => Outcome::LeftOut(why),
            None => Outcome::Failed(format!("left out for no known reason: {said}")),
        },
        other => {
            let (told, insides) = said.split_once("Unexpected error:").unwrap_or((said, ""));
            // Then comes the error as Go prints its insides: its type, then its text, which is the line that a call
            // failed with.
            let mut inner = insides.lines().map(str::trim).filter(|line| !line.is_empty());
            let called = insides
                .lines()
                .find(|line| line.trim_start().starts_with("rpc error"))
                .or_else(|| inner.nth(1));
            let lines: Vec<&str> = told
                .lines()
                .chain(called.filter(|_| !told.contains("rpc error")))
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            Outcome::Failed(format!("{other}: {}", lines.join(" | ")))
        }
    }
}

/// Why a case may be left out here; what it says itself is not enough, for it may be the runtime that lacks something.
fn reason(name: &str, said: &str, only_some: bool) -> Option<String> {
    let by_name = LEFT_OUT_BY_NAME.iter().find(|(case, _)| name.contains(case));
    if let Some((_, why)) = by_name {
        return Some((*why).to_owned());
    }
    let lacks = |what: &str| Some(what.to_owned());
    match name.split(':').next()? {
        "AppArmor" if !switched_on("/sys/module/apparmor/parameters/enabled") => {
            lacks("this kernel has no AppArmor (make test-vm runs them)")
        }
        "SELinux" if fs::metadata("/sys/fs/selinux/enforce").is_err() => lacks("this kernel has no SELinux"),
        "NRI" if said.contains("nri-socket") => lacks("NRI is not part of the runtime yet"),
        _ if only_some && said.is_empty() => lacks(NOT_ASKED_FOR),
        _ => None,
    }
}

fn switched_on(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "Y")
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Tally};
    use serde_json::{Value, json};

    fn spec(describe: &str, leaf: &str, state: &str, message: &str) -> Value {
        json!({
            "ContainerHierarchyTexts": [format!("[k8s.io] {describe}"), "context"],
            "LeafNodeType": "It", "LeafNodeText": leaf, "State": state, "Failure": { "Message": message },
        })
    }

    fn tally(specs: &[Value]) -> Tally {
        Tally::read(json!([{ "SpecReports": specs }]).to_string().as_bytes(), false)
    }

    #[test]
    fn a_failure_fails() {
        let all = tally(&[
            spec("Pod", "runs", "passed", ""),
            spec("Pod", "stops", "failed", "why\n  not"),
        ]);
        assert!(all.is_failure());
        assert_eq!(
            all.cases["Pod: context: stops"],
            Outcome::Failed("failed: why | not".to_owned())
        );
    }

    #[test]
    fn what_skips_itself_for_want_of_a_feature_fails() {
        let all = tally(&[
            spec("Pod", "runs", "passed", ""),
            spec("Pod", "maps users", "skipped", "The runtime does not support it"),
        ]);
        assert!(all.is_failure(), "{all}");
    }

    #[test]
    fn what_cannot_be_judged_here_is_left_out_with_its_reason() {
        let all = tally(&[
            spec("Pod", "runs", "passed", ""),
            spec(
                "Image Manager",
                "public image with digest should be pulled and removed",
                "skipped",
                "",
            ),
        ]);
        assert!(!all.is_failure());
        let said = all.to_string();
        assert!(
            said.contains("cannot be made again") && said.ends_with("1 passed, 0 failed, 1 left out"),
            "{said}"
        );
    }

    #[test]
    fn who_says_nothing_is_left_out_only_when_some_were_asked_for() {
        let report = json!([{ "SpecReports": [spec("Pod", "runs", "passed", ""), spec("Pod", "stops", "skipped", "")] }]);
        let report = report.to_string();
        assert!(!Tally::read(report.as_bytes(), true).is_failure());
        assert!(Tally::read(report.as_bytes(), false).is_failure());
    }

    #[test]
    fn a_failure_of_no_call_is_told_too() {
        let said = "Unexpected error:\n    <*fmt.wrapError | 0x1>: \n    load profiles: no\n    {\n";
        let all = tally(&[spec("AppArmor", "denies", "failed", said)]);
        assert_eq!(
            all.cases["AppArmor: context: denies"],
            Outcome::Failed("failed: load profiles: no".to_owned())
        );
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert!(tally(&[]).is_failure());
    }

    #[test]
    fn a_failure_before_the_first_case_is_one() {
        let mut suite = spec("", "", "panicked", "no socket");
        suite["LeafNodeType"] = json!("BeforeSuite");
        assert!(tally(&[spec("Pod", "runs", "passed", ""), suite]).is_failure());
    }
}
