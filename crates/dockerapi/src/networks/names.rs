//! What the members of a network are called there. Pure.

use std::net::Ipv4Addr;

use net::dns::Zones;

/// A running container in one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// The network.
    pub network: String,
    /// Its address there.
    pub ip: Ipv4Addr,
    /// What else it is called there.
    pub aliases: Vec<String>,
    /// What it alone calls others there: `container:name`.
    pub links: Vec<String>,
}

impl Member {
    /// All it is called in the network.
    pub fn names(&self) -> Vec<String> {
        let short: String = self.id.chars().take(12).collect();
        let mut names = vec![self.name.clone(), short, self.hostname.clone()];
        names.extend(self.aliases.iter().cloned());
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|n| !n.is_empty() && seen.insert(n.to_ascii_lowercase()));
        names
    }
}

/// The names that one container can resolve: those of the networks it is in.
pub fn seen_by(id: &str, members: &[Member]) -> Zones {
    let own: Vec<&Member> = members.iter().filter(|m| m.id == id).collect();
    let near: Vec<&Member> = members.iter().filter(|m| own.iter().any(|o| o.network == m.network)).collect();
    let (mut names, mut reverse) = (Vec::new(), Vec::new());
    for member in &near {
        for name in member.names() {
            names.push((format!("{name}.{}", member.network), member.ip));
            names.push((name, member.ip));
        }
        reverse.push((member.ip, format!("{}.{}", member.name, member.network)));
    }
    for (whom, called, network) in own.iter().flat_map(|o| {
        o.links.iter().map(|l| {
            let (whom, called) = l.split_once(':').unwrap_or((l, l));
            (whom.trim_start_matches('/'), called, &o.network)
        })
    }) {
        let linked = near.iter().filter(|m| m.network == *network);
        names.extend(
            linked
                .filter(|m| m.name == whom || (whom.len() >= 12 && m.id.starts_with(whom)))
                .map(|m| (called.to_owned(), m.ip)),
        );
    }
    Zones::flat(names, reverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, name: &str, network: &str, last: u8, aliases: &[&str], links: &[&str]) -> Member {
        let list = |l: &[&str]| l.iter().map(|a| (*a).to_owned()).collect();
        Member {
            id: id.repeat(32),
            name: name.into(),
            hostname: id.repeat(6),
            network: network.into(),
            ip: Ipv4Addr::new(172, 18, 0, last),
            aliases: list(aliases),
            links: list(links),
        }
    }

    #[test]
    fn names_are_seen_in_the_networks_that_are_shared_and_links_by_one_alone() {
        let members = [
            member("aa", "one", "front", 2, &["web", "WEB", "one"], &["two:db"]),
            member("bb", "two", "front", 3, &["web"], &[]),
            member("cc", "three", "back", 4, &["web"], &[]),
        ];
        assert_eq!(members[0].names(), ["one", "aaaaaaaaaaaa", "web"]);
        let known =
            |id: &str, name: &str| format!("{:?}", seen_by(&id.repeat(32), &members)).contains(&format!("\"{name}\""));
        for name in ["one", "web", "two.front", "bbbbbbbbbbbb", "db"] {
            assert!(known("aa", name), "{name}");
        }
        assert!(!known("aa", "three") && !known("bb", "db") && !known("cc", "one"));
    }
}
