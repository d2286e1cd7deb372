//! A blocking netlink socket that sends many requests in one system call.

use std::io::{Error, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::netns;
use crate::NetError;

/// A kernel that does not answer for this long will not answer at all.
const ANSWER_TIMEOUT_S: i64 = 10;
const HEADER: usize = 16;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;

/// A socket of the namespace in which it was opened, for life, whichever thread uses it.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// One request: what it is for (for the error message), extra flags, and the message.
pub(crate) struct Request {
    /// Named in the error.
    pub what: String,
    /// `NLM_F_CREATE` and the like; `REQUEST` and `ACK` are added.
    pub flags: u16,
    /// The message.
    pub message: RouteNetlinkMessage,
}

impl Socket {
    /// A route socket in the namespace of this thread.
    pub fn route() -> Result<Self, NetError> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// A netfilter socket in the namespace of this thread.
    pub fn netfilter() -> Result<Self, NetError> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Self, NetError> {
        let failed =
            |source: nix::Error| NetError::Netlink { what: "open a netlink socket".into(), source: source.into() };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(failed)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT_S)).map_err(failed)?;
        Ok(Socket { fd, sequence: 0 })
    }

    /// A route socket in the namespace pinned at `path`.
    pub fn route_in(path: &Path) -> Result<Self, NetError> {
        netns::within(path, Self::route)?
    }

    /// Sends all requests at once; the kernel does them in order, each on its own. One result per request.
    pub fn batch(&mut self, requests: Vec<Request>) -> Result<Vec<Result<(), NetError>>, NetError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(256 * requests.len());
        let mut names = Vec::with_capacity(requests.len());
        for request in requests {
            names.push(request.what);
            self.encode(request.message, request.flags | NLM_F_ACK, &mut bytes);
        }
        self.send(&bytes)?;
        let mut results: Vec<Option<Result<(), NetError>>> = names.iter().map(|_| None).collect();
        let mut missing = names.len();
        while missing > 0 {
            self.receive(|sequence, part| {
                let Part::Ack(code) = part else { return Ok(()) };
                let index = sequence.wrapping_sub(first) as usize;
                if let Some(slot @ None) = results.get_mut(index) {
                    missing -= 1;
                    *slot = Some(match code {
                        0 => Ok(()),
                        code => Err(NetError::Netlink {
                            what: names[index].clone(),
                            source: Error::from_raw_os_error(code.saturating_neg()),
                        }),
                    });
                }
                Ok(())
            })?;
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// [`Socket::batch`], where the first failure is the failure of all.
    pub fn all(&mut self, requests: Vec<Request>) -> Result<(), NetError> {
        self.batch(requests)?.into_iter().collect()
    }

    /// Asks for one thing, or with `dump` for all of a kind.
    pub fn get(&mut self, message: RouteNetlinkMessage, dump: bool) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let mut bytes = Vec::with_capacity(128);
        self.encode(message, if dump { NLM_F_DUMP } else { NLM_F_ACK }, &mut bytes);
        let mut found = Vec::new();
        self.exchange(&bytes, self.sequence, "query the kernel", |whole, _| {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(whole)
                .map_err(|e| NetError::BadReply(e.to_string()))?;
            if let NetlinkPayload::InnerMessage(message) = message.payload {
                found.push(message);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Sends raw bytes whose last request has this sequence number, and hands every reply (whole message, payload) to
    /// `each` until the kernel says it is done.
    pub fn exchange(
        &mut self,
        bytes: &[u8],
        sequence: u32,
        what: &str,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), NetError>,
    ) -> Result<(), NetError> {
        self.send(bytes)?;
        let mut done = false;
        while !done {
            self.receive(|got, part| {
                if got != sequence {
                    return Ok(());
                }
                match part {
                    Part::Ack(0) => done = true,
                    Part::Ack(code) => {
                        return Err(NetError::Netlink {
                            what: what.to_owned(),
                            source: Error::from_raw_os_error(code.saturating_neg()),
                        });
                    }
                    Part::Message { whole, payload } => each(whole, payload)?,
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The next sequence number, for those who encode by hand.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn encode(&mut self, message: RouteNetlinkMessage, flags: u16, bytes: &mut Vec<u8>) {
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.next_sequence();
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let at = bytes.len();
        bytes.resize(at + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[at..]);
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetError> {
        sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .map(|_| ())
            .map_err(|e| NetError::Netlink { what: "send to the kernel".into(), source: e.into() })
    }

    fn receive(&self, mut each: impl FnMut(u32, Part<'_>) -> Result<(), NetError>) -> Result<(), NetError> {
        let mut buffer = vec![0u8; 64 * 1024];
        let n = loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(n) => break n,
                Err(nix::Error::EINTR) => {}
                Err(e) => {
                    let mut source = Error::from(e);
                    if source.kind() == ErrorKind::WouldBlock {
                        source = Error::new(ErrorKind::TimedOut, "the kernel did not answer");
                    }
                    return Err(NetError::Netlink { what: "read from the kernel".into(), source });
                }
            }
        };
        for (sequence, part) in parts(&buffer[..n]) {
            each(sequence, part)?;
        }
        Ok(())
    }
}

/// One message of a datagram.
enum Part<'a> {
    /// The end of an answer: 0, or a negative error number.
    Ack(i32),
    /// A message of the family.
    Message { whole: &'a [u8], payload: &'a [u8] },
}

fn parts(mut rest: &[u8]) -> Vec<(u32, Part<'_>)> {
    let mut found = Vec::new();
    while rest.len() >= HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < HEADER || length > rest.len() {
            break;
        }
        let (whole, kind) = (&rest[..length], u16::from_ne_bytes([rest[4], rest[5]]));
        let sequence = u32::from_ne_bytes([rest[8], rest[9], rest[10], rest[11]]);
        let payload = &whole[HEADER..];
        let code = payload.first_chunk::<4>().map_or(0, |c| i32::from_ne_bytes(*c));
        found.push((
            sequence,
            match kind {
                TYPE_ERROR | TYPE_DONE => Part::Ack(code),
                _ => Part::Message { whole, payload },
            },
        ));
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_datagram_ends_the_list() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&20u32.to_ne_bytes());
        bytes.extend_from_slice(&TYPE_ERROR.to_ne_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&7u32.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(-17i32).to_ne_bytes());
        let whole = bytes.clone();
        bytes.extend_from_slice(&whole[..18]);
        let parts = parts(&bytes);
        assert_eq!(parts.len(), 1);
        assert!(matches!(parts[0], (7, Part::Ack(-17))));
    }
}
