//! The one nftables table of an instance: its fixed chains, the whole of it, or the way from one state to the next.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::services::Elements;
use crate::NetworkConfig;

/// On packets of a connection that came in by a node port or an external address and may go to another node: those are
/// masqueraded, so that the answer comes back this way. Docker and kube-proxy use other bits.
pub(crate) const EXTERNAL_MARK: u32 = 0x2000_0000;

/// Everything above the fixed chains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// Rules by chain.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Specification by set; what they hold is the kernel's.
    pub sets: BTreeMap<String, String>,
    /// Key and value of the elements by map or set of the fixed part.
    pub elements: Elements,
}

impl Ruleset {
    /// Adds an element; the first one wins, as two services may claim one external address.
    pub fn element(&mut self, container: &'static str, key: String, value: String) {
        self.elements.entry(container).or_default().entry(key).or_insert(value);
    }
}

/// A text that replaces whatever the table holds by this ruleset, at once.
pub(crate) fn replace(config: &NetworkConfig, dns: bool, rules: &Ruleset) -> String {
    let table = &config.nft_table;
    let mut text = format!("add table ip {table}\ndelete table ip {table}\n");
    text.push_str(&fixed(config, dns));
    let (empty, mut steps) = (Ruleset::default(), Steps::new(table));
    steps.between(&empty, rules);
    text.push_str(&steps.text);
    text
}

/// A text that leads from one ruleset to the next without touching what stays; `None` when nothing changes.
pub(crate) fn change(config: &NetworkConfig, from: &Ruleset, to: &Ruleset) -> Option<String> {
    let mut steps = Steps::new(&config.nft_table);
    steps.between(from, to);
    (!steps.text.is_empty()).then_some(steps.text)
}

/// A text that removes the table, whether or not it is there.
pub(crate) fn remove(table: &str) -> String {
    format!("add table ip {table}\ndelete table ip {table}\n")
}

struct Steps<'a> {
    table: &'a str,
    text: String,
}

impl<'a> Steps<'a> {
    fn new(table: &'a str) -> Self {
        Steps { table, text: String::new() }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{line}");
    }

    /// New names first, then rules that use them, then elements that lead to them, then what nothing leads to any more.
    fn between(&mut self, from: &Ruleset, to: &Ruleset) {
        let t = self.table;
        for (set, spec) in to.sets.iter().filter(|(set, _)| !from.sets.contains_key(*set)) {
            self.line(format_args!("add set ip {t} {set} {{ {spec} }}"));
        }
        for chain in to.chains.keys().filter(|chain| !from.chains.contains_key(*chain)) {
            self.line(format_args!("add chain ip {t} {chain}"));
        }
        for (chain, rules) in &to.chains {
            match from.chains.get(chain) {
                Some(old) if old == rules => continue,
                Some(_) => self.line(format_args!("flush chain ip {t} {chain}")),
                None => {}
            }
            for rule in rules {
                self.line(format_args!("add rule ip {t} {chain} {rule}"));
            }
        }
        self.elements(from, to);
        let gone: Vec<_> = from.chains.keys().filter(|chain| !to.chains.contains_key(*chain)).collect();
        for chain in &gone {
            self.line(format_args!("flush chain ip {t} {chain}"));
        }
        for chain in &gone {
            self.line(format_args!("delete chain ip {t} {chain}"));
        }
        for set in from.sets.keys().filter(|set| !to.sets.contains_key(*set)) {
            self.line(format_args!("delete set ip {t} {set}"));
        }
    }

    fn elements(&mut self, from: &Ruleset, to: &Ruleset) {
        let none = BTreeMap::new();
        let containers: std::collections::BTreeSet<_> = from.elements.keys().chain(to.elements.keys()).collect();
        for container in containers {
            let old = from.elements.get(container).unwrap_or(&none);
            let new = to.elements.get(container).unwrap_or(&none);
            let gone: Vec<_> = old.iter().filter(|(k, v)| new.get(*k) != Some(v)).collect();
            let come: Vec<_> = new.iter().filter(|(k, v)| old.get(*k) != Some(v)).collect();
            self.element_line("delete", container, &gone);
            self.element_line("add", container, &come);
        }
    }

    fn element_line(&mut self, verb: &str, container: &str, elements: &[(&String, &String)]) {
        if elements.is_empty() {
            return;
        }
        let list: Vec<String> = elements
            .iter()
            .map(|(key, value)| if value.is_empty() { (*key).clone() } else { format!("{key} : {value}") })
            .collect();
        let t = self.table;
        self.line(format_args!("{verb} element ip {t} {container} {{ {} }}", list.join(", ")));
    }
}

/// The part that depends on the configuration only.
// allow-long: one ruleset, to be read as one
fn fixed(config: &NetworkConfig, dns: bool) -> String {
    let (table, bridge, pods, services) = (&config.nft_table, &config.bridge, config.pod_cidr, config.service_cidr);
    let gateway = config.gateway();
    let keep: String = config.no_masquerade.iter().map(|c| format!(", {c}")).collect();
    let dns_addresses = match config.dns_ip().filter(|_| dns) {
        Some(ip) => format!("{gateway}, {ip}"),
        None => gateway.to_string(),
    };
    let mark = EXTERNAL_MARK;
    format!(
        r#"table ip {table} {{
  map vips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map nodeports {{ type inet_proto . inet_service : verdict; }}
  map hostips {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map hostports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  set dead_vips {{ type ipv4_addr . inet_proto . inet_service; }}
  set dead_nodeports {{ type inet_proto . inet_service; }}
  set hairpin {{ type ipv4_addr . ipv4_addr; }}

  chain services {{
    ip daddr . meta l4proto . th dport vmap @vips
    fib daddr type local meta l4proto . th dport vmap @nodeports
    fib daddr type local meta l4proto {{ tcp, udp, sctp }} dnat ip to ip daddr . meta l4proto . th dport map @hostips
    fib daddr type local meta l4proto {{ tcp, udp, sctp }} dnat ip to meta l4proto . th dport map @hostports
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain refuse_dead {{
    ip daddr . meta l4proto . th dport @dead_vips goto refuse
    fib daddr type local meta l4proto . th dport @dead_nodeports goto refuse
  }}

  # Of the further bridges; filled with their rules.
  chain nets_guard {{ }}
  chain nets_forward {{ }}
  chain nets_out {{ }}

  # Pods must not reach listeners on the host's loopback, which route_localnet (for node ports on 127.0.0.1) would allow,
  # nor speak with an address that is not a pod's.
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname "{bridge}" ip saddr != {{ {pods}, 0.0.0.0 }} drop
    jump nets_guard
  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    jump services
  }}
  chain output_nat {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname != {{ "lo", "{bridge}" }} ip daddr {{ {dns_addresses} }} meta l4proto {{ tcp, udp }} th dport 53 drop
    ct state new jump refuse_dead
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    jump nets_forward
    iifname "{bridge}" ct state invalid drop
    oifname "{bridge}" ct state invalid drop
    ip daddr {services} goto refuse
    ct state new jump refuse_dead
  }}
  chain output {{
    type filter hook output priority 0; policy accept;
    # A redirect would teach a pod to go past the host, which then sees one half of the connection.
    oifname "{bridge}" icmp type redirect drop
    oifname "{bridge}" ip daddr {services} goto refuse
    ct state new jump refuse_dead
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    jump nets_out
    oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade
    ip saddr . ip daddr @hairpin masquerade
    oifname != {{ "lo", "{bridge}" }} ip saddr {pods} ip daddr != {{ {pods}{keep} }} masquerade
    oifname != {{ "lo", "{bridge}" }} meta mark & {mark:#x} == {mark:#x} masquerade
  }}
}}
"#
    )
}

#[cfg(test)]
mod tests;
