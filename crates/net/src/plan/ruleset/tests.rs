use super::super::services::{Node, plan};
use super::*;
use crate::sys::nft;
use crate::{Endpoint, Protocol, ServiceEntry, ServicePort, ServiceTable, TrafficPolicy};
use expect_test::expect;
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn config() -> NetworkConfig {
    NetworkConfig::of(&base::instance::Instance::new("default").expect("a name"))
}

fn rules(table: &ServiceTable) -> Ruleset {
    plan(table, [], &Node { pod_cidr: config().pod_cidr, dns_ip: config().dns_ip() })
}

fn service(n: u8, endpoints: u8) -> ServiceEntry {
    ServiceEntry {
        namespace: "ns".into(),
        name: format!("s{n}"),
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 20 + n)],
        ports: vec![ServicePort {
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: (0..endpoints)
                .map(|e| Endpoint { ip: Ipv4Addr::new(10, 244, n, e), port: 8080, local: e % 2 == 0 })
                .collect(),
        }],
        ..ServiceEntry::default()
    }
}

#[test]
fn a_change_of_endpoints_touches_only_their_chain() {
    let before = rules(&ServiceTable { services: vec![service(0, 2), service(1, 2)] });
    let after = rules(&ServiceTable { services: vec![service(0, 2), service(1, 1)] });
    expect![[r#"
        flush chain ip windlass_default all/ns/s1/tcp/80
        add rule ip windlass_default all/ns/s1/tcp/80 meta l4proto tcp dnat ip to 10.244.1.0:8080
        delete element ip windlass_default hairpin { 10.244.1.1 . 10.244.1.1 }
    "#]]
    .assert_eq(&change(&config(), &before, &after).unwrap_or_default());
    assert_eq!(change(&config(), &after, &after), None);
}

#[test]
fn a_removed_service_leaves_no_chain() {
    let before = rules(&ServiceTable { services: vec![service(0, 1)] });
    expect![[r#"
        delete element ip windlass_default hairpin { 10.244.0.0 . 10.244.0.0 }
        delete element ip windlass_default vips { 10.96.0.20 . tcp . 80 : goto all/ns/s0/tcp/80 }
        flush chain ip windlass_default all/ns/s0/tcp/80
        delete chain ip windlass_default all/ns/s0/tcp/80
    "#]]
    .assert_eq(&change(&config(), &before, &Ruleset::default()).unwrap_or_default());
}

fn any_service() -> impl Strategy<Value = ServiceEntry> {
    (0u8..6, 0u8..4, prop::option::of(1u32..3), any::<(bool, bool, bool, bool)>()).prop_map(
        |(n, endpoints, affinity, (node_port, external, local_in, local_out))| {
            let mut s = service(n, endpoints);
            let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
            s.ports[0].node_port = node_port.then_some(30_000 + u16::from(n));
            s.external_ips = external.then_some(Ipv4Addr::new(192, 0, 2, n)).into_iter().collect();
            s.session_affinity = affinity;
            s.internal_traffic = policy(local_in);
            s.external_traffic = policy(local_out);
            s
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    /// Through any history, changes by difference are accepted by the kernel and end where a whole replacement would.
    #[test]
    fn differences_and_replacement_agree_in_the_kernel(
        history in prop::collection::vec(prop::collection::vec(any_service(), 0..6), 1..12)
    ) {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return Ok(());
        }
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let config = config();
            let mut current = Ruleset::default();
            nft::apply(&replace(&config, true, &current)).await.expect("the fixed part");
            for services in history {
                let next = rules(&ServiceTable { services });
                if let Some(text) = change(&config, &current, &next) {
                    nft::apply(&text).await.unwrap_or_else(|e| panic!("{e}\n{text}"));
                }
                current = next;
            }
            let by_difference = listing();
            nft::apply(&replace(&config, true, &current)).await.expect("the whole");
            assert_eq!(by_difference, listing());
            nft::apply(&remove(&config.nft_table)).await.expect("removed");
            assert_eq!(listing(), [""; 0]);
        });
    }
}

/// The ruleset in a stable order: chains and sets are listed as they were made.
fn listing() -> Vec<String> {
    let output = std::process::Command::new("nft").args(["list", "ruleset"]).output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    // Elements of one set are listed over several lines, in the order of the hash.
    let mut lines: Vec<String> = text
        .split(['\n', ','])
        .map(|l| l.trim().trim_start_matches("elements = { ").trim_end_matches(" }").to_owned())
        .collect();
    lines.retain(|l| !l.is_empty());
    lines.sort();
    lines
}
