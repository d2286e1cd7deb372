use super::super::zones::{DnsEndpoint, DnsPort, DnsService, DnsServiceKind, ZoneInput};
use super::*;
use crate::Protocol;

fn zones() -> Zones {
    let service = |name: &str, kind| DnsService { namespace: "shop".into(), name: name.into(), kind };
    let endpoint = |n| DnsEndpoint {
        ip: Ipv4Addr::new(10, 244, (n >> 8) as u8, n as u8),
        hostname: None,
        ports: vec![DnsPort { name: "pg".into(), protocol: Protocol::Tcp, port: 5432 }],
    };
    let input = ZoneInput {
        domain: "cluster.local".into(),
        service_cidr: "10.96.0.0/16".parse().expect("a range"),
        pod_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        services: vec![
            service("db", DnsServiceKind::Headless { endpoints: (2..4).map(endpoint).collect() }),
            service("many", DnsServiceKind::Headless { endpoints: (2..300).map(endpoint).collect() }),
            service("out", DnsServiceKind::External { name: "example.com".into() }),
            service("alias", DnsServiceKind::External { name: "db.shop.svc.cluster.local".into() }),
            service("loop", DnsServiceKind::External { name: "loop.shop.svc.cluster.local".into() }),
        ],
    };
    Zones::build(&input, 3)
}

fn request(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(99, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn done(name: &str, kind: RecordType) -> Message {
    match answer(&zones(), &request(name, kind)) {
        Answer::Done(reply) => *reply,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_missing_name_and_a_missing_type_differ_and_both_carry_the_soa() {
    let missing = done("nope.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    let no_data = done("DB.shop.svc.cluster.local.", RecordType::AAAA);
    assert_eq!(no_data.metadata.response_code, ResponseCode::NoError);
    assert!(no_data.answers.is_empty());
    for reply in [missing, no_data] {
        assert!(reply.metadata.authoritative);
        assert_eq!(reply.authorities.len(), 1);
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        assert_eq!(reply.authorities[0].ttl, TTL);
    }
}

#[test]
fn an_srv_answer_brings_the_addresses_of_its_targets() {
    let reply = done("_pg._tcp.db.shop.svc.cluster.local.", RecordType::SRV);
    assert_eq!(reply.answers.len(), 2);
    assert_eq!(reply.additionals.len(), 2);
    let RData::SRV(srv) = &reply.answers[0].data else { panic!("not SRV") };
    assert_eq!((srv.port, srv.weight), (5432, 50));
    assert_eq!(srv.target, reply.additionals[0].name);
}

#[test]
fn an_alias_is_followed_here_and_elsewhere() {
    let reply = done("alias.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(reply.answers[0].record_type(), RecordType::CNAME);
    assert_eq!(addresses(&reply).len(), 2);
    match answer(&zones(), &request("out.shop.svc.cluster.local.", RecordType::A)) {
        Answer::Ask { reply, name, .. } => {
            assert_eq!(key(&name), "example.com");
            assert_eq!(reply.answers.len(), 1);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(done("loop.shop.svc.cluster.local.", RecordType::A).metadata.response_code, ResponseCode::ServFail);
    assert_eq!(done("out.shop.svc.cluster.local.", RecordType::CNAME).answers.len(), 1);
}

#[test]
fn an_answer_too_big_for_a_datagram_asks_for_tcp() {
    let reply = done("many.shop.svc.cluster.local.", RecordType::A);
    let bytes = encode(&reply, 512).expect("encodes");
    let cut = Message::from_vec(&bytes).expect("decodes");
    assert!(cut.metadata.truncation && cut.answers.is_empty() && bytes.len() <= 512);
    let whole = Message::from_vec(&encode(&reply, 65535).expect("encodes")).expect("decodes");
    assert_eq!(whole.answers.len(), 298);
}

#[test]
fn addresses_take_turns() {
    let mut reply = done("db.shop.svc.cluster.local.", RecordType::A);
    let first = addresses(&reply);
    rotate(&mut reply, 1);
    assert_eq!(addresses(&reply), [first[1], first[0]]);
}

#[test]
fn what_is_not_a_question_is_refused_or_dropped() {
    let mut response = request("db.shop.svc.cluster.local.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert!(matches!(answer(&zones(), &response), Answer::Drop));
    let mut two = request("a.cluster.local.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    let Answer::Done(reply) = answer(&zones(), &two) else { panic!("not done") };
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(done("cluster.local.", RecordType::AXFR).metadata.response_code, ResponseCode::Refused);
    let mut update = request("a.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    let Answer::Done(reply) = answer(&zones(), &update) else { panic!("not done") };
    assert_eq!(reply.metadata.response_code, ResponseCode::NotImp);
}

#[test]
fn the_apex_has_soa_and_ns_and_the_version() {
    assert_eq!(done("cluster.local.", RecordType::SOA).answers.len(), 1);
    assert_eq!(done("cluster.local.", RecordType::NS).answers.len(), 1);
    assert_eq!(done("ns.dns.cluster.local.", RecordType::A).answers.len(), 1);
    assert_eq!(done("dns-version.cluster.local.", RecordType::TXT).answers.len(), 1);
}
