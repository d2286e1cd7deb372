//! From the further bridges to what passes between them. Members of one reach each other and the world; two bridges, and a bridge
//! and the pods, reach each other only by ports that are published.

use super::ruleset::Ruleset;
use crate::{BridgeSpec, NetworkConfig};

/// The chains that the fixed part jumps to: always there, also empty.
const CHAINS: [&str; 3] = ["nets_guard", "nets_forward", "nets_out"];

/// Adds the rules of these bridges.
pub(crate) fn add<'a>(rules: &mut Ruleset, config: &NetworkConfig, bridges: impl IntoIterator<Item = &'a BridgeSpec>) {
    let (mut guard, mut forward, mut out) = (Vec::new(), Vec::new(), Vec::new());
    // What is on an interface of the host is its neighbours' business.
    for bridge in bridges.into_iter().filter(|b| b.parent.is_none()) {
        let name = config.bridge_name(&bridge.key);
        // As for pods: listeners on the host's loopback are the host's alone.
        guard.push(format!("iifname \"{name}\" ip daddr 127.0.0.0/8 drop"));
        forwarded(&mut forward, &name, bridge, config);
        if bridge.internal {
            continue;
        }
        let subnet = bridge.subnet.0;
        out.push(format!("oifname \"{name}\" ip saddr 127.0.0.0/8 masquerade"));
        // To a neighbour by a published port: its answer has to come back through the host.
        out.push(format!("oifname \"{name}\" ip saddr {subnet} ct status dnat masquerade"));
        if bridge.masquerade {
            out.push(format!("oifname != {{ \"lo\", \"{name}\" }} ip saddr {subnet} masquerade"));
        }
    }
    for (chain, lines) in CHAINS.into_iter().zip([guard, forward, out]) {
        rules.chains.insert(chain.to_owned(), lines);
    }
}

fn forwarded(lines: &mut Vec<String>, name: &str, bridge: &BridgeSpec, config: &NetworkConfig) {
    lines.push(format!("iifname \"{name}\" oifname \"{name}\" return"));
    if bridge.internal {
        lines.push(format!("iifname \"{name}\" drop"));
        lines.push(format!("oifname \"{name}\" drop"));
        return;
    }
    // The cluster's Services are for pods.
    lines.push(format!("iifname \"{name}\" ct original ip daddr {} goto refuse", config.service_cidr));
    for way in [format!("oifname \"{name}\""), format!("iifname \"{name}\" oifname \"{}\"", config.bridge)] {
        lines.push(format!("{way} ct state established,related return"));
        lines.push(format!("{way} ct status dnat return"));
        lines.push(format!("{way} drop"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(key: &str, subnet: &str, internal: bool) -> BridgeSpec {
        let subnet = subnet.to_owned().try_into().expect("a range");
        let gateway = "172.18.0.1".parse().expect("an address");
        BridgeSpec { key: key.into(), subnet, gateway, internal, masquerade: true, mtu: None, parent: None }
    }

    #[test]
    fn bridges_are_apart_and_an_internal_one_has_no_way_out() {
        let config = NetworkConfig::of(&base::instance::Instance::new("default").expect("a name"));
        let mut rules = Ruleset::default();
        add(&mut rules, &config, []);
        assert_eq!(rules.chains.len(), 3, "the chains are there without a bridge too");
        add(
            &mut rules,
            &config,
            [&bridge("0000000a", "172.18.0.0/16", false), &bridge("0000000b", "172.19.0.0/16", true)],
        );
        expect_test::expect![[r#"
            iifname "wlb0000000a" oifname "wlb0000000a" return
            iifname "wlb0000000a" ct original ip daddr 10.96.0.0/16 goto refuse
            oifname "wlb0000000a" ct state established,related return
            oifname "wlb0000000a" ct status dnat return
            oifname "wlb0000000a" drop
            iifname "wlb0000000a" oifname "wl0" ct state established,related return
            iifname "wlb0000000a" oifname "wl0" ct status dnat return
            iifname "wlb0000000a" oifname "wl0" drop
            iifname "wlb0000000b" oifname "wlb0000000b" return
            iifname "wlb0000000b" drop
            oifname "wlb0000000b" drop"#]]
        .assert_eq(&rules.chains["nets_forward"].join("\n"));
        assert!(rules.chains["nets_out"].iter().all(|l| !l.contains("0000000b")));
    }
}
