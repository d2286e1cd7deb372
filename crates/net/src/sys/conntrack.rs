//! Connection tracking entries: UDP has no end of connection, so a flow to an endpoint that is gone lives on for as long
//! as its client keeps sending. Those entries are deleted here; TCP is left alone, so that draining pods finish.

use std::net::Ipv4Addr;

use super::netlink::Socket;
use crate::NetError;
use crate::plan::flows::{Flow, Tuple};

// linux/netfilter/nfnetlink_conntrack.h
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const ZONE: u16 = 18;

const REQUEST_DUMP: u16 = 0x1 | 0x300;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const AF_INET: u8 = 2;
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// Deletes the flows that `stale` picks, and says how many there were.
pub(crate) fn delete_flows(stale: impl Fn(&Flow) -> bool) -> Result<usize, NetError> {
    let mut socket = Socket::netfilter()?;
    let sequence = socket.next_sequence();
    let mut doomed = Vec::new();
    socket.exchange(&message(GET, REQUEST_DUMP, sequence, &[]), sequence, "list tracked flows", |_, payload| {
        // A family header of four bytes comes first.
        let attributes = payload.get(4..).unwrap_or_default();
        if let Some(flow) = parse_flow(attributes)
            && stale(&flow)
        {
            doomed.push(identity(attributes));
        }
        Ok(())
    })?;
    let count = doomed.len();
    for attributes in doomed {
        let sequence = socket.next_sequence();
        let request = message(DELETE, REQUEST_ACK, sequence, &attributes);
        super::link::gone_is_fine(socket.exchange(&request, sequence, "delete a tracked flow", |_, _| Ok(())))?;
    }
    Ok(count)
}

fn message(kind: u16, flags: u16, sequence: u32, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + attributes.len());
    bytes.extend_from_slice(&(20 + attributes.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[AF_INET, 0, 0, 0]);
    bytes.extend_from_slice(attributes);
    bytes
}

/// The attributes that name one flow, copied as the kernel gave them.
fn identity(attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in Attributes(attributes) {
        let flag = match kind {
            TUPLE_ORIGINAL => NESTED,
            ZONE => 0,
            _ => continue,
        };
        bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        bytes.extend_from_slice(&(kind | flag).to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn parse_flow(attributes: &[u8]) -> Option<Flow> {
    let find = |wanted| Attributes(attributes).find(|(kind, _)| *kind == wanted).and_then(|(_, v)| parse_tuple(v));
    Some(Flow { original: find(TUPLE_ORIGINAL)?, reply: find(TUPLE_REPLY)? })
}

fn parse_tuple(nested: &[u8]) -> Option<Tuple> {
    let mut tuple = Tuple { protocol: 0, source: (Ipv4Addr::UNSPECIFIED, 0), destination: (Ipv4Addr::UNSPECIFIED, 0) };
    for (kind, value) in Attributes(nested) {
        for (inner, value) in Attributes(value) {
            match (kind, inner) {
                (TUPLE_IP, IP_V4_SRC) => tuple.source.0 = Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?),
                (TUPLE_IP, IP_V4_DST) => tuple.destination.0 = Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?),
                (TUPLE_PROTO, PROTO_NUMBER) => tuple.protocol = *value.first()?,
                (TUPLE_PROTO, PROTO_SRC_PORT) => tuple.source.1 = u16::from_be_bytes(value.try_into().ok()?),
                (TUPLE_PROTO, PROTO_DST_PORT) => tuple.destination.1 = u16::from_be_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
    }
    Some(tuple)
}

/// The attributes of a netlink message: type and value, until the bytes end or make no sense.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let ip = [attribute(IP_V4_SRC, &from), attribute(IP_V4_DST, &to)].concat();
        let proto = [
            attribute(PROTO_NUMBER, &[17]),
            attribute(PROTO_SRC_PORT, &ports.0.to_be_bytes()),
            attribute(PROTO_DST_PORT, &ports.1.to_be_bytes()),
        ]
        .concat();
        [attribute(TUPLE_IP | NESTED, &ip), attribute(TUPLE_PROTO | NESTED, &proto)].concat()
    }

    #[test]
    fn a_flow_is_read_and_named_as_the_kernel_has_it() {
        let original = attribute(TUPLE_ORIGINAL | NESTED, &tuple([10, 0, 0, 2], [10, 96, 0, 10], (4000, 53)));
        let reply = attribute(TUPLE_REPLY | NESTED, &tuple([10, 0, 0, 9], [10, 0, 0, 2], (5353, 4000)));
        let all = [original.clone(), reply].concat();
        let flow = parse_flow(&all).expect("a flow");
        assert_eq!(flow.original.destination, (Ipv4Addr::new(10, 96, 0, 10), 53));
        assert_eq!(flow.reply.source, (Ipv4Addr::new(10, 0, 0, 9), 5353));
        assert_eq!(flow.original.protocol, 17);
        assert_eq!(identity(&all), original);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_flow(&bytes);
            let _ = identity(&bytes);
        }
    }
}
