//! Images that try to get out.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use runtime::launch::{PidMode, PodPidMode, Step};
use rustix::fs::{CWD, RenameFlags, renameat_with};
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
    (
        "attacks::labels_are_told_to_no_file_but_the_kernels",
        labels_are_told_to_no_file_but_the_kernels,
    ),
    (
        "attacks::parameters_are_written_to_no_file_but_the_kernels",
        parameters_are_written_to_no_file_but_the_kernels,
    ),
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

/// A neighbour that exchanges two names as fast as it can.
struct Racer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Racer {
    fn start(one: PathBuf, other: PathBuf) -> Racer {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        // It only makes system calls on buffers of its own, so that clones of this process stay safe.
        let thread = std::thread::spawn(move || {
            let mut swaps = 0;
            while !flag.load(Ordering::Relaxed) {
                let done = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                swaps += u64::from(done.is_ok());
            }
            swaps
        });
        Racer { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let swaps = self.thread.join().unwrap();
        assert!(swaps > 5000, "the race was run: {swaps} swaps");
    }
}

/// CVE-2025-52881: a neighbour in a shared volume leads the mounts of a container to its procfs, so that what asks for its
/// confinement is covered by a file that takes any label. The names asked for exist nowhere, so a launch that succeeds
/// was told by such a file.
fn labels_are_told_to_no_file_but_the_kernels() {
    let sandbox = Sandbox::new();
    let volume = sandbox.temp.path().join("volume");
    let files = [
        "thread-self/attr/exec",
        "thread-self/attr/apparmor/exec",
        "self/attr/exec",
    ];
    for file in files {
        let file = volume.join("spot").join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    symlink("/proc", volume.join("bait")).unwrap();
    let payload = sandbox.temp.path().join("payload");
    fs::create_dir_all(payload.join("apparmor")).unwrap();
    let fakes = [payload.join("exec"), payload.join("apparmor/exec")];
    fakes.iter().for_each(|fake| fs::write(fake, "").unwrap());
    let racer = Racer::start(volume.join("spot"), volume.join("bait"));
    let mut refused = BTreeSet::new();
    for number in 0..500 {
        let target = ["thread-self/attr", "self/attr", "thread-self/attr/exec"][number % 3];
        let source = if number % 3 == 2 {
            fakes[0].as_path()
        } else {
            payload.as_path()
        };
        let mut container = sandbox.container(&["true"]);
        let mounts = list(&mut container.spec, "/mounts");
        mounts.push(json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind"]}));
        mounts.push(json!({
            "destination": format!("/vol/spot/{target}"), "type": "bind", "source": source, "options": ["rbind"],
        }));
        let key = ["apparmorProfile", "selinuxLabel"][number % 2];
        container.spec["process"][key] = json!("no_u:no_r:no_t:s0");
        refused.insert(sandbox.refused(&container).step.name());
    }
    racer.stop();
    assert!(
        refused.contains(Step::AppArmor.name()) && refused.contains(Step::Selinux.name()),
        "some came as far as to ask: {refused:?}"
    );
    // One of the two names is now the link.
    let [spot, bait] = ["spot", "bait"].map(|side| volume.join(side));
    let real = if spot.is_symlink() { bait } else { spot };
    for file in fakes.into_iter().chain(files.map(|file| real.join(file))) {
        assert_eq!(fs::read(&file).unwrap(), b"", "{}", file.display());
    }
    sandbox.assert_canary();
}

/// The same for parameters of the pod: whatever covers `/proc/sys` where they are written, they reach the kernel.
fn parameters_are_written_to_no_file_but_the_kernels() {
    let fake = tempfile::tempdir().unwrap();
    for directory in ["kernel", "net/ipv4"] {
        fs::create_dir_all(fake.path().join(directory)).unwrap();
    }
    let files = ["kernel/shmmni", "net/ipv4/ip_unprivileged_port_start"].map(|file| fake.path().join(file));
    for users in [false, true] {
        files
            .iter()
            .for_each(|file| fs::write(file, "untouched").unwrap());
        rustix::mount::mount_bind(fake.path(), "/proc/sys").unwrap();
        let sandbox = match users {
            true => Sandbox::with_users(PodPidMode::Container, PidMode::Container),
            false => Sandbox::new(),
        };
        rustix::mount::unmount("/proc/sys", rustix::mount::UnmountFlags::DETACH).unwrap();
        for file in &files {
            assert_eq!(fs::read_to_string(file).unwrap(), "untouched", "users: {users}");
        }
        let shown = sandbox.sh("cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_unprivileged_port_start");
        assert_eq!(shown.text(), "77\n7", "users: {users}");
    }
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
    let racer = Racer::start(volume.join("spot"), volume.join("bait"));
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
    racer.stop();
    assert!(ran > 0, "{ran} ran, {refused} refused");
    sandbox.assert_canary();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !table.contains(payload.to_str().unwrap()),
        "nothing was mounted on the host"
    );
}
