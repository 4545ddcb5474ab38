//! Settings at random, some of which nobody knows or which contradict each other: refused by the name of a field that is
//! wrong, with nothing half-made left; and taken when all are right.

use std::ops::Range;

use k8s_cri::v1 as cri;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRng, TestRunner};
use test_e2e::harness::Server;
use test_e2e::specs::Container;
use tonic::Code;

use crate::refusals::lasting;

const CASES: usize = 64;
/// What a uid or gid may be.
const IDS: Range<i64> = 0..1 << 31;

/// What is asked for.
#[derive(Debug, Clone)]
struct Asked {
    user: Option<i64>,
    user_name: Option<&'static str>,
    group: Option<i64>,
    groups: Vec<i64>,
    groups_policy: i32,
    seccomp: (i32, &'static str),
    ipc: i32,
    network: i32,
    propagation: i32,
    permissions: String,
    masked: &'static str,
    capability: &'static str,
    stdin_once: bool,
}

fn id() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0..70_000_i64, 1 => any::<i64>(), 1 => Just(1 << 31), 1 => Just(-1)]
}

fn number(known: Range<i32>) -> impl Strategy<Value = i32> {
    prop_oneof![6 => known, 1 => any::<i32>()]
}

fn asked() -> impl Strategy<Value = Asked> {
    let identity = (
        proptest::option::of(id()),
        prop_oneof![9 => Just(None), 1 => Just(Some("root"))],
        prop_oneof![4 => Just(None), 1 => id().prop_map(Some)],
        proptest::collection::vec(id(), 0..3),
        number(0..2),
    );
    let confinement = (
        (number(0..3), prop_oneof![Just(""), Just("profile.json")]),
        number(0..1),
        number(0..1),
        prop_oneof![6 => Just("/proc/keys"), 1 => Just("proc/keys"), 1 => Just("/proc/../keys")],
        prop_oneof![6 => Just("NET_RAW"), 1 => Just("EVERYTHING")],
    );
    let files = (number(0..2), "(r|w|m|rw|rwm|rw|rwx|q)", any::<bool>());
    (identity, confinement, files).prop_map(|(identity, confinement, files)| Asked {
        user: identity.0,
        user_name: identity.1,
        group: identity.2,
        groups: identity.3,
        groups_policy: identity.4,
        seccomp: confinement.0,
        ipc: confinement.1,
        network: confinement.2,
        masked: confinement.3,
        capability: confinement.4,
        propagation: files.0,
        permissions: files.1,
        stdin_once: files.2 && identity.2.is_some(),
    })
}

impl Asked {
    /// Words of which one must be in the refusal; none when all is right.
    fn wrong(&self) -> Vec<&'static str> {
        let all = [
            ("run_as_user", self.user.is_some_and(|user| !IDS.contains(&user))),
            ("run_as_username", self.user.is_some() && self.user_name.is_some()),
            (
                "run_as_group",
                self.group.is_some_and(|group| !IDS.contains(&group))
                    || (self.group.is_some() && self.user.is_none() && self.user_name.is_none()),
            ),
            (
                "supplemental_groups",
                self.groups.iter().any(|group| !IDS.contains(group)),
            ),
            (
                "supplemental_groups_policy",
                !(0..2).contains(&self.groups_policy),
            ),
            ("seccomp.profile_type", !(0..3).contains(&self.seccomp.0)),
            // A reference is for Localhost, and there is no such file.
            ("seccomp", self.seccomp.0 == 2 || !self.seccomp.1.is_empty()),
            ("namespace_options.ipc", self.ipc != 0),
            ("namespace_options.network", self.network != 0),
            ("mounts.propagation", !(0..2).contains(&self.propagation)),
            ("devices", self.permissions.contains(['x', 'q'])),
            ("masked", self.masked != "/proc/keys"),
            ("EVERYTHING", self.capability == "EVERYTHING"),
            ("stdin_once", self.stdin_once),
        ];
        all.into_iter()
            .filter_map(|(field, wrong)| wrong.then_some(field))
            .collect()
    }

    fn container(&self, image: &str) -> Container {
        let mut container = Container::new("random", image)
            .command(&["/bin/true"])
            .capabilities(&[self.capability], &[])
            .secure(|security| {
                let value = |value| cri::Int64Value { value };
                security.run_as_user = self.user.map(value);
                security.run_as_group = self.group.map(value);
                security.run_as_username = self.user_name.unwrap_or_default().to_owned();
                security.supplemental_groups.clone_from(&self.groups);
                security.supplemental_groups_policy = self.groups_policy;
                security.masked_paths = vec![self.masked.to_owned()];
                security.seccomp = Some(cri::SecurityProfile {
                    profile_type: self.seccomp.0,
                    localhost_ref: self.seccomp.1.to_owned(),
                });
                let spaces = security.namespace_options.get_or_insert_default();
                (spaces.ipc, spaces.network) = (self.ipc, self.network);
            });
        container.0.stdin_once = self.stdin_once;
        container.0.mounts.push(cri::Mount {
            container_path: "/x".to_owned(),
            host_path: "/tmp".to_owned(),
            propagation: self.propagation,
            ..Default::default()
        });
        container.0.devices.push(cri::Device {
            container_path: "/dev/x".to_owned(),
            host_path: "/dev/null".to_owned(),
            permissions: self.permissions.clone(),
        });
        container
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_and_leaves_nothing_and_what_is_right_is_taken() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("random").await;
    pod.use_first(&image).await;
    let before = lasting(&server);
    let config = Config::default();
    let random = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, random);
    let (strategy, mut taken) = (asked(), 0);
    for _ in 0..CASES {
        let asked = strategy.new_tree(&mut runner).unwrap().current();
        let wrong = asked.wrong();
        match pod.create(&asked.container(&image)).await {
            Ok(id) => {
                assert!(wrong.is_empty(), "{wrong:?} was taken: {asked:?}");
                server.client.remove(&id).await.unwrap();
                taken += 1;
            }
            Err(refused) => {
                assert_eq!(refused.code(), Code::InvalidArgument, "{asked:?}: {refused}");
                let named = wrong.iter().any(|field| refused.message().contains(field));
                assert!(named, "{wrong:?} of {asked:?}: {refused}");
            }
        }
        assert_eq!(lasting(&server), before, "{asked:?}");
    }
    assert!((5..CASES - 5).contains(&taken), "{taken} of {CASES} were right");
    server.close().await;
}
