//! From a question and the zones to an answer. Pure, but for the order of addresses, which the caller's shuffle gives.

#[cfg(test)]
use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zones::{Data, Lookup, Zones};

/// Seconds for which a client may keep an answer about the cluster, positive or negative: endpoints change.
pub(crate) const TTL: u32 = 5;
/// Largest UDP answer: what passes every link without fragments (DNS flag day 2020).
pub(crate) const UDP_MAX: u16 = 1232;
/// Aliases in the zones followed for one question.
const ALIASES_MAX: usize = 8;

/// What to do with a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Send this.
    Done(Box<Message>),
    /// Ask a resolver for `name`, add what it says to the message, and send that.
    Ask { reply: Box<Message>, name: Name, kind: RecordType },
    /// Not a request at all: say nothing, lest two servers talk to each other for ever.
    Drop,
}

/// Answers from the zones as far as they go.
pub(crate) fn answer(zones: &Zones, request: &Message) -> Answer {
    if request.metadata.message_type != MessageType::Query {
        return Answer::Drop;
    }
    let mut reply = reply_to(request);
    let refuse = |mut reply: Box<Message>, code| {
        reply.metadata.response_code = code;
        Answer::Done(reply)
    };
    if request.metadata.op_code != OpCode::Query {
        return refuse(reply, ResponseCode::NotImp);
    }
    let [query] = request.queries.as_slice() else { return refuse(reply, ResponseCode::FormErr) };
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        if let Some(edns) = reply.edns.as_mut() {
            edns.set_rcode_high(1); // BADVERS is 16: the high part is 1, the low part 0.
        }
        return Answer::Done(reply);
    }
    if query.query_class() != DNSClass::IN && query.query_class() != DNSClass::ANY {
        return refuse(reply, ResponseCode::Refused);
    }
    if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return refuse(reply, ResponseCode::Refused);
    }
    resolve(zones, query, reply)
}

fn resolve(zones: &Zones, query: &Query, mut reply: Box<Message>) -> Answer {
    let kind = query.query_type();
    let mut owner = query.name().clone();
    for _ in 0..ALIASES_MAX {
        match zones.lookup(&key(&owner)) {
            Lookup::NotOurs => return Answer::Ask { reply, name: owner, kind },
            Lookup::Missing(apex) => {
                reply.metadata.authoritative = true;
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.authorities.extend(soa(zones, &apex));
                return Answer::Done(reply);
            }
            Lookup::Found(data, apex) => {
                reply.metadata.authoritative = true;
                let alias = data.iter().find_map(|d| match d {
                    Data::Cname(target) => parse(target),
                    _ => None,
                });
                if let Some(target) = alias {
                    reply.answers.push(Record::from_rdata(owner, TTL, RData::CNAME(CNAME(target.clone()))));
                    if matches!(kind, RecordType::CNAME | RecordType::ANY) {
                        return Answer::Done(reply);
                    }
                    owner = target;
                    continue;
                }
                fill(zones, &owner, kind, data, &apex, &mut reply);
                return Answer::Done(reply);
            }
        }
    }
    reply.metadata.response_code = ResponseCode::ServFail;
    Answer::Done(reply)
}

fn fill(zones: &Zones, owner: &Name, kind: RecordType, data: Vec<Data>, apex: &str, reply: &mut Message) {
    let targets = data.iter().filter(|d| matches!(d, Data::Srv { .. })).count().max(1);
    for item in data {
        let Some(rdata) = rdata(&item, targets) else { continue };
        if kind != RecordType::ANY && rdata.record_type() != kind {
            continue;
        }
        reply.answers.push(Record::from_rdata(owner.clone(), TTL, rdata));
        if let Data::Srv { target, .. } = item
            && let (Some(name), Lookup::Found(addresses, _)) = (parse(&target), zones.lookup(&target))
        {
            for address in addresses {
                if let Some(rdata @ RData::A(_)) = self::rdata(&address, 1) {
                    let record = Record::from_rdata(name.clone(), TTL, rdata);
                    if !reply.additionals.contains(&record) {
                        reply.additionals.push(record);
                    }
                }
            }
        }
    }
    if owner.num_labels() > 0 && key(owner) == zones.domain() && kind == RecordType::SOA {
        reply.answers.extend(soa(zones, apex));
    }
    if reply.answers.is_empty() || reply.answers.iter().all(|r| r.record_type() == RecordType::CNAME) {
        reply.authorities.extend(soa(zones, apex));
    }
}

fn rdata(data: &Data, targets: usize) -> Option<RData> {
    Some(match data {
        Data::A(ip) => RData::A(A(*ip)),
        Data::Srv { port, target } => {
            let weight = (100 / targets as u16).max(1);
            RData::SRV(SRV::new(0, weight, *port, parse(target)?))
        }
        Data::Cname(target) => RData::CNAME(CNAME(parse(target)?)),
        Data::Ns(target) => RData::NS(NS(parse(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(parse(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
    })
}

/// Names without a zone have none.
fn soa(zones: &Zones, apex: &str) -> Option<Record> {
    if zones.domain().is_empty() {
        return None;
    }
    let server = parse(&format!("ns.dns.{}", zones.domain()))?;
    let contact = parse(&format!("hostmaster.{}", zones.domain()))?;
    let soa = SOA::new(server, contact, zones.serial(), 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(parse(apex)?, TTL, RData::SOA(soa)))
}

/// An empty answer to the request: its id, its question, and the size of datagrams that we take.
pub(crate) fn reply_to(request: &Message) -> Box<Message> {
    let mut reply = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&request.metadata);
    reply.metadata.recursion_available = true;
    reply.add_queries(request.queries.iter().take(1).cloned());
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    Box::new(reply)
}

/// The name as the zones have it: lower-case, without the dot at its end.
pub(crate) fn key(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn parse(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Turns the addresses by `offset`: clients take the first, so that each gets its turn.
pub(crate) fn rotate(reply: &mut Message, offset: usize) {
    let is_address = |r: &Record| matches!(r.data, RData::A(_) | RData::AAAA(_));
    let from = reply.answers.iter().position(is_address).unwrap_or(reply.answers.len());
    let addresses = &mut reply.answers[from..];
    if addresses.len() > 1 && addresses.iter().all(is_address) {
        let turns = offset % addresses.len();
        addresses.rotate_left(turns);
    }
}

/// Bytes of the answer, cut down to a mere "ask by TCP" if they do not fit.
pub(crate) fn encode(reply: &Message, max: usize) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    if bytes.len() <= max { Some(bytes) } else { reply.truncate().to_vec().ok() }
}

/// The addresses of an answer, for tests and logs.
#[cfg(test)]
pub(crate) fn addresses(reply: &Message) -> Vec<Ipv4Addr> {
    reply
        .answers
        .iter()
        .filter_map(|r| match &r.data {
            RData::A(a) => Some(a.0),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
