//! The embedded network on a host of the test's own.

mod harness;

use std::time::{Duration, Instant};

use cni::{ActiveNetwork, Error, Readiness};
use harness::{Place, Pod, address, converse, has_link, on_a_host, sysctl, tool};

const SUBNET: &str = "10.209.0.0/16";

#[test]
fn pods_reach_each_other_and_the_host_with_their_first_packet() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let (one, two) = (Pod::new(1), Pod::new(2));
        let first = one.attach(&network).await;
        let second = two.attach(&network).await;
        assert_eq!(
            (address(&first).to_string(), address(&second).to_string()),
            ("10.209.0.2".into(), "10.209.0.3".into())
        );
        assert_eq!(first.gateways[0].to_string(), "10.209.0.1");
        assert_eq!(first.host_link.as_deref(), Some(one.id.host_link().as_str()));

        let listener = two.listen();
        let (repeated, seen) = one.inside(|| converse(&listener, address(&second)));
        assert_eq!(repeated, 0, "pod to pod");
        assert_eq!(seen, address(&first));

        let (repeated, seen) = converse(&listener, address(&second));
        assert_eq!(repeated, 0, "host to pod");
        assert_eq!(seen.to_string(), "10.209.0.1");

        let host = std::net::TcpListener::bind("0.0.0.0:0").expect("listens");
        let (repeated, seen) = one.inside(|| converse(&host, first.gateways[0]));
        assert_eq!(repeated, 0, "pod to host");
        assert_eq!(seen, address(&first));

        // Loopback works too, and the pod's link has the address that the attachment tells.
        let local = one.listen();
        one.inside(|| converse(&local, "127.0.0.1".parse().expect("an address")));
        let mac = one.inside(|| mac_of("eth0"));
        assert_eq!(first.mac, Some(mac));
    });
}

fn mac_of(link: &str) -> String {
    let links = nix::ifaddrs::getifaddrs().expect("links");
    links
        .filter(|found| found.interface_name == link)
        .find_map(|found| Some(found.address?.as_link_addr()?.to_string()))
        .expect("an Ethernet address")
}

#[test]
fn no_pod_loses_its_first_packet() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let host = std::net::TcpListener::bind("0.0.0.0:0").expect("listens");
        for number in 0..60 {
            let pod = Pod::new(number);
            let attachment = pod.attach(&network).await;
            let (repeated, _) = pod.inside(|| converse(&host, attachment.gateways[0]));
            assert_eq!(repeated, 0, "pod {number}");
            network.detach(&pod.id, None).await.expect("detaches");
        }
    });
}

#[test]
fn what_leaves_the_host_has_the_hosts_address() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let pod = Pod::new(1);
        let attachment = pod.attach(&network).await;
        assert_eq!(sysctl("net/ipv4/ip_forward"), "1");
        if let Some(table) = tool("nft", &["list", "table", "inet", "crisp"]) {
            assert!(
                table.contains("ip saddr 10.209.0.0/16 oifname != \"crisp0\" masquerade"),
                "nft reads the table as:\n{table}"
            );
        }
        // A world outside: a namespace behind a veth, with no route back to the pods.
        let world = Pod::new(99);
        let Some(_) = tool(
            "ip",
            &["link", "add", "up0", "type", "veth", "peer", "name", "up1"],
        ) else {
            return;
        };
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            std::os::fd::AsRawFd::as_raw_fd(&world.netns)
        );
        tool("ip", &["link", "set", "up1", "netns", &path]);
        tool("ip", &["addr", "add", "192.0.2.1/24", "dev", "up0"]);
        tool("ip", &["link", "set", "up0", "up"]);
        world.inside(|| {
            tool("ip", &["addr", "add", "192.0.2.2/24", "dev", "up1"]);
            tool("ip", &["link", "set", "up1", "up"]);
        });
        let listener = world.listen();
        let (_, seen) = pod.inside(|| converse(&listener, "192.0.2.2".parse().expect("an address")));
        assert_eq!(seen.to_string(), "192.0.2.1");
        assert_ne!(seen, address(&attachment));
    });
}

#[test]
fn both_families_work_at_once() {
    on_a_host(|| async {
        if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
            println!("SKIPPED: this kernel has no IPv6");
            return;
        }
        let place = Place::new();
        let network = place.network(&[SUBNET, "fd00:209::/64"]).await;
        let (one, two) = (Pod::new(1), Pod::new(2));
        let first = one.attach(&network).await;
        let second = two.attach(&network).await;
        assert_eq!(second.ips[1].to_string(), "fd00:209::3/64");
        let listener = two.listen();
        let (repeated, seen) = one.inside(|| converse(&listener, second.ips[1].addr()));
        assert_eq!(repeated, 0);
        assert_eq!(seen, first.ips[1].addr());
        assert_eq!(sysctl("net/ipv6/conf/crisp0/accept_ra"), "0");
        assert_eq!(one.inside(|| sysctl("net/ipv6/conf/eth0/accept_ra")), "0");
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "1");
        if let Some(table) = tool("nft", &["list", "table", "inet", "crisp"]) {
            assert!(
                table.contains("ip6 saddr fd00:209::/64 oifname != \"crisp0\" masquerade"),
                "{table}"
            );
        }
    });
}

#[test]
fn an_address_comes_back_when_the_pods_link_is_gone_and_not_before() {
    on_a_host(|| async {
        let place = Place::new();
        // Room for one pod.
        let network = place.network(&["10.209.0.0/30"]).await;
        let (one, two) = (Pod::new(1), Pod::new(2));
        let first = one.attach(&network).await;
        let refused = network.attach(two.request()).await.expect_err("no room");
        assert!(matches!(refused, Error::Exhausted { .. }), "{refused}");
        assert_eq!(
            place.records(),
            [format!("{}.json", one.id)],
            "a refused attach leaves nothing"
        );

        network.detach(&one.id, None).await.expect("detaches");
        network.detach(&one.id, None).await.expect("and once more");
        assert_eq!(place.records(), [""; 0]);
        let host_link = one.id.host_link();
        assert!(has_link(&host_link), "nobody waited for the link to go");
        // The second pod waits for the first one's namespace, which goes only now; or again, where the kernel has many others
        // to end before that.
        let deadline = Instant::now() + Duration::from_secs(60);
        let waiting = async {
            loop {
                let asked = Instant::now();
                match network.attach(two.request()).await {
                    Err(Error::Exhausted { .. }) if Instant::now() < deadline => {
                        assert!(asked.elapsed() >= Duration::from_secs(4), "it is waited for");
                    }
                    outcome => return outcome,
                }
            }
        };
        let (second, ()) = tokio::join!(waiting, async move { drop(one) });
        let second = second.expect("attaches");
        assert!(
            !has_link(&host_link),
            "the address was leased while the old link stood"
        );
        assert_eq!(second.ips, first.ips);
    });
}

#[test]
fn a_restart_finds_what_is_attached_and_what_still_drains() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let (kept, drained, unmade) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let attachment = kept.attach(&network).await;
        let draining = drained.attach(&network).await;
        let vanished = unmade.attach(&network).await;
        network.detach(&drained.id, None).await.expect("detaches");
        let _ = tool("ip", &["link", "delete", &unmade.id.host_link()]);
        drop(network);

        let network = place.network(&[SUBNET]).await;
        let found = network.attachments().await.expect("lists");
        assert_eq!(found.len(), 2);
        let of = |pod: &Pod| {
            found
                .iter()
                .find(|found| found.pod_id == pod.id)
                .expect("recorded")
                .attachment
                .clone()
        };
        assert_eq!(of(&kept), Some(attachment.clone()));
        if !has_link(&unmade.id.host_link()) {
            assert_eq!(of(&unmade), None, "its link is gone, so it is no attachment");
        }
        let fresh = Pod::new(4);
        let address = fresh.attach(&network).await.ips[0];
        for taken in [attachment.ips[0], draining.ips[0], vanished.ips[0]] {
            assert_ne!(address, taken);
        }
        let listener = kept.listen();
        let (repeated, _) = fresh.inside(|| converse(&listener, attachment.ips[0].addr()));
        assert_eq!(repeated, 0);
        network.check(&kept.id).await.expect("stands");
        network
            .detach(&kept.id, None)
            .await
            .expect("detaches by the record");
        assert!(matches!(
            network.check(&kept.id).await,
            Err(Error::NotAttached { .. })
        ));
        assert_eq!(
            network
                .gc(std::slice::from_ref(&fresh.id))
                .await
                .expect("collects"),
            std::slice::from_ref(&unmade.id)
        );
    });
}

#[test]
fn shutdown_leaves_the_host_as_it_was_unless_pods_are_attached() {
    on_a_host(|| async {
        let place = Place::new();
        assert_eq!(
            sysctl("net/ipv4/ip_forward"),
            "0",
            "the test's host starts without"
        );
        let network = place.network(&[SUBNET]).await;
        let pod = Pod::new(1);
        let _attachment = pod.attach(&network).await;
        assert!(!network.shutdown().await.expect("answers"), "a pod is attached");
        assert!(has_link("crisp0"));
        drop(network);

        let network = place.network(&[SUBNET]).await;
        network.detach(&pod.id, None).await.expect("detaches");
        drop(pod);
        assert!(network.shutdown().await.expect("shuts down"));
        assert!(!has_link("crisp0") && !has_link("crisp0-hold") && !has_link("crisp0-peer"));
        assert_eq!(sysctl("net/ipv4/ip_forward"), "0");
        if let Some(tables) = tool("nft", &["list", "tables"]) {
            assert_eq!(tables.trim(), "");
        }
    });
}

#[test]
fn what_others_take_away_is_made_again() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let _ = network.status().await;
        let (Some(_), Some(_)) = (
            tool("ip", &["link", "delete", "crisp0"]),
            tool("nft", &["flush", "ruleset"]),
        ) else {
            return;
        };
        assert!(!has_link("crisp0"));
        assert_eq!(network.status().await.readiness, Readiness::Ready);
        let pod = Pod::new(1);
        let attachment = pod.attach(&network).await;
        let listener = pod.listen();
        converse(&listener, address(&attachment));
        assert!(
            tool("nft", &["list", "tables"])
                .expect("nft was there")
                .contains("crisp")
        );
    });
}

#[test]
fn a_subnet_that_the_host_uses_is_refused_with_the_link_named() {
    on_a_host(|| async {
        let place = Place::new();
        let Some(_) = tool(
            "ip",
            &["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"],
        ) else {
            return;
        };
        tool("ip", &["addr", "add", "10.209.7.1/24", "dev", "lan0"]);
        tool("ip", &["link", "set", "lan0", "up"]);
        let network = place.network(&[SUBNET]).await;
        let Readiness::NotReady { reason } = network.status().await.readiness else {
            panic!("must not be ready")
        };
        assert_eq!(
            reason,
            "subnet 10.209.0.0/16 is in use: the host reaches 10.209.7.0/24 by link lan0; choose another subnet"
        );
        let refused = network.attach(Pod::new(1).request()).await.expect_err("refused");
        assert!(matches!(refused, Error::SubnetTaken { .. }));
        assert!(!has_link("crisp0"), "nothing was made");
        // As soon as the obstacle is gone, the network serves.
        tool("ip", &["link", "delete", "lan0"]);
        assert_eq!(network.status().await.readiness, Readiness::Ready);
    });
}

#[test]
fn a_changed_pod_cidr_is_for_new_pods_and_outlives_a_restart() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let old = Pod::new(1);
        let before = old.attach(&network).await;
        assert!(
            network
                .set_pod_cidr(vec!["10.5.0.0/31".parse().expect("a subnet")])
                .await
                .is_err()
        );
        network
            .set_pod_cidr(vec!["10.5.0.0/24".parse().expect("a subnet")])
            .await
            .expect("changes");
        let new = Pod::new(2);
        let after = new.attach(&network).await;
        assert_eq!(after.ips[0].to_string(), "10.5.0.2/24");
        let listener = old.listen();
        new.inside(|| converse(&listener, address(&before)));
        drop(network);

        let network = place.network(&[SUBNET]).await;
        let third = Pod::new(3).attach(&network).await;
        assert_eq!(third.ips[0].to_string(), "10.5.0.3/24");
        converse(&listener, address(&before));
        let status = network.status().await;
        let Some(ActiveNetwork::Embedded { subnets, .. }) = status.active else {
            panic!("embedded serves")
        };
        assert_eq!(subnets[0].to_string(), "10.5.0.0/24");
        for pod in [&old, &new] {
            assert!(
                !network.shutdown().await.expect("answers"),
                "pods of either subnet are attached"
            );
            network.detach(&pod.id, None).await.expect("detaches");
        }
    });
}

#[test]
fn an_attach_repeated_after_a_kill_starts_afresh() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let cut_short = Pod::new(1);
        let _ = cut_short.attach(&network).await;
        // The same pod in a new namespace, while the first attempt's link still stands.
        let again = Pod::new(1);
        assert_eq!(again.id, cut_short.id);
        let attachment = again.attach(&network).await;
        let listener = again.listen();
        converse(&listener, address(&attachment));
        assert_eq!(place.records().len(), 1);
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&["10.209.0.0/30"]).await;
        let pod = Pod::new(1);
        let made = pod.inside(|| {
            tool(
                "ip",
                &["link", "add", "eth0", "type", "veth", "peer", "name", "other"],
            )
        });
        if made.is_none() {
            return;
        }
        let refused = network.attach(pod.request()).await.expect_err("eth0 exists");
        assert!(
            refused.to_string().contains("link eth0 exists and is not ours"),
            "{refused}"
        );
        assert_eq!(place.records(), [""; 0]);
        assert!(!has_link(&pod.id.host_link()));
        // The only address was given back.
        let _ = Pod::new(2).attach(&network).await;
    });
}

#[test]
fn requests_that_cannot_be_honoured_are_refused_by_field() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let pod = Pod::new(1);
        let mut request = pod.request();
        request.name = "a;K8S_POD_UID=0".into();
        let refused = network.attach(request).await.expect_err("refused");
        assert!(
            matches!(refused, Error::Request { field: "name", .. }),
            "{refused}"
        );
        let mut request = pod.request();
        request.netns.fd = std::fs::File::open("/proc/thread-self/ns/net")
            .expect("the host's")
            .into();
        let refused = network.attach(request).await.expect_err("refused");
        assert!(
            matches!(refused, Error::Request { field: "netns", .. }),
            "{refused}"
        );
        assert_eq!(place.records(), [""; 0]);
    });
}

#[test]
fn many_pods_at_once_get_distinct_addresses() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let pods: Vec<Pod> = (0..40).map(Pod::new).collect();
        let begun = Instant::now();
        let attaching: Vec<_> = pods
            .iter()
            .map(|pod| {
                let (network, request) = (network.clone(), pod.request());
                tokio::spawn(async move { network.attach(request).await.expect("attaches").ips[0] })
            })
            .collect();
        let mut addresses = std::collections::BTreeSet::new();
        for attached in attaching {
            addresses.insert(attached.await.expect("no panic"));
        }
        println!("40 pods attached in {:?}", begun.elapsed());
        assert_eq!(addresses.len(), 40);
        for pod in &pods {
            network.detach(&pod.id, None).await.expect("detaches");
        }
        assert_eq!(network.status().await.attachments, 0);
    });
}

#[test]
fn the_work_goes_on_when_the_caller_stops_waiting() {
    on_a_host(|| async {
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let pod = Pod::new(1);
        let abandoned = tokio::time::timeout(Duration::from_nanos(1), network.attach(pod.request())).await;
        // Whoever asks next waits for what is under way, then finds it whole or finds nothing.
        network.detach(&pod.id, None).await.expect("detaches");
        assert_eq!(place.records(), [""; 0]);
        drop(abandoned);
        let _ = pod.attach(&network).await;
        network.check(&pod.id).await.expect("stands");
    });
}
