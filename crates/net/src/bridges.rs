//! Bridges beside the instance's own, and places on them: Docker's networks. Who gets which address is the caller's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ipam::{Lease, ports_clash, write_renamed};
use crate::network::{Inner, Network, blocking, forget_flows, pod_mac, set_bridge_kernel};
use crate::sys::link;
use crate::sys::netlink::Socket;
use crate::{CidrText, HostPort, NetError, NetworkConfig};

/// A bridge whose members reach each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeSpec {
    /// Eight lower-case hex digits: the end of its name.
    pub key: String,
    /// Addresses of its members.
    pub subnet: CidrText,
    /// Its own, which members have as default gateway.
    pub gateway: Ipv4Addr,
    /// Members reach nobody but each other and the host.
    pub internal: bool,
    /// What leaves the host has the host's address.
    pub masquerade: bool,
    /// MTU; `None` for that of the instance's bridge.
    pub mtu: Option<u32>,
}

/// A sandbox's place on a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plug {
    /// The sandbox.
    pub owner: String,
    /// Key of the bridge.
    pub bridge: String,
    /// Its address there.
    pub ip: Ipv4Addr,
    /// The interface inside.
    pub interface: String,
    /// Whether its default route leads over this bridge.
    pub gateway: bool,
    /// Ports of the host that lead to it.
    pub host_ports: Vec<HostPort>,
}

/// What there is, also on disk: a restarted process puts the same rules in force before anybody tells it anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bridges {
    pub bridges: BTreeMap<String, BridgeSpec>,
    pub plugs: Vec<Plug>,
}

impl NetworkConfig {
    /// The name of a further bridge.
    pub fn bridge_name(&self, key: &str) -> String {
        format!("{}{key}", self.net_prefix)
    }

    fn plug_name(&self, ip: Ipv4Addr) -> String {
        format!("{}{:08x}", self.plug_prefix, u32::from(ip))
    }

    fn bridges_file(&self) -> PathBuf {
        self.state_dir.join("bridges.json")
    }

    /// Whether an interface is a further bridge, or a veth on one.
    pub(crate) fn is_of_bridges(&self, name: &str) -> bool {
        let hex = |b: u8| b.is_ascii_hexdigit() && !b.is_ascii_uppercase();
        [&self.net_prefix, &self.plug_prefix]
            .iter()
            .any(|p| name.strip_prefix(p.as_str()).is_some_and(|rest| rest.len() == 8 && rest.bytes().all(hex)))
    }
}

impl Bridges {
    pub fn read(config: &NetworkConfig) -> Self {
        let Ok(bytes) = fs::read(config.bridges_file()) else { return Bridges::default() };
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// The published ports of all members, as those of pods.
    pub fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        self.plugs.iter().filter(|p| !p.host_ports.is_empty()).map(|p| Lease {
            pod: p.owner.clone(),
            ip: p.ip,
            host_ports: p.host_ports.clone(),
        })
    }
}

impl Network {
    /// The further bridges are these and no others: missing ones are made, others go. Running members notice nothing.
    ///
    /// # Errors
    /// When the kernel or the disk refuses.
    pub async fn keep_bridges(&self, wanted: Vec<BridgeSpec>) -> Result<(), NetError> {
        let inner = self.inner.clone();
        blocking(move || {
            let keys: BTreeSet<&String> = wanted.iter().map(|b| &b.key).collect();
            let gone: Vec<String> = {
                let known = inner.bridges.lock();
                known.bridges.keys().filter(|k| !keys.contains(k)).cloned().collect()
            };
            for key in gone {
                inner.remove_bridge(&key)?;
            }
            wanted.into_iter().try_for_each(|spec| inner.make_bridge(spec))
        })
        .await?;
        self.refresh().await
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// When the kernel or the disk refuses; then there is none.
    pub async fn add_bridge(&self, spec: BridgeSpec) -> Result<(), NetError> {
        let (inner, key) = (self.inner.clone(), spec.key.clone());
        let made = blocking(move || inner.make_bridge(spec)).await;
        let made = match made {
            // Its rules are there before anybody is on it.
            Ok(()) => self.refresh().await,
            other => other,
        };
        if made.is_err() {
            drop(self.remove_bridge(&key).await);
        }
        made
    }

    /// Removes a bridge. Fine when there is none.
    ///
    /// # Errors
    /// When the kernel or the disk refuses.
    pub async fn remove_bridge(&self, key: &str) -> Result<(), NetError> {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        blocking(move || inner.remove_bridge(&key)).await?;
        self.refresh().await
    }

    /// Puts the sandbox whose namespace is pinned at `netns` on a bridge and opens its ports. Doing it again is fine.
    ///
    /// # Errors
    /// When there is no such bridge, a port is taken, or the namespace is gone.
    pub async fn plug(&self, netns: &Path, plug: Plug) -> Result<(), NetError> {
        let (inner, netns, ports) = (self.inner.clone(), netns.to_owned(), !plug.host_ports.is_empty());
        blocking(move || inner.plug(&netns, plug)).await?;
        if ports { self.refresh().await } else { Ok(()) }
    }

    /// Takes a sandbox off one bridge, or off all.
    ///
    /// # Errors
    /// When the kernel or the disk refuses.
    pub async fn unplug(&self, owner: &str, bridge: Option<&str>) -> Result<(), NetError> {
        let (inner, owner, bridge) = (self.inner.clone(), owner.to_owned(), bridge.map(str::to_owned));
        let gone = blocking(move || {
            let fits = |p: &Plug| p.owner == owner && bridge.as_ref().is_none_or(|b| *b == p.bridge);
            inner.unplug(fits)
        })
        .await?;
        self.forget(gone).await
    }

    /// Takes everybody off who is not in `owners`.
    ///
    /// # Errors
    /// As [`Network::unplug`].
    pub async fn keep_plugs(&self, owners: BTreeSet<String>) -> Result<(), NetError> {
        let inner = self.inner.clone();
        let gone = blocking(move || inner.unplug(|p| !owners.contains(&p.owner))).await?;
        self.forget(gone).await
    }

    async fn forget(&self, gone: Vec<Plug>) -> Result<(), NetError> {
        let ports: BTreeSet<Ipv4Addr> = gone.iter().filter(|p| !p.host_ports.is_empty()).map(|p| p.ip).collect();
        if ports.is_empty() {
            return Ok(());
        }
        self.refresh().await?;
        forget_flows(move |flow| flow.original.protocol == 17 && ports.contains(&flow.reply.source.0)).await;
        Ok(())
    }
}

impl Inner {
    fn change_bridges(&self, change: impl FnOnce(&mut Bridges)) -> Result<(), NetError> {
        let mut bridges = self.bridges.lock();
        change(&mut bridges);
        let path = self.config.bridges_file();
        let bytes = serde_json::to_vec(&*bridges).map_err(std::io::Error::from);
        // Under the lock, so that the disk gets the changes in their order.
        bytes.and_then(|b| write_renamed(&path, &b)).map_err(|source| NetError::State { path, source })
    }

    fn make_bridge(&self, spec: BridgeSpec) -> Result<(), NetError> {
        let mut host = Socket::route()?;
        let (name, mac) = (self.config.bridge_name(&spec.key), pod_mac(spec.gateway));
        self.change_bridges(|b| drop(b.bridges.insert(spec.key.clone(), spec.clone())))?;
        let created = host.all(vec![link::add_bridge(&name, mac)]);
        if created.as_ref().is_err_and(|e| !link::already_there(e)) {
            created?;
        }
        host.all(vec![link::set_up(&name, Some(spec.mtu.unwrap_or(self.mtu)), Some(mac))])?;
        let found = link::find(&mut host, &name)?.ok_or_else(|| NetError::NoBridge(name.clone()))?;
        host.all(vec![link::add_address(found.index, spec.gateway, spec.subnet.0.prefix)])?;
        set_bridge_kernel(&name)
    }

    fn remove_bridge(&self, key: &str) -> Result<(), NetError> {
        self.unplug(|p| p.bridge == key)?;
        link::gone_is_fine(Socket::route()?.all(vec![link::delete(&self.config.bridge_name(key))]))?;
        self.change_bridges(|b| drop(b.bridges.remove(key)))
    }

    fn plug(&self, netns: &Path, plug: Plug) -> Result<(), NetError> {
        let spec = self.bridges.lock().bridges.get(&plug.bridge).cloned();
        let spec = spec.ok_or_else(|| NetError::NoBridge(plug.bridge.clone()))?;
        let namespace = File::open(netns).map_err(|source| NetError::Netns { path: netns.to_path_buf(), source })?;
        let (mut inside, mut host) = (Socket::route_in(netns)?, Socket::route()?);
        self.check_ports(&plug.owner, &plug.host_ports)?;
        self.ipam.lock().check_host_ports(&plug.owner, &plug.host_ports)?;
        self.change_bridges(|b| {
            b.plugs.retain(|p| p.ip != plug.ip);
            b.plugs.push(plug.clone());
        })?;
        let bridge = self.config.bridge_name(&spec.key);
        let index = link::find(&mut host, &bridge)?.ok_or_else(|| NetError::NoBridge(bridge.clone()))?.index;
        let (name, mtu) = (self.config.plug_name(plug.ip), spec.mtu.unwrap_or(self.mtu));
        if link::find(&mut inside, &plug.interface)?.is_none() {
            // One of that name would be of a sandbox that is gone: the address is this one's.
            link::gone_is_fine(host.all(vec![link::delete(&name)]))?;
            let mac = pod_mac(plug.ip);
            host.all(vec![
                link::add_veth(&name, &plug.interface, index, mtu, mac, namespace.as_fd()),
                link::set_hairpin(&name),
            ])?;
        }
        let own = link::find(&mut inside, &plug.interface)?
            .ok_or_else(|| NetError::BadReply("a new veth has no other end".into()))?;
        let mut steps = vec![
            link::set_up("lo", None, None),
            link::set_up(&plug.interface, None, None),
            link::add_address(own.index, plug.ip, spec.subnet.0.prefix),
        ];
        if plug.gateway {
            steps.push(link::add_route(own.index, (Ipv4Addr::UNSPECIFIED, 0), Some(spec.gateway), None));
        }
        inside.all(steps)?;
        self.settle(&mut host, &[&name, &bridge])
    }

    /// Whether one of these ports leads to a member or a Service already.
    pub(crate) fn check_ports(&self, owner: &str, wanted: &[HostPort]) -> Result<(), NetError> {
        self.claims.lock().check(wanted)?;
        self.check_members(owner, wanted)
    }

    /// Whether one of these ports leads to a pod or a member already.
    pub(crate) fn check_pods(&self, owner: &str, wanted: &[HostPort]) -> Result<(), NetError> {
        self.ipam.lock().check_host_ports(owner, wanted)?;
        self.check_members(owner, wanted)
    }

    fn check_members(&self, owner: &str, wanted: &[HostPort]) -> Result<(), NetError> {
        let bridges = self.bridges.lock();
        let others = bridges.plugs.iter().filter(|p| p.owner != owner);
        others.map(|p| (&p.owner, &p.host_ports)).try_for_each(|(pod, held)| ports_clash(("pod", pod), held, wanted))
    }

    fn unplug(&self, fits: impl Fn(&Plug) -> bool) -> Result<Vec<Plug>, NetError> {
        let gone: Vec<Plug> = self.bridges.lock().plugs.iter().filter(|p| fits(p)).cloned().collect();
        if gone.is_empty() {
            return Ok(gone);
        }
        let names = gone.iter().map(|p| link::delete(&self.config.plug_name(p.ip)));
        for result in Socket::route()?.batch(names.collect())? {
            link::gone_is_fine(result)?;
        }
        self.change_bridges(|b| b.plugs.retain(|p| !gone.contains(p)))?;
        Ok(gone)
    }
}
