//! The same rules on both versions, and what the kernel makes of the program.

use oci_spec::runtime::LinuxDeviceCgroupBuilder;

use super::*;
use crate::cgroup::tests::Passing;

fn rule(allow: bool) -> LinuxDeviceCgroupBuilder {
    LinuxDeviceCgroupBuilder::default().allow(allow).access("rwm")
}

fn device(allow: bool, kind: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    rule(allow)
        .typ(kind)
        .major(major)
        .minor(minor)
        .access(access)
        .build()
        .unwrap()
}

fn v1(rules: &[LinuxDeviceCgroup]) -> Vec<(&'static str, String)> {
    let policy = Policy::parse(rules).unwrap().unwrap();
    v1_writes(&policy)
        .into_iter()
        .map(|write| (write.file, write.value))
        .collect()
}

#[test]
fn everything_is_denied_before_anything_is_allowed() {
    let rules = [
        rule(false).build().unwrap(),
        device(true, LinuxDeviceType::B, 8, 0, "r"),
    ];
    let writes = v1(&rules);
    assert_eq!(writes[0], ("devices.deny", "a".to_owned()));
    assert_eq!(writes.last().unwrap(), &("devices.allow", "b 8:0 r".to_owned()));
    assert_eq!(writes.len(), 12);
    // A list without the denial denies all the same.
    assert_eq!(v1(&rules[1..]), writes);
}

#[test]
fn a_privileged_container_is_allowed_everything() {
    assert_eq!(
        v1(&[rule(true).build().unwrap()]),
        [("devices.allow", "a".to_owned())]
    );
    assert_eq!(Policy::parse(&[]).unwrap(), None);
}

#[test]
fn nonsense_is_refused_by_name() {
    let bad = device(true, LinuxDeviceType::C, 1, 3, "rwx\na");
    let error = Policy::parse(&[bad]).unwrap_err();
    assert!(
        error.to_string().starts_with("linux.resources.devices[0].access"),
        "{error}"
    );
}

/// Runs a shell line in a v2 cgroup of the host's with a policy, or says why not.
fn within(name: &str, policies: &[&[LinuxDeviceCgroup]], line: &str) -> Option<String> {
    let cgroup = Passing::new("", &format!("crisp-{name}-{}", std::process::id()));
    cgroup.create(None).unwrap();
    let output = cgroup.open_v2().unwrap().map(|_| {
        let directory = cgroup
            .directories()
            .find(|path| path.join("cgroup.type").exists())
            .unwrap();
        for policy in policies {
            attach(&directory, &Policy::parse(policy).unwrap().unwrap()).unwrap();
        }
        let line = format!("echo $$ > {}/cgroup.procs; {line}", directory.display());
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &line])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    cgroup.remove().unwrap();
    if output.is_none() {
        println!("SKIPPED: the host has no v2 hierarchy");
    }
    output
}

/// Says `yes` or `no` to an open for reading, then to one for writing.
fn tries(device: &str) -> String {
    format!(
        "(exec 3< {device}) 2>&- && echo yes || echo no; (exec 3> {device}) 2>&- && echo yes || echo no; "
    )
}

#[test]
fn the_kernel_follows_the_program() {
    // /dev/kmsg is 1:11, which no container has by itself; /dev/zero is.
    let line = format!("{}{}", tries("/dev/zero"), tries("/dev/kmsg"));
    let deny = rule(false).build().unwrap();
    let all = rule(true).build().unwrap();
    let reading = device(true, LinuxDeviceType::C, 1, 11, "r");
    let not_writing = device(false, LinuxDeviceType::C, 1, 5, "w");
    for (name, policy, expected) in [
        ("listed", vec![deny.clone()], "yes\nyes\nno\nno\n"),
        ("read", vec![deny, reading], "yes\nyes\nyes\nno\n"),
        ("all", vec![all.clone()], "yes\nyes\nyes\nyes\n"),
        ("but", vec![all, not_writing], "yes\nno\nyes\nyes\n"),
    ] {
        if let Some(output) = within(name, &[&policy], &line) {
            assert_eq!(output, expected, "{name}");
        }
    }
}

#[test]
fn a_second_program_replaces_the_first() {
    let deny = rule(false).build().unwrap();
    let both = device(true, LinuxDeviceType::C, 1, 11, "rw");
    let policies: [&[LinuxDeviceCgroup]; 2] = [std::slice::from_ref(&deny), &[deny.clone(), both]];
    if let Some(output) = within("twice", &policies, &tries("/dev/kmsg")) {
        assert_eq!(output, "yes\nyes\n", "two programs together would still deny");
    }
}
