//! System calls: which filter is in force, for whom, and that a bad profile stops the container.

use std::fs;
use std::path::Path;

use k8s_cri::v1::SecurityProfile;
use k8s_cri::v1::security_profile::ProfileType;
use test_e2e::harness::Server;
use test_e2e::layout::Settings;
use test_e2e::pods::RunningPod;
use test_e2e::specs::Container;

/// Prints what the kernel says of the filter (2 is one, 0 none), then tries what the default profile denies to those
/// without CAP_SYS_ADMIN, although the kernel would allow it.
const LOOK: &str = "echo $(grep -e ^NoNewPrivs -e ^Seccomp: /proc/self/status | busybox cut -f 2) \
                    $(busybox unshare -U /bin/true 2>/dev/null && echo new || echo none)";

pub(crate) fn typed(kind: ProfileType, localhost_ref: &str) -> SecurityProfile {
    SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: localhost_ref.to_owned(),
    }
}

fn look(name: &str, image: &str, profile: Option<SecurityProfile>) -> Container {
    Container::new(name, image)
        .shell(LOOK)
        .secure(|security| security.seccomp = profile)
}

/// What a container prints, and what the same line executed in a container like it prints.
pub(crate) async fn init_and_exec(
    server: &Server,
    pod: &RunningPod,
    container: Container,
) -> (String, String) {
    let line = container.0.command[2].clone();
    let init = pod.finish(&container).await.1;
    let mut sleeper = container;
    let name = format!("{}-sleeper", sleeper.0.metadata.as_ref().unwrap().name);
    sleeper.0.metadata.as_mut().unwrap().name = name.clone();
    sleeper.0.log_path = format!("{name}.log");
    let id = pod.start(&sleeper.command(&["/bin/sleep", "100000"])).await;
    let done = server
        .client
        .exec(&id, &["/bin/sh", "-c", &line], 0)
        .await
        .unwrap();
    (init, String::from_utf8(done.stdout).unwrap())
}

#[tokio::test]
#[allow(deprecated)] // clients of an older API still send seccomp_profile_path
async fn the_default_profile_confines_init_and_exec_alike() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("seccomp").await;
    let default = || Some(typed(ProfileType::RuntimeDefault, ""));
    let cases: [(&str, Container, &str); 8] = [
        ("unset", look("unset", &image, None), "0 0 new\n"),
        (
            "unconfined",
            look("unconfined", &image, Some(typed(ProfileType::Unconfined, ""))),
            "0 0 new\n",
        ),
        ("default", look("default", &image, default()), "0 2 none\n"),
        (
            "locked",
            look("locked", &image, default()).secure(|security| security.no_new_privs = true),
            "1 2 none\n",
        ),
        (
            "user",
            look("user", &image, default()).user(1000, None),
            "0 2 none\n",
        ),
        (
            "locked-user",
            look("locked-user", &image, default())
                .user(1000, None)
                .secure(|security| security.no_new_privs = true),
            "1 2 none\n",
        ),
        (
            "admin",
            look("admin", &image, default()).capabilities(&["SYS_ADMIN"], &[]),
            "0 2 new\n",
        ),
        (
            "deprecated",
            look("deprecated", &image, None)
                .secure(|security| security.seccomp_profile_path = "runtime/default".to_owned()),
            "0 2 none\n",
        ),
    ];
    for (name, container, expected) in cases {
        let (init, exec) = init_and_exec(&server, &pod, container).await;
        assert_eq!((init.as_str(), exec.as_str()), (expected, expected), "{name}");
    }
    server.close().await;
}

#[tokio::test]
async fn a_shared_pid_namespace_has_nobody_without_a_filter() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run(&server.pod("shared").shared_pid()).await.unwrap();
    let default = Some(typed(ProfileType::RuntimeDefault, ""));
    let (init, exec) = init_and_exec(&server, &pod, look("main", &image, default).shared_pid()).await;
    assert_eq!((init.as_str(), exec.as_str()), ("0 2 none\n", "0 2 none\n"));
    let first = Container::new("first", &image)
        .command(&["/bin/grep", "-e", "^Seccomp:", "-e", "^CapBnd", "/proc/1/status"])
        .shared_pid();
    let (_, output) = pod.finish(&first).await;
    assert!(
        output.contains("Seccomp:\t2") && output.contains("CapBnd:\t0000000000000000"),
        "{output}"
    );
    server.close().await;
}

#[tokio::test]
async fn privileged_means_unfiltered() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run(&server.pod("privileged").privileged()).await.unwrap();
    let container = look("main", &image, Some(typed(ProfileType::RuntimeDefault, "")))
        .secure(|security| security.privileged = true);
    assert_eq!(pod.finish(&container).await.1, "0 0 new\n");
    server.close().await;
}

#[tokio::test]
async fn the_configuration_decides_for_who_names_none() {
    let settings = Settings {
        config: "[security]\nseccomp_when_unset = \"RuntimeDefault\"\n".to_owned(),
        ..Settings::default()
    };
    let server = settings.start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("configured").await;
    assert_eq!(pod.finish(&look("unset", &image, None)).await.1, "0 2 none\n");
    let unconfined = Some(typed(ProfileType::Unconfined, ""));
    assert_eq!(
        pod.finish(&look("unconfined", &image, unconfined)).await.1,
        "0 0 new\n"
    );
    server.close().await;
}

/// A profile is what it was when the container was made, for whatever is executed in it later.
#[tokio::test]
async fn a_localhost_profile_is_in_force_as_it_was_read() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("localhost").await;
    let file = server.directory().join("no-mkdir.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
    fs::write(&file, profile).unwrap();
    let attempt = "grep ^Seccomp: /proc/self/status; mkdir /tmp/made 2>/dev/null && echo made || echo denied";
    let expected = "Seccomp:\t2\ndenied\n";
    let asked = || Some(typed(ProfileType::Localhost, &file.display().to_string()));
    let container = Container::new("main", &image).secure(|security| security.seccomp = asked());
    let id = pod
        .create(&container.clone().command(&["/bin/sleep", "100000"]))
        .await
        .unwrap();
    fs::write(
        &file,
        profile.replace("SCMP_ACT_ERRNO\", \"errnoRet\": 1", "SCMP_ACT_ALLOW\""),
    )
    .unwrap();
    server.client.start(&id).await.unwrap();
    let done = server
        .client
        .exec(&id, &["/bin/sh", "-c", attempt], 0)
        .await
        .unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), expected);
    let info = server.client.container_info(&id).await;
    assert_eq!(
        info["runtimeSpec"]["linux"]["seccomp"]["syscalls"][0]["names"][0], "mkdir",
        "agents see the profile: {info}"
    );

    fs::write(&file, profile).unwrap();
    let mut again = container.shell(attempt);
    again.0.metadata.as_mut().unwrap().name = "again".to_owned();
    assert_eq!(pod.finish(&again).await.1, expected);
    server.close().await;
}

#[tokio::test]
async fn a_bad_profile_stops_the_container() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("bad").await;
    pod.use_first(&image).await;
    let before = server.traces();
    let write = |name: &str, text: &str| {
        let path = server.directory().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let fifo = server.directory().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let bad = [
        (String::new(), "localhost_ref"),
        ("profile.json".to_owned(), "localhost_ref"),
        (
            "/nonexistent/profile.json".to_owned(),
            "/nonexistent/profile.json",
        ),
        (write("empty.json", ""), "empty.json"),
        (write("broken.json", "{\n  \"defaultAction\": \n"), "line 3"),
        (
            write("unknown.json", r#"{"defaultAction": "SCMP_ACT_SURPRISE"}"#),
            "unknown.json",
        ),
        (
            write(
                "field.json",
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "sysCalls": []}"#,
            ),
            "sysCalls",
        ),
        (fifo.display().to_string(), "regular file"),
        (Path::new("/dev/zero").display().to_string(), "/dev/zero"),
    ];
    for (path, part) in bad {
        let container = look("main", &image, Some(typed(ProfileType::Localhost, &path)));
        let refused = pod.create(&container).await.expect_err(&path);
        assert_eq!(
            refused.code(),
            tonic::Code::InvalidArgument,
            "{path}: {refused:?}"
        );
        assert!(refused.message().contains(part), "{path}: {refused:?}");
    }
    assert_eq!(server.traces(), before, "nothing half-made stays");
    server.close().await;
}
