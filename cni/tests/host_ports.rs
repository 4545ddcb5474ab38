//! Ports of the host that lead into pods of the embedded network.

mod harness;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use cni::{Attachment, Error, Network, PortMapping, Protocol};
use harness::{Place, Pod, address, converse_by, on_a_host, tool};

const SUBNET: &str = "10.209.0.0/16";
const HOST_PORT: u16 = 18_080;

fn mapping(host_port: u16, container_port: u16, host_ip: Option<&str>) -> PortMapping {
    PortMapping {
        host_port,
        container_port,
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(|ip| ip.parse().expect("an address")),
    }
}

async fn attach(network: &Network, pod: &Pod, ports: &[PortMapping]) -> Result<Attachment, Error> {
    let mut request = pod.request();
    request.settings.port_mappings = ports.to_vec();
    network.attach(request).await
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("an address").port()
}

fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

fn answers(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok()
}

/// A world outside: a namespace behind a veth with 192.0.2.1 (the host) and 192.0.2.2. None without `ip`.
fn world() -> Option<Pod> {
    let world = Pod::new(99);
    tool("ip", &["link", "set", "lo", "up"])?;
    tool(
        "ip",
        &["link", "add", "up0", "type", "veth", "peer", "name", "up1"],
    )?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&world.netns);
    let path = format!("/proc/{}/fd/{descriptor}", std::process::id());
    tool("ip", &["link", "set", "up1", "netns", &path]);
    tool("ip", &["addr", "add", "192.0.2.1/24", "dev", "up0"]);
    tool("ip", &["link", "set", "up0", "up"]);
    world.inside(|| {
        tool("ip", &["addr", "add", "192.0.2.2/24", "dev", "up1"]);
        tool("ip", &["link", "set", "up1", "up"]);
    });
    Some(world)
}

#[test]
fn a_host_port_is_reached_from_everywhere() {
    on_a_host(|| async {
        let Some(world) = world() else { return };
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let (server, neighbour) = (Pod::new(1), Pod::new(2));
        let listener = server.listen();
        let inside = attach(&network, &server, &[mapping(HOST_PORT, port_of(&listener), None)])
            .await
            .expect("attaches");
        let other = attach(&network, &neighbour, &[]).await.expect("attaches");
        let outside: IpAddr = "192.0.2.1".parse().expect("an address");
        let gateway = inside.gateways[0];

        let (_, seen) = world.inside(|| converse_by(&listener, at(outside, HOST_PORT)));
        assert_eq!(seen.to_string(), "192.0.2.2", "the client's own address arrives");
        let (_, seen) = converse_by(&listener, at([127, 0, 0, 1], HOST_PORT));
        assert_eq!(seen, gateway, "the host's loopback cannot be answered by a pod");
        converse_by(&listener, at(outside, HOST_PORT));
        // From pods the answer must come back by the host, so they are seen as the host.
        for pod in [&neighbour, &server] {
            let (_, seen) = pod.inside(|| converse_by(&listener, at(outside, HOST_PORT)));
            assert_eq!(seen, gateway);
            pod.inside(|| converse_by(&listener, at(gateway, HOST_PORT)));
        }

        // What the host only forwards is not its own: the same port of somebody else.
        let elsewhere = world.inside(|| TcpListener::bind(("0.0.0.0", HOST_PORT)).expect("listens"));
        neighbour.inside(|| converse_by(&elsewhere, at([192, 0, 2, 2], HOST_PORT)));
        // The pod's address has no such port.
        assert!(!neighbour.inside(|| answers(at(address(&inside), HOST_PORT))));
        assert_ne!(address(&other), address(&inside));
    });
}

#[test]
fn a_port_of_one_address_and_one_protocol_is_just_that() {
    on_a_host(|| async {
        let Some(world) = world() else { return };
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let pod = Pod::new(1);
        let listener = pod.listen();
        let udp = pod.inside(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
        let mut wanted = vec![mapping(HOST_PORT, port_of(&listener), Some("127.0.0.1"))];
        wanted.push(PortMapping {
            protocol: Protocol::Udp,
            container_port: udp.local_addr().expect("an address").port(),
            ..mapping(HOST_PORT, 1, Some("0.0.0.0"))
        });
        let _attached = attach(&network, &pod, &wanted).await.expect("attaches");
        converse_by(&listener, at([127, 0, 0, 1], HOST_PORT));
        let outside = at([192, 0, 2, 1], HOST_PORT);
        assert!(!world.inside(|| answers(outside)), "tcp is for the loopback only");
        let client = world.inside(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
        client.send_to(b"hello", outside).expect("sends");
        udp.set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
        let mut word = [0; 5];
        let (_, from) = udp.recv_from(&mut word).expect("receives");
        assert_eq!((&word, from.ip().to_string().as_str()), (b"hello", "192.0.2.2"));
    });
}

#[test]
fn a_port_is_free_when_its_pod_is_gone_also_after_a_restart() {
    on_a_host(|| async {
        if tool("ip", &["link", "set", "lo", "up"]).is_none() {
            return;
        }
        let place = Place::new();
        let network = place.network(&[SUBNET]).await;
        let (first, second, third) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let listener = first.listen();
        let wanted = [mapping(HOST_PORT, port_of(&listener), None)];
        let _first = attach(&network, &first, &wanted).await.expect("attaches");
        let refused = attach(&network, &second, &wanted).await.expect_err("taken");
        assert!(
            matches!(
                refused,
                Error::HostPortTaken {
                    port: HOST_PORT,
                    protocol: "tcp"
                }
            ),
            "{refused}"
        );
        assert_eq!(place.records().len(), 1, "nothing is left of the refused one");
        let twice = [mapping(18_081, 1, None), mapping(18_081, 2, None)];
        let refused = attach(&network, &second, &twice)
            .await
            .expect_err("taken by itself");
        assert!(refused.to_string().contains("18081"), "{refused}");

        // The next daemon knows whose it is, and that the port still leads there.
        drop(network);
        let network = place.network(&[SUBNET]).await;
        converse_by(&listener, at([127, 0, 0, 1], HOST_PORT));
        attach(&network, &second, &wanted).await.expect_err("still taken");
        network.detach(&first.id, None).await.expect("detaches");
        assert!(!answers(at([127, 0, 0, 1], HOST_PORT)), "it leads nowhere");
        let listener = third.listen();
        let wanted = [mapping(HOST_PORT, port_of(&listener), None)];
        let _third = attach(&network, &third, &wanted).await.expect("free again");
        converse_by(&listener, at([127, 0, 0, 1], HOST_PORT));
    });
}
