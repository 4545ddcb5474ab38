//! A cable between two hosts: a veth pair, so that a test has an outside world to talk to.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use nix::unistd::Pid;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::host::Host;

/// The name of the cable's end on either host.
pub const LINK: &str = "uplink";

/// Connects `inside` (192.0.2.1) with `outside` (192.0.2.2); whatever `inside` does not know goes to
/// `outside`, which has no way back but to 192.0.2.0/24.
///
/// # Panics
/// When the kernel refuses.
pub async fn connect(inside: &Host, outside: &Host) {
    let peer = outside.tid();
    inside
        .run(async move {
            let netlink = netlink();
            let pair = LinkVeth::new(LINK, "uplink-peer").build();
            netlink.link().add(pair).execute().await.expect("a veth pair");
            let moved = LinkUnspec::new_with_index(index(&netlink, "uplink-peer").await)
                .name(LINK.to_owned())
                .setns_by_pid(u32::try_from(Pid::as_raw(peer)).expect("a tid is positive"))
                .build();
            netlink
                .link()
                .set(moved)
                .execute()
                .await
                .expect("the other end goes to the other host");
            address(&netlink, Ipv4Addr::new(192, 0, 2, 1)).await;
            let default = RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(Ipv4Addr::new(192, 0, 2, 2))
                .build();
            netlink
                .route()
                .add(default)
                .execute()
                .await
                .expect("a default route");
        })
        .await;
    outside
        .run(async { address(&netlink(), Ipv4Addr::new(192, 0, 2, 2)).await })
        .await;
}

fn netlink() -> Handle {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    handle
}

async fn index(netlink: &Handle, name: &str) -> u32 {
    let found = netlink
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await;
    found
        .expect("asking for a link")
        .expect("a link just made")
        .header
        .index
}

async fn address(netlink: &Handle, address: Ipv4Addr) {
    let index = index(netlink, LINK).await;
    netlink
        .address()
        .add(index, IpAddr::V4(address), 24)
        .execute()
        .await
        .expect("an address");
    netlink
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .expect("up");
}

/// Removes the cable from a host that [`connect`] was called for.
///
/// # Panics
/// When there is none.
pub async fn cut(host: &Host) {
    host.run(async {
        let netlink = netlink();
        let index = index(&netlink, LINK).await;
        netlink
            .link()
            .del(index)
            .execute()
            .await
            .expect("removing the veth pair");
    })
    .await;
}
