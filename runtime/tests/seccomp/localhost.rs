//! Profiles in files.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction};
use runtime::seccomp::{KernelVersion, Machine, SeccompError, Subject, compile, localhost};

const DOCKER: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_S390X", "subArchitectures": null}
    ],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["set_tls"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]}},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
         "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_SYS_BOOT"], "arches": ["s390x"]}},
        {"name": "clone3", "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "errno": "ENOSYS",
         "excludes": {"minKernel": "9.0"}}
    ]
}"#;

const KERNEL: KernelVersion = KernelVersion { major: 5, minor: 15 };

fn parse_for(
    json: &str,
    capabilities: &[Capability],
    machine: Machine,
    kernel: KernelVersion,
) -> Result<LinuxSeccomp, SeccompError> {
    let capabilities: Capabilities = capabilities.iter().copied().collect();
    let subject = Subject {
        capabilities: &capabilities,
        machine,
        kernel,
    };
    localhost::parse(json.as_bytes(), &subject)
}

fn parse(json: &str) -> Result<LinuxSeccomp, SeccompError> {
    parse_for(json, &[], Machine::X86_64, KERNEL)
}

fn names(profile: &LinuxSeccomp) -> Vec<&str> {
    let rules = profile.syscalls().iter().flatten();
    rules.flat_map(|rule| rule.names()).map(String::as_str).collect()
}

#[test]
fn rules_apply_to_whom_they_are_for() {
    use Capability::{SysAdmin, SysBoot, SysChroot};
    let x86 = Machine::X86_64;
    let ancient = KernelVersion { major: 4, minor: 4 };
    let future = KernelVersion { major: 9, minor: 1 };
    let cases = [
        (&[][..], x86, KERNEL, "read ptrace arch_prctl clone clone3"),
        (&[], Machine::Aarch64, KERNEL, "read ptrace set_tls clone clone3"),
        (&[], x86, ancient, "read arch_prctl clone clone3"),
        (&[], x86, future, "read ptrace arch_prctl clone"),
        (&[SysAdmin], x86, KERNEL, "read ptrace arch_prctl clone3"),
        (&[SysBoot], x86, KERNEL, "read ptrace arch_prctl clone3"),
        (
            &[SysAdmin, SysChroot],
            x86,
            KERNEL,
            "read ptrace arch_prctl mount clone3",
        ),
    ];
    for (capabilities, machine, kernel, expected) in cases {
        let profile = parse_for(DOCKER, capabilities, machine, kernel).unwrap();
        assert_eq!(names(&profile).join(" "), expected, "{capabilities:?} {kernel}");
        compile(&profile, machine).unwrap();
    }
}

#[test]
fn a_family_brings_its_other_interfaces() {
    let arches = |machine| {
        let profile = parse_for(DOCKER, &[], machine, KERNEL).unwrap();
        profile.architectures().clone().unwrap()
    };
    let x86 = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
    assert_eq!(arches(Machine::X86_64), x86);
    let arm = [Arch::ScmpArchAarch64, Arch::ScmpArchArm];
    assert_eq!(arches(Machine::Aarch64), arm);
}

#[test]
fn an_oci_profile_is_taken_as_it_is() {
    let profile = parse(
        r#"{"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#,
    )
    .unwrap();
    assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActLog);
    assert_eq!(names(&profile), ["mkdir", "mkdirat"]);
    let filter = compile(&profile, Machine::X86_64).unwrap().filter;
    assert_eq!(filter.flags(), libc::SECCOMP_FILTER_FLAG_LOG as u32);
}

#[test]
fn errors_name_what_is_wrong() {
    let cases = [
        ("", "seccomp: profile is empty"),
        (" \n\t", "seccomp: profile is empty"),
        ("{}", "missing field `defaultAction`"),
        ("null", "invalid type: null"),
        ("[]", "invalid length 0"),
        (r#"{"defaultAction": ""}"#, "unknown variant ``"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}"#,
            "unknown field `sycalls`",
        ),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW"} x"#, "trailing characters"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
            "architectures and archMap exclude each other",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_LOG"}]}"#,
            "name and names exclude each other",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}"#,
            "syscalls[0].names is empty",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errno": "EWHAT"}]}"#,
            "syscalls[0] (read): unknown errno \"EWHAT\"",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "includes": {"caps": ["CAP_FLY"]}}]}"#,
            "CAP_FLY",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "excludes": {"minKernel": "six"}}]}"#,
            "minKernel \"six\"",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent.sock"}"#,
            "listenerPath",
        ),
    ];
    for (json, expected) in cases {
        let message = parse(json).unwrap_err().to_string();
        assert!(message.contains(expected), "{json}: {message}");
        assert!(message.starts_with("seccomp: "), "{message}");
    }
}

/// CVE-2023-2431: nothing may come to mean "unconfined".
#[test]
fn a_file_that_is_no_profile_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let capabilities = Capabilities::new();
    let subject = Subject {
        capabilities: &capabilities,
        machine: Machine::HOST,
        kernel: KernelVersion::host(),
    };
    let read = |path: &Path| localhost::read(path, &subject);
    let at = |name: &str| dir.path().join(name);

    assert!(matches!(read(Path::new("")), Err(SeccompError::NoPath)));
    let missing = read(&at("missing")).unwrap_err();
    assert!(matches!(missing, SeccompError::Unreadable { .. }));
    assert!(missing.to_string().contains("missing"), "{missing}");
    fs::write(at("empty"), "").unwrap();
    assert!(matches!(read(&at("empty")), Err(SeccompError::Empty)));
    assert!(matches!(read(dir.path()), Err(SeccompError::NotAFile { .. })));
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(matches!(read(&at("pipe")), Err(SeccompError::NotAFile { .. })));
    fs::write(at("large"), vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(read(&at("large")), Err(SeccompError::TooLarge { .. })));
    fs::write(at("good"), DOCKER).unwrap();
    assert!(read(&at("good")).is_ok());
}

#[test]
fn the_host_tells_its_version() {
    assert!(KernelVersion::host() >= KERNEL);
    assert_eq!("5.15".parse::<KernelVersion>().unwrap(), KERNEL);
}
