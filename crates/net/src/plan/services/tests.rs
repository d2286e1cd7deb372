use super::super::ruleset::change;
use super::*;
use crate::{CidrText, HostPort, NetworkConfig};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn config() -> NetworkConfig {
    NetworkConfig::of(&base::instance::Instance::new("default").expect("a name"))
}

fn node() -> Node {
    Node { pod_cidr: config().pod_cidr, dns_ip: config().dns_ip() }
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn endpoint(address: &str, local: bool) -> Endpoint {
    Endpoint { ip: ip(address), port: 8080, local }
}

fn web(endpoints: Vec<Endpoint>) -> ServiceEntry {
    ServiceEntry {
        namespace: "shop".into(),
        name: "web".into(),
        cluster_ips: vec![ip("10.96.0.7")],
        ports: vec![ServicePort { protocol: Protocol::Tcp, port: 80, node_port: None, endpoints }],
        ..ServiceEntry::default()
    }
}

fn check(service: ServiceEntry, expected: Expect) {
    let rules = plan(&ServiceTable { services: vec![service] }, [], &node());
    expected.assert_eq(&change(&config(), &Ruleset::default(), &rules).unwrap_or_default());
}

#[test]
fn a_service_balances_over_its_endpoints() {
    check(
        web(vec![endpoint("10.244.0.9", true), endpoint("10.244.0.5", true)]),
        expect![[r#"
            add chain ip windlass_default all/shop/web/tcp/80
            add rule ip windlass_default all/shop/web/tcp/80 meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.5 . 8080, 1 : 10.244.0.9 . 8080 }
            add element ip windlass_default hairpin { 10.244.0.5 . 10.244.0.5, 10.244.0.9 . 10.244.0.9 }
            add element ip windlass_default vips { 10.96.0.7 . tcp . 80 : goto all/shop/web/tcp/80 }
        "#]],
    );
}

#[test]
fn a_service_without_endpoints_refuses_at_every_door() {
    let mut service = web(vec![]);
    service.ports[0].node_port = Some(30080);
    service.external_ips = vec![ip("192.0.2.7")];
    check(
        service,
        expect![[r#"
            add element ip windlass_default dead_nodeports { tcp . 30080 }
            add element ip windlass_default dead_vips { 10.96.0.7 . tcp . 80, 192.0.2.7 . tcp . 80 }
        "#]],
    );
    let mut balanced = web(vec![]);
    balanced.on_host = true;
    check(
        balanced,
        expect![[r#"
            add element ip windlass_default dead_nodeports { tcp . 80 }
            add element ip windlass_default dead_vips { 10.96.0.7 . tcp . 80 }
        "#]],
    );
    let mut dns = web(vec![]);
    dns.cluster_ips = vec![ip("10.96.0.10")];
    check(dns, expect![""]);
}

#[test]
fn local_policies_leave_the_cluster_inside_alone() {
    let mut service = web(vec![endpoint("10.244.0.5", true), endpoint("10.244.9.9", false)]);
    service.ports[0].node_port = Some(30080);
    service.external_ips = vec![ip("192.0.2.7")];
    service.external_traffic = TrafficPolicy::Local;
    service.source_ranges = vec![CidrText("198.51.100.0/24".parse().expect("a range"))];
    check(
        service,
        expect![[r#"
            add chain ip windlass_default all/shop/web/tcp/80
            add chain ip windlass_default ext/shop/web/tcp/80
            add chain ip windlass_default loc/shop/web/tcp/80
            add rule ip windlass_default all/shop/web/tcp/80 meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.5 . 8080, 1 : 10.244.9.9 . 8080 }
            add rule ip windlass_default ext/shop/web/tcp/80 th dport != 30080 ip saddr != { 198.51.100.0/24 } drop
            add rule ip windlass_default ext/shop/web/tcp/80 ip saddr 10.244.0.0/16 goto all/shop/web/tcp/80
            add rule ip windlass_default ext/shop/web/tcp/80 fib saddr type local meta mark set meta mark | 0x20000000 goto all/shop/web/tcp/80
            add rule ip windlass_default ext/shop/web/tcp/80 goto loc/shop/web/tcp/80
            add rule ip windlass_default loc/shop/web/tcp/80 meta l4proto tcp dnat ip to 10.244.0.5:8080
            add element ip windlass_default hairpin { 10.244.0.5 . 10.244.0.5, 10.244.9.9 . 10.244.9.9 }
            add element ip windlass_default nodeports { tcp . 30080 : goto ext/shop/web/tcp/80 }
            add element ip windlass_default vips { 10.96.0.7 . tcp . 80 : goto all/shop/web/tcp/80, 192.0.2.7 . tcp . 80 : goto ext/shop/web/tcp/80 }
        "#]],
    );
}

#[test]
fn affinity_keeps_a_set_of_clients_per_endpoint() {
    let mut service = web(vec![endpoint("10.244.0.5", true), endpoint("10.244.0.6", true)]);
    service.session_affinity = Some(60);
    check(
        service,
        expect![[r#"
            add set ip windlass_default aff/shop/web/tcp/80/10.244.0.5/8080/60 { type ipv4_addr; flags dynamic,timeout; timeout 60s; size 65536; }
            add set ip windlass_default aff/shop/web/tcp/80/10.244.0.6/8080/60 { type ipv4_addr; flags dynamic,timeout; timeout 60s; size 65536; }
            add chain ip windlass_default all/shop/web/tcp/80
            add chain ip windlass_default ep/shop/web/tcp/80/10.244.0.5/8080
            add chain ip windlass_default ep/shop/web/tcp/80/10.244.0.6/8080
            add rule ip windlass_default all/shop/web/tcp/80 ip saddr @aff/shop/web/tcp/80/10.244.0.5/8080/60 goto ep/shop/web/tcp/80/10.244.0.5/8080
            add rule ip windlass_default all/shop/web/tcp/80 ip saddr @aff/shop/web/tcp/80/10.244.0.6/8080/60 goto ep/shop/web/tcp/80/10.244.0.6/8080
            add rule ip windlass_default all/shop/web/tcp/80 numgen random mod 2 vmap { 0 : goto ep/shop/web/tcp/80/10.244.0.5/8080, 1 : goto ep/shop/web/tcp/80/10.244.0.6/8080 }
            add rule ip windlass_default ep/shop/web/tcp/80/10.244.0.5/8080 update @aff/shop/web/tcp/80/10.244.0.5/8080/60 { ip saddr }
            add rule ip windlass_default ep/shop/web/tcp/80/10.244.0.5/8080 meta l4proto tcp dnat ip to 10.244.0.5:8080
            add rule ip windlass_default ep/shop/web/tcp/80/10.244.0.6/8080 update @aff/shop/web/tcp/80/10.244.0.6/8080/60 { ip saddr }
            add rule ip windlass_default ep/shop/web/tcp/80/10.244.0.6/8080 meta l4proto tcp dnat ip to 10.244.0.6:8080
            add element ip windlass_default hairpin { 10.244.0.5 . 10.244.0.5, 10.244.0.6 . 10.244.0.6 }
            add element ip windlass_default vips { 10.96.0.7 . tcp . 80 : goto all/shop/web/tcp/80 }
        "#]],
    );
}

#[test]
fn host_ports_and_hostile_names_are_only_text() {
    let host_port = |host_ip| HostPort { protocol: Protocol::Udp, host_ip, host_port: 53, container_port: 5353 };
    let lease = Lease {
        pod: "p".into(),
        ip: ip("10.244.0.5"),
        host_ports: vec![host_port(None), host_port(Some(ip("192.0.2.7")))],
    };
    let rules = plan(&ServiceTable::default(), [&lease], &node());
    expect![[r#"
        add element ip windlass_default hairpin { 10.244.0.5 . 10.244.0.5 }
        add element ip windlass_default hostips { 192.0.2.7 . udp . 53 : 10.244.0.5 . 5353 }
        add element ip windlass_default hostports { udp . 53 : 10.244.0.5 . 5353 }
    "#]]
    .assert_eq(&change(&config(), &Ruleset::default(), &rules).unwrap_or_default());
    let mut evil = web(vec![endpoint("10.244.0.5", true)]);
    evil.name = "x }\nflush ruleset;\"".into();
    let rules = plan(&ServiceTable { services: vec![evil] }, [], &node());
    assert!(rules.chains.keys().eq(["all/shop/x___flush_ruleset__/tcp/80"]), "{:?}", rules.chains.keys());
}

proptest! {
    #[test]
    fn the_plan_does_not_depend_on_order(order in Just((0..12).collect::<Vec<usize>>()).prop_shuffle()) {
        let service = |i: usize| {
            let mut s = web(vec![endpoint(&format!("10.244.0.{}", 5 + i), i.is_multiple_of(2)), endpoint("10.244.0.99", true)]);
            s.name = format!("web-{i}");
            s.cluster_ips = vec![Ipv4Addr::new(10, 96, 1, i as u8)];
            s
        };
        let sorted = ServiceTable { services: (0..12).map(service).collect() };
        let mut mixed = ServiceTable { services: order.into_iter().map(service).collect() };
        mixed.services.iter_mut().for_each(|s| s.ports[0].endpoints.reverse());
        prop_assert_eq!(plan(&sorted, [], &node()), plan(&mixed, [], &node()));
    }
}
