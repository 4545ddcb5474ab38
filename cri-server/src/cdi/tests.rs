use std::fs;

use oci_spec::runtime::{Linux, Process, Spec};

use super::*;
use crate::container::Identity;

fn built() -> ContainerSpec {
    let mut process = Process::default();
    process.set_env(Some(vec!["KEPT=1".into(), "GPU=none".into()]));
    let mut spec = Spec::default();
    spec.set_process(Some(process))
        .set_linux(Some(Linux::default()))
        .set_mounts(Some(Vec::new()));
    ContainerSpec {
        spec,
        identity: Identity::default(),
        args: Vec::new(),
        env: vec![b"KEPT=1".to_vec(), b"GPU=none".to_vec()],
    }
}

fn asking(devices: &[&str]) -> ContainerConfig {
    ContainerConfig {
        cdi_devices: devices.iter().map(|name| (*name).to_owned()).collect(),
        ..ContainerConfig::default()
    }
}

const YAML: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
containerEdits:
  env: [ "GPU=some" ]
  hooks:
    - hookName: createContainer
      path: /usr/bin/vendor-hook
      args: [ vendor-hook, create-symlinks ]
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - { path: /dev/vendor0, hostPath: /dev/null, permissions: rw }
      mounts:
        - { hostPath: /usr/lib/vendor.so, containerPath: /usr/lib/x/vendor.so, options: [ ro, nosuid, nodev, bind ] }
      additionalGids: [ 44, 0 ]
  - name: "1"
"#;

#[test]
fn a_device_changes_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("vendor.yaml"), YAML).unwrap();
    fs::write(directory.path().join("README"), "not one of them").unwrap();
    let mut made = built();
    let mut config = asking(&["vendor.com/gpu=0"]);
    // Named twice, it is there once.
    config.annotations.insert(
        "cdi.k8s.io/plugin_0".into(),
        "vendor.com/gpu=0,vendor.com/gpu=1".into(),
    );
    inject(&[directory.path().into()], &config, &mut made).unwrap();
    assert_eq!(made.env, [b"KEPT=1".to_vec(), b"GPU=some".to_vec()]);
    let linux = made.spec.linux().as_ref().unwrap();
    let devices = linux.devices().as_ref().unwrap();
    assert_eq!((devices.len(), devices[0].major(), devices[0].minor()), (1, 1, 3));
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert_eq!(rules[0].access().as_deref(), Some("rw"));
    assert_eq!(made.identity.groups, [44]);
    assert_eq!(made.spec.mounts().as_ref().unwrap().len(), 1);
    let hooks = made
        .spec
        .hooks()
        .as_ref()
        .unwrap()
        .create_container()
        .clone()
        .unwrap();
    assert_eq!(hooks.len(), 1, "what holds for the whole file comes once");
}

#[test]
fn unknown_misspelt_and_doubled_devices_are_refused_by_name() {
    let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = |env: &str| {
        format!(
            r#"{{"cdiVersion":"1.0.0","kind":"v.com/x","devices":[{{"name":"a","containerEdits":{{"env":["{env}"]}}}}]}}"#
        )
    };
    let directories = [low.path().to_owned(), high.path().to_owned()];
    let refusal = |name: &str| {
        let mut made = built();
        let error = inject(&directories, &asking(&[name]), &mut made).unwrap_err();
        assert_eq!(made.env, built().env, "nothing was changed");
        error.to_string()
    };
    assert!(refusal("v.com/x=a").contains("in no CDI file"));
    assert!(refusal("x=a").starts_with("config.CDI_devices: \"x=a\""));
    fs::write(low.path().join("a.json"), json("FROM=low")).unwrap();
    fs::write(high.path().join("a.json"), json("FROM=high")).unwrap();
    let mut made = built();
    inject(&directories, &asking(&["v.com/x=a"]), &mut made).unwrap();
    assert!(
        made.env.contains(&b"FROM=high".to_vec()),
        "the later directory wins"
    );
    fs::write(high.path().join("b.json"), json("FROM=other")).unwrap();
    assert!(refusal("v.com/x=a").contains("described by both"));
    fs::write(high.path().join("broken.yaml"), "kind: [").unwrap();
    assert!(refusal("v.com/x=b").contains("broken.yaml"));
    fs::write(
        high.path().join("broken.yaml"),
        "cdiVersion: '9.0'\nkind: v.com/x\n",
    )
    .unwrap();
    assert!(refusal("v.com/x=b").contains("cdiVersion"));
    let broken = high.path().join("broken.yaml");
    fs::remove_file(&broken).unwrap();
    // To open it would be to wait for a writer.
    nix::unistd::mkfifo(&broken, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(refusal("v.com/x=b").contains("no regular file"));
}
