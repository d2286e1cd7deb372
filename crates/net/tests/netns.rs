//! The network on a real kernel: namespaces, bridge, nftables, TCP and UDP. Needs root.

#![allow(missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use net::dns::{DnsServer, DnsService, DnsServiceKind, Upstreams, ZoneInput, Zones};
use net::{HostPort, Protocol, ServiceTable, TrafficPolicy};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_service_is_reached_from_pods_the_host_itself_and_outside() {
    on_a_host("reach", |world| async move {
        let network = world.open().await;
        let (client, client_ip) = pod(&network, "client", &[]).await;
        let (one, one_ip) = pod(&network, "one", &[]).await;
        let (two, two_ip) = pod(&network, "two", &[]).await;
        one.serve(8080, "one");
        two.serve(8081, "two");
        let both = vec![endpoint(one_ip, 8080), endpoint(two_ip, 8081)];
        network.set_services(table(service(Protocol::Tcp, Some(30080), both))).await.expect("applied");

        let answers: BTreeSet<String> = (0..40).map(|_| client.ask(VIP, 80).expect("answers")).collect();
        let expected = [format!("one {client_ip}"), format!("two {client_ip}")];
        assert_eq!(answers, BTreeSet::from(expected), "both endpoints take turns and see the pod's own address");
        ask(VIP, 80).expect("from the host by cluster address");
        ask(HOST, 30080).expect("from the host by node port");
        ask(LOCALHOST, 30080).expect("from the host by node port on loopback");
        client.ask(HOST, 30080).expect("from a pod by node port");
        let seen = world.outside.ask(HOST, 30080).expect("from outside by node port");
        assert!(seen.ends_with(&OUTSIDE.to_string()), "a local endpoint sees the client's address: {seen}");
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service_with_and_without_br_netfilter() {
    on_a_host("hairpin", |world| async move {
        let network = world.open().await;
        let (one, one_ip) = pod(&network, "one", &[]).await;
        let (other, _) = pod(&network, "other", &[]).await;
        one.serve(8080, "one");
        network
            .set_services(table(service(Protocol::Tcp, Some(30080), vec![endpoint(one_ip, 8080)])))
            .await
            .expect("applied");
        for value in ["0", "1"] {
            let key = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            if std::fs::write(key, value).is_err() {
                println!("skipped: no br_netfilter on this kernel");
            }
            for _ in 0..4 {
                one.ask(VIP, 80).expect("itself by cluster address");
                one.ask(HOST, 30080).expect("itself by node port");
                other.ask(VIP, 80).expect("the other by cluster address");
                other.ask(one_ip, 8080).expect("the other directly");
            }
        }
    });
}

#[test]
fn no_endpoint_is_a_refusal_at_once() {
    on_a_host("refuse", |world| async move {
        let network = world.open().await;
        let (client, _) = pod(&network, "client", &[]).await;
        network.set_services(table(service(Protocol::Tcp, Some(30080), vec![]))).await.expect("applied");
        let refused = |result: std::io::Result<String>, from: &str| {
            assert_eq!(result.expect_err("nobody there").kind(), ErrorKind::ConnectionRefused, "{from}");
        };
        refused(client.ask(VIP, 80), "pod");
        refused(client.ask(Ipv4Addr::new(10, 233, 64, 99), 80), "pod, address of no service");
        refused(ask(VIP, 80), "host");
        refused(world.outside.ask(HOST, 30080), "outside");
        // And it is reached as soon as there is an endpoint.
        let (one, one_ip) = pod(&network, "one", &[]).await;
        one.serve(8080, "one");
        network
            .set_services(table(service(Protocol::Tcp, Some(30080), vec![endpoint(one_ip, 8080)])))
            .await
            .expect("applied");
        client.ask(VIP, 80).expect("answers");
        world.outside.ask(HOST, 30080).expect("answers");
        network.set_services(ServiceTable::default()).await.expect("applied");
        refused(client.ask(VIP, 80), "pod, after removal");
    });
}

#[test]
fn a_client_with_affinity_stays_until_its_endpoint_leaves() {
    on_a_host("affinity", |world| async move {
        let network = world.open().await;
        let (client, _) = pod(&network, "client", &[]).await;
        let mut places = Vec::new();
        for tag in ["one", "two", "three"] {
            let (place, ip) = pod(&network, tag, &[]).await;
            place.serve(8080, tag);
            places.push((tag, place, ip));
        }
        let all = |skip: &str| {
            let endpoints = places.iter().filter(|p| p.0 != skip).map(|p| endpoint(p.2, 8080)).collect();
            let mut service = service(Protocol::Tcp, None, endpoints);
            service.session_affinity = Some(10_800);
            table(service)
        };
        let tag = |answer: String| answer.split(' ').next().expect("a tag").to_owned();
        network.set_services(all("")).await.expect("applied");
        let first = tag(client.ask(VIP, 80).expect("answers"));
        for _ in 0..20 {
            assert_eq!(tag(client.ask(VIP, 80).expect("answers")), first);
        }
        let other = places.iter().find(|p| p.0 != first).expect("another").0;
        network.set_services(all(other)).await.expect("another endpoint leaves");
        assert_eq!(tag(client.ask(VIP, 80).expect("answers")), first, "memory survives a change of the others");
        network.set_services(all(&first)).await.expect("its endpoint leaves");
        let second = tag(client.ask(VIP, 80).expect("answers"));
        assert_ne!(second, first);
        for _ in 0..10 {
            assert_eq!(tag(client.ask(VIP, 80).expect("answers")), second);
        }
    });
}

#[test]
fn pods_leave_with_the_hosts_address_and_meet_with_their_own() {
    on_a_host("masquerade", |world| async move {
        let network = world.open().await;
        let (a, a_ip) = pod(&network, "a", &[]).await;
        let (b, b_ip) = pod(&network, "b", &[]).await;
        b.serve(9000, "b");
        world.outside.serve(9001, "outside");
        serve(9002, "host");
        assert_eq!(a.ask(OUTSIDE, 9001).expect("outside"), format!("outside {HOST}"));
        assert_eq!(a.ask(b_ip, 9000).expect("pod to pod"), format!("b {a_ip}"));
        assert_eq!(a.ask(HOST, 9002).expect("pod to host"), format!("host {a_ip}"));
        ask(b_ip, 9000).expect("host to pod");
        let mtu = a.run(|| run("ip", &["-o", "link", "show", "eth0"]));
        assert!(mtu.contains("mtu 1400"), "the uplink's MTU: {mtu}");
    });
}

#[test]
fn host_ports_lead_to_their_pod_while_it_is_attached() {
    on_a_host("hostport", |world| async move {
        let network = world.open().await;
        let port = |protocol, host_ip, host_port| HostPort { protocol, host_ip, host_port, container_port: 8080 };
        let ports = [port(Protocol::Tcp, None, 8000), port(Protocol::Tcp, Some(LOCALHOST), 8001)];
        let (web, _) = pod(&network, "web", &ports).await;
        web.serve(8080, "web");
        world.outside.ask(HOST, 8000).expect("from outside");
        ask(LOCALHOST, 8000).expect("on loopback");
        ask(LOCALHOST, 8001).expect("bound to loopback");
        assert!(ask(HOST, 8001).is_err(), "not on the other addresses");
        web.ask(HOST, 8000).expect("itself");
        let taken = Place::new();
        let error = network.attach("other", &taken.path, &ports[..1]).await.expect_err("taken");
        assert_eq!(error.to_string(), "host port 8000/tcp is already taken by pod web");
        network.detach("web").await.expect("detached");
        assert_eq!(ask(LOCALHOST, 8000).expect_err("closed").kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_restart_changes_nothing_and_destroy_leaves_nothing() {
    on_a_host("restart", |world| async move {
        let network = world.open().await;
        let ports = [HostPort { protocol: Protocol::Tcp, host_ip: None, host_port: 8000, container_port: 8080 }];
        let (web, ip) = pod(&network, "web", &ports).await;
        let (client, _) = pod(&network, "client", &[]).await;
        web.serve(8080, "web");
        network.set_services(table(service(Protocol::Tcp, None, vec![endpoint(ip, 8080)]))).await.expect("applied");
        drop(network);

        client.ask(VIP, 80).expect("without a process");
        let network = world.open().await;
        client.ask(VIP, 80).expect("before the first table of the new process");
        ask(LOCALHOST, 8000).expect("host ports too");
        let again = network.attach("web", &web.path, &ports).await.expect("attaches");
        assert_eq!(again.ip, ip);
        client.ask(VIP, 80).expect("after attaching again");

        // A pod whose namespace was made anew, as after a crash of its sandbox, gets its address in the new one.
        let anew = Place::new();
        assert_eq!(network.attach("web", &anew.path, &ports).await.expect("attaches").ip, ip);
        anew.serve(8080, "anew");
        assert!(client.ask(VIP, 80).expect("answers").starts_with("anew"));

        let gone = network.retain(&BTreeSet::from(["client".to_owned()])).await.expect("retained");
        assert_eq!(gone, ["web"]);
        assert_eq!(network.address("web"), None);
        assert!(!net::leftovers(&world.config).await.expect("listed").is_empty());
        network.destroy().await.expect("destroyed");
        assert_eq!(net::leftovers(&world.config).await.expect("listed"), Vec::<String>::new());
        net::destroy(&world.config).await.expect("twice is fine");
    });
}

#[test]
fn udp_flows_leave_an_endpoint_that_is_gone() {
    on_a_host("udp", |world| async move {
        let network = world.open().await;
        let (client, _) = pod(&network, "client", &[]).await;
        let (one, one_ip) = pod(&network, "one", &[]).await;
        let (two, two_ip) = pod(&network, "two", &[]).await;
        one.run(|| serve_udp(5353, "one"));
        two.run(|| serve_udp(5353, "two"));
        let to = |ip| table(service(Protocol::Udp, None, vec![endpoint(ip, 5353)]));
        network.set_services(to(one_ip)).await.expect("applied");
        let socket: UdpSocket = client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
            socket.connect((VIP, 80)).expect("connects");
            socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
            socket
        });
        let ask = || {
            socket.send(b"?").expect("sent");
            let mut buffer = [0; 16];
            let n = socket.recv(&mut buffer).expect("answers");
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        };
        assert_eq!(ask(), "one");
        network.set_services(to(two_ip)).await.expect("applied");
        assert_eq!(ask(), "two", "the same client socket");
    });
}

#[test]
fn a_connection_outlives_the_removal_of_its_endpoint() {
    on_a_host("drain", |world| async move {
        use std::io::{Read, Write};
        let network = world.open().await;
        let (client, _) = pod(&network, "client", &[]).await;
        let (one, one_ip) = pod(&network, "one", &[]).await;
        let listener = one.run(|| TcpListener::bind("0.0.0.0:8080").expect("binds"));
        network.set_services(table(service(Protocol::Tcp, None, vec![endpoint(one_ip, 8080)]))).await.expect("applied");
        let mut near = client.run(|| std::net::TcpStream::connect((VIP, 80)).expect("connects"));
        let (mut far, _) = listener.accept().expect("accepts");
        network.set_services(table(service(Protocol::Tcp, None, vec![]))).await.expect("applied");
        near.write_all(b"ping").expect("sent");
        let mut buffer = [0; 4];
        far.read_exact(&mut buffer).expect("received");
        far.write_all(b"pong").expect("sent");
        near.read_exact(&mut buffer).expect("received");
        assert_eq!(&buffer, b"pong");
    });
}

#[test]
fn traffic_policies_keep_to_this_node() {
    on_a_host("policy", |world| async move {
        let network = world.open().await;
        let (client, _) = pod(&network, "client", &[]).await;
        let (one, one_ip) = pod(&network, "one", &[]).await;
        one.serve(8080, "near");
        world.outside.serve(8080, "far");
        let far = net::Endpoint { ip: OUTSIDE, port: 8080, local: false };
        let mut web = service(Protocol::Tcp, Some(30080), vec![endpoint(one_ip, 8080), far]);
        web.internal_traffic = TrafficPolicy::Local;
        web.external_traffic = TrafficPolicy::Local;
        network.set_services(table(web.clone())).await.expect("applied");
        for _ in 0..10 {
            assert!(client.ask(VIP, 80).expect("answers").starts_with("near"));
            assert_eq!(world.outside.ask(HOST, 30080).expect("answers"), format!("near {OUTSIDE}"));
        }
        web.ports[0].endpoints = vec![far];
        network.set_services(table(web.clone())).await.expect("applied");
        let error = client.ask(VIP, 80).expect_err("none here");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(client.ask(HOST, 30080).expect("pods are inside").starts_with("far"));
        web.internal_traffic = TrafficPolicy::Cluster;
        network.set_services(table(web)).await.expect("applied");
        assert_eq!(client.ask(VIP, 80).expect("answers"), format!("far {HOST}"));
        assert_eq!(ask(VIP, 80).expect("answers"), format!("far {HOST}"));
    });
}

#[test]
fn a_pod_cannot_reach_the_hosts_loopback_nor_the_outside_our_dns() {
    on_a_host("guard", |world| async move {
        let network = world.open().await;
        let (pod, _) = pod(&network, "evil", &[]).await;
        let listener = TcpListener::bind((LOCALHOST, 7000)).expect("binds");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let gateway = network.gateway().to_string();
        let reached = pod.run(move || {
            run("ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"]);
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").expect("set");
            run("ip", &["route", "add", "127.0.0.1/32", "via", &gateway, "dev", "eth0"]);
            ask(LOCALHOST, 7000)
        });
        assert_eq!(reached.expect_err("guarded").kind(), ErrorKind::TimedOut);

        let dns = world.config.dns_ip().expect("an address");
        let dns_listener = TcpListener::bind((dns, 53)).expect("the bridge has the address");
        std::thread::spawn(move || dns_listener.incoming().for_each(drop));
        let reached = world.outside.run(move || {
            run("ip", &["route", "add", "10.233.64.0/18", "via", "198.51.100.1"]);
            ask(dns, 53)
        });
        assert_eq!(reached.expect_err("guarded").kind(), ErrorKind::TimedOut);
        ask(dns, 53).expect("the host may");
    });
}

#[test]
fn pods_resolve_names_by_udp_and_tcp_at_the_cluster_dns_address() {
    on_a_host("dns", |world| async move {
        let network = world.open().await;
        let (client, _) = pod(&network, "client", &[]).await;
        let dns = world.config.dns_ip().expect("an address");
        let listen = [SocketAddr::new(dns.into(), 53), SocketAddr::new(network.gateway().into(), 53)];
        let server = Arc::new(DnsServer::bind(&listen, Upstreams::Fixed(vec![])).await.expect("binds"));
        let kind = DnsServiceKind::Cluster { ips: vec![VIP], ports: vec![] };
        server.set_zones(Zones::build(
            &ZoneInput {
                domain: "cluster.local".into(),
                service_cidr: world.config.service_cidr,
                pod_cidrs: vec![world.config.pod_cidr],
                services: vec![DnsService { namespace: "default".into(), name: "web".into(), kind }],
            },
            1,
        ));
        // A Service object for the DNS address, which nobody serves but this listener.
        let mut kube_dns = service(Protocol::Udp, None, vec![]);
        kube_dns.cluster_ips = vec![dns];
        kube_dns.ports[0].port = 53;
        network.set_services(table(kube_dns)).await.expect("applied");
        let drain = tokio_util::sync::CancellationToken::new();
        let (running, token) = (server.clone(), drain.clone());
        let serving = tokio::spawn(async move { running.serve(token).await });
        for address in listen {
            for tcp in [false, true] {
                let question = move || lookup(address, tcp);
                let (tell, told) = tokio::sync::oneshot::channel();
                let path = client.path.clone();
                std::thread::spawn(move || {
                    nix::sched::setns(std::fs::File::open(path).expect("opens"), nix::sched::CloneFlags::CLONE_NEWNET)
                        .expect("enters");
                    let _ = tell.send(question());
                });
                let answer = told.await.expect("answered");
                assert!(answer.ends_with(&VIP.octets()), "{address} tcp={tcp}: {answer:?}");
            }
        }
        assert_eq!(server.stats().queries, 4);
        drain.cancel();
        serving.await.expect("drained");
    });
}

/// `web.default.svc.cluster.local A?` by hand: the answer's last four bytes are the address.
fn lookup(server: SocketAddr, tcp: bool) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["web", "default", "svc", "cluster", "local", ""] {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 1, 0, 1]);
    let mut buffer = vec![0; 512];
    let n = if tcp {
        let mut stream = std::net::TcpStream::connect(server).expect("connects");
        stream.write_all(&(query.len() as u16).to_be_bytes()).expect("sent");
        stream.write_all(&query).expect("sent");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("received");
        let length = usize::from(u16::from_be_bytes(length));
        stream.read_exact(&mut buffer[..length]).expect("received");
        length
    } else {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        socket.send_to(&query, server).expect("sent");
        let (n, from) = socket.recv_from(&mut buffer).expect("received");
        assert_eq!(from, server);
        n
    };
    buffer.truncate(n);
    buffer
}

#[test]
fn many_pods_one_by_one_and_at_once_get_their_own_address() {
    on_a_host("many", |world| async move {
        let network = world.open().await;
        let places: Vec<Place> = (0..40).map(|_| Place::new()).collect();
        for (i, place) in places.iter().take(20).enumerate() {
            network.attach(&format!("pod-{i}"), &place.path, &[]).await.expect("attaches");
        }
        let rest = places.iter().enumerate().skip(20).map(|(i, place)| {
            let network = network.clone();
            async move { network.attach(&format!("pod-{i}"), &place.path, &[]).await.expect("attaches").ip }
        });
        let ips: BTreeSet<Ipv4Addr> = futures::future::join_all(rest).await.into_iter().collect();
        assert_eq!(ips.len(), 20);
        network.retain(&BTreeSet::new()).await.expect("freed");
        network.destroy().await.expect("destroyed");
    });
}

/// A bridge that gets its first port, or a port again, must not swallow what comes right then.
#[test]
fn the_first_packet_of_a_pod_is_answered() {
    on_a_host("first", |world| async move {
        let network = world.open().await;
        serve_udp(5353, "pong");
        for round in 0..6 {
            let id = format!("pod-{round}");
            let (place, _) = pod(&network, &id, &[]).await;
            let gateway = network.gateway();
            let answer = place.run(move || {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
                socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
                socket.send_to(b"ping", (gateway, 5353)).expect("sent");
                let mut buffer = [0; 8];
                socket.recv(&mut buffer).map(|n| buffer[..n].to_vec())
            });
            assert_eq!(answer.expect("one packet is enough"), b"pong", "round {round}");
            network.detach(&id).await.expect("detached");
        }
    });
}
