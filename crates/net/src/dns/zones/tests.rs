use super::*;

fn port(name: &str, port: u16) -> DnsPort {
    DnsPort { name: name.into(), protocol: Protocol::Tcp, port }
}

fn zones() -> Zones {
    let service = |name: &str, kind| DnsService { namespace: "shop".into(), name: name.into(), kind };
    let input = ZoneInput {
        domain: "cluster.local.".into(),
        service_cidr: "10.96.0.0/16".parse().expect("a range"),
        pod_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        services: vec![
            service(
                "web",
                DnsServiceKind::Cluster {
                    ips: vec![Ipv4Addr::new(10, 96, 0, 7)],
                    ports: vec![port("http", 80), port("", 81)],
                },
            ),
            service(
                "db",
                DnsServiceKind::Headless {
                    endpoints: vec![
                        DnsEndpoint {
                            ip: Ipv4Addr::new(10, 244, 0, 5),
                            hostname: Some("db-0".into()),
                            ports: vec![port("pg", 5432)],
                        },
                        DnsEndpoint { ip: Ipv4Addr::new(10, 244, 0, 6), hostname: None, ports: vec![port("pg", 5432)] },
                    ],
                },
            ),
            service("empty", DnsServiceKind::Headless { endpoints: vec![] }),
            service("mail", DnsServiceKind::External { name: "Mail.Example.COM.".into() }),
        ],
    };
    Zones::build(&input, 7)
}

fn found(name: &str) -> Vec<Data> {
    match zones().lookup(name) {
        Lookup::Found(data, _) => data,
        other => panic!("{name}: {other:?}"),
    }
}

fn a(a: u8, b: u8, c: u8, d: u8) -> Data {
    Data::A(Ipv4Addr::new(a, b, c, d))
}

#[test]
fn a_service_resolves_to_its_cluster_address_and_named_ports() {
    let web = "web.shop.svc.cluster.local";
    assert_eq!(found(web), [a(10, 96, 0, 7)]);
    assert_eq!(found(&format!("_http._tcp.{web}")), [Data::Srv { port: 80, target: web.into() }]);
    assert_eq!(zones().lookup(&format!("_._tcp.{web}")), Lookup::Missing("cluster.local".into()));
    assert_eq!(found("7.0.96.10.in-addr.arpa"), [Data::Ptr(web.into())]);
}

#[test]
fn a_headless_service_resolves_to_its_endpoints() {
    let db = "db.shop.svc.cluster.local";
    assert_eq!(found(db), [a(10, 244, 0, 5), a(10, 244, 0, 6)]);
    assert_eq!(found(&format!("db-0.{db}")), [a(10, 244, 0, 5)]);
    assert_eq!(found(&format!("10-244-0-6.{db}")), [a(10, 244, 0, 6)]);
    let srv = |target: &str| Data::Srv { port: 5432, target: format!("{target}.{db}") };
    assert_eq!(found(&format!("_pg._tcp.{db}")), [srv("10-244-0-6"), srv("db-0")]);
    assert_eq!(found("5.0.244.10.in-addr.arpa"), [Data::Ptr(format!("db-0.{db}"))]);
}

#[test]
fn names_between_exist_and_others_do_not() {
    for name in [
        "svc.cluster.local",
        "shop.svc.cluster.local",
        "_tcp.web.shop.svc.cluster.local",
        "empty.shop.svc.cluster.local",
        "shop.pod.cluster.local",
    ] {
        assert_eq!(found(name), [], "{name}");
    }
    for name in
        ["nope.svc.cluster.local", "nope.shop.svc.cluster.local", "x.cluster.local", "10-244-0-9.a.b.pod.cluster.local"]
    {
        assert_eq!(zones().lookup(name), Lookup::Missing("cluster.local".into()), "{name}");
    }
    assert_eq!(zones().lookup("9.9.244.10.in-addr.arpa"), Lookup::Missing("in-addr.arpa".into()));
    for name in ["example.com", "notcluster.local", "local", "1.1.1.1.in-addr.arpa", "0.96.10.in-addr.arpa"] {
        assert_eq!(zones().lookup(name), Lookup::NotOurs, "{name}");
    }
}

#[test]
fn pods_have_a_name_made_of_their_address() {
    assert_eq!(found("10-244-3-4.any.pod.cluster.local"), [a(10, 244, 3, 4)]);
    assert_eq!(zones().lookup("8-8-8-8.any.pod.cluster.local"), Lookup::Missing("cluster.local".into()));
}

#[test]
fn an_external_name_is_an_alias() {
    assert_eq!(found("mail.shop.svc.cluster.local"), [Data::Cname("mail.example.com".into())]);
}
