//! Who a container runs as: the request, the image's `USER`, and the image's user databases.
//!
//! All three are attacker content. A string of digits is a number and never falls back to a name; a
//! number must fit the kernel's ids; the databases are bounded in size and in the length of a line.

use crate::container::{GroupsPolicy, Identity, RunAs, Security};
use crate::{Error, Result};

/// Largest id: the kernel keeps 2³²−1 for "no id", and half of the range is what others accept too.
const MAX_ID: u64 = (1 << 31) - 1;
/// Largest `/etc/passwd` or `/etc/group` that is read, in bytes.
pub const MAX_DATABASE: usize = 10 << 20;
/// Lines longer than this are ignored.
const MAX_LINE: usize = 1 << 20;

/// What the kernel takes (NGROUPS_MAX of limits.h, setgroups(2)).
const MAX_GROUPS: usize = 65536;

/// The image's user databases; empty where the image has none.
#[derive(Default)]
pub struct Databases {
    /// `/etc/passwd`.
    pub passwd: Vec<u8>,
    /// `/etc/group`.
    pub group: Vec<u8>,
}

/// The outcome: numbers, and where `HOME` is.
#[derive(Debug, PartialEq, Eq)]
pub struct Resolved {
    /// For the kernel.
    pub identity: Identity,
    /// From the passwd entry, else `/`.
    pub home: String,
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Resolves the user of a container.
///
/// # Errors
/// [`Error::Invalid`] when a name is unknown to the image or a number is out of range.
pub fn resolve(security: &Security, image_user: &str, databases: &Databases) -> Result<Resolved> {
    let (user_text, group_text) = match &security.user {
        // The image's group belongs to the image's user.
        Some(RunAs::Uid(uid)) => (uid.to_string(), None),
        Some(RunAs::Username(name)) => (name.clone(), None),
        None => match image_user.split_once(':') {
            Some((user, group)) => (user.to_owned(), Some(group.to_owned())),
            None => (image_user.to_owned(), None),
        },
    };
    let entry = find_user(&user_text, databases)?;
    let gid = match (security.group, group_text.as_deref()) {
        (Some(gid), _) => gid,
        (None, Some(group)) if !group.is_empty() => find_group(group, databases)?,
        (None, _) => entry.gid,
    };
    // The gid is always among the groups, so that no file mode can tell "group" from "other" wrongly.
    let mut groups = vec![gid];
    if security.groups_policy == GroupsPolicy::Merge && !entry.name.is_empty() {
        groups.extend(memberships(entry.name, &databases.group));
    }
    groups.extend(&security.supplemental_groups);
    let mut seen = std::collections::HashSet::new();
    groups.retain(|g| seen.insert(*g));
    if groups.len() > MAX_GROUPS {
        return Err(Error::invalid(
            "security_context.supplemental_groups",
            format!(
                "are {} together with those of the image's /etc/group, but a process can be in {MAX_GROUPS}; \
                 use another user or image, or the policy Strict",
                groups.len()
            ),
        ));
    }
    let home = if entry.home.is_empty() { "/" } else { entry.home };
    if home.contains(['\n', '\r', '\0', ':']) {
        return Err(Error::invalid(
            "image /etc/passwd",
            "the user's home directory has a forbidden character",
        ));
    }
    Ok(Resolved {
        identity: Identity {
            uid: entry.uid,
            gid,
            groups,
        },
        home: home.to_owned(),
    })
}

fn find_user<'a>(text: &'a str, databases: &'a Databases) -> Result<User<'a>> {
    let number = number("user", text)?;
    let wanted = |user: &User<'_>| match number {
        Some(uid) => user.uid == uid,
        None if text.is_empty() => user.uid == 0,
        None => user.name == text,
    };
    match (users(&databases.passwd).find(wanted), number) {
        (Some(user), _) => Ok(user),
        (None, Some(uid)) => Ok(User {
            name: "",
            uid,
            gid: 0,
            home: "",
        }),
        (None, None) if text.is_empty() => Ok(User {
            name: "",
            uid: 0,
            gid: 0,
            home: "",
        }),
        (None, None) => Err(Error::invalid(
            "user",
            format!("{text:?} is not in the image's /etc/passwd; use a number or a user that the image has"),
        )),
    }
}

fn find_group(text: &str, databases: &Databases) -> Result<u32> {
    if let Some(gid) = number("group", text)? {
        return Ok(gid);
    }
    groups(&databases.group)
        .find(|(name, _, _)| *name == text)
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| {
            Error::invalid(
                "group",
                format!(
                    "{text:?} is not in the image's /etc/group; use a number or a group that the image has"
                ),
            )
        })
}

/// `Some` for a string that must be taken as a number, whatever names the image defines.
fn number(field: &str, text: &str) -> Result<Option<u32>> {
    let looks_numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+- ".contains(c));
    if !looks_numeric {
        return Ok(None);
    }
    let value = text
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse::<u64>().ok())
        .flatten();
    match value {
        Some(id) if id <= MAX_ID => Ok(Some(u32::try_from(id).unwrap_or(u32::MAX))),
        _ => Err(Error::invalid(
            field,
            format!("{text:?} is not a number from 0 to {MAX_ID}"),
        )),
    }
}

fn lines(database: &[u8]) -> impl Iterator<Item = &str> {
    database
        .split(|b| *b == b'\n')
        .filter(|line| line.len() <= MAX_LINE)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn users(passwd: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(User { name, uid, gid, home })
    })
}

fn groups(group: &[u8]) -> impl Iterator<Item = (&str, u32, &str)> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn memberships<'a>(user: &'a str, group: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    groups(group)
        .filter(move |(_, _, members)| members.split(',').any(|m| m == user))
        .map(|(_, gid, _)| gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Databases {
        Databases {
            passwd: b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\n1000:x:5:5::/:\n"
                .to_vec(),
            group: b"root:x:0:\nwww-data:x:33:\nextra:x:50000:www-data,root\n".to_vec(),
        }
    }

    fn image(user: &str) -> Result<Resolved> {
        resolve(&Security::default(), user, &databases())
    }

    #[test]
    fn the_image_user_in_all_its_forms() {
        let ids = |user| {
            image(user)
                .map(|r| (r.identity.uid, r.identity.gid, r.identity.groups))
                .unwrap()
        };
        assert_eq!(ids(""), (0, 0, vec![0, 50000]));
        assert_eq!(ids("www-data"), (33, 33, vec![33, 50000]));
        assert_eq!(ids("33:root"), (33, 0, vec![0, 50000]));
        assert_eq!(ids("1002"), (1002, 0, vec![0]));
        assert_eq!(ids("1003:1004"), (1003, 1004, vec![1004]));
        // A name made of digits is a number all the same.
        assert_eq!(ids("1000").0, 1000);
        assert_eq!(image("www-data").unwrap().home, "/var/www");
        assert_eq!(image("4242").unwrap().home, "/");
    }

    #[test]
    fn numbers_never_become_names_and_never_wrap() {
        for bad in [
            "2147483648",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "-1",
            "+0",
            " 0",
            "0x0",
            "1:99999999999",
            "nobody-here",
            "root:nogroup",
        ] {
            assert!(matches!(image(bad), Err(Error::Invalid { .. })), "{bad:?}");
        }
    }

    #[test]
    fn the_request_wins_and_strict_means_strict() {
        let mut security = Security {
            user: Some(RunAs::Username("www-data".into())),
            supplemental_groups: vec![7, 33],
            ..Security::default()
        };
        let merged = resolve(&security, "root:root", &databases()).unwrap().identity;
        assert_eq!(
            (merged.uid, merged.gid, merged.groups),
            (33, 33, vec![33, 50000, 7])
        );
        security.groups_policy = GroupsPolicy::Strict;
        security.group = Some(9);
        let strict = resolve(&security, "", &databases()).unwrap().identity;
        assert_eq!((strict.gid, strict.groups), (9, vec![9, 7, 33]));
    }

    #[test]
    fn more_groups_than_a_process_can_be_in_are_refused() {
        use std::fmt::Write as _;
        let member_of = |count: usize| {
            let mut group = String::new();
            for gid in 0..count {
                let _ = writeln!(group, "g{gid}:x:{gid}:www-data");
            }
            let databases = Databases {
                group: group.into_bytes(),
                ..databases()
            };
            resolve(&Security::default(), "www-data", &databases)
        };
        assert_eq!(member_of(MAX_GROUPS).unwrap().identity.groups.len(), MAX_GROUPS);
        let refused = member_of(MAX_GROUPS + 1).unwrap_err().to_string();
        assert!(refused.contains("supplemental_groups"), "{refused}");
    }

    #[test]
    fn a_hostile_database_is_harmless() {
        let mut passwd = vec![b'a'; MAX_LINE + 1];
        passwd.extend(b"\n\xff\xfe:x:1:1::/:\nevil:x:8:8::/ho\rme:\nroot:x:0:0::/root:\n");
        let databases = Databases {
            passwd,
            group: Vec::new(),
        };
        let home = |user| resolve(&Security::default(), user, &databases).map(|r| r.home);
        assert_eq!(home("0").unwrap(), "/root");
        assert!(home("evil").is_err());
    }
}
