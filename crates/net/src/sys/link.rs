//! Bridges, veths, addresses, routes and neighbours, as netlink requests.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage, MacVlanMode, State,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Request, Socket};
use crate::{Macvlan, NetError};

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// What is known of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    /// Whether the kernel lets packets out: administratively up and, after its link watch has run, with a carrier.
    pub up: bool,
}

fn request(what: String, flags: u16, message: RouteNetlinkMessage) -> Request {
    Request { what, flags, message }
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// The interface of that name, if there is one.
pub(crate) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetError> {
    match socket.get(RouteNetlinkMessage::GetLink(named(name)), false) {
        Ok(found) => Ok(found.into_iter().find_map(as_link)),
        Err(e) if is(&e, &[ErrorKind::NotFound]) || errno(&e) == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

/// All interfaces.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<Link>, NetError> {
    let found = socket.get(RouteNetlinkMessage::GetLink(LinkMessage::default()), true)?;
    Ok(found.into_iter().filter_map(as_link).collect())
}

fn as_link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link { index: message.header.index, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::OperState(state) => link.up = state == State::Up,
            _ => {}
        }
    }
    Some(link)
}

/// Makes a bridge with a fixed hardware address: without one it would change as pods come and go, and pods know it by
/// heart.
pub(crate) fn add_bridge(name: &str, mac: Mac) -> Request {
    let mut message = up(named(name));
    message.attributes.push(LinkAttribute::Address(mac.to_vec()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    request(format!("create bridge {name}"), NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
}

/// Brings an interface up with this MTU and hardware address.
pub(crate) fn set_up(name: &str, mtu: Option<u32>, mac: Option<Mac>) -> Request {
    let mut message = up(named(name));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    request(format!("set up {name}"), 0, RouteNetlinkMessage::NewLink(message))
}

/// Makes a veth on the bridge, its other end `inside` with this hardware address in the namespace.
pub(crate) fn add_veth(
    name: &str,
    inside: &str,
    bridge: u32,
    mtu: u32,
    mac: Mac,
    namespace: BorrowedFd<'_>,
) -> Request {
    let mut peer = named(inside);
    peer.attributes.push(LinkAttribute::Mtu(mtu));
    peer.attributes.push(LinkAttribute::Address(mac.to_vec()));
    peer.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    let mut message = up(named(name));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    message.attributes.push(LinkAttribute::Controller(bridge));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    request(format!("create veth {name}"), NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
}

/// Makes an interface on top of another, with a hardware address of its own, in the namespace.
pub(crate) fn add_macvlan(
    inside: &str,
    parent: u32,
    mode: Macvlan,
    mtu: Option<u32>,
    mac: Mac,
    namespace: BorrowedFd<'_>,
) -> Request {
    let mode = match mode {
        Macvlan::Bridge => MacVlanMode::Bridge,
        Macvlan::Private => MacVlanMode::Private,
        Macvlan::Vepa => MacVlanMode::Vepa,
        Macvlan::Passthru => MacVlanMode::Passthrough,
    };
    let mut message = named(inside);
    message.attributes.push(LinkAttribute::Link(parent));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message.attributes.push(LinkAttribute::Address(mac.to_vec()));
    message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::MacVlan),
        LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)])),
    ]));
    request(format!("create macvlan {inside}"), NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message))
}

/// Lets frames leave the bridge by the port they came in: with br_netfilter on, a pod that reaches itself through a
/// service is switched, not routed.
pub(crate) fn set_hairpin(name: &str) -> Request {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
    ]));
    request(format!("set hairpin of {name}"), 0, RouteNetlinkMessage::NewLink(message))
}

/// Puts an interface on the bridge.
pub(crate) fn set_master(name: &str, bridge: u32) -> Request {
    let mut message = up(named(name));
    message.attributes.push(LinkAttribute::Controller(bridge));
    request(format!("put {name} on the bridge"), 0, RouteNetlinkMessage::NewLink(message))
}

/// Removes an interface; see [`gone_is_fine`].
pub(crate) fn delete(name: &str) -> Request {
    request(format!("delete interface {name}"), 0, RouteNetlinkMessage::DelLink(named(name)))
}

/// Gives an interface an address.
pub(crate) fn add_address(index: u32, ip: Ipv4Addr, prefix: u8) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(ip.into()));
    message.attributes.push(AddressAttribute::Address(ip.into()));
    request(
        format!("add address {ip}/{prefix}"),
        NLM_F_CREATE | NLM_F_REPLACE,
        RouteNetlinkMessage::NewAddress(message),
    )
}

/// A route: to a range directly through the interface, or by way of `gateway`; `source` is preferred for local senders.
pub(crate) fn add_route(
    index: u32,
    to: (Ipv4Addr, u8),
    gateway: Option<Ipv4Addr>,
    source: Option<Ipv4Addr>,
) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = to.1;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    if to.1 > 0 {
        message.attributes.push(RouteAttribute::Destination(to.0.into()));
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.extend(gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
    message.attributes.extend(source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    let what = format!("add route to {}/{}", to.0, to.1);
    request(what, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(message))
}

fn neighbour(index: u32, ip: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(ip.into()));
    message
}

/// Fixes the hardware address of a neighbour, so that nobody has to ask for it or can lie about it.
pub(crate) fn add_neighbour(index: u32, ip: Ipv4Addr, mac: Mac) -> Request {
    let mut message = neighbour(index, ip);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    request(format!("add neighbour {ip}"), NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
}

/// Forgets a fixed neighbour; see [`gone_is_fine`].
pub(crate) fn delete_neighbour(index: u32, ip: Ipv4Addr) -> Request {
    request(format!("delete neighbour {ip}"), 0, RouteNetlinkMessage::DelNeighbour(neighbour(index, ip)))
}

/// The error number of the kernel's answer.
pub(crate) fn errno(error: &NetError) -> Option<i32> {
    match error {
        NetError::Netlink { source, .. } => source.raw_os_error(),
        _ => None,
    }
}

fn is(error: &NetError, kinds: &[ErrorKind]) -> bool {
    matches!(error, NetError::Netlink { source, .. } if kinds.contains(&source.kind()))
}

/// Whether the thing was there already.
pub(crate) fn already_there(error: &NetError) -> bool {
    is(error, &[ErrorKind::AlreadyExists])
}

/// A deletion of what is not there has succeeded.
pub(crate) fn gone_is_fine(result: Result<(), NetError>) -> Result<(), NetError> {
    match result {
        Err(e) if matches!(errno(&e), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::ENXIO)) => Ok(()),
        other => other,
    }
}
