//! Who a container's processes are, and what they may do.

use std::collections::BTreeMap;

use test_e2e::harness::Server;
use test_e2e::images;
use test_e2e::specs::Container;

use crate::DEFAULT_CAPABILITIES;

#[tokio::test]
async fn capabilities_are_what_was_asked() {
    let server = Server::start().await;
    let image = server.busybox().await;
    let pod = server.run_pod("capabilities").await;
    let look = |name: &str| Container::new(name, &image).command(&["/bin/grep", "^Cap", "/proc/self/status"]);
    let masks = |output: String| -> BTreeMap<String, String> {
        output
            .lines()
            .filter_map(|line| line.split_once(":\t"))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    };
    let none = masks(pod.finish(&look("none").capabilities(&[], &["ALL"])).await.1);
    assert!(none.values().all(|mask| mask == "0000000000000000"), "{none:?}");
    let one = masks(
        pod.finish(&look("one").capabilities(&["NET_ADMIN"], &["ALL"]))
            .await
            .1,
    );
    assert_eq!(
        (one["CapEff"].as_str(), one["CapBnd"].as_str()),
        ("0000000000001000", "0000000000001000")
    );
    let user = masks(pod.finish(&look("user").user(1000, None)).await.1);
    assert_eq!(
        (user["CapEff"].as_str(), user["CapPrm"].as_str()),
        ("0000000000000000", "0000000000000000")
    );
    assert_eq!(
        (user["CapInh"].as_str(), user["CapBnd"].as_str()),
        ("0000000000000000", DEFAULT_CAPABILITIES)
    );
    let locked = Container::new("locked", &image)
        .shell("grep NoNewPrivs /proc/self/status")
        .secure(|security| security.no_new_privs = true);
    assert_eq!(pod.finish(&locked).await, (0, "NoNewPrivs:\t1\n".to_owned()));
    server.close().await;
}

#[tokio::test]
async fn odd_users_never_become_root() {
    let server = Server::start().await;
    for (number, user) in [
        "2147483648",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "+0",
        " 0",
        "0x0",
        "1:99999999999",
    ]
    .into_iter()
    .enumerate()
    {
        let image = images::busybox_builder().config("User", user.into()).build();
        let image = server.pull(&format!("user-{number}"), &image).await;
        let pod = server.run_pod(&format!("user-{number}")).await;
        if let Ok(id) = pod
            .create(&Container::new("main", &image).command(&["/bin/id", "-u"]))
            .await
            && server.client.start(&id).await.is_ok()
        {
            server.client.exited(&id).await;
            let output = test_e2e::logs::stdout(&pod.log("main.log"));
            panic!("USER {user:?} ran as {output:?}");
        }
        server.client.remove_pod(&pod.id).await.unwrap();
    }
    server.close().await;
}
