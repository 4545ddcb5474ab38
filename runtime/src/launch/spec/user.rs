//! User namespaces: the ids of the spec, and that its process has some of them.

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use super::super::plan::ProcessPlan;
use super::{PlanError, invalid};
use crate::launch::userns::{IdMapping, IdRange};

/// The pod's mapping; a user namespace and mappings come together or not at all.
pub(super) fn convert(linux: &Linux) -> Result<Option<IdMapping>, PlanError> {
    let listed = linux
        .namespaces()
        .iter()
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    if listed.is_some_and(|namespace| namespace.path().is_some()) {
        return Err(PlanError::Unsupported {
            field: "linux.namespaces[user].path".into(),
        });
    }
    let mapping = mapping(
        "linux.",
        linux.uid_mappings().as_deref(),
        linux.gid_mappings().as_deref(),
    )?;
    if mapping.is_some() != listed.is_some() {
        return Err(PlanError::Contradiction {
            field: "linux.uidMappings".into(),
            with: "linux.namespaces: a user namespace and its mappings go together",
        });
    }
    Ok(mapping)
}

/// Two lists of ranges, both empty or both not.
pub(super) fn mapping(
    field: &str,
    uids: Option<&[LinuxIdMapping]>,
    gids: Option<&[LinuxIdMapping]>,
) -> Result<Option<IdMapping>, PlanError> {
    let ranges = |list: Option<&[LinuxIdMapping]>| -> Vec<IdRange> {
        list.unwrap_or_default()
            .iter()
            .map(|range| IdRange {
                container: range.container_id(),
                host: range.host_id(),
                length: range.size(),
            })
            .collect()
    };
    let (uids, gids) = (ranges(uids), ranges(gids));
    if uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    IdMapping::new(field, uids, gids).map(Some)
}

/// A process cannot be a user that its namespace does not have.
pub(super) fn check_identity(user: Option<&IdMapping>, process: &ProcessPlan) -> Result<(), PlanError> {
    let Some(user) = user else { return Ok(()) };
    let reason = "is not among the ids of the pod's user namespace";
    if user.host_uid(process.uid).is_none() {
        return Err(invalid("process.user.uid", &process.uid, reason));
    }
    match [process.gid]
        .iter()
        .chain(&process.groups)
        .find(|gid| user.host_gid(**gid).is_none())
    {
        Some(gid) => Err(invalid("process.user.gid", gid, reason)),
        None => Ok(()),
    }
}
