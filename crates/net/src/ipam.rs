//! Addresses of pods: one file per address, named by it, holding who has it.
//!
//! A file appears by hard link, which fails when it is already there: two processes can never hand out one address, and
//! a crash leaves either a whole file or none. Nothing is fsynced: after a power cut no pod runs any more, so a lost or
//! empty file costs nothing. Addresses are given round-robin, so that a freed one rests while others are left; peers
//! with stale connections to the old pod do not reach the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use base::instance::Cidr;
use serde::{Deserialize, Serialize};

use crate::{HostPort, NetError};

/// Base, gateway: not for pods. The last address is the broadcast of the range.
const FIRST_POD: u32 = 2;

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The pod, as its runtime names it.
    pub pod: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Ports of the host that lead to it.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

/// All addresses of one node.
#[derive(Debug)]
pub(crate) struct Ipam {
    cidr: Cidr,
    dir: PathBuf,
    cursor_file: PathBuf,
    leases: BTreeMap<Ipv4Addr, Lease>,
    by_pod: BTreeMap<String, Ipv4Addr>,
    cursor: u32,
}

impl Ipam {
    /// Reads what is there. Files that do not parse, or lie outside the range, are removed: no pod can be using them.
    pub fn open(cidr: Cidr, state_dir: &Path) -> Result<Self, NetError> {
        if cidr.len() < 4 {
            return Err(NetError::RangeTooSmall(cidr));
        }
        let dir = state_dir.join("addresses");
        fs::create_dir_all(&dir).map_err(|source| NetError::State { path: dir.clone(), source })?;
        let cursor_file = state_dir.join("cursor");
        let cursor = fs::read_to_string(&cursor_file).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(FIRST_POD);
        let mut ipam = Ipam { cidr, dir, cursor_file, leases: BTreeMap::new(), by_pod: BTreeMap::new(), cursor };
        let entries = fs::read_dir(&ipam.dir).map_err(|source| ipam.state_error(&ipam.dir, source))?;
        for entry in entries {
            let path = entry.map_err(|source| ipam.state_error(&ipam.dir, source))?.path();
            match read_lease(&path) {
                Some(lease) if ipam.is_pod_address(lease.ip) && !ipam.by_pod.contains_key(&lease.pod) => {
                    ipam.insert(lease);
                }
                _ => {
                    tracing::warn!(path = %path.display(), "removing an address file that is not a lease of this range");
                    remove_file(&path)?;
                }
            }
        }
        Ok(ipam)
    }

    /// The lease of the pod: the one it has, with these host ports, or a new one.
    pub fn acquire(&mut self, pod: &str, host_ports: &[HostPort]) -> Result<Lease, NetError> {
        self.check_host_ports(pod, host_ports)?;
        if let Some(lease) = self.by_pod.get(pod).and_then(|ip| self.leases.get(ip)) {
            let mut lease = lease.clone();
            if lease.host_ports != host_ports {
                lease.host_ports = host_ports.to_vec();
                self.replace(&lease)?;
                self.insert(lease.clone());
            }
            return Ok(lease);
        }
        let last = (self.cidr.len() - 2) as u32;
        let start = if (FIRST_POD..=last).contains(&self.cursor) { self.cursor } else { FIRST_POD };
        for offset in (start..=last).chain(FIRST_POD..start) {
            let ip = Ipv4Addr::from(u32::from(self.cidr.base) + offset);
            if self.leases.contains_key(&ip) {
                continue;
            }
            let lease = Lease { pod: pod.to_owned(), ip, host_ports: host_ports.to_vec() };
            if !self.create(&lease)? {
                continue;
            }
            self.insert(lease.clone());
            self.cursor = offset + 1;
            // Losing the cursor costs only the rest of a freed address.
            if let Err(error) = write_renamed(&self.cursor_file, self.cursor.to_string().as_bytes()) {
                tracing::debug!(%error, "cannot write the address cursor");
            }
            return Ok(lease);
        }
        Err(NetError::Exhausted { cidr: self.cidr, capacity: u64::from(last - FIRST_POD + 1) })
    }

    /// Gives the pod's address back; what it had, if anything.
    pub fn release(&mut self, pod: &str) -> Result<Option<Lease>, NetError> {
        let Some(ip) = self.by_pod.get(pod).copied() else { return Ok(None) };
        remove_file(&self.path(ip))?;
        self.by_pod.remove(pod);
        Ok(self.leases.remove(&ip))
    }

    /// The pod's lease.
    pub fn get(&self, pod: &str) -> Option<&Lease> {
        self.leases.get(self.by_pod.get(pod)?)
    }

    /// Pods that have an address and are not in `keep`.
    pub fn others(&self, keep: &BTreeSet<String>) -> Vec<String> {
        self.by_pod.keys().filter(|pod| !keep.contains(*pod)).cloned().collect()
    }

    /// All leases, by address.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// Whether another pod has one of these ports.
    pub fn check_host_ports(&self, pod: &str, wanted: &[HostPort]) -> Result<(), NetError> {
        let others = self.leases.values().filter(|l| l.pod != pod);
        others.into_iter().try_for_each(|lease| ports_clash(("pod", &lease.pod), &lease.host_ports, wanted))
    }

    fn is_pod_address(&self, ip: Ipv4Addr) -> bool {
        let offset = u32::from(ip).wrapping_sub(u32::from(self.cidr.base));
        self.cidr.contains(ip) && offset >= FIRST_POD && u64::from(offset) <= self.cidr.len() - 2
    }

    fn insert(&mut self, lease: Lease) {
        self.by_pod.insert(lease.pod.clone(), lease.ip);
        self.leases.insert(lease.ip, lease);
    }

    fn path(&self, ip: Ipv4Addr) -> PathBuf {
        self.dir.join(ip.to_string())
    }

    /// Whether the address was free on disk too.
    fn create(&self, lease: &Lease) -> Result<bool, NetError> {
        let temporary = self.dir.with_file_name(format!("lease.{}.tmp", std::process::id()));
        fs::write(&temporary, encode(lease)).map_err(|source| self.state_error(&temporary, source))?;
        let path = self.path(lease.ip);
        let linked = fs::hard_link(&temporary, &path);
        remove_file(&temporary)?;
        match linked {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(self.state_error(&path, source)),
        }
    }

    fn replace(&self, lease: &Lease) -> Result<(), NetError> {
        let path = self.path(lease.ip);
        let temporary = self.dir.with_file_name(format!("lease.{}.tmp", std::process::id()));
        fs::write(&temporary, encode(lease))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| self.state_error(&path, source))
    }

    fn state_error(&self, path: &Path, source: std::io::Error) -> NetError {
        NetError::State { path: path.to_path_buf(), source }
    }
}

/// Refuses ports that the holder, by its kind and name, has.
pub(crate) fn ports_clash((kind, name): (&str, &str), held: &[HostPort], wanted: &[HostPort]) -> Result<(), NetError> {
    let same = |w: &HostPort, h: &HostPort| {
        w.protocol == h.protocol
            && w.host_port == h.host_port
            && (w.host_ip.is_none() || h.host_ip.is_none() || w.host_ip == h.host_ip)
    };
    match held.iter().find(|h| wanted.iter().any(|w| same(w, h))) {
        Some(h) => {
            let holder = format!("{kind} {name}");
            Err(NetError::HostPortTaken { port: h.host_port, protocol: h.protocol, holder })
        }
        None => Ok(()),
    }
}

fn encode(lease: &Lease) -> Vec<u8> {
    serde_json::to_vec(lease).expect("a lease has only string keys")
}

fn read_lease(path: &Path) -> Option<Lease> {
    let lease: Lease = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (path.file_name()?.to_str()? == lease.ip.to_string()).then_some(lease)
}

fn remove_file(path: &Path) -> Result<(), NetError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(NetError::State { path: path.to_path_buf(), source })
        }
        _ => Ok(()),
    }
}

/// Writes beside the file and renames: readers see the old or the new content, never half of it.
pub(crate) fn write_renamed(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests;
