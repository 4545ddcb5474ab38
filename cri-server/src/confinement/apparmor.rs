//! AppArmor profiles of containers: ours, which is loaded when the first container needs it, and those of the node.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::container::Profile;
use crate::{Error, Result};

/// The name of our profile.
const DEFAULT: &str = "crisp-default";
/// Our profile.
const DEFAULT_POLICY: &str = include_str!("crisp-default.apparmor");
/// Where the parser is looked for.
pub(crate) const PARSERS: [&str; 4] = [
    "usr/sbin/apparmor_parser",
    "sbin/apparmor_parser",
    "usr/bin/apparmor_parser",
    "bin/apparmor_parser",
];
/// Compiling our profile takes the parser less than a second.
const PARSER_PATIENCE: Duration = Duration::from_secs(20);

/// AppArmor as the node has it.
#[derive(Debug)]
pub(super) struct AppArmor {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The kernel has none, or it is off.
    Absent,
    Enabled {
        /// The kernel's list of what is loaded.
        profiles: PathBuf,
        parser: Option<PathBuf>,
        /// One loads, others wait.
        loading: Mutex<Loading>,
    },
}

#[derive(Debug, Default)]
struct Loading {
    warned: bool,
}

impl AppArmor {
    pub(super) fn detect(root: &Path) -> Self {
        let enabled = std::fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled"))
            .is_ok_and(|text| text.starts_with('Y'));
        let profiles = root.join("sys/kernel/security/apparmor/profiles");
        let state = match enabled && profiles.exists() {
            false => State::Absent,
            true => State::Enabled {
                profiles,
                parser: PARSERS
                    .iter()
                    .map(|path| root.join(path))
                    .find(|path| path.is_file()),
                loading: Mutex::default(),
            },
        };
        Self { state }
    }

    /// The profile that a container's process enters; `None` for none.
    pub(super) async fn profile(&self, asked: &Profile, privileged: bool) -> Result<Option<String>> {
        let refuse = |name: &str, problem: &str| {
            Err(Error::invalid(
                "security_context.apparmor.localhost_ref",
                format!("profile {name:?} {problem}"),
            ))
        };
        match (asked, &self.state) {
            (Profile::Unconfined, _) => Ok(None),
            (Profile::Localhost(name), State::Absent) => refuse(
                name,
                "cannot be applied: this node has no AppArmor; ask for RuntimeDefault or Unconfined",
            ),
            (Profile::Localhost(name), State::Enabled { profiles, .. }) => {
                match is_loaded(profiles, name).await? {
                    true => Ok(Some(name.clone())),
                    false => refuse(name, "is not loaded on this node; load it with apparmor_parser"),
                }
            }
            // Our profile is about what a container must not do to the node. Privileged ones are there to do that.
            (Profile::Unset | Profile::RuntimeDefault, _) if privileged => Ok(None),
            (Profile::Unset | Profile::RuntimeDefault, State::Absent) => Ok(None),
            (
                Profile::Unset | Profile::RuntimeDefault,
                State::Enabled {
                    profiles,
                    parser,
                    loading,
                },
            ) => default(profiles, parser.as_deref(), loading).await,
        }
    }
}

/// Our profile, loaded if it is not: a reload of the node's own profiles may have thrown it out.
async fn default(profiles: &Path, parser: Option<&Path>, loading: &Mutex<Loading>) -> Result<Option<String>> {
    if is_loaded(profiles, DEFAULT).await? {
        return Ok(Some(DEFAULT.to_owned()));
    }
    let mut loading = loading.lock().await;
    if is_loaded(profiles, DEFAULT).await? {
        return Ok(Some(DEFAULT.to_owned()));
    }
    let Some(parser) = parser else {
        if !loading.warned {
            loading.warned = true;
            tracing::warn!(
                "containers run without an AppArmor profile: install apparmor_parser, with which crisp loads its own"
            );
        }
        return Ok(None);
    };
    load(parser).await?;
    Ok(Some(DEFAULT.to_owned()))
}

/// Whether the kernel's list (`NAME (MODE)` a line) has the profile.
async fn is_loaded(profiles: &Path, name: &str) -> Result<bool> {
    let list = tokio::fs::read_to_string(profiles)
        .await
        .map_err(Error::io("read", profiles))?;
    let names = list
        .lines()
        .filter_map(|line| line.rsplit_once(" (").map(|(name, _)| name));
    Ok(names.into_iter().any(|loaded| loaded == name))
}

/// Gives our profile to the parser: by a pipe, in an environment of nothing, and not for longer than it may take.
async fn load(parser: &Path) -> Result<()> {
    let failed = Error::io("load AppArmor profile with", parser);
    let work = async {
        let mut child = Command::new(parser)
            .args(["--replace", "--skip-cache", "--quiet"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A parser that gives up does not read to the end: what it says is the error, not the closed pipe.
            match stdin.write_all(DEFAULT_POLICY.as_bytes()).await {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                written => written?,
            }
        }
        let output = child.wait_with_output().await?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&output.stderr);
                let last = said.lines().last().unwrap_or("it said nothing").to_owned();
                Err(std::io::Error::other(last))
            }
        }
    };
    match tokio::time::timeout(PARSER_PATIENCE, work).await {
        Ok(outcome) => outcome.map_err(failed),
        Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A node with AppArmor, and with a parser that notes its environment and loads what it is told to.
    fn node(parser: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in [
            "sys/module/apparmor/parameters",
            "sys/kernel/security/apparmor",
            "usr/sbin",
        ] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("sys/module/apparmor/parameters/enabled"), "Y\n").unwrap();
        fs::write(
            root.path().join("sys/kernel/security/apparmor/profiles"),
            "/usr/bin/man (enforce)\nmine (local) (complain)\n",
        )
        .unwrap();
        if let Some(script) = parser {
            let path = root.path().join(PARSERS[0]);
            let draft = root.path().join("draft");
            fs::write(&draft, script.replace("ROOT", &root.path().display().to_string())).unwrap();
            crate::testing::install(&draft, &path);
        }
        root
    }

    #[tokio::test]
    async fn ours_is_loaded_once_in_a_clean_environment() {
        let root = node(Some(
            "#!/bin/sh\nexport -p >> ROOT/env\nIFS= read -r first; echo \"$first\" >> ROOT/fed\n\
             echo 'crisp-default (enforce)' >> ROOT/sys/kernel/security/apparmor/profiles\n",
        ));
        let apparmor = AppArmor::detect(root.path());
        for _ in 0..2 {
            let profile = apparmor.profile(&Profile::Unset, false).await.unwrap();
            assert_eq!(profile.as_deref(), Some(DEFAULT));
        }
        let fed = fs::read_to_string(root.path().join("fed")).unwrap();
        assert_eq!(fed.lines().count(), 1, "{fed}");
        let environment = fs::read_to_string(root.path().join("env")).unwrap();
        assert!(
            !environment.contains("PATH=\"/") && !environment.contains("CARGO"),
            "{environment}"
        );
        assert_eq!(
            apparmor.profile(&Profile::RuntimeDefault, true).await.unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn a_profile_of_the_node_must_be_loaded() {
        let root = node(None);
        let apparmor = AppArmor::detect(root.path());
        let local = |name: &str| Profile::Localhost(name.to_owned());
        for name in ["mine (local)", "/usr/bin/man"] {
            let profile = apparmor.profile(&local(name), true).await.unwrap();
            assert_eq!(profile.as_deref(), Some(name));
        }
        for name in ["mine", "man", "", "mine (local) (complain)"] {
            assert!(apparmor.profile(&local(name), false).await.is_err(), "{name:?}");
        }
        assert_eq!(
            apparmor.profile(&Profile::RuntimeDefault, false).await.unwrap(),
            None,
            "without a parser the default is left out"
        );
        let list = root.path().join("sys/kernel/security/apparmor/profiles");
        fs::write(&list, "crisp-default (enforce)\n").unwrap();
        for (asked, privileged, expected) in [
            (Profile::Unset, false, Some(DEFAULT)),
            (Profile::RuntimeDefault, false, Some(DEFAULT)),
            (local(DEFAULT), true, Some(DEFAULT)),
            (Profile::Unconfined, false, None),
            (Profile::Unconfined, true, None),
            (Profile::Unset, true, None),
        ] {
            let profile = apparmor.profile(&asked, privileged).await.unwrap();
            assert_eq!(
                profile.as_deref(),
                expected,
                "{asked:?}, privileged: {privileged}"
            );
        }
    }

    #[tokio::test]
    async fn a_parser_that_fails_stops_the_container() {
        let root = node(Some("#!/bin/sh\necho 'syntax error in line 3' >&2\nexit 1\n"));
        let error = AppArmor::detect(root.path())
            .profile(&Profile::Unset, false)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("syntax error in line 3"), "{error}");
    }

    #[tokio::test]
    async fn without_apparmor_only_a_named_profile_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let apparmor = AppArmor::detect(root.path());
        assert_eq!(apparmor.profile(&Profile::Unset, false).await.unwrap(), None);
        assert!(
            apparmor
                .profile(&Profile::Localhost("mine".into()), false)
                .await
                .is_err()
        );
    }
}
