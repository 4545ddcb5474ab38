//! Images that try to get out.

use std::fs;
use std::os::unix::fs::symlink;

use runtime::launch::Step;
use serde_json::json;

use crate::Test;
use crate::sandbox::{Sandbox, list};

pub(crate) const TESTS: &[Test] = &[
    (
        "attacks::proc_sys_and_dev_are_no_links",
        proc_sys_and_dev_are_no_links,
    ),
    ("attacks::mount_targets_stay_inside", mount_targets_stay_inside),
    (
        "attacks::nothing_covers_proc_or_the_root",
        nothing_covers_proc_or_the_root,
    ),
    (
        "attacks::the_working_directory_is_inside",
        the_working_directory_is_inside,
    ),
    ("attacks::masks_follow_no_link_out", masks_follow_no_link_out),
    ("attacks::swapping_a_shared_volume", swapping_a_shared_volume),
];

fn proc_sys_and_dev_are_no_links() {
    let sandbox = Sandbox::new();
    let canary = sandbox.canary();
    for name in ["proc", "sys", "dev"] {
        let path = sandbox.layer().join(name);
        for target in [
            canary.to_str().unwrap(),
            "../../../../..",
            "etc",
            "/",
            "/proc/self/root",
        ] {
            fs::remove_dir(&path).unwrap();
            symlink(target, &path).unwrap();
            let failure = sandbox.refused(&sandbox.container(&["true"]));
            assert_eq!(
                (failure.step, failure.path),
                (Step::Mount, Some(format!("/{name}"))),
                "{name} -> {target}"
            );
            sandbox.assert_canary();
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        let failure = sandbox.refused(&sandbox.container(&["true"]));
        assert_eq!(failure.step, Step::Mount, "{name} is a file");
        fs::remove_file(&path).unwrap();
        // Missing ones are made.
        assert_eq!(sandbox.sh(&format!("stat -c %F /{name}")).text(), "directory");
        fs::create_dir(&path).unwrap();
    }
}

fn mount_targets_stay_inside() {
    let sandbox = Sandbox::new();
    let canary = sandbox.canary();
    let volume = sandbox.temp.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("mark"), "volume").unwrap();
    symlink(&canary, sandbox.layer().join("absolute")).unwrap();
    symlink(
        format!("../../../../../../../..{}", canary.display()),
        sandbox.layer().join("relative"),
    )
    .unwrap();
    symlink("/run", sandbox.layer().join("srv/run")).unwrap();
    let inside = canary.display();
    for (target, shown) in [
        ("/absolute", format!("{inside}/mark")),
        ("/absolute/deeper", format!("{inside}/deeper/mark")),
        ("/relative", format!("{inside}/mark")),
        ("/srv/run/secrets/token", "/run/secrets/token/mark".into()),
        ("/../../../outside", "/outside/mark".into()),
    ] {
        let mut container = sandbox.container(&["/bin/cat", &shown]);
        list(&mut container.spec, "/mounts").push(json!({
            "destination": target, "type": "bind", "source": volume, "options": ["rbind"],
        }));
        assert_eq!(sandbox.run(container).text(), "volume", "{target}");
        sandbox.assert_canary();
    }
}

fn nothing_covers_proc_or_the_root() {
    let sandbox = Sandbox::new();
    for (name, target) in [
        ("to-proc", "/proc"),
        ("to-sys", "/proc/sys"),
        ("to-root", "/"),
        ("to-up", ".."),
    ] {
        symlink(target, sandbox.layer().join(name)).unwrap();
    }
    for (target, errno) in [
        ("/to-proc", rustix::io::Errno::PERM),
        ("/to-proc/sys/kernel", rustix::io::Errno::PERM),
        ("/to-sys", rustix::io::Errno::PERM),
        ("/to-root", rustix::io::Errno::PERM),
        ("/to-up", rustix::io::Errno::PERM),
    ] {
        for kind in ["bind", "tmpfs"] {
            let mut container = sandbox.container(&["true"]);
            let source = sandbox.canary();
            list(&mut container.spec, "/mounts").push(json!({
                "destination": target, "type": kind, "source": source, "options": [],
            }));
            let failure = sandbox.refused(&container);
            assert_eq!(
                (failure.step, failure.errno),
                (Step::Mount, errno.raw_os_error()),
                "{target} {kind}"
            );
        }
    }
}

/// CVE-2024-21626: a working directory that is an fd of the host.
fn the_working_directory_is_inside() {
    let sandbox = Sandbox::new();
    let canary = sandbox.canary();
    let hold: Vec<fs::File> = (0..10).map(|_| fs::File::open(&canary).unwrap()).collect();
    let mut entered = 0;
    for number in 0..40 {
        let path = format!("/proc/self/fd/{number}");
        symlink(&path, sandbox.layer().join(format!("behind-{number}"))).unwrap();
        for cwd in [path, format!("/behind-{number}")] {
            let mut container = sandbox.container(&["/bin/sh", "-c", "ls; ls .. ; cat file"]);
            container.spec["process"]["cwd"] = json!(cwd);
            match sandbox.start(&container) {
                Err(failure) => assert_eq!(failure.step, Step::WorkingDir, "{cwd}: {failure}"),
                Ok(running) => {
                    entered += 1;
                    let outcome = running.finish();
                    assert!(!outcome.stdout.contains("untouched"), "{cwd}: {outcome:?}");
                }
            }
        }
    }
    assert_eq!(entered, 0);
    drop(hold);
    sandbox.assert_canary();
}

fn masks_follow_no_link_out() {
    let sandbox = Sandbox::new();
    let canary = sandbox.canary();
    symlink(&canary, sandbox.layer().join("hidden")).unwrap();
    let mut container = sandbox.container(&["true"]);
    list(&mut container.spec, "/linux/maskedPaths").push(json!("/hidden"));
    list(&mut container.spec, "/linux/readonlyPaths").push(json!("/hidden/file"));
    // Inside the root the link leads nowhere, so there is nothing to mask.
    assert_eq!(sandbox.run(container).text(), "");
    sandbox.assert_canary();
    fs::write(canary.join("file"), "untouched").unwrap();
}

/// CVE-2021-30465: another container swaps a directory of a shared volume for a link while a mount is made in it.
fn swapping_a_shared_volume() {
    let sandbox = Sandbox::new();
    let canary = sandbox.canary();
    let volume = sandbox.temp.path().join("volume");
    fs::create_dir_all(volume.join("spot")).unwrap();
    symlink("/", volume.join("bait")).unwrap();
    let payload = sandbox.temp.path().join("payload");
    fs::create_dir(&payload).unwrap();
    let racer = std::process::Command::new(std::env::current_exe().unwrap());
    drop(racer);
    let (spot, bait) = (volume.join("spot"), volume.join("bait"));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&stop);
    // The racer only makes system calls on buffers of its own, so that clones of this process stay safe.
    let racer = std::thread::spawn(move || {
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            let _ = rustix::fs::renameat_with(
                rustix::fs::CWD,
                &spot,
                rustix::fs::CWD,
                &bait,
                rustix::fs::RenameFlags::EXCHANGE,
            );
        }
    });
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..500 {
        let target = format!("/vol/spot{}", canary.display());
        let mut container = sandbox.container(&["true"]);
        let mounts = list(&mut container.spec, "/mounts");
        mounts.push(json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind"]}));
        mounts.push(json!({"destination": target, "type": "bind", "source": payload, "options": ["rbind"]}));
        match sandbox.start(&container) {
            Ok(running) => {
                ran += 1;
                running.finish();
            }
            Err(failure) => {
                refused += 1;
                assert_eq!(failure.step, Step::Mount, "{failure}");
            }
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    racer.join().unwrap();
    assert!(ran > 0, "{ran} ran, {refused} refused");
    sandbox.assert_canary();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !table.contains(payload.to_str().unwrap()),
        "nothing was mounted on the host"
    );
}
