//! The network as the node uses it: attach and detach pods, forward services, clean up.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::bridges::Bridges;
use crate::claims::Claims;
use crate::ipam::{Ipam, Lease, write_renamed};
use crate::plan::bridges as nets;
use crate::plan::flows::{Flow, UdpBackends};
use crate::plan::ruleset::{self, Ruleset};
use crate::plan::services::{self, Node};
use crate::sys::link::{self, Mac};
use crate::sys::netlink::Socket;
use crate::sys::{conntrack, nft, sysctl};
use crate::{Attachment, HostPort, NetError, NetworkConfig, ServiceTable};

const DEFAULT_MTU: u32 = 1500;
/// Longer than the kernel puts off its link watch.
const SETTLE_MAX: Duration = Duration::from_millis(1500);
const SETTLE_STEP: Duration = Duration::from_millis(2);

/// The network of one instance. Cheap to clone; all clones are the same network.
#[derive(Clone)]
pub struct Network {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: NetworkConfig,
    /// Index of the bridge.
    bridge: u32,
    pub(crate) mtu: u32,
    pub(crate) ipam: Mutex<Ipam>,
    /// Those beside it.
    pub(crate) bridges: Mutex<Bridges>,
    /// What Services hold of the host's ports.
    pub(crate) claims: Mutex<Claims>,
    /// Held while a transaction runs: what the kernel has.
    rules: tokio::sync::Mutex<Applied>,
}

struct Applied {
    table: ServiceTable,
    /// `None` when a transaction failed: the next one replaces everything.
    rules: Option<Ruleset>,
}

impl Network {
    /// Makes the bridge, the kernel settings and the nftables table, or finds them: running pods notice nothing. The
    /// last service table is put in force again. Runs in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, without the `nft` program, or when the state folder cannot be written.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetError> {
        let (config, bridge, mtu, ipam, table) = blocking(move || {
            fs::create_dir_all(&config.state_dir)
                .map_err(|source| NetError::State { path: config.state_dir.clone(), source })?;
            let ipam = Ipam::open(config.pod_cidr, &config.state_dir)?;
            let table = read_services(&services_file(&config));
            let (bridge, mtu) = make_bridge(&config)?;
            set_kernel(&config)?;
            Ok((config, bridge, mtu, ipam, table))
        })
        .await?;
        let rules = tokio::sync::Mutex::new(Applied { table, rules: None });
        let (ipam, bridges) = (Mutex::new(ipam), Mutex::new(Bridges::read(&config)));
        let network =
            Network { inner: Arc::new(Inner { config, bridge, mtu, ipam, bridges, claims: Mutex::default(), rules }) };
        let mut applied = network.inner.rules.lock().await;
        network.apply(&mut applied, None).await?;
        drop(applied);
        Ok(network)
    }

    /// What it was opened with.
    pub fn config(&self) -> &NetworkConfig {
        &self.inner.config
    }

    /// The default gateway of pods.
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.config.gateway()
    }

    /// Gives the pod its address and interface in the namespace pinned at `netns`, and opens its host ports. Doing it
    /// again for the same pod gives the same answer, after a restart too; with other host ports it replaces those.
    ///
    /// # Errors
    /// When no address is left, a host port is taken, or the namespace is gone.
    pub async fn attach(&self, pod: &str, netns: &Path, host_ports: &[HostPort]) -> Result<Attachment, NetError> {
        self.attach_as(pod, netns, host_ports, "eth0", true).await
    }

    /// The same for one that has other interfaces too: with another name for this one, and with the default route over it or
    /// elsewhere.
    ///
    /// # Errors
    /// As [`Network::attach`].
    pub async fn attach_as(
        &self,
        pod: &str,
        netns: &Path,
        host_ports: &[HostPort],
        interface: &str,
        default_route: bool,
    ) -> Result<Attachment, NetError> {
        let (inner, pod, netns, ports) = (self.inner.clone(), pod.to_owned(), netns.to_owned(), host_ports.to_vec());
        let had_ports = self.inner.ipam.lock().get(&pod).is_some_and(|lease| !lease.host_ports.is_empty());
        let place = Place { interface: interface.to_owned(), default_route };
        let attachment = blocking(move || inner.attach(&pod, &netns, &ports, &place)).await?;
        if had_ports || !host_ports.is_empty() {
            self.refresh().await?;
        }
        Ok(attachment)
    }

    /// Brings up the loopback interface of the namespace pinned at `netns`, which gets no other.
    ///
    /// # Errors
    /// When the namespace is gone or the kernel refuses.
    pub async fn loopback_only(&self, netns: &Path) -> Result<(), NetError> {
        let netns = netns.to_owned();
        blocking(move || Socket::route_in(&netns)?.all(vec![link::set_up("lo", None, None)])).await
    }

    /// Removes the pod's interface and frees its address. Fine when there is none.
    ///
    /// # Errors
    /// When the kernel or the disk refuses; then the address stays taken and this can be repeated.
    pub async fn detach(&self, pod: &str) -> Result<(), NetError> {
        let (inner, pod) = (self.inner.clone(), pod.to_owned());
        let Some(lease) = blocking(move || inner.detach(&pod)).await? else { return Ok(()) };
        if !lease.host_ports.is_empty() {
            self.refresh().await?;
            forget_flows(move |flow| flow.original.protocol == 17 && flow.reply.source.0 == lease.ip).await;
        }
        Ok(())
    }

    /// The address of the pod, if it has one.
    pub fn address(&self, pod: &str) -> Option<Ipv4Addr> {
        self.inner.ipam.lock().get(pod).map(|lease| lease.ip)
    }

    /// Detaches every pod that is not in `pods`, and removes veths that belong to no pod. Gives the pods it removed.
    ///
    /// # Errors
    /// As [`Network::detach`].
    pub async fn retain(&self, pods: &BTreeSet<String>) -> Result<Vec<String>, NetError> {
        let gone = self.inner.ipam.lock().others(pods);
        for pod in &gone {
            self.detach(pod).await?;
        }
        let inner = self.inner.clone();
        blocking(move || inner.remove_stray_veths()).await?;
        Ok(gone)
    }

    /// Puts this table of services in force with one transaction that touches only what changed. Connections that exist
    /// go on as they are, but for UDP flows to an endpoint that is no longer there.
    ///
    /// # Errors
    /// When `nft` refuses: then nothing was applied, and the next call starts from scratch.
    pub async fn set_services(&self, table: ServiceTable) -> Result<(), NetError> {
        let mut applied = self.inner.rules.lock().await;
        if applied.table == table && applied.rules.is_some() {
            return Ok(());
        }
        let dns = self.inner.config.dns_ip();
        let before = UdpBackends::of(&applied.table, dns);
        self.apply(&mut applied, Some(table)).await?;
        let after = UdpBackends::of(&applied.table, dns);
        self.inner.save_services(&applied.table);
        drop(applied);
        if before != after {
            forget_flows(move |flow| after.is_stale(flow)).await;
        }
        Ok(())
    }

    /// Removes bridge, veths, table and state. The network must not be used afterwards.
    ///
    /// # Errors
    /// When something could not be removed; the rest is still removed, and this can be repeated.
    pub async fn destroy(&self) -> Result<(), NetError> {
        destroy(&self.inner.config).await
    }

    /// Host ports or bridges changed, the services did not.
    pub(crate) async fn refresh(&self) -> Result<(), NetError> {
        let mut applied = self.inner.rules.lock().await;
        self.apply(&mut applied, None).await
    }

    async fn apply(&self, applied: &mut Applied, table: Option<ServiceTable>) -> Result<(), NetError> {
        let config = &self.inner.config;
        let node = Node { pod_cidr: config.pod_cidr, dns_ip: config.dns_ip() };
        let mut leases: Vec<Lease> = self.inner.ipam.lock().leases().cloned().collect();
        let bridges = self.inner.bridges.lock().clone();
        leases.extend(bridges.leases());
        let mut wanted = services::plan(table.as_ref().unwrap_or(&applied.table), &leases, &node);
        nets::add(&mut wanted, config, bridges.bridges.values());
        if let Some(table) = table {
            applied.table = table;
        }
        // Taken out first: when this future is dropped half-way, nobody knows what the kernel has.
        let whole = || ruleset::replace(config, config.dns_ip().is_some(), &wanted);
        match applied.rules.take().map(|current| ruleset::change(config, &current, &wanted)) {
            None => nft::apply(&whole()).await?,
            Some(None) => {}
            Some(Some(change)) => {
                if let Err(error) = nft::apply(&change).await {
                    // Someone changed the table behind our back: then the difference does not apply, the whole does.
                    tracing::warn!(%error, "nft transaction failed, replacing the whole table");
                    nft::apply(&whole()).await?;
                }
            }
        }
        applied.rules = Some(wanted);
        Ok(())
    }
}

/// What the interface on the instance's bridge is to a pod.
struct Place {
    interface: String,
    default_route: bool,
}

impl Inner {
    fn attach(&self, pod: &str, netns: &Path, host_ports: &[HostPort], place: &Place) -> Result<Attachment, NetError> {
        self.check_ports(pod, host_ports)?;
        let namespace = File::open(netns).map_err(|source| NetError::Netns { path: netns.to_path_buf(), source })?;
        let mut inside = Socket::route_in(netns)?;
        let lease = self.ipam.lock().acquire(pod, host_ports)?;
        let attached = self.wire(&namespace, &mut inside, lease.ip, place);
        if attached.is_err() {
            // The veth, if it came to be, is found and replaced by the next attempt; the address is the pod's until it
            // is detached.
            tracing::debug!(pod, ip = %lease.ip, "attach failed");
        }
        attached
    }

    fn wire(&self, namespace: &File, inside: &mut Socket, ip: Ipv4Addr, place: &Place) -> Result<Attachment, NetError> {
        let mut host = Socket::route()?;
        let (name, mac, interface) = (self.veth(ip), pod_mac(ip), place.interface.as_str());
        let ends = (name.as_str(), interface);
        let mut created = self.make_veth(&mut host, ends, mac, namespace, ip)?;
        if created.as_ref().is_err_and(link::already_there) {
            if link::find(inside, interface)?.is_some() {
                host.all(vec![link::set_master(&name, self.bridge)])?;
                created = Ok(());
            } else {
                // The other end is in a namespace that this pod no longer uses.
                link::gone_is_fine(host.all(vec![link::delete(&name)]))?;
                created = self.make_veth(&mut host, ends, mac, namespace, ip)?;
            }
        }
        created?;
        let own = link::find(inside, interface)?
            .ok_or_else(|| NetError::BadReply(format!("a new veth has no {interface}")))?;
        let gateway = self.config.gateway();
        // All pods are behind the gateway; so is the rest of the world, unless it is behind another one.
        let pods = self.config.pod_cidr;
        let range = if place.default_route { (Ipv4Addr::UNSPECIFIED, 0) } else { (pods.base, pods.prefix) };
        inside.all(vec![
            link::set_up("lo", None, None),
            link::set_up(interface, None, None),
            link::add_address(own.index, ip, 32),
            link::add_neighbour(own.index, gateway, bridge_mac(&self.config)),
            link::add_route(own.index, (gateway, 32), None, None),
            link::add_route(own.index, range, Some(gateway), None),
        ])?;
        self.settle(&mut host, &[&name, &self.config.bridge])?;
        Ok(Attachment { ip, gateway, prefix: 32, mac: text(mac), host_interface: name })
    }

    /// Waits until packets pass. An interface that has just got a carrier drops what it is given until the kernel's link
    /// watch has run, which for a bridge with its first port takes up to a second: the first DNS question of a pod would
    /// be lost. Since Linux 6.8 asking for the state makes the watch run; before, it has to be waited for.
    pub(crate) fn settle(&self, host: &mut Socket, port_and_bridge: &[&str]) -> Result<(), NetError> {
        let deadline = Instant::now() + SETTLE_MAX;
        // In this order: the port gives the bridge its carrier.
        for name in port_and_bridge.iter().copied() {
            while !link::find(host, name)?.is_some_and(|l| l.up) {
                if Instant::now() >= deadline {
                    tracing::warn!(interface = name, "no carrier yet, the pod's first packets may be lost");
                    return Ok(());
                }
                std::thread::sleep(SETTLE_STEP);
            }
        }
        Ok(())
    }

    /// Makes the veth; the inner result is that of the veth alone.
    fn make_veth(
        &self,
        host: &mut Socket,
        (name, inside): (&str, &str),
        mac: Mac,
        namespace: &File,
        ip: Ipv4Addr,
    ) -> Result<Result<(), NetError>, NetError> {
        let mut results = host.batch(vec![
            link::add_veth(name, inside, self.bridge, self.mtu, mac, namespace.as_fd()),
            link::set_hairpin(name),
            link::add_neighbour(self.bridge, ip, mac),
        ])?;
        let created = results.remove(0);
        if created.is_ok() {
            results.into_iter().collect::<Result<(), _>>()?;
        }
        Ok(created)
    }

    fn detach(&self, pod: &str) -> Result<Option<Lease>, NetError> {
        let Some(lease) = self.ipam.lock().get(pod).cloned() else { return Ok(None) };
        let mut host = Socket::route()?;
        let name = self.veth(lease.ip);
        for result in host.batch(vec![link::delete(&name), link::delete_neighbour(self.bridge, lease.ip)])? {
            link::gone_is_fine(result)?;
        }
        self.ipam.lock().release(pod)
    }

    fn remove_stray_veths(&self) -> Result<(), NetError> {
        let mut host = Socket::route()?;
        let links = link::list(&mut host)?;
        // Listed before the leases: an interface that comes later is not in the list.
        let known: BTreeSet<String> = self.ipam.lock().leases().map(|lease| self.veth(lease.ip)).collect();
        let stray = links.into_iter().filter(|l| is_veth(&self.config, &l.name) && !known.contains(&l.name));
        for result in host.batch(stray.map(|l| link::delete(&l.name)).collect())? {
            link::gone_is_fine(result)?;
        }
        Ok(())
    }

    /// The veth is named after the address, which is the pod's alone: no two pods can meet in a name, as they could with
    /// a hash of their ids.
    fn veth(&self, ip: Ipv4Addr) -> String {
        format!("{}{:08x}", self.config.veth_prefix, u32::from(ip))
    }

    fn save_services(&self, table: &ServiceTable) {
        let path = services_file(&self.config);
        let saved = serde_json::to_vec(table).map_err(std::io::Error::from).and_then(|b| write_renamed(&path, &b));
        if let Err(error) = saved {
            // Only a restart before the first table of the new process would notice.
            tracing::warn!(%error, path = %path.display(), "cannot keep the service table for the next start");
        }
    }
}

/// Removes bridge, veths, table and state of an instance, whether or not it runs.
///
/// # Errors
/// The first failure; everything else is still tried.
pub async fn destroy(config: &NetworkConfig) -> Result<(), NetError> {
    let rules = match nft::apply(&ruleset::remove(&config.nft_table)).await {
        // Without nft there never was a table.
        Err(NetError::NftMissing) => Ok(()),
        other => other,
    };
    let config = config.clone();
    let rest = blocking(move || {
        let mut host = Socket::route()?;
        let doomed =
            link::list(&mut host)?.into_iter().filter(|l| is_ours(&config, &l.name)).map(|l| link::delete(&l.name));
        let links: Result<(), NetError> = host.batch(doomed.collect())?.into_iter().try_for_each(link::gone_is_fine);
        match fs::remove_dir_all(&config.state_dir) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(NetError::State { path: config.state_dir.clone(), source })
            }
            _ => links,
        }
    })
    .await;
    rules.and(rest)
}

/// What an instance has left on this host, in words; empty after [`destroy`].
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn leftovers(config: &NetworkConfig) -> Result<Vec<String>, NetError> {
    let mut found = Vec::new();
    match nft::has_table(&config.nft_table).await {
        Ok(true) => found.push(format!("nftables table ip {}", config.nft_table)),
        Ok(false) | Err(NetError::NftMissing) => {}
        Err(e) => return Err(e),
    }
    let config = config.clone();
    let links = blocking(move || {
        let mut found: Vec<String> = link::list(&mut Socket::route()?)?
            .into_iter()
            .filter(|l| is_ours(&config, &l.name))
            .map(|l| format!("interface {}", l.name))
            .collect();
        if config.state_dir.exists() {
            found.push(format!("state {}", config.state_dir.display()));
        }
        Ok(found)
    })
    .await?;
    found.extend(links);
    Ok(found)
}

fn make_bridge(config: &NetworkConfig) -> Result<(u32, u32), NetError> {
    let mut host = Socket::route()?;
    let outer = sysctl::default_route_interface();
    let mtu = match (config.mtu, outer) {
        (Some(mtu), _) => mtu,
        (None, Some(name)) => link::find(&mut host, &name)?.map_or(DEFAULT_MTU, |l| l.mtu),
        (None, None) => DEFAULT_MTU,
    };
    let mac = bridge_mac(config);
    let created = host.all(vec![link::add_bridge(&config.bridge, mac)]);
    if created.as_ref().is_err_and(|e| !link::already_there(e)) {
        created?;
    }
    host.all(vec![link::set_up(&config.bridge, Some(mtu), Some(mac))])?;
    let index = link::find(&mut host, &config.bridge)?
        .ok_or_else(|| NetError::BadReply(format!("bridge {} is not there", config.bridge)))?
        .index;
    let gateway = config.gateway();
    let mut requests = vec![link::add_address(index, gateway, config.pod_cidr.prefix)];
    requests.extend(config.dns_ip().map(|ip| link::add_address(index, ip, 32)));
    let services = config.service_cidr;
    requests.push(link::add_route(index, (services.base, services.prefix), None, Some(gateway)));
    host.all(requests)?;
    Ok((index, mtu))
}

fn set_kernel(config: &NetworkConfig) -> Result<(), NetError> {
    // First: turning it on resets settings of interfaces.
    sysctl::set("net/ipv4/ip_forward", "1")?;
    set_bridge_kernel(&config.bridge)
}

pub(crate) fn set_bridge_kernel(bridge: &str) -> Result<(), NetError> {
    // For node ports on 127.0.0.1; the guard chain keeps pods off the loopback.
    sysctl::set(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1")?;
    sysctl::set(&format!("net/ipv4/conf/{bridge}/send_redirects"), "0")?;
    // Loose: with several uplinks the way back to a pod's peer may be another one.
    sysctl::set(&format!("net/ipv4/conf/{bridge}/rp_filter"), "2")
}

fn is_ours(config: &NetworkConfig, name: &str) -> bool {
    name == config.bridge || is_veth(config, name) || config.is_of_bridges(name)
}

fn is_veth(config: &NetworkConfig, name: &str) -> bool {
    name.strip_prefix(&config.veth_prefix)
        .is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()))
}

/// Locally administered, and the same whenever the bridge is made again: pods hold it as a fixed neighbour.
fn bridge_mac(config: &NetworkConfig) -> Mac {
    pod_mac(config.gateway())
}

pub(crate) fn pod_mac(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x57, a, b, c, d]
}

fn text(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn services_file(config: &NetworkConfig) -> PathBuf {
    config.state_dir.join("services.json")
}

fn read_services(path: &Path) -> ServiceTable {
    let Ok(bytes) = fs::read(path) else { return ServiceTable::default() };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "ignoring a damaged service table");
        ServiceTable::default()
    })
}

/// Deletes tracked flows, as far as the kernel can: one without the conntrack netlink family keeps them until they time
/// out.
pub(crate) async fn forget_flows(stale: impl Fn(&Flow) -> bool + Send + 'static) {
    match blocking(move || conntrack::delete_flows(stale)).await {
        Ok(count) => tracing::debug!(count, "deleted stale flows"),
        Err(error) => tracing::warn!(%error, "cannot delete stale flows"),
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| NetError::WorkerLost)?
}
