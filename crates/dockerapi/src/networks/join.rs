//! Which networks a container is to be in, and coming into one or leaving it while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::definition::Net;
use super::{BRIDGE, Network, find, ground, tell};
use crate::containers::model::{Endpoint, HostConfig, only_empty, without_nulls};
use crate::containers::ports;
use crate::containers::record::{Held, Record};
use crate::face::{Container, Face};
use crate::fault::{Fault, Result};
use crate::http::{Answer, Call, empty};

/// What clients repeat of an endpoint that the daemon told them: nothing is asked for by it.
const TOLD: [&str; 9] = [
    "DNSNames",
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "NetworkID",
];

/// The networks that a container asks for, by their names. What it is said to share is given its full id.
///
/// # Errors
/// 400 for what cannot be. What is not there is told when the container is started.
pub fn asked(
    face: &Face,
    host: &mut HostConfig,
    given: BTreeMap<String, Endpoint>,
) -> Result<BTreeMap<String, Endpoint>> {
    let links = std::mem::take(&mut host.links);
    let mode = &mut host.network_mode;
    let of_user = !matches!(mode.split(':').next(), Some("" | "default" | "bridge" | "host" | "none" | "container"));
    if !links.is_empty() && !of_user {
        return Err(Fault::refused("a link in the default network"));
    }
    if let Some(other) = mode.strip_prefix("container:") {
        if given.keys().any(|name| name != mode) {
            return Err(Fault::bad(shared_message()));
        }
        if let Ok(found) = face.container(other) {
            *mode = format!("container:{}", found.id);
        }
        return Ok(BTreeMap::new());
    }
    let primary = match find(face, mode) {
        Ok(primary) => primary,
        // Told at the start: clients take "not found" here for a missing image, and pull.
        Err(_) => return Ok(unknown(mode, given, links)),
    };
    if matches!(primary, Network::Built(_)) {
        *mode = primary.name().to_owned();
    }
    let mut endpoints = BTreeMap::new();
    for (name, endpoint) in given {
        let Ok(network) = find(face, &name) else {
            endpoints.insert(name, endpoint);
            continue;
        };
        let alone = |n: &Network| matches!(n, Network::Built(name) if *name != BRIDGE);
        if network.name() != primary.name() && (alone(&network) || alone(&primary)) {
            return Err(Fault::bad(shared_message()));
        }
        endpoints.insert(network.name().to_owned(), checked(&network, endpoint)?);
    }
    // In networks of one's own a link is a name in that network.
    add_links(endpoints.entry(primary.name().to_owned()).or_default(), links);
    Ok(endpoints)
}

fn unknown(mode: &str, mut given: BTreeMap<String, Endpoint>, links: Vec<String>) -> BTreeMap<String, Endpoint> {
    add_links(given.entry(mode.to_owned()).or_default(), links);
    given
}

fn add_links(endpoint: &mut Endpoint, links: Vec<String>) {
    for link in links {
        if !endpoint.links.contains(&link) {
            endpoint.links.push(link);
        }
    }
}

fn shared_message() -> &'static str {
    "container sharing network namespace with another container or host cannot be connected to any other network"
}

/// What is asked for of a container's place in a network, as far as it can be had.
pub(super) fn checked(network: &Network, mut endpoint: Endpoint) -> Result<Endpoint> {
    let name = network.name();
    for told in TOLD {
        endpoint.rest.remove(told);
    }
    only_empty(&format!("NetworkingConfig.EndpointsConfig.{name}."), &endpoint.rest)?;
    endpoint.rest.clear();
    let invalid =
        |why: String| Err(Fault::bad(format!("invalid config for network {name}: invalid endpoint settings:\n{why}")));
    let Network::Own(own) = network else {
        if !endpoint.aliases.is_empty() {
            return invalid("network-scoped aliases are only supported for user-defined networks".to_owned());
        }
        if !endpoint.links.is_empty() {
            return Err(Fault::refused("a link in the default network"));
        }
        if endpoint.ipam_config.as_ref().is_some_and(|i| !i.says_nothing()) {
            return invalid("user specified IP address is supported on user defined networks only".to_owned());
        }
        return Ok(Endpoint { gw_priority: endpoint.gw_priority, ..Endpoint::default() });
    };
    let Some(ipam) = &endpoint.ipam_config else { return Ok(endpoint) };
    if !ipam.ipv6_address.is_empty() || !ipam.link_local_ips.is_empty() {
        return Err(Fault::refused("an IPv6 or link-local address of a container"));
    }
    match (ipam.ipv4_address.as_str(), endpoint.address()) {
        ("", _) => Ok(endpoint),
        (text, None) => invalid(format!("invalid IPv4 address: {text}")),
        _ if !own.chosen => invalid(
            "user specified IP address is supported only when connecting to networks with user configured subnets"
                .to_owned(),
        ),
        (_, Some(ip)) if !own.subnet.0.contains(ip) => {
            invalid(format!("no configured subnet or ip-range contain the IP address {ip}"))
        }
        _ => Ok(endpoint),
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Asked {
    container: String,
    endpoint_config: Endpoint,
    force: bool,
}

async fn read(call: &mut Call) -> Result<Asked> {
    let document: Value = call.json().await?;
    serde_json::from_value(without_nulls(document)).map_err(|e| Fault::bad(format!("invalid JSON: {e}")))
}

/// `POST /networks/{id}/connect`.
///
/// # Errors
/// 404 for what is not there, 403 when it is in it already or the address is taken, 400 for what cannot be.
pub async fn connect(mut call: Call, name: &str) -> Result<Answer> {
    let asked = read(&mut call).await?;
    let network = find(&call.face, name)?;
    let container = call.face.container(&asked.container)?;
    let endpoint = checked(&network, asked.endpoint_config)?;
    let mode = container.record().host.network_mode;
    let shared = mode.starts_with("container:") || mode == "host";
    match network {
        _ if shared => return Err(Fault::bad(shared_message())),
        Network::Built("host") => {
            return Err(Fault::bad("container cannot be connected to host network after it was created"));
        }
        Network::Built("none") => {
            return Err(Fault::bad(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        _ if container.record().networks.contains_key("none") => {
            return Err(Fault::bad(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        _ => {}
    }
    // Not given up when the client goes away.
    let face = call.face.clone();
    let joined = tokio::spawn(async move { come_in(&face, &container, &network, endpoint).await });
    joined.await.map_err(|e| Fault::broken(e.to_string()))??;
    Ok(empty(StatusCode::OK))
}

async fn come_in(face: &Arc<Face>, container: &Arc<Container>, network: &Network, endpoint: Endpoint) -> Result<()> {
    let _ops = container.ops.lock().await;
    let record = container.record();
    let name = network.name().to_owned();
    if !record.state.phase.is_live() {
        face.change(container, |r| drop(r.networks.insert(name, endpoint)));
        return Ok(());
    }
    if record.networks.contains_key(&name) {
        let message = format!("endpoint with name {} already exists in network {name}", record.name);
        return Err(Fault::new(StatusCode::FORBIDDEN, message));
    }
    let mut wanted = record.clone();
    wanted.networks.insert(name, endpoint);
    match network {
        Network::Built(_) => come_onto_bridge(face, container, wanted).await?,
        Network::Own(own) => come_into(face, container, wanted, own).await?,
    }
    tell(face, "connect", network, Some(&record.id));
    Ok(())
}

async fn come_onto_bridge(face: &Arc<Face>, container: &Arc<Container>, wanted: Record) -> Result<()> {
    let (id, way_out) = (&wanted.id, wanted.has_way_out());
    let ports = if way_out { Vec::new() } else { ports::find(face, &wanted).await? };
    let interface = wanted.free_interface();
    let attached = face
        .engine
        .network()
        .attach_as(id, &face.engine.netns(id), &ground::host_ports(&ports), &interface, !way_out)
        .await
        .map_err(|e| Fault::broken(base::chain(&e)))?;
    let record = face.change(container, |r| {
        r.networks = wanted.networks.clone();
        r.state.ip = Some(attached.ip.to_string());
        r.state.bridge_interface = interface;
        if !way_out {
            r.state.ports = ports;
        }
    });
    ground::serve_names(face, &record, &record.state.endpoints, true).await
}

async fn come_into(face: &Arc<Face>, container: &Arc<Container>, wanted: Record, own: &Arc<Net>) -> Result<()> {
    let (way_out, first) = (wanted.has_way_out(), wanted.state.endpoints.is_empty());
    let leads_out = !way_out && !own.internal;
    if leads_out {
        ground::may_publish(&wanted, own)?;
    } else if wanted.networks.get(&own.name).is_some_and(|e| e.gw_priority > 0) {
        return Err(Fault::refused("GwPriority for a container that runs and has a way out"));
    }
    let mut held = ground::held(face, own, &wanted, 0)?;
    (held.interface, held.gateway) = (wanted.free_interface(), leads_out);
    let plugged = async {
        let ports = if leads_out { ports::find(face, &wanted).await? } else { Vec::new() };
        ground::plug(face, &wanted.id, &held, &ports).await?;
        Ok::<_, Fault>(ports)
    };
    let ports = match plugged.await {
        Ok(ports) => ports,
        Err(fault) => {
            give_back(face, &wanted.id, &held).await;
            return Err(fault);
        }
    };
    let record = face.change(container, |r| {
        r.networks = wanted.networks.clone();
        r.state.endpoints.insert(own.name.clone(), held);
        if leads_out {
            r.state.ports = ports;
        }
    });
    ground::serve_names(face, &record, &record.state.endpoints, record.has_way_out()).await?;
    if first {
        // Until now it asked the host's resolvers.
        face.engine.change_resolver(&record.id, &crate::containers::spec::resolver(face, &record, true))?;
    }
    ground::names_changed(face, [&own.name]);
    Ok(())
}

async fn give_back(face: &Arc<Face>, id: &str, held: &Held) {
    if let Err(error) = face.engine.network().unplug(id, Some(&held.network[..8])).await {
        tracing::warn!(container = id, error = %base::chain(&error), "not taken off a network");
    }
    face.nets.leases.lock().remove(&(held.network.clone(), held.ip));
}

/// `POST /networks/{id}/disconnect`.
///
/// # Errors
/// 404 for what is not there, 403 when it is not in it, 400 for what cannot be.
pub async fn disconnect(mut call: Call, name: &str) -> Result<Answer> {
    let asked = read(&mut call).await?;
    let network = find(&call.face, name)?;
    let container = match call.face.container(&asked.container) {
        // There is nothing of one that is gone to be taken off.
        Err(_) if asked.force => return Ok(empty(StatusCode::OK)),
        found => found?,
    };
    if matches!(network, Network::Built("host")) {
        return Err(Fault::bad("container cannot be disconnected from host network or connected to host network"));
    }
    let face = call.face.clone();
    let left = tokio::spawn(async move { leave(&face, &container, &network).await });
    left.await.map_err(|e| Fault::broken(e.to_string()))??;
    Ok(empty(StatusCode::OK))
}

async fn leave(face: &Arc<Face>, container: &Arc<Container>, network: &Network) -> Result<()> {
    let _ops = container.ops.lock().await;
    let record = container.record();
    let name = network.name().to_owned();
    if !record.networks.contains_key(&name) {
        let message = format!("container {} is not connected to network {name}", record.id);
        return Err(Fault::new(StatusCode::FORBIDDEN, message));
    }
    if !record.state.phase.is_live() {
        face.change(container, |r| drop(r.networks.remove(&name)));
        return Ok(());
    }
    let leads_out = match record.state.endpoints.get(&name) {
        Some(held) => {
            give_back(face, &record.id, held).await;
            held.gateway
        }
        None => {
            face.engine.network().detach(&record.id).await.map_err(|e| Fault::broken(base::chain(&e)))?;
            record.has_way_out() && !record.state.endpoints.values().any(|h| h.gateway)
        }
    };
    let record = face.change(container, |r| {
        r.networks.remove(&name);
        if r.state.endpoints.remove(&name).is_none() {
            r.state.ip = None;
        }
    });
    if leads_out {
        lead_elsewhere(face, container, record).await?;
    }
    ground::names_changed(face, [&name]);
    tell(face, "disconnect", network, Some(&container.id));
    Ok(())
}

/// The way out was taken away: another network is it now, if there is one, and has the ports.
async fn lead_elsewhere(face: &Arc<Face>, container: &Arc<Container>, record: Record) -> Result<()> {
    let open = |name: &String| matches!(find(face, name), Ok(Network::Own(own)) if !own.internal);
    let priority = |name: &String| record.networks.get(name).map_or(0, |e| e.gw_priority);
    let open = record.state.endpoints.keys().filter(|n| open(n));
    let next = open.min_by_key(|n| (std::cmp::Reverse(priority(n)), (*n).clone())).cloned();
    let id = &record.id;
    if record.state.ip.is_some() {
        let (netns, ports) = (face.engine.netns(id), ground::host_ports(&record.state.ports));
        let interface = record.state.bridge_interface.clone();
        let attached = face.engine.network().attach_as(id, &netns, &ports, &interface, true).await;
        attached.map_err(|e| Fault::broken(base::chain(&e)))?;
    } else if let Some((name, mut held)) = next.and_then(|n| Some((n.clone(), record.state.endpoints.get(&n)?.clone())))
    {
        held.gateway = true;
        ground::plug(face, id, &held, &record.state.ports).await?;
        face.change(container, |r| drop(r.state.endpoints.insert(name, held)));
    } else {
        face.change(container, |r| r.state.ports.clear());
        ground::serve_names(face, &record, &record.state.endpoints, false).await?;
    }
    Ok(())
}
