//! Every failing step is reported with its name, its object and the kernel's answer.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use runtime::launch::{Rootfs, Step};
use serde_json::json;

use crate::Test;
use crate::sandbox::{Container, Sandbox, list};

pub(crate) const TESTS: &[Test] = &[
    (
        "failures::exec_tells_its_reasons_apart",
        exec_tells_its_reasons_apart,
    ),
    (
        "failures::path_search_is_in_the_container",
        path_search_is_in_the_container,
    ),
    ("failures::host_side_steps", host_side_steps),
    (
        "failures::a_failed_launch_leaves_nothing",
        a_failed_launch_leaves_nothing,
    ),
];

fn refused(sandbox: &Sandbox, container: &Container) -> (Step, String, i32) {
    let failure = sandbox.refused(container);
    (failure.step, failure.path.unwrap_or_default(), failure.errno)
}

fn program(sandbox: &Sandbox, name: &str, content: &[u8], mode: u32) {
    let path = sandbox.layer().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn exec_tells_its_reasons_apart() {
    let sandbox = Sandbox::new();
    let busybox = fs::read("/bin/busybox").unwrap();
    let mut foreign = busybox.clone();
    foreign[18..20].copy_from_slice(&243u16.to_le_bytes());
    program(&sandbox, "foreign", &foreign, 0o755);
    program(&sandbox, "script", b"#!/no/such/interpreter\n", 0o755);
    program(&sandbox, "text", b"just words\n", 0o755);
    program(&sandbox, "closed", &busybox, 0o644);
    let expect = |path: &str, step, errno| {
        let got = refused(&sandbox, &sandbox.container(&[path]));
        assert_eq!(got, (step, path.to_owned(), errno));
    };
    expect("/bin/missing", Step::Exec, libc_errno::ENOENT);
    expect("/script", Step::ExecInterpreter, libc_errno::ENOENT);
    expect("/foreign", Step::ExecArchitecture, libc_errno::ENOEXEC);
    expect("/text", Step::ExecFormat, libc_errno::ENOEXEC);
    expect("/closed", Step::Exec, libc_errno::EACCES);
    expect("/etc", Step::Exec, libc_errno::EISDIR);
    let volume = sandbox.temp.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::copy("/bin/busybox", volume.join("busybox")).unwrap();
    let mut container = sandbox.container(&["/srv/busybox"]);
    list(&mut container.spec, "/mounts").push(json!({
        "destination": "/srv", "type": "bind", "source": volume, "options": ["rbind", "noexec"],
    }));
    assert_eq!(
        refused(&sandbox, &container),
        (Step::ExecNoexec, "/srv/busybox".into(), libc_errno::EACCES)
    );
    let message = sandbox.refused(&sandbox.container(&["/bin/missing"])).to_string();
    assert_eq!(message, "exec /bin/missing: No such file or directory");
}

fn path_search_is_in_the_container() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(sandbox.container(&["echo", "found"])).text(), "found");
    assert_eq!(
        refused(&sandbox, &sandbox.container(&["no-such-program"])),
        (Step::Exec, "no-such-program".into(), libc_errno::ENOENT)
    );
    // A program that may not be executed does not hide one later in the path, but is reported when there is none.
    fs::create_dir_all(sandbox.layer().join("usr/bin")).unwrap();
    program(&sandbox, "usr/bin/echo", b"", 0o644);
    program(&sandbox, "usr/bin/only", b"", 0o644);
    assert_eq!(sandbox.run(sandbox.container(&["echo", "found"])).text(), "found");
    assert_eq!(
        refused(&sandbox, &sandbox.container(&["only"])),
        (Step::Exec, "/usr/bin/only".into(), libc_errno::EACCES)
    );
    // The working directory is never searched.
    let mut container = sandbox.container(&["busybox", "true"]);
    container.spec["process"]["cwd"] = json!("/bin");
    container.spec["process"]["env"] = json!(["PATH=::.:relative:/usr/bin"]);
    assert_eq!(
        refused(&sandbox, &container),
        (Step::Exec, "busybox".into(), libc_errno::ENOENT)
    );
}

fn host_side_steps() {
    let sandbox = Sandbox::new();
    let mut container = sandbox.container(&["true"]);
    list(&mut container.spec, "/mounts").push(json!({
        "destination": "/srv", "type": "bind", "source": "/no/such/volume", "options": ["rbind"],
    }));
    assert_eq!(
        refused(&sandbox, &container),
        (Step::PrepareVolume, "/no/such/volume".into(), libc_errno::ENOENT)
    );
    let mut container = sandbox.container(&["true"]);
    let Rootfs::Overlay { lower, .. } = &mut container.rootfs else {
        unreachable!()
    };
    lower.push("/no/such/layer".into());
    assert_eq!(sandbox.refused(&container).step, Step::PrepareRoot);
    let container = sandbox.container(&["true"]);
    // On v2 there is nothing to enter: a container is born into the directory that its daemon has opened.
    if let Some(tasks) = container.cgroup.tasks_files().first() {
        fs::remove_dir(tasks.parent().unwrap()).unwrap();
        assert_eq!(
            refused(&sandbox, &container),
            (Step::JoinCgroup, tasks.display().to_string(), libc_errno::ENOENT)
        );
    }
    let mut container = sandbox.container(&["true"]);
    container.spec["process"]["cwd"] = json!("/bin/busybox/x");
    assert_eq!(
        refused(&sandbox, &container),
        (Step::WorkingDir, "/bin/busybox/x".into(), libc_errno::ENOTDIR)
    );
    let mut container = sandbox.container(&["true"]);
    symlink("loop", sandbox.layer().join("loop")).unwrap();
    list(&mut container.spec, "/mounts").push(json!({
        "destination": "/loop/x", "type": "tmpfs", "source": "tmpfs", "options": [],
    }));
    assert_eq!(
        refused(&sandbox, &container),
        (Step::Mount, "/loop/x".into(), libc_errno::ELOOP)
    );
}

fn a_failed_launch_leaves_nothing() {
    // The runner compares mounts, fds and children before and after.
    let sandbox = Sandbox::new();
    for _ in 0..20 {
        assert_eq!(
            sandbox.refused(&sandbox.container(&["/missing"])).step,
            Step::Exec
        );
    }
}

/// The numbers that the kernel answers with.
mod libc_errno {
    pub(crate) const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
    pub(crate) const EACCES: i32 = rustix::io::Errno::ACCESS.raw_os_error();
    pub(crate) const EISDIR: i32 = rustix::io::Errno::ISDIR.raw_os_error();
    pub(crate) const ENOEXEC: i32 = rustix::io::Errno::NOEXEC.raw_os_error();
    pub(crate) const ENOTDIR: i32 = rustix::io::Errno::NOTDIR.raw_os_error();
    pub(crate) const ELOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();
}
