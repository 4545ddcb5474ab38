//! The process of a specification: arguments, environment, identity, limits.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process,
    User,
};

use image::config::ProcessDefaults;

use super::{Ingredients, capabilities};
use crate::container::{ContainerConfig, ContainerRecord, Identity};
use crate::pod::PodRecord;
use crate::{Error, Result};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line: the request's command replaces the entrypoint, its args replace the image's
/// command, and a command without args drops the image's.
pub(super) fn arguments(config: &ContainerConfig, image: &ProcessDefaults) -> Result<Vec<Vec<u8>>> {
    let (head, tail) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let all: Vec<_> = head.iter().chain(tail).map(|a| a.clone().into_bytes()).collect();
    if all.is_empty() {
        return Err(Error::invalid(
            "command",
            "no command specified: neither the container nor its image names a program",
        ));
    }
    refuse_nul("args", &all)?;
    Ok(all)
}

/// The environment, later settings replacing earlier ones of the same name.
pub(super) fn environment(
    config: &ContainerConfig,
    image: &ProcessDefaults,
    pod: &PodRecord,
    home: &str,
) -> Result<Vec<Vec<u8>>> {
    let mut all: Vec<Vec<u8>> = vec![PATH.into()];
    all.push(format!("HOSTNAME={}", pod.config.hostname).into_bytes());
    if config.tty {
        all.push(b"TERM=xterm".to_vec());
    }
    all.extend(image.env.iter().map(|e| e.clone().into_bytes()));
    for (name, value) in &config.env {
        if name.is_empty() || name.contains('=') {
            return Err(Error::invalid(
                "envs.key",
                format!("{name:?} is not a variable's name"),
            ));
        }
        all.push([name.as_bytes(), b"=", value].concat());
    }
    refuse_nul("envs", &all)?;
    let mut all = last_of_each(all);
    if !all.iter().any(|e| e.starts_with(b"HOME=")) {
        all.push(format!("HOME={home}").into_bytes());
    }
    Ok(all)
}

/// Keeps the place of a variable's first appearance and the value of its last.
fn last_of_each(all: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let name = |entry: &[u8]| entry.split(|b| *b == b'=').next().unwrap_or_default().to_vec();
    let mut places = std::collections::HashMap::new();
    let mut kept: Vec<Vec<u8>> = Vec::with_capacity(all.len());
    for entry in all {
        match places.entry(name(&entry)) {
            std::collections::hash_map::Entry::Occupied(place) => kept[*place.get()] = entry,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push(entry);
            }
        }
    }
    kept
}

fn refuse_nul(field: &str, values: &[Vec<u8>]) -> Result<()> {
    match values.iter().any(|v| v.contains(&0)) {
        true => Err(Error::invalid(
            field,
            "a value contains a NUL byte, which no process can receive",
        )),
        false => Ok(()),
    }
}

pub(super) fn fill(
    process: &mut Process,
    ingredients: &Ingredients<'_>,
    identity: &Identity,
    args: &[Vec<u8>],
    env: &[Vec<u8>],
) -> Result<()> {
    let config = ingredients.config;
    let security = &config.security;
    let mut user = User::default();
    user.set_uid(identity.uid)
        .set_gid(identity.gid)
        .set_additional_gids(Some(identity.groups.clone()));
    let adjust = i32::try_from(config.resources.oom_score_adj)
        .ok()
        .filter(|adjust| (-1000..=1000).contains(adjust))
        .ok_or_else(|| Error::invalid("linux.resources.oom_score_adj", "must be from -1000 to 1000"))?;
    process
        .set_terminal(Some(config.tty))
        .set_user(user)
        .set_args(Some(text(args)))
        .set_env(Some(text(env)))
        .set_cwd(working_dir(config, ingredients.image)?)
        .set_capabilities(Some(capability_sets(
            &capabilities::sets(security, ingredients.held)?,
            identity.uid == 0,
        )))
        .set_apparmor_profile(ingredients.confined.apparmor.clone())
        .set_selinux_label(ingredients.confined.process_label.clone())
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_oom_score_adj(Some(adjust))
        .set_rlimits(Some(vec![open_files(ingredients.limits.open_files)?]));
    Ok(())
}

fn working_dir(config: &ContainerConfig, image: &ProcessDefaults) -> Result<PathBuf> {
    let path = [config.working_dir.as_str(), image.working_dir.as_str(), "/"]
        .into_iter()
        .find(|p| !p.is_empty())
        .unwrap_or("/");
    if path.contains('\0') {
        return Err(Error::invalid("working_dir", "contains a NUL byte"));
    }
    // An image may say `WORKDIR app`: from the root, as everywhere.
    Ok(if path.starts_with('/') {
        PathBuf::from(path)
    } else {
        PathBuf::from("/").join(path)
    })
}

/// Soft 1024 by default, because select(2) breaks beyond it; hard as high as programs ask for.
fn open_files((soft, hard): (u64, u64)) -> Result<PosixRlimit> {
    PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(|error| Error::invalid("rlimits", error.to_string()))
}

fn capability_sets(sets: &capabilities::Sets, root: bool) -> LinuxCapabilities {
    let known = |names: &std::collections::BTreeSet<&'static str>| -> Capabilities {
        names
            .iter()
            .filter_map(|n| n.parse::<Capability>().ok())
            .collect()
    };
    // A user other than root has nothing in effect but what is ambient.
    let effective = if root {
        known(&sets.bounding)
    } else {
        known(&sets.ambient)
    };
    let mut all = LinuxCapabilities::default();
    all.set_bounding(Some(known(&sets.bounding)))
        .set_effective(Some(effective.clone()))
        .set_permitted(Some(effective))
        .set_inheritable(Some(if sets.ambient.is_empty() {
            HashSet::new()
        } else {
            known(&sets.ambient)
        }))
        .set_ambient(Some(known(&sets.ambient)));
    all
}

#[derive(serde::Deserialize)]
struct OfContainer {
    process: Option<Process>,
}

/// The process of an exec: the container's own, with another command line.
///
/// # Errors
/// [`Error::Invalid`] when the command is empty or not representable.
pub fn exec(record: &ContainerRecord, command: &[String], tty: bool) -> Result<(Process, Vec<Vec<u8>>)> {
    if command.is_empty() {
        return Err(Error::invalid("cmd", "is empty: name the program to run"));
    }
    let args: Vec<_> = command.iter().map(|c| c.clone().into_bytes()).collect();
    refuse_nul("cmd", &args)?;
    let own: OfContainer = record.part()?;
    let mut process = own.process.unwrap_or_default();
    process.set_terminal(Some(tty)).set_args(Some(command.to_vec()));
    Ok((process, args))
}

/// The specification holds text; bytes that are none are shown with replacement characters.
fn text(values: &[Vec<u8>]) -> Vec<String> {
    values
        .iter()
        .map(|v| String::from_utf8_lossy(v).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(args: &[&str]) -> Vec<String> {
        args.iter().map(|a| (*a).to_owned()).collect()
    }

    #[test]
    fn command_and_args_follow_kubernetes() {
        let image = ProcessDefaults {
            entrypoint: lines(&["/entry"]),
            cmd: lines(&["default"]),
            ..ProcessDefaults::default()
        };
        let combine = |command: &[&str], args: &[&str]| {
            let config = ContainerConfig {
                command: lines(command),
                args: lines(args),
                ..ContainerConfig::default()
            };
            text(&arguments(&config, &image).unwrap())
        };
        assert_eq!(combine(&[], &[]), ["/entry", "default"]);
        assert_eq!(combine(&[], &["a"]), ["/entry", "a"]);
        assert_eq!(combine(&["c"], &[]), ["c"]);
        assert_eq!(combine(&["c"], &["a"]), ["c", "a"]);
        let none = arguments(&ContainerConfig::default(), &ProcessDefaults::default());
        assert!(none.unwrap_err().to_string().contains("no command specified"));
    }

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let entries = [&b"A=1"[..], b"B=2", b"A=3"].map(<[u8]>::to_vec).to_vec();
        assert_eq!(last_of_each(entries), [&b"A=3"[..], b"B=2"].map(<[u8]>::to_vec));
    }
}
