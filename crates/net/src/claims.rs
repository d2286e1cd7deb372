//! Ports of the host that Services hold, as their load balancer would: each is bound by a socket that nobody listens on, so that
//! no program of the host can have it meanwhile, and none that has it is hidden behind a Service.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};

use crate::ipam::ports_clash;
use crate::{HostPort, NetError, Network, Protocol};

/// Who holds which ports.
#[derive(Default)]
pub(crate) struct Claims(BTreeMap<String, Held>);

struct Held {
    ports: Vec<HostPort>,
    /// Closing them lets the ports go.
    _sockets: Vec<OwnedFd>,
}

impl Claims {
    /// Whether a Service holds one of these.
    pub fn check(&self, wanted: &[HostPort]) -> Result<(), NetError> {
        self.0.iter().try_for_each(|(owner, held)| ports_clash(("service", owner), &held.ports, wanted))
    }
}

/// A port of all of the host's addresses. What is in the container is not looked at.
fn whole(&(protocol, host_port): &(Protocol, u16)) -> HostPort {
    HostPort { protocol, host_ip: None, host_port, container_port: host_port }
}

/// Binds without listening and without `SO_REUSEADDR`: connections that no rule translates are refused, and no second socket
/// comes to the port (socket(7)).
fn hold((protocol, port): (Protocol, u16)) -> Result<Option<OwnedFd>, NetError> {
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
        // Kernels without SCTP are common, and programs of the host that speak it are not.
        Protocol::Sctp => return Ok(None),
    };
    let taken = |errno: nix::Error| NetError::HostPortBusy { port, protocol, source: errno.into() };
    let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None).map_err(taken)?;
    let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).map_err(taken)?;
    Ok(Some(socket))
}

impl Network {
    /// The Services that hold ports of the host are these and no others; answers why one could not have all of its own, in which
    /// case it has none. Who holds ports already keeps them.
    pub fn hold_ports(&self, wanted: &[(String, Vec<(Protocol, u16)>)]) -> BTreeMap<String, NetError> {
        let mut claims = self.inner.claims.lock();
        let ports_of = |owner: &str| wanted.iter().find(|(name, _)| name == owner);
        claims.0.retain(|owner, held| {
            ports_of(owner).is_some_and(|(_, ports)| ports.iter().map(whole).eq(held.ports.iter().cloned()))
        });
        let mut refused = BTreeMap::new();
        for (owner, ports) in wanted {
            if claims.0.contains_key(owner) {
                continue;
            }
            let all: Vec<HostPort> = ports.iter().map(whole).collect();
            let free = claims.check(&all).and_then(|()| self.inner.check_pods(owner, &all));
            let sockets = free.and_then(|()| ports.iter().map(|p| hold(*p)).collect::<Result<Vec<_>, _>>());
            match sockets {
                Ok(sockets) => {
                    let sockets = sockets.into_iter().flatten().collect();
                    claims.0.insert(owner.clone(), Held { ports: all, _sockets: sockets });
                }
                Err(error) => drop(refused.insert(owner.clone(), error)),
            }
        }
        refused
    }
}
