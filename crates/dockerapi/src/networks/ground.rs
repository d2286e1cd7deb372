//! What a container that runs has in its networks: addresses, interfaces, names. Taken before it starts, given back after its
//! end, found again by an agent that comes after this one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use http::StatusCode;
use net::dns::{DnsServer, Upstreams};
use net::{HostPort, Plug, Protocol};
use tokio_util::sync::CancellationToken;

use super::definition::Net;
use super::names::{self, Member};
use super::pools::NoAddress;
use super::{BRIDGE, Network, find};
use crate::containers::record::{Held, Phase, Published, Record};
use crate::face::{Container, Face};
use crate::fault::{Fault, Result};

/// Where containers on networks of one's own ask for names, as Docker has it.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// What a container's sandbox stands on.
#[derive(Debug, Clone, Default)]
pub struct Ground {
    /// The instance's bridge.
    pub on_bridge: bool,
    /// Networks of one's own.
    pub endpoints: BTreeMap<String, Held>,
    /// The container whose network namespace it is, as it runs now.
    pub join: Option<Box<Record>>,
}

impl Ground {
    /// Whether anything leads out of the host.
    pub fn has_way_out(&self) -> bool {
        self.on_bridge || self.endpoints.values().any(|h| h.gateway)
    }
}

/// The server of names in a container's namespace.
pub struct Server {
    dns: Arc<DnsServer>,
    forwards: bool,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An address for a container in a network.
///
/// # Errors
/// 403 when the one that is wanted is taken, 404 when the network is gone, 500 when none is left.
pub fn lease(face: &Face, network: &Arc<Net>, record: &Record) -> Result<Ipv4Addr> {
    let mut leases = face.nets.leases.lock();
    // Looked at while no address can be given: one in use keeps its network.
    if !face.nets.all.lock().contains_key(&network.name) {
        return Err(Fault::missing(format!("network {} not found", network.name)));
    }
    let wanted = record.networks.get(&network.name).and_then(crate::containers::model::Endpoint::address);
    let taken = |ip: Ipv4Addr| leases.get(&(network.id.clone(), ip)).is_some_and(|id| *id != record.id);
    let ip = network.pool().address(wanted, taken).map_err(|why| match why {
        NoAddress::Taken => Fault::new(StatusCode::FORBIDDEN, "Address already in use"),
        NoAddress::Exhausted => Fault::broken(format!(
            "no available IPv4 addresses on this network's address pools: {} ({})",
            network.name, network.id
        )),
    })?;
    leases.insert((network.id.clone(), ip), record.id.clone());
    Ok(ip)
}

/// Its place in a network, with the interface of that number.
pub fn held(face: &Face, network: &Arc<Net>, record: &Record, interface: usize) -> Result<Held> {
    Ok(Held {
        network: network.id.clone(),
        endpoint: crate::containers::names::id(),
        ip: lease(face, network, record)?,
        interface: format!("eth{interface}"),
        gateway: false,
    })
}

/// Takes addresses in all networks of a container that is about to start.
///
/// # Errors
/// 404 for a network that is gone, 403 for an address that is taken, 409 when the container to be joined does not run.
pub fn prepare(face: &Face, record: &Record) -> Result<Ground> {
    let mode = record.host.network_mode.as_str();
    let mut ground = Ground::default();
    if let Some(other) = mode.strip_prefix("container:") {
        let other = face.container(other)?.record();
        if !other.state.phase.is_live() {
            let message = format!("cannot join network namespace of a non running container: {}", other.id);
            return Err(Fault::conflict(message));
        }
        ground.join = Some(Box::new(other));
        return Ok(ground);
    }
    let mut all: Vec<String> = record.networks.keys().cloned().collect();
    if all.is_empty() {
        // As Docker does for one that was taken off all its networks.
        all.push(find(face, mode)?.name().to_owned());
    }
    ground.on_bridge = all.iter().any(|n| n == BRIDGE);
    let primary = find(face, mode).map(|n| n.name().to_owned()).unwrap_or_default();
    all.sort_by_key(|name| (*name != primary, name.clone()));
    let first = usize::from(ground.on_bridge);
    let (mut number, mut ways_out) = (first, Vec::new());
    for name in &all {
        let found = find(face, name)?;
        super::join::checked(&found, record.networks.get(name).cloned().unwrap_or_default())?;
        let Network::Own(network) = found else { continue };
        ground.endpoints.insert(name.clone(), held(face, &network, record, number)?);
        number += 1;
        if !network.internal {
            ways_out.push(name.clone());
        }
    }
    let priority = |name: &String| record.networks.get(name).map_or(0, |e| e.gw_priority);
    if ground.on_bridge {
        let of_bridge = priority(&BRIDGE.to_owned());
        if ways_out.iter().any(|n| priority(n) > of_bridge) {
            return Err(Fault::refused("GwPriority above that of the default network"));
        }
        return Ok(ground);
    }
    // Of several of the highest priority, the first by name, as Docker does.
    if let Some(name) = ways_out.into_iter().min_by_key(|n| (std::cmp::Reverse(priority(n)), n.clone())) {
        let Network::Own(network) = find(face, &name)? else { return Ok(ground) };
        may_publish(record, &network)?;
        if let Some(held) = ground.endpoints.get_mut(&name) {
            held.gateway = true;
        }
    }
    Ok(ground)
}

/// Whether what a container publishes can be published where its way out leads over this network.
///
/// # Errors
/// 400 when the host has no part in what reaches its members.
pub fn may_publish(record: &Record, network: &Net) -> Result<()> {
    let publishes = record.host.publish_all_ports || !record.host.port_bindings.is_empty();
    if network.parent.is_none() || !publishes {
        return Ok(());
    }
    Err(Fault::bad(format!(
        "ports cannot be published: members of the macvlan network {} are reached at their own addresses",
        network.name
    )))
}

/// Ports as the network takes them.
pub fn host_ports(ports: &[Published]) -> Vec<HostPort> {
    let each = ports.iter().filter_map(|p| {
        Some(HostPort {
            protocol: Protocol::parse(&p.protocol.to_ascii_uppercase())?,
            host_ip: p.host_ip.filter(|ip| !ip.is_unspecified()),
            host_port: p.host_port,
            container_port: p.port,
        })
    });
    each.collect()
}

/// Puts a container on the bridge of one of its networks.
pub async fn plug(face: &Face, id: &str, held: &Held, ports: &[Published]) -> Result<()> {
    let on_parent = face.nets.all.lock().values().any(|n| n.id == held.network && n.parent.is_some());
    let plug = Plug {
        netns: face.engine.netns(id),
        owner: id.to_owned(),
        bridge: held.network[..8].to_owned(),
        ip: held.ip,
        interface: held.interface.clone(),
        gateway: held.gateway,
        host_ports: if held.gateway && !on_parent { host_ports(ports) } else { Vec::new() },
    };
    let network = face.engine.network();
    network.plug(plug).await.map_err(|e| Fault::broken(base::chain(&e)))
}

/// Puts a container whose sandbox is there on its networks and lets it find names.
///
/// # Errors
/// When the kernel refuses, or a port is taken.
pub async fn stand(face: &Arc<Face>, record: &Record, ground: &Ground, ports: &[Published]) -> Result<()> {
    for held in ground.endpoints.values() {
        plug(face, &record.id, held, ports).await?;
    }
    serve_names(face, record, &ground.endpoints, ground.has_way_out()).await
}

/// Has names answered inside, and others asked of the host's resolvers (or those of the container) if there is a way out.
pub async fn serve_names(
    face: &Arc<Face>,
    record: &Record,
    endpoints: &BTreeMap<String, Held>,
    forwards: bool,
) -> Result<()> {
    if endpoints.is_empty() && !face.nets.servers.lock().contains_key(&record.id) {
        return Ok(());
    }
    if face.nets.servers.lock().get(&record.id).is_some_and(|s| s.forwards == forwards) {
        return Ok(());
    }
    let given = record.host.dns.iter().filter_map(|d| Some(std::net::SocketAddr::new(d.parse().ok()?, 53)));
    let upstreams = match forwards {
        false => Upstreams::Fixed(Vec::new()),
        true if record.host.dns.is_empty() => Upstreams::ResolvConf("/etc/resolv.conf".into()),
        true => Upstreams::Fixed(given.collect()),
    };
    let netns = face.engine.netns(&record.id);
    let bound = DnsServer::bind_in(&netns, RESOLVER, upstreams).await;
    let dns = bound.map_err(|e| Fault::broken(format!("serve names: {}", base::chain(&e))))?;
    let stop = face.drain().child_token();
    let dns = Arc::new(dns);
    dns.set_zones(names::seen_by(&record.id, &members(face)));
    let (running, until) = (dns.clone(), stop.clone());
    face.tasks.spawn("docker names", async move { running.serve(until).await });
    face.nets.servers.lock().insert(record.id.clone(), Server { dns, forwards, stop });
    Ok(())
}

/// Everybody who runs and is in a network of one's own.
fn members(face: &Face) -> Vec<Member> {
    let records = face.all().into_iter().map(|c| c.record());
    let each = records.filter(|r| !r.state.endpoints.is_empty()).flat_map(|r| {
        let of = |(network, held): (&String, &Held)| {
            let asked = r.networks.get(network).cloned().unwrap_or_default();
            Member {
                id: r.id.clone(),
                name: r.name.clone(),
                hostname: r.config.hostname.clone(),
                network: network.clone(),
                ip: held.ip,
                aliases: asked.aliases,
                links: asked.links,
            }
        };
        r.state.endpoints.iter().map(of).collect::<Vec<_>>()
    });
    each.collect()
}

/// Names in these networks changed: who is in them is told.
pub fn names_changed<'a>(face: &Face, networks: impl IntoIterator<Item = &'a String>) {
    let networks: BTreeSet<&String> = networks.into_iter().collect();
    if networks.is_empty() {
        return;
    }
    let members = members(face);
    let concerned: BTreeSet<&String> =
        members.iter().filter(|m| networks.contains(&m.network)).map(|m| &m.id).collect();
    let servers = face.nets.servers.lock();
    for (id, server) in servers.iter().filter(|(id, _)| concerned.contains(id)) {
        server.dns.set_zones(names::seen_by(id, &members));
    }
}

/// Takes everything back that a container had. Fine when it had nothing.
pub async fn let_go(face: &Arc<Face>, id: &str) {
    face.nets.servers.lock().remove(id);
    if let Err(error) = face.engine.network().unplug(id, None).await {
        tracing::warn!(container = id, error = %base::chain(&error), "not fully taken off its networks");
    }
    face.nets.leases.lock().retain(|_, owner| owner != id);
}

/// After a start of the agent, before containers are looked at: bridges are there, addresses of those that ran are theirs.
pub async fn resume(face: &Arc<Face>) {
    let bridges = face.nets.all.lock().values().map(|n| n.bridge()).collect();
    if let Err(error) = face.engine.network().keep_bridges(bridges).await {
        tracing::error!(error = %base::chain(&error), "the networks' bridges are not all there");
    }
    let mut owners = BTreeSet::new();
    for record in face.all().iter().map(|c| c.record()).filter(|r| r.state.phase.is_live()) {
        let mut leases = face.nets.leases.lock();
        for held in record.state.endpoints.values() {
            leases.insert((held.network.clone(), held.ip), record.id.clone());
            owners.insert(record.id.clone());
        }
    }
    if let Err(error) = face.engine.network().keep_plugs(owners).await {
        tracing::warn!(error = %base::chain(&error), "places from before the start are not fully freed");
    }
}

/// A container that went on without an agent finds names again.
pub async fn adopt(face: &Arc<Face>, container: &Arc<Container>) {
    let record = container.record();
    if !matches!(record.state.phase, Phase::Running | Phase::Paused) {
        return;
    }
    let out = record.has_way_out();
    if let Err(error) = serve_names(face, &record, &record.state.endpoints, out).await {
        tracing::warn!(container = record.id, %error, "a container finds no names");
    }
}
