//! Changing the limits of a cgroup in which processes run: all of them or none.
//!
//! ```text
//!   check everything ─► note each old value, write the new one ─► done
//!                              └─ refused ─► try once more at the end ─ refused ─► old values back, last first
//! ```
//! The order that works depends on the values: a shorter v1 period may be impossible until its smaller quota is in
//! force, and the other way round. So what the kernel finds invalid gets a second try when the rest is written.

use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use super::limits::{self, Setting, settings};
use super::{Cgroup, CgroupError, Layout, try_write};

/// Old values of files that were written, in that order.
#[derive(Default)]
struct Written(Vec<(PathBuf, String)>);

impl Written {
    /// A value that cannot be restored either was taken by the kernel meanwhile; the rest is restored all the same.
    fn undo(self) {
        for (path, before) in self.0.into_iter().rev() {
            let _ = try_write(&path, &before);
        }
    }
}

impl Cgroup {
    /// Writes limits to a cgroup that exists. What the resources do not mention stays as it is; after a failure
    /// everything is as it was.
    ///
    /// # Errors
    /// [`CgroupError`] of the first limit that was refused. A memory limit below what is in use is refused: by the
    /// kernel on v1 (`EBUSY`), by us on v2, where the kernel would kill processes until it fits.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        self.update_if(resources, || Ok(()))
    }

    /// As [`update`](Self::update), and the old limits stay as well if `then` fails, which is done last.
    pub(super) fn update_if(
        &self,
        resources: &LinuxResources,
        then: impl FnOnce() -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        let all = settings(&self.hierarchies, resources)?;
        self.refuse_to_kill(resources)?;
        let mut written = Written::default();
        let outcome = self.write_all(&all, &mut written).and_then(|()| then());
        if outcome.is_err() {
            written.undo();
        }
        outcome
    }

    fn write_all(&self, all: &[Setting], written: &mut Written) -> Result<(), CgroupError> {
        let mut again = Vec::new();
        for setting in all {
            match self.note_and_write(setting, written) {
                Err(CgroupError::Write { source, .. })
                    if source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
                {
                    again.push(setting);
                }
                outcome => outcome?,
            }
        }
        again
            .into_iter()
            .try_for_each(|setting| self.note_and_write(setting, written))
    }

    fn note_and_write(&self, setting: &Setting, written: &mut Written) -> Result<(), CgroupError> {
        let path = setting.path(&self.path);
        let before = std::fs::read_to_string(&path);
        limits::write(std::slice::from_ref(setting), &self.path)?;
        // An empty list is written as a line; nothing at all would change nothing. What cannot be read has no value.
        if let Ok(before) = before {
            let before = before.trim_end();
            written
                .0
                .push((path, if before.is_empty() { "\n" } else { before }.to_owned()));
        }
        Ok(())
    }

    fn refuse_to_kill(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let limit = resources.memory().as_ref().and_then(|memory| memory.limit());
        let Some(limit) = limit
            .and_then(|limit| u64::try_from(limit).ok())
            .filter(|limit| *limit > 0)
        else {
            return Ok(());
        };
        let in_use = match self.hierarchies.layout() {
            Layout::V2 => self.usage().memory.map_or(0, |memory| memory.working_set()),
            Layout::V1 | Layout::Hybrid => 0,
        };
        if limit < in_use {
            return Err(CgroupError::Limit {
                field: "linux.resources.memory.limit".into(),
                value: limit.to_string(),
                reason: "is less than the memory in use",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::cgroup::Hierarchies;

    fn resources(value: serde_json::Value) -> LinuxResources {
        serde_json::from_value(value).unwrap()
    }

    /// Runs `work` with a cgroup of this host, and removes it.
    fn with_cgroup(name: &str, work: impl FnOnce(&Cgroup)) {
        let hierarchies = Hierarchies::detect().unwrap();
        let cgroup = Cgroup::new(&hierarchies, "", &format!("crisp-{name}-{}", std::process::id())).unwrap();
        cgroup.create(None).unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&cgroup)));
        cgroup.remove().unwrap();
        outcome.unwrap();
    }

    #[test]
    fn limits_change_while_the_cgroup_stands() {
        with_cgroup("update", |cgroup| {
            let limits = json!({"cpu": {"quota": 50_000, "period": 100_000}, "memory": {"limit": 64 << 20}});
            cgroup.update(&resources(limits)).unwrap();
            assert_eq!(cgroup.usage().memory.unwrap().limit, Some(64 << 20));
            let limits = json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}});
            cgroup.update(&resources(limits)).unwrap();
            assert_eq!(cgroup.usage().memory.unwrap().limit, Some(32 << 20));
            let limits = json!({"memory": {"limit": 128 << 20, "swap": 128 << 20}});
            cgroup.update(&resources(limits)).unwrap();
            assert_eq!(cgroup.usage().memory.unwrap().limit, Some(128 << 20));
        });
    }

    #[test]
    fn a_refused_limit_takes_the_others_back() {
        with_cgroup("undo", |cgroup| {
            cgroup
                .update(&resources(
                    json!({"memory": {"limit": 64 << 20}, "cpu": {"shares": 512}}),
                ))
                .unwrap();
            let before = cgroup.usage().memory.unwrap();
            // CPU 60000 passes every check of ours; no kernel of a test machine has it. cpusets come after shares.
            let impossible = json!({"cpu": {"shares": 1024, "cpus": "60000"}, "memory": {"limit": 32 << 20}});
            let error = cgroup.update(&resources(impossible)).unwrap_err();
            assert!(error.to_string().contains("cpuset.cpus"), "{error}");
            assert_eq!(cgroup.usage().memory.unwrap().limit, before.limit);
            let shares = settings(&cgroup.hierarchies, &resources(json!({"cpu": {"shares": 512}}))).unwrap();
            let now = fs::read_to_string(shares[0].path(&cgroup.path)).unwrap();
            assert_eq!(now.trim(), shares[0].value());
        });
    }

    #[test]
    fn nothing_is_written_before_everything_is_checked() {
        with_cgroup("check", |cgroup| {
            let before = cgroup.usage().memory.unwrap().limit;
            let wrong = json!({"memory": {"limit": 32 << 20}, "network": {"classID": 1}});
            assert!(matches!(
                cgroup.update(&resources(wrong)),
                Err(CgroupError::Limit { .. })
            ));
            assert_eq!(cgroup.usage().memory.unwrap().limit, before);
        });
    }

    #[test]
    fn on_v2_a_limit_below_what_is_in_use_kills_nobody() {
        let temp = tempfile::tempdir().unwrap();
        let table = format!("1 1 0:1 / {} rw - cgroup2 cgroup2 rw\n", temp.path().display());
        let directory = temp.path().join("pod/id");
        fs::create_dir_all(&directory).unwrap();
        for (file, content) in [
            ("memory.current", "1000"),
            ("memory.stat", "inactive_file 100\n"),
            ("memory.max", "max"),
        ] {
            fs::write(directory.join(file), content).unwrap();
        }
        let hierarchies: Arc<Hierarchies> = Hierarchies::from_mount_table(table.as_bytes());
        let cgroup = Cgroup::new(&hierarchies, "pod", "id").unwrap();
        let error = cgroup
            .update(&resources(json!({"memory": {"limit": 899}})))
            .unwrap_err();
        assert!(error.to_string().contains("memory in use"), "{error}");
        assert_eq!(fs::read_to_string(directory.join("memory.max")).unwrap(), "max");
        cgroup
            .update(&resources(json!({"memory": {"limit": 900}})))
            .unwrap();
        assert_eq!(fs::read_to_string(directory.join("memory.max")).unwrap(), "900");
    }
}
