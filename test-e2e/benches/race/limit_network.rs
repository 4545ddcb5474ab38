//! The bare link of a pod: one veth, its address, its default route.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

/// Makes `eth0` in the calling thread's network namespace, its peer named `link` in `host`'s; gives it an address and
/// a route.
pub(crate) fn wire(link: &str, host: BorrowedFd<'_>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        let served = tokio::spawn(connection);
        let wired = requests(&netlink, link, host).await.map_err(io::Error::other);
        served.abort();
        wired
    })
}

async fn requests(
    netlink: &rtnetlink::Handle,
    link: &str,
    host: BorrowedFd<'_>,
) -> Result<(), rtnetlink::Error> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(link.to_owned()),
        LinkAttribute::NetNsFd(host.as_raw_fd()),
    ];
    let veth = rtnetlink::LinkMessageBuilder::<LinkVeth>::new("eth0", link)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    netlink.link().add(veth).execute().await?;
    let mut found = netlink.link().get().match_name("eth0".to_owned()).execute();
    let index = found.try_next().await?.map_or(0, |link| link.header.index);
    let address = Ipv4Addr::new(10, 93, 0, 2);
    netlink.address().add(index, address.into(), 24).execute().await?;
    netlink
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await?;
    netlink
        .link()
        .set(LinkUnspec::new_with_index(1).up().build())
        .execute()
        .await?;
    // A link without carrier still takes the route: what counts is the request.
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .output_interface(index)
        .gateway(Ipv4Addr::new(10, 93, 0, 1))
        .build();
    netlink.route().add(route).execute().await
}
