use super::*;
use crate::Protocol;
use proptest::prelude::*;

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a range")
}

#[test]
fn a_pod_keeps_its_address_over_restarts() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut ipam = Ipam::open(cidr("10.1.0.0/24"), dir.path()).expect("opens");
    let first = ipam.acquire("a", &[]).expect("an address");
    assert_eq!(ipam.acquire("a", &[]).expect("the same").ip, first.ip);
    let mut again = Ipam::open(cidr("10.1.0.0/24"), dir.path()).expect("opens");
    assert_eq!(again.acquire("a", &[]).expect("the same").ip, first.ip);
}

#[test]
fn a_freed_address_rests_while_others_are_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut ipam = Ipam::open(cidr("10.1.0.0/29"), dir.path()).expect("opens");
    let first = ipam.acquire("a", &[]).expect("an address").ip;
    ipam.release("a").expect("released");
    let mut ipam = Ipam::open(cidr("10.1.0.0/29"), dir.path()).expect("opens");
    let next: Vec<_> = (0..4).map(|i| ipam.acquire(&format!("b{i}"), &[]).expect("an address").ip).collect();
    assert!(!next.contains(&first), "{first} was handed out again before the range went round");
    assert_eq!(ipam.acquire("c", &[]).expect("the last one").ip, first);
}

#[test]
fn an_empty_range_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut ipam = Ipam::open(cidr("10.1.0.0/30"), dir.path()).expect("opens");
    ipam.acquire("a", &[]).expect("the one address");
    let error = ipam.acquire("b", &[]).expect_err("full");
    assert_eq!(error.to_string(), "no free pod address: all 1 addresses of 10.1.0.0/30 are taken");
}

#[test]
fn a_torn_file_is_a_free_address() {
    let dir = tempfile::tempdir().expect("a folder");
    Ipam::open(cidr("10.1.0.0/30"), dir.path()).expect("opens");
    fs::write(dir.path().join("addresses/10.1.0.2"), b"").expect("written");
    let mut ipam = Ipam::open(cidr("10.1.0.0/30"), dir.path()).expect("opens");
    assert_eq!(ipam.acquire("a", &[]).expect("an address").ip, Ipv4Addr::new(10, 1, 0, 2));
}

#[test]
fn two_processes_never_share_an_address() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut one = Ipam::open(cidr("10.1.0.0/24"), dir.path()).expect("opens");
    let mut two = Ipam::open(cidr("10.1.0.0/24"), dir.path()).expect("opens");
    let a = one.acquire("a", &[]).expect("an address").ip;
    assert_ne!(two.acquire("b", &[]).expect("an address").ip, a);
}

#[test]
fn one_host_port_has_one_pod() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut ipam = Ipam::open(cidr("10.1.0.0/24"), dir.path()).expect("opens");
    let port =
        |ip: Option<Ipv4Addr>| HostPort { protocol: Protocol::Tcp, host_ip: ip, host_port: 80, container_port: 8 };
    ipam.acquire("a", &[port(Some(Ipv4Addr::LOCALHOST))]).expect("free");
    assert!(matches!(ipam.acquire("b", &[port(None)]), Err(NetError::HostPortTaken { .. })));
    ipam.acquire("b", &[port(Some(Ipv4Addr::new(192, 0, 2, 1)))]).expect("another address");
    ipam.release("a").expect("released");
    ipam.acquire("c", &[port(Some(Ipv4Addr::LOCALHOST))]).expect("free again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_address_is_held_twice(steps in prop::collection::vec((0u8..3, 0u8..20), 1..80)) {
        let dir = tempfile::tempdir().expect("a folder");
        let range = cidr("10.9.0.0/28");
        let mut ipam = Ipam::open(range, dir.path()).expect("opens");
        let mut held: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
        for (what, pod) in steps {
            let pod = format!("p{pod}");
            match what {
                0 => match ipam.acquire(&pod, &[]) {
                    Ok(lease) => {
                        prop_assert!(ipam.is_pod_address(lease.ip));
                        prop_assert_eq!(held.get(&pod).copied().unwrap_or(lease.ip), lease.ip);
                        held.insert(pod.clone(), lease.ip);
                    }
                    Err(e) => { let full = matches!(e, NetError::Exhausted { .. }); prop_assert!(full); prop_assert_eq!(held.len(), 13); }
                },
                1 => { ipam.release(&pod).expect("released"); held.remove(&pod); }
                _ => ipam = Ipam::open(range, dir.path()).expect("opens"),
            }
            let unique: BTreeSet<_> = held.values().collect();
            prop_assert_eq!(unique.len(), held.len());
            prop_assert_eq!(ipam.leases().count(), held.len());
        }
    }
}
