//! Whatever a file contains, parsing and compiling end with a filter that the kernel would take, or with an error.

use oci_spec::runtime::{Capabilities, Capability};
use proptest::prelude::*;
use runtime::seccomp::{KernelVersion, Machine, Subject, compile, localhost};
use serde_json::{Value, json};

use crate::cases::program;

fn swallow(json: &[u8]) {
    let capabilities = Capabilities::from([Capability::SysAdmin]);
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let subject = Subject {
            capabilities: &capabilities,
            machine,
            kernel: KernelVersion { major: 6, minor: 1 },
        };
        if let Ok(profile) = localhost::parse(json, &subject)
            && let Ok(compiled) = compile(&profile, machine)
        {
            program(&compiled);
        }
    }
}

fn numbers() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0_u64..8).prop_map(Value::from),
        Just(json!(4096)),
        Just(json!(4_294_967_296_u64)),
    ]
}

fn words() -> impl Strategy<Value = Value> {
    let words = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
        "SCMP_ARCH_ARM",
        "SCMP_CMP_EQ",
        "SCMP_CMP_MASKED_EQ",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "CAP_SYS_ADMIN",
        "amd64",
        "4.8",
        "99999999999.1",
        "read",
        "socket",
        "ENOSYS",
        "",
    ];
    prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ]
}

/// JSON of any shape, whose keys are often those of a profile.
fn documents() -> impl Strategy<Value = Value> {
    let keys = [
        "defaultAction",
        "defaultErrnoRet",
        "defaultErrno",
        "architectures",
        "archMap",
        "architecture",
        "subArchitectures",
        "flags",
        "syscalls",
        "names",
        "name",
        "action",
        "errnoRet",
        "errno",
        "args",
        "index",
        "value",
        "valueTwo",
        "op",
        "includes",
        "excludes",
        "caps",
        "arches",
        "minKernel",
        "listenerPath",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        numbers(),
        words(),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        let key = prop::sample::select(keys.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(key, inner, 0..6).prop_map(Value::from_iter),
        ]
    })
}

/// A profile of the right shape with one value replaced by any JSON.
fn damaged() -> impl Strategy<Value = Value> {
    let good = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{
            "names": ["socket", "read"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 38,
            "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            "includes": {"caps": ["CAP_SYS_ADMIN"], "minKernel": "4.8"},
        }],
    });
    let places = [
        "/defaultAction",
        "/defaultErrnoRet",
        "/architectures/0",
        "/flags/0",
        "/syscalls",
        "/syscalls/0/names",
        "/syscalls/0/names/0",
        "/syscalls/0/action",
        "/syscalls/0/errnoRet",
        "/syscalls/0/args",
        "/syscalls/0/args/0/index",
        "/syscalls/0/args/0/value",
        "/syscalls/0/args/0/valueTwo",
        "/syscalls/0/args/0/op",
        "/syscalls/0/includes",
        "/syscalls/0/includes/minKernel",
    ];
    let values = prop_oneof![numbers(), words(), documents()];
    (prop::sample::select(places.to_vec()), values).prop_map(move |(place, value)| {
        let mut document = good.clone();
        *document.pointer_mut(place).expect("the place exists") = value;
        document
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes(json in prop::collection::vec(any::<u8>(), 0..200)) {
        swallow(&json);
    }

    #[test]
    fn any_json(document in documents()) {
        swallow(document.to_string().as_bytes());
    }

    #[test]
    fn almost_profiles(document in damaged()) {
        swallow(document.to_string().as_bytes());
    }
}

#[test]
fn depth_without_end() {
    swallow("[".repeat(100_000).as_bytes());
    let syscalls = "{\"defaultAction\":\"SCMP_ACT_LOG\",\"comment\":".to_owned() + &"[".repeat(5000);
    swallow(syscalls.as_bytes());
}
