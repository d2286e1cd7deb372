use super::super::zones::{DnsService, DnsServiceKind, ZoneInput};
use super::*;
use hickory_proto::op::{Edns, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, RecordType};
use std::net::Ipv4Addr;

/// Nobody listens here. A port that was bound and let go may be given to another test of this process.
const CLOSED: &str = "127.0.0.253:9";

fn zones(last: u8) -> Zones {
    let kind = DnsServiceKind::Cluster { ips: vec![Ipv4Addr::new(10, 96, 0, last)], ports: vec![] };
    let endpoint =
        |n: u8| super::super::zones::DnsEndpoint { ip: Ipv4Addr::new(10, 244, 0, n), hostname: None, ports: vec![] };
    let many = DnsServiceKind::Headless { endpoints: (0..200).map(endpoint).collect() };
    let input = ZoneInput {
        domain: "cluster.local".into(),
        service_cidr: "10.96.0.0/16".parse().expect("a range"),
        pod_cidrs: vec![],
        services: vec![
            DnsService { namespace: "default".into(), name: "web".into(), kind },
            DnsService { namespace: "default".into(), name: "many".into(), kind: many },
        ],
    };
    Zones::build(&input, u32::from(last))
}

async fn start(upstreams: Vec<SocketAddr>) -> (Arc<DnsServer>, SocketAddr, CancellationToken) {
    let listen = ["127.0.0.1:0".parse().expect("an address")];
    let server = Arc::new(DnsServer::bind(&listen, Upstreams::Fixed(upstreams)).await.expect("binds"));
    server.set_zones(zones(7));
    let (drain, running) = (CancellationToken::new(), server.clone());
    let token = drain.clone();
    tokio::spawn(async move { running.serve(token).await });
    let address = server.addresses()[0];
    (server, address, drain)
}

fn query(name: &str, payload: Option<u16>) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

async fn udp(server: SocketAddr, query: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    socket.send_to(&query.to_vec().expect("encodes"), server).await.expect("sent");
    let mut buffer = [0; 4096];
    let n = timeout(Duration::from_secs(60), socket.recv(&mut buffer)).await.expect("in time").expect("received");
    let reply = Message::from_vec(&buffer[..n]).expect("decodes");
    assert_eq!(reply.metadata.id, query.metadata.id);
    reply
}

async fn tcp(server: SocketAddr, query: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.expect("connects");
    let bytes = query.to_vec().expect("encodes");
    stream.write_u16(bytes.len() as u16).await.expect("sent");
    stream.write_all(&bytes).await.expect("sent");
    let mut buffer = vec![0; usize::from(stream.read_u16().await.expect("received"))];
    stream.read_exact(&mut buffer).await.expect("received");
    Message::from_vec(&buffer).expect("decodes")
}

/// A resolver that knows one address for every name, and says by UDP that it is too long for names that begin with
/// `big`.
async fn resolver(seen: Arc<AtomicU64>) -> SocketAddr {
    let (socket, listener) = bind_pair("127.0.0.1:0".parse().expect("an address")).await.expect("binds");
    let address = socket.local_addr().expect("bound");
    let reply_to = move |bytes: &[u8], by_tcp: bool| {
        let request = Message::from_vec(bytes).expect("decodes");
        let mut reply = answer::reply_to(&request);
        let name = request.queries[0].name().clone();
        reply.metadata.truncation = !by_tcp && name.to_ascii().starts_with("big");
        reply.add_answer(Record::from_rdata(name, 20, RData::A(A::new(192, 0, 2, 99))));
        reply.to_vec().expect("encodes")
    };
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                Ok((n, from)) = socket.recv_from(&mut buffer) => {
                    seen.fetch_add(1, Ordering::SeqCst);
                    socket.send_to(&reply_to(&buffer[..n], false), from).await.expect("sent");
                }
                Ok((mut stream, _)) = listener.accept() => {
                    let mut query = vec![0; usize::from(stream.read_u16().await.expect("received"))];
                    stream.read_exact(&mut query).await.expect("received");
                    let reply = reply_to(&query, true);
                    stream.write_u16(reply.len() as u16).await.expect("sent");
                    stream.write_all(&reply).await.expect("sent");
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn cluster_names_are_answered_by_udp_and_tcp_and_swapped_at_once() {
    let (server, address, drain) = start(vec![]).await;
    let question = query("web.default.svc.cluster.local.", None);
    assert_eq!(answer::addresses(&udp(address, &question).await), [Ipv4Addr::new(10, 96, 0, 7)]);
    assert_eq!(answer::addresses(&tcp(address, &question).await), [Ipv4Addr::new(10, 96, 0, 7)]);
    server.set_zones(zones(8));
    assert_eq!(answer::addresses(&udp(address, &question).await), [Ipv4Addr::new(10, 96, 0, 8)]);
    assert_eq!(server.stats().queries, 3);
    drain.cancel();
}

#[tokio::test]
async fn what_does_not_fit_is_cut_by_udp_and_whole_by_tcp() {
    let (_server, address, drain) = start(vec![]).await;
    let plain = udp(address, &query("many.default.svc.cluster.local.", None)).await;
    assert!(plain.metadata.truncation && plain.edns.is_none());
    let edns = udp(address, &query("many.default.svc.cluster.local.", Some(4096))).await;
    assert!(edns.metadata.truncation && edns.edns.is_some(), "never more than {UDP_MAX} bytes by UDP");
    assert_eq!(tcp(address, &query("many.default.svc.cluster.local.", None)).await.answers.len(), 200);
    drain.cancel();
}

#[tokio::test]
async fn other_names_are_asked_once_and_kept() {
    let seen = Arc::new(AtomicU64::new(0));
    let upstream = resolver(seen.clone()).await;
    // The first resolver is a closed port: the next one is asked.
    let closed = CLOSED.parse().expect("an address");
    let (server, address, drain) = start(vec![closed, upstream]).await;
    for name in ["example.com.", "EXAMPLE.com.", "big.example.com."] {
        let reply = udp(address, &query(name, None)).await;
        assert_eq!(answer::addresses(&reply), [Ipv4Addr::new(192, 0, 2, 99)], "{name}");
        assert!(!reply.metadata.authoritative && !reply.metadata.truncation && reply.metadata.recursion_available);
    }
    assert_eq!(seen.load(Ordering::SeqCst), 2, "one question per name");
    assert_eq!(server.stats().forwarded, 3);
    drain.cancel();
}

#[tokio::test]
async fn without_a_resolver_the_answer_is_a_failure_not_silence() {
    let (server, address, drain) = start(vec![]).await;
    assert_eq!(udp(address, &query("example.com.", None)).await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.stats().failed, 1);
    drain.cancel();
}

#[tokio::test]
async fn rubbish_is_survived() {
    let (_server, address, drain) = start(vec![]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    for n in [0, 1, 11, 12, 40, 512] {
        socket.send_to(&vec![0xff; n], address).await.expect("sent");
    }
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(&[0, 3, 1, 2, 3]).await.expect("sent");
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "closed");
    assert_eq!(udp(address, &query("web.default.svc.cluster.local.", None)).await.answers.len(), 1);
    drain.cancel();
}
