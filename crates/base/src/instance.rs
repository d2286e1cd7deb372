//! Which Windlass this is. Everything an instance makes on a host (folders, sockets, bridge, nft table, cgroup parent,
//! address ranges) is named here and nowhere else, so that several instances run side by side and can be removed
//! without touching each other.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Longest instance name: it must fit, with a suffix, where the kernel allows 63 bytes, and stay readable.
pub const NAME_MAX: usize = 32;

/// The name given when none is asked for.
pub const DEFAULT_NAME: &str = "default";

/// Why an instance name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InstanceNameError {
    /// Empty, too long, or a character outside `[a-z0-9-]`, or a dash at either end (RFC 1123 label).
    #[error(
        "instance name {0:?} must be 1 to 32 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    NotALabel(String),
}

/// An IPv4 range in prefix notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The first address.
    pub base: Ipv4Addr,
    /// The length of the prefix in bits, 0 to 32.
    pub prefix: u8,
}

impl Cidr {
    /// The `n`th address of the range, counted from its base, or `None` past its end.
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let size = 1u64 << (32 - u32::from(self.prefix));
        (u64::from(n) < size).then(|| Ipv4Addr::from(u32::from(self.base) + n))
    }

    /// Whether the address lies in the range.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        let mask = if self.prefix == 0 { 0 } else { u32::MAX << (32 - u32::from(self.prefix)) };
        u32::from(ip) & mask == u32::from(self.base) & mask
    }

    /// How many addresses the range holds, its first and last included.
    pub fn len(self) -> u64 {
        1u64 << (32 - u32::from(self.prefix))
    }

    /// A range is never empty; this exists for callers that ask.
    pub fn is_empty(self) -> bool {
        false
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || format!("{s:?} is not an IPv4 range such as 10.244.0.0/16");
        let (ip, prefix) = s.split_once('/').ok_or_else(bad)?;
        let base: Ipv4Addr = ip.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if prefix > 30 {
            return Err(bad());
        }
        let mask = if prefix == 0 { 0 } else { u32::MAX << (32 - u32::from(prefix)) };
        Ok(Cidr { base: Ipv4Addr::from(u32::from(base) & mask), prefix })
    }
}

/// One Windlass on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    name: String,
    data_dir: PathBuf,
    run_dir: PathBuf,
    ranges: Option<(Cidr, Cidr)>,
}

impl Instance {
    /// The instance of that name, with its data where it is by default: `/var/lib/windlass` and `/run/windlass` for
    /// `default`, `/var/lib/windlass-NAME` and `/run/windlass-NAME` for the others.
    pub fn new(name: &str) -> Result<Self, InstanceNameError> {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let label = !bytes.is_empty()
            && bytes.len() <= NAME_MAX
            && bytes.iter().all(|&b| ok(b) || b == b'-')
            && ok(bytes[0])
            && ok(bytes[bytes.len() - 1]);
        if !label {
            return Err(InstanceNameError::NotALabel(name.to_owned()));
        }
        let suffix = if name == DEFAULT_NAME { String::new() } else { format!("-{name}") };
        Ok(Instance {
            name: name.to_owned(),
            data_dir: PathBuf::from(format!("/var/lib/windlass{suffix}")),
            run_dir: PathBuf::from(format!("/run/windlass{suffix}")),
            ranges: None,
        })
    }

    /// The same instance with its data elsewhere.
    pub fn with_data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = dir.to_path_buf();
        self
    }

    /// The same instance with its pods and Services in other ranges.
    pub fn with_ranges(mut self, pods: Cidr, services: Cidr) -> Self {
        self.ranges = Some((pods, services));
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What must survive a reboot: store, keys, images, volumes, logs.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What must not survive a reboot: sockets, pinned namespaces, mounts, locks.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// `wl0` for the default instance, else `wl` and eight hex digits: an interface name has at most 15 bytes.
    pub fn bridge(&self) -> String {
        if self.name == DEFAULT_NAME { "wl0".into() } else { format!("wl{:08x}", self.hash() as u32) }
    }

    /// The start of the host-side veth names, at most 7 bytes, so that eight more fit.
    pub fn veth_prefix(&self) -> String {
        if self.name == DEFAULT_NAME { "wlv".into() } else { format!("w{:04x}v", self.hash() as u16) }
    }

    /// The start of the names of bridges beside the instance's own, for Docker's networks, at most 7 bytes; eight more follow.
    pub fn net_prefix(&self) -> String {
        self.own_prefix('b')
    }

    /// The start of the host-side names of veths on those bridges, at most 7 bytes; eight more follow.
    pub fn plug_prefix(&self) -> String {
        self.own_prefix('n')
    }

    /// [`Instance::veth_prefix`] with another letter at its end.
    fn own_prefix(&self, letter: char) -> String {
        let mut prefix = self.veth_prefix();
        prefix.pop();
        prefix.push(letter);
        prefix
    }

    /// The one nftables table of the instance (family `ip`).
    pub fn nft_table(&self) -> String {
        format!("windlass_{}", self.name.replace('-', "_"))
    }

    /// The cgroup below the root (of every v1 hierarchy, or the v2 tree) that holds all pods of the instance.
    pub fn cgroup_parent(&self) -> String {
        if self.name == DEFAULT_NAME { "windlass".into() } else { format!("windlass-{}", self.name) }
    }

    /// Addresses of pods: 10.244.0.0/16 by default, else a /21 of 10.128.0.0/9 picked by the name.
    pub fn pod_cidr(&self) -> Cidr {
        if let Some((pods, _)) = self.ranges {
            return pods;
        }
        if self.name == DEFAULT_NAME {
            return Cidr { base: Ipv4Addr::new(10, 244, 0, 0), prefix: 16 };
        }
        Cidr { base: Ipv4Addr::from(self.slot_base()), prefix: 21 }
    }

    /// Addresses of Services: 10.96.0.0/16 by default, else the /21 after the pods'.
    pub fn service_cidr(&self) -> Cidr {
        if let Some((_, services)) = self.ranges {
            return services;
        }
        if self.name == DEFAULT_NAME {
            return Cidr { base: Ipv4Addr::new(10, 96, 0, 0), prefix: 16 };
        }
        Cidr { base: Ipv4Addr::from(self.slot_base() + 2048), prefix: 21 }
    }

    /// 10.128.0.0/9 holds 2048 slots of 4096 addresses; the default instance's 10.244.0.0/16 is left out.
    fn slot_base(&self) -> u32 {
        let first = u32::from(Ipv4Addr::new(10, 128, 0, 0));
        let slots_below_default = (244 - 128) * 16;
        first + (self.hash() % slots_below_default) as u32 * 4096
    }

    /// FNV-1a, 64 bit: stable across releases, which `std`'s hasher does not promise.
    fn hash(&self) -> u64 {
        self.name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &"x".repeat(33)] {
            assert!(Instance::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(Instance::new("ci-7").is_ok());
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        let i = Instance::new(&"x".repeat(32)).expect("a label");
        assert!(i.bridge().len() <= 15);
        assert!([i.veth_prefix(), i.net_prefix(), i.plug_prefix()].iter().all(|p| p.len() <= 7));
    }

    #[test]
    fn ranges_of_an_instance_do_not_overlap() {
        for name in ["default", "a", "b", "test-1", "test-2"] {
            let i = Instance::new(name).expect("a label");
            let (p, s) = (i.pod_cidr(), i.service_cidr());
            assert!(!p.contains(s.base) && !s.contains(p.base), "{name}: {p} and {s}");
        }
    }
}
