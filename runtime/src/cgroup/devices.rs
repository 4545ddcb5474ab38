//! Access to devices in v1: deny all, then the list.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::CgroupError;

/// What every container may do: make any node, and use the nodes of `/dev` that it always has.
const ALWAYS: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// A write to `devices.allow` or `devices.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceWrite {
    pub(super) file: &'static str,
    pub(super) value: String,
}

/// The writes for a list of rules. An empty list leaves the cgroup as its parent is.
pub(super) fn v1_writes(rules: &[LinuxDeviceCgroup]) -> Result<Vec<DeviceWrite>, CgroupError> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let write = |allow: bool, value: String| DeviceWrite {
        file: if allow { "devices.allow" } else { "devices.deny" },
        value,
    };
    let rules = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| Ok((rule.allow(), text(index, rule)?)))
        .collect::<Result<Vec<_>, CgroupError>>()?;
    let mut writes = Vec::with_capacity(1 + ALWAYS.len() + rules.len());
    // "allow everything" comes first for privileged containers; otherwise nothing is allowed but what follows.
    if rules[0] == (true, "a".to_owned()) {
        writes.push(write(true, "a".to_owned()));
        writes.extend(
            rules[1..]
                .iter()
                .map(|(allow, value)| write(*allow, value.clone())),
        );
        return Ok(writes);
    }
    writes.push(write(false, "a".to_owned()));
    writes.extend(ALWAYS.map(|value| write(true, value.to_owned())));
    let listed = rules
        .into_iter()
        .skip_while(|(allow, value)| !allow && value == "a");
    writes.extend(listed.map(|(allow, value)| write(allow, value)));
    Ok(writes)
}

/// `TYPE MAJOR:MINOR ACCESS`, or `a` for everything.
fn text(index: usize, rule: &LinuxDeviceCgroup) -> Result<String, CgroupError> {
    let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
    let number = |name: &str, value: Option<i64>| match value {
        None | Some(-1) => Ok("*".to_owned()),
        Some(value) if u32::try_from(value).is_ok() => Ok(value.to_string()),
        Some(value) => Err(CgroupError::Limit {
            field: field(name),
            value: value.to_string(),
            reason: "is no device number",
        }),
    };
    let access = rule.access().as_deref().unwrap_or("rwm");
    if access.is_empty() || !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(CgroupError::Limit {
            field: field("access"),
            value: access.into(),
            reason: "is not made of r, w and m",
        });
    }
    let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A if (major.as_str(), minor.as_str()) == ("*", "*") => return Ok("a".to_owned()),
        LinuxDeviceType::C | LinuxDeviceType::U => "c",
        LinuxDeviceType::B => "b",
        other => {
            return Err(CgroupError::Limit {
                field: field("type"),
                value: other.as_str().into(),
                reason: "is no type that access is controlled for",
            });
        }
    };
    Ok(format!("{kind} {major}:{minor} {access}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    fn rule(allow: bool) -> LinuxDeviceCgroupBuilder {
        LinuxDeviceCgroupBuilder::default().allow(allow).access("rwm")
    }

    #[test]
    fn everything_is_denied_before_anything_is_allowed() {
        let rules = [
            rule(false).build().unwrap(),
            rule(true)
                .typ(LinuxDeviceType::B)
                .major(8i64)
                .minor(0i64)
                .access("r")
                .build()
                .unwrap(),
        ];
        let writes = v1_writes(&rules).unwrap();
        assert_eq!(
            writes[0],
            DeviceWrite {
                file: "devices.deny",
                value: "a".into()
            }
        );
        assert_eq!(
            writes.last().unwrap(),
            &DeviceWrite {
                file: "devices.allow",
                value: "b 8:0 r".into()
            }
        );
        assert_eq!(writes.len(), 12);
        // A list without the denial denies all the same.
        assert_eq!(v1_writes(&rules[1..]).unwrap(), writes);
    }

    #[test]
    fn a_privileged_container_is_allowed_everything() {
        let writes = v1_writes(&[rule(true).build().unwrap()]).unwrap();
        assert_eq!(
            writes,
            [DeviceWrite {
                file: "devices.allow",
                value: "a".into()
            }]
        );
        assert!(v1_writes(&[]).unwrap().is_empty());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let bad = rule(true)
            .typ(LinuxDeviceType::C)
            .major(1i64)
            .minor(3i64)
            .access("rwx\na")
            .build()
            .unwrap();
        let error = v1_writes(&[bad]).unwrap_err();
        assert!(
            error.to_string().starts_with("linux.resources.devices[0].access"),
            "{error}"
        );
    }
}
