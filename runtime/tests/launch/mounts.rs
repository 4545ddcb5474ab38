//! Root file systems, volumes, masks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use runtime::launch::Rootfs;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use serde_json::{Value, json};

use crate::Test;
use crate::sandbox::{Sandbox, list};

pub(crate) const TESTS: &[Test] = &[
    ("mounts::writes_go_to_the_upper", writes_go_to_the_upper),
    ("mounts::layers_are_top_first", layers_are_top_first),
    ("mounts::long_paths_use_mount", long_paths_use_mount),
    ("mounts::a_directory_as_root", a_directory_as_root),
    ("mounts::a_read_only_root", a_read_only_root),
    ("mounts::volumes", volumes),
    ("mounts::propagation", propagation),
    ("mounts::masks_hide_and_protect", masks_hide_and_protect),
    (
        "mounts::a_missing_working_directory_is_made",
        a_missing_working_directory_is_made,
    ),
    ("mounts::host_devices", host_devices),
];

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

fn writes_go_to_the_upper() {
    let sandbox = Sandbox::new();
    let container = sandbox.container(&[
        "/bin/sh",
        "-c",
        "echo new > /etc/file; head -n 1 /proc/self/mountinfo; rm /bin/ip",
    ]);
    let Rootfs::Overlay { upper, .. } = container.rootfs.clone() else {
        unreachable!()
    };
    let outcome = sandbox.run(container);
    let (place, options) = outcome.text().split_once(" - ").unwrap();
    assert!(
        place.contains(" / / rw,nodev,relatime") && options.starts_with("overlay "),
        "{outcome:?}"
    );
    // Older kernels call it just `volatile`.
    let volatile = |option| option == "fsync=volatile" || option == "volatile";
    assert!(
        options.trim_end().split(',').any(volatile)
            && !options.contains("metacopy")
            && !options.contains("uuid=on"),
        "{options}"
    );
    assert_eq!(fs::read_to_string(upper.join("etc/file")).unwrap(), "new\n");
    assert!(!sandbox.layer().join("etc/file").exists());
    assert!(sandbox.layer().join("bin/ip").symlink_metadata().is_ok());
}

fn layers_are_top_first() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/cat", "/who", "/only"]);
    let mut layers = Vec::new();
    for (name, only) in [("top", false), ("bottom", true)] {
        let layer = sandbox.temp.path().join(name);
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("who"), name).unwrap();
        if only {
            fs::write(layer.join("only"), " here").unwrap();
        }
        layers.push(layer);
    }
    let Rootfs::Overlay { lower, .. } = &mut container.rootfs else {
        unreachable!()
    };
    layers.push(lower.remove(0));
    *lower = layers;
    assert_eq!(sandbox.run(container).text(), "top here");
}

/// fsconfig takes 255 bytes, so this goes the way of older kernels.
fn long_paths_use_mount() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/sh", "-c", "echo new > /file; cat /who"]);
    let deep = sandbox.temp.path().join("x".repeat(200)).join("y".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    let mut lower: Vec<_> = (0..60)
        .map(|number| sandbox.temp.path().join(format!("l/{number}")))
        .collect();
    for layer in &lower {
        fs::create_dir_all(layer).unwrap();
        fs::write(layer.join("who"), layer.file_name().unwrap().to_str().unwrap()).unwrap();
    }
    lower.push(sandbox.layer());
    let (upper, work) = (deep.join("rw"), deep.join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    container.rootfs = Rootfs::Overlay {
        lower,
        upper: upper.clone(),
        work,
    };
    assert_eq!(sandbox.run(container).text(), "0");
    assert_eq!(fs::read_to_string(upper.join("file")).unwrap(), "new\n");
}

fn a_directory_as_root() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/sh", "-c", "echo new > /file; mknod /n c 1 3; cat /n"]);
    container.rootfs = Rootfs::Directory(sandbox.layer());
    list(&mut container.spec, "/process/capabilities/bounding").push(json!("CAP_MKNOD"));
    list(&mut container.spec, "/process/capabilities/permitted").push(json!("CAP_MKNOD"));
    list(&mut container.spec, "/process/capabilities/effective").push(json!("CAP_MKNOD"));
    let outcome = sandbox.run(container);
    assert!(
        outcome.stderr.contains("can't open '/n': Permission denied"),
        "nodev: {outcome:?}"
    );
    assert_eq!(fs::read_to_string(sandbox.layer().join("file")).unwrap(), "new\n");
}

fn a_read_only_root() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&[
        "/bin/sh",
        "-c",
        "pwd; echo x > /dev/shm/x && cat /dev/shm/x; echo x > /file",
    ]);
    container.spec["root"]["readonly"] = json!(true);
    container.spec["process"]["cwd"] = json!("/made/for/it");
    let outcome = sandbox.run(container);
    assert_eq!(outcome.stdout, "/made/for/it\nx\n");
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
}

fn volumes() {
    let sandbox = Sandbox::new();
    let volume = sandbox.temp.path().join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    symlink(&volume, sandbox.temp.path().join("link")).unwrap();
    mount(
        "tmpfs",
        volume.join("sub"),
        "tmpfs",
        MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )
    .unwrap();
    let mut container = sandbox.container(&[
        "/bin/sh",
        "-c",
        "cat /file /rw/file; echo a > /rw/a; echo b > /rw/sub/b; echo c > /ro/c; echo d > /ro/sub/d; echo e > /rro/sub/e;
         echo f > /flat/sub/f; cat /deep/er/file",
    ]);
    let mounts = list(&mut container.spec, "/mounts");
    mounts.push(bind(&volume.join("file"), "/file", &["bind", "ro"]));
    mounts.push(bind(&sandbox.temp.path().join("link"), "/rw", &["rbind", "rw"]));
    mounts.push(bind(&volume, "/ro", &["rbind", "ro"]));
    mounts.push(bind(&volume, "/rro", &["rbind", "rro"]));
    mounts.push(bind(&volume, "/flat", &["bind"]));
    mounts.push(bind(&volume, "/deep/er", &["bind"]));
    let outcome = sandbox.run(container);
    assert_eq!(outcome.stdout, "contentcontentcontent");
    let refused: Vec<&str> = outcome
        .stderr
        .lines()
        .map(|line| line.split(": ").nth(2).unwrap_or(line))
        .collect();
    assert_eq!(refused.len(), 2, "{outcome:?}");
    assert!(
        outcome.stderr.contains("/ro/c") && outcome.stderr.contains("/rro/sub/e"),
        "{outcome:?}"
    );
    assert!(volume.join("a").exists());
    assert!(
        volume.join("sub/b").exists() && volume.join("sub/d").exists(),
        "ro is not recursive"
    );
    assert!(!volume.join("sub/f").exists(), "bind is not recursive");
    unmount(volume.join("sub"), UnmountFlags::empty()).unwrap();
    assert!(volume.join("sub/f").exists());
}

fn propagation() {
    let sandbox = Sandbox::new();
    let volume = sandbox.temp.path().join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    mount(
        "tmpfs",
        &volume,
        "tmpfs",
        MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )
    .unwrap();
    mount_change(&volume, MountPropagationFlags::SHARED).unwrap();
    for name in ["private", "slave", "shared", "host"] {
        fs::create_dir(volume.join(name)).unwrap();
    }
    let mut container = sandbox.container(&[
        "/bin/sh",
        "-c",
        "for v in private slave shared; do mount -t tmpfs tmpfs /$v/$v; done; echo ready; \
         until [ -e /shared/host/go ]; do sleep 0.01; done; ls -d /private/host/go /slave/host/go /shared/host/go",
    ]);
    for set in ["bounding", "permitted", "effective"] {
        list(&mut container.spec, &format!("/process/capabilities/{set}")).push(json!("CAP_SYS_ADMIN"));
    }
    for (name, option) in [
        ("private", "rprivate"),
        ("slave", "rslave"),
        ("shared", "rshared"),
    ] {
        list(&mut container.spec, "/mounts").push(bind(&volume, &format!("/{name}"), &["rbind", option]));
    }
    let mut running = sandbox.start(&container).unwrap();
    assert_eq!(running.line(), "ready");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let seen = |name: &str| table.contains(&format!("{} ", volume.join(name).display()));
    assert!(seen("shared") && !seen("slave") && !seen("private"), "{table}");
    mount(
        "tmpfs",
        volume.join("host"),
        "tmpfs",
        MountFlags::empty(),
        None::<&std::ffi::CStr>,
    )
    .unwrap();
    fs::write(volume.join("host/go"), "").unwrap();
    let outcome = running.finish();
    assert_eq!(outcome.stdout, "/shared/host/go\n/slave/host/go\n", "{outcome:?}");
    for name in ["host", "shared", ""] {
        unmount(volume.join(name), UnmountFlags::DETACH).unwrap();
    }
}

fn masks_hide_and_protect() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.layer().join("secrets")).unwrap();
    fs::write(sandbox.layer().join("secrets/a"), "secret").unwrap();
    fs::write(sandbox.layer().join("secret"), "secret").unwrap();
    symlink("secret", sandbox.layer().join("alias")).unwrap();
    let mut container = sandbox.container(&[
        "/bin/sh",
        "-c",
        "cat /secret /alias; ls -a /secrets /sys/firmware; stat -c %t:%T /proc/keys /secret; chmod 000 /secret;
         stat -c %a /dev/zero; (echo x > /secrets/x); (echo 1 > /proc/sys/net/ipv4/ip_forward);
         (echo x > /etc/x); echo x > /proc/self/oom_score_adj",
    ]);
    for path in ["/secret", "/secrets"] {
        list(&mut container.spec, "/linux/maskedPaths").push(json!(path));
    }
    list(&mut container.spec, "/linux/readonlyPaths").push(json!("/etc"));
    let outcome = sandbox.run(container);
    assert_eq!(
        outcome.stdout, "/secrets:\n.\n..\n\n/sys/firmware:\n.\n..\n1:3\n1:3\n666\n",
        "{outcome:?}"
    );
    assert_eq!(
        outcome.stderr.matches("Read-only file system").count(),
        3,
        "{outcome:?}"
    );
    assert_eq!(
        fs::read_to_string(sandbox.layer().join("secret")).unwrap(),
        "secret"
    );
}

fn a_missing_working_directory_is_made() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["/bin/sh", "-c", "pwd; stat -c '%a %u' ."]);
    container.spec["process"]["cwd"] = json!("/a/b/../c");
    container.spec["process"]["user"]["uid"] = json!(1000);
    assert_eq!(sandbox.run(container).text(), "/a/c\n755 0");
    // A directory that only root may enter is still entered.
    let mut container = sandbox.container(&["/bin/pwd"]);
    fs::create_dir(sandbox.layer().join("closed")).unwrap();
    fs::set_permissions(
        sandbox.layer().join("closed"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    container.spec["process"]["cwd"] = json!("/closed");
    container.spec["process"]["user"]["uid"] = json!(1000);
    assert_eq!(sandbox.run(container).text(), "/closed");
}

/// A privileged container may have the host's `/dev` instead of one of its own.
fn host_devices() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&[
        "/bin/sh",
        "-c",
        "stat -c %t:%T /proc/keys; readlink /proc/self/fd/0",
    ]);
    list(&mut container.spec, "/mounts")
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    list(&mut container.spec, "/mounts").insert(1, bind(Path::new("/dev"), "/dev", &["rbind"]));
    assert_eq!(sandbox.run(container).text(), "1:3\n/dev/null");
    let mut container = sandbox.container(&["true"]);
    list(&mut container.spec, "/mounts").retain(|mount| mount["destination"] != "/dev");
    let spec = serde_json::from_value(container.spec.clone()).unwrap();
    let context = runtime::launch::LaunchContext {
        rootfs: container.rootfs.clone(),
        cgroup: &container.cgroup,
        sharing: sandbox.sharing,
        exact: Default::default(),
        images: Default::default(),
        hooks: None,
    };
    let error = runtime::launch::LaunchPlan::from_spec(&spec, &context).unwrap_err();
    assert_eq!(error.to_string(), "mounts[/dev]: missing");
}
