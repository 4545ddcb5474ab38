//! User namespaces and id mappings.

use cri_api::v1;
use runtime::launch::{IdMapping, IdRange, PlanError};

use crate::pod::{NamespaceMode, Namespaces};
use crate::{Error, Result};

const FIELD: &str = "namespace_options.userns_options";

/// The mapping of a pod with a user namespace of its own. CRI wants exactly one range of each kind, and a user namespace
/// cannot own a namespace that is the node's.
pub(super) fn namespace(wire: Option<&v1::UserNamespace>, others: &Namespaces) -> Result<Option<IdMapping>> {
    let Some(wire) = wire else { return Ok(None) };
    match v1::NamespaceMode::try_from(wire.mode) {
        Ok(v1::NamespaceMode::Node) if wire.uids.is_empty() && wire.gids.is_empty() => return Ok(None),
        Ok(v1::NamespaceMode::Node) => {
            return Err(Error::invalid(
                format!("{FIELD}.mode"),
                "is NODE, which has no mappings; leave out uids and gids, or set POD",
            ));
        }
        Ok(v1::NamespaceMode::Pod) => {}
        _ => return Err(Error::invalid(format!("{FIELD}.mode"), "must be POD or NODE")),
    }
    for (field, list) in [("uids", &wire.uids), ("gids", &wire.gids)] {
        if list.len() != 1 {
            return Err(Error::invalid(
                format!("{FIELD}.{field}"),
                format!("has {} ranges; give exactly one", list.len()),
            ));
        }
    }
    for (field, mode) in [
        ("network", &others.network),
        ("pid", &others.pid),
        ("ipc", &others.ipc),
    ] {
        if *mode == NamespaceMode::Node {
            return Err(Error::invalid(
                format!("namespace_options.{field}"),
                "is NODE, which a pod with a user namespace of its own cannot use; set hostUsers to true, or POD here",
            ));
        }
    }
    mapping(FIELD, &wire.uids, &wire.gids)
}

/// Two lists of ranges, both empty or both not.
pub(super) fn mapping(
    field: &str,
    uids: &[v1::IdMapping],
    gids: &[v1::IdMapping],
) -> Result<Option<IdMapping>> {
    if uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    let ranges = |list: &[v1::IdMapping]| {
        list.iter()
            .map(|range| IdRange {
                container: range.container_id,
                host: range.host_id,
                length: range.length,
            })
            .collect()
    };
    IdMapping::new("", ranges(uids), ranges(gids))
        .map(Some)
        .map_err(|error| match error {
            PlanError::Missing { field: list } => {
                Error::invalid(format!("{field}.{list}"), "is empty; give both uids and gids")
            }
            other => Error::invalid(field, other.to_string()),
        })
}

/// As CRI has it.
pub(super) fn to_wire(mapping: &IdMapping) -> v1::UserNamespace {
    v1::UserNamespace {
        mode: v1::NamespaceMode::Pod as i32,
        uids: ranges_to_wire(mapping.uids()),
        gids: ranges_to_wire(mapping.gids()),
    }
}

/// As CRI has it.
pub(super) fn ranges_to_wire(ranges: &[IdRange]) -> Vec<v1::IdMapping> {
    let one = |range: &IdRange| v1::IdMapping {
        host_id: range.host,
        container_id: range.container,
        length: range.length,
    };
    ranges.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(mode: v1::NamespaceMode, uids: usize, gids: usize) -> v1::UserNamespace {
        let ranges = |count: usize| {
            (0..count as u32)
                .map(|index| v1::IdMapping {
                    host_id: 100_000 + index * 65536,
                    container_id: index * 65536,
                    length: 65536,
                })
                .collect()
        };
        v1::UserNamespace {
            mode: mode as i32,
            uids: ranges(uids),
            gids: ranges(gids),
        }
    }

    #[test]
    fn one_range_of_each_kind_and_no_namespace_of_the_node() {
        use v1::NamespaceMode::{Container, Node, Pod};
        let own = Namespaces::default();
        let read = |wire: v1::UserNamespace| namespace(Some(&wire), &own);
        let mapping = read(wire(Pod, 1, 1)).unwrap().unwrap();
        assert_eq!(mapping.host_uid(5), Some(100_005));
        assert_eq!(to_wire(&mapping), wire(Pod, 1, 1));
        assert_eq!(read(wire(Node, 0, 0)).unwrap(), None);
        for (bad, field) in [
            (wire(Node, 1, 1), "userns_options.mode"),
            (wire(Container, 1, 1), "userns_options.mode"),
            (wire(Pod, 0, 1), "userns_options.uids"),
            (wire(Pod, 1, 2), "userns_options.gids"),
        ] {
            assert!(read(bad).unwrap_err().to_string().contains(field));
        }
        let on_host = Namespaces {
            network: NamespaceMode::Node,
            ..Namespaces::default()
        };
        let error = namespace(Some(&wire(Pod, 1, 1)), &on_host).unwrap_err();
        assert!(
            error.to_string().starts_with("namespace_options.network:"),
            "{error}"
        );
    }
}
