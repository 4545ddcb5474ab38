//! Security profiles and labels of a request.

use cri_api::v1;
use v1::security_profile::ProfileType;

use super::bounded;
use crate::container::{Profile, SelinuxOptions};
use crate::{Error, Result};

/// Before there were types, this prefix told a profile of the node; some clients still put it there.
const LOCALHOST: &str = "localhost/";

/// A seccomp profile, or else what the field that it replaced says.
pub(super) fn seccomp(wire: Option<&v1::SecurityProfile>, deprecated: &str) -> Result<Profile> {
    let profile = profile("security_context.seccomp", wire, deprecated)?;
    match &profile {
        // CVE-2023-2431: no file must never come to mean no profile.
        Profile::Localhost(path) if !path.starts_with('/') => Err(Error::invalid(
            "security_context.seccomp.localhost_ref",
            format!("{path:?} is not the absolute path of a profile"),
        )),
        _ => Ok(profile),
    }
}

/// An AppArmor profile, or else what the field that it replaced says.
pub(super) fn apparmor(wire: Option<&v1::SecurityProfile>, deprecated: &str) -> Result<Profile> {
    let profile = profile("security_context.apparmor", wire, deprecated)?;
    match &profile {
        Profile::Localhost(name) if name.is_empty() || name.chars().any(char::is_control) => {
            Err(Error::invalid(
                "security_context.apparmor.localhost_ref",
                format!("{name:?} is not the name of a profile"),
            ))
        }
        _ => Ok(profile),
    }
}

fn profile(field: &str, wire: Option<&v1::SecurityProfile>, deprecated: &str) -> Result<Profile> {
    let localhost = |name: &str| -> Result<Profile> {
        let name = bounded(&format!("{field}.localhost_ref"), name)?;
        let bare = name.strip_prefix(LOCALHOST).unwrap_or(&name);
        Ok(Profile::Localhost(bare.to_owned()))
    };
    if let Some(wire) = wire {
        let kind = ProfileType::try_from(wire.profile_type)
            .map_err(|_| Error::invalid(format!("{field}.profile_type"), "is no type of profile"))?;
        return match kind {
            ProfileType::Localhost => localhost(&wire.localhost_ref),
            _ if !wire.localhost_ref.is_empty() => Err(Error::invalid(
                format!("{field}.localhost_ref"),
                "goes with the profile type Localhost only",
            )),
            ProfileType::RuntimeDefault => Ok(Profile::RuntimeDefault),
            ProfileType::Unconfined => Ok(Profile::Unconfined),
        };
    }
    match deprecated {
        "" => Ok(Profile::Unset),
        "unconfined" => Ok(Profile::Unconfined),
        "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
        name if name.starts_with(LOCALHOST) => localhost(name),
        other => Err(Error::invalid(
            field,
            format!("{other:?} is none of unconfined, runtime/default and localhost/NAME"),
        )),
    }
}

/// The parts of an SELinux label.
pub(super) fn selinux(wire: Option<&v1::SeLinuxOption>) -> Result<Option<SelinuxOptions>> {
    let Some(wire) = wire else { return Ok(None) };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    for (part, text) in [("user", &wire.user), ("role", &wire.role), ("type", &wire.r#type)] {
        if text.len() > 255 || !text.chars().all(plain) {
            return Err(Error::invalid(
                format!("security_context.selinux_options.{part}"),
                format!("{text:?} is no part of an SELinux label"),
            ));
        }
    }
    // A level is a range of sensitivities with sets of categories: `s0-s1:c0.c9,c12`.
    if wire.level.len() > 255 || !wire.level.chars().all(|c| plain(c) || ":,".contains(c)) {
        return Err(Error::invalid(
            "security_context.selinux_options.level",
            format!("{:?} is no SELinux level", wire.level),
        ));
    }
    let options = SelinuxOptions {
        user: wire.user.clone(),
        role: wire.role.clone(),
        domain: wire.r#type.clone(),
        level: wire.level.clone(),
    };
    Ok((options != SelinuxOptions::default()).then_some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(profile_type: ProfileType, localhost_ref: &str) -> v1::SecurityProfile {
        v1::SecurityProfile {
            profile_type: profile_type as i32,
            localhost_ref: localhost_ref.to_owned(),
        }
    }

    #[test]
    fn the_typed_field_wins_over_the_deprecated_one() {
        let unconfined = typed(ProfileType::Unconfined, "");
        assert_eq!(
            seccomp(Some(&unconfined), "runtime/default").unwrap(),
            Profile::Unconfined
        );
        assert_eq!(seccomp(None, "docker/default").unwrap(), Profile::RuntimeDefault);
        assert_eq!(seccomp(None, "").unwrap(), Profile::Unset);
        let file = Profile::Localhost("/profiles/a.json".into());
        assert_eq!(seccomp(None, "localhost//profiles/a.json").unwrap(), file);
        let typed = typed(ProfileType::Localhost, "/profiles/a.json");
        assert_eq!(seccomp(Some(&typed), "").unwrap(), file);
        assert_eq!(
            apparmor(None, "localhost/mine").unwrap(),
            Profile::Localhost("mine".into())
        );
    }

    #[test]
    fn an_apparmor_profile_in_all_its_forms() {
        let local = |name: &str| Profile::Localhost(name.to_owned());
        for (deprecated, expected) in [
            ("", Profile::Unset),
            ("unconfined", Profile::Unconfined),
            ("runtime/default", Profile::RuntimeDefault),
            ("localhost/mine", local("mine")),
            ("localhost//usr/bin/man", local("/usr/bin/man")),
        ] {
            assert_eq!(apparmor(None, deprecated).unwrap(), expected, "{deprecated:?}");
        }
        for (kind, name, expected) in [
            (ProfileType::RuntimeDefault, "", Profile::RuntimeDefault),
            (ProfileType::Unconfined, "", Profile::Unconfined),
            (ProfileType::Localhost, "mine", local("mine")),
            (ProfileType::Localhost, "localhost/mine", local("mine")),
        ] {
            let typed = typed(kind, name);
            assert_eq!(
                apparmor(Some(&typed), "unconfined").unwrap(),
                expected,
                "{typed:?}"
            );
        }
        for bad in ["mine", "localhost/", "default", "Unconfined"] {
            let refused = apparmor(None, bad).unwrap_err().to_string();
            assert!(
                refused.starts_with("security_context.apparmor"),
                "{bad:?}: {refused}"
            );
        }
        assert!(apparmor(Some(&typed(ProfileType::Unconfined, "mine")), "").is_err());
    }

    #[test]
    fn a_profile_that_is_none_never_means_unconfined() {
        for path in ["", "relative.json", "../x"] {
            assert!(
                seccomp(Some(&typed(ProfileType::Localhost, path)), "").is_err(),
                "{path:?}"
            );
        }
        assert!(seccomp(Some(&typed(ProfileType::RuntimeDefault, "/x")), "").is_err());
        assert!(seccomp(None, "something").is_err());
        let unknown = v1::SecurityProfile {
            profile_type: 9,
            localhost_ref: String::new(),
        };
        assert!(seccomp(Some(&unknown), "").is_err());
        for name in ["", "a\nunconfined"] {
            assert!(apparmor(Some(&typed(ProfileType::Localhost, name)), "").is_err());
        }
    }

    #[test]
    fn labels_have_no_separators_in_their_parts() {
        let label = |user: &str, level: &str| {
            selinux(Some(&v1::SeLinuxOption {
                user: user.to_owned(),
                level: level.to_owned(),
                ..Default::default()
            }))
        };
        assert!(label("system_u", "s0:c1,c2").unwrap().is_some());
        assert!(label("", "").unwrap().is_none());
        assert!(label("a:b", "").is_err() && label("", "s0 c1").is_err() && label("a,b", "").is_err());
    }
}
