//! Ports of the host for a container.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;

use engine::runtime::RuntimeError;
use rand::Rng;

use crate::containers::record::{Published, Record};
use crate::containers::spec::{Wanted, wanted_ports};
use crate::face::Face;
use crate::fault::{Fault, Result, blocking};

/// Where ports are taken from when none is named: the kernel's own range for outgoing connections, as Docker does.
const ANY: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// Ports tried before it is said that none is free.
const ATTEMPTS: usize = 200;

/// Ports of the host that are free for what the container publishes.
///
/// # Errors
/// 500 when one is taken, in Docker's words.
pub async fn find(face: &Arc<Face>, record: &Record) -> Result<Vec<Published>> {
    let wanted = wanted_ports(record)?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let held: Vec<Published> = face.all().iter().flat_map(|c| c.record().state.ports).collect();
    let name = record.name.clone();
    blocking(move || {
        let mut found: Vec<Published> = Vec::new();
        for port in wanted {
            let taken = |p: &Published| held.iter().chain(&found).any(|h| clash(h, p));
            let choice = choose(&port, taken).map_err(|why| {
                Fault::broken(format!("driver failed programming external connectivity on endpoint {name}: {why}"))
            })?;
            found.push(choice);
        }
        Ok::<_, Fault>(found)
    })
    .await
}

/// What the engine says of a port that a pod holds, as Docker says it.
pub fn words(record: &Record, error: RuntimeError) -> Fault {
    let fault = Fault::from(error);
    match fault.message.contains("host port") {
        true => Fault::broken(format!(
            "driver failed programming external connectivity on endpoint {}: {}: port is already allocated",
            record.name, fault.message
        )),
        false => fault,
    }
}

fn clash(a: &Published, b: &Published) -> bool {
    let same_place = a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip;
    a.host_port == b.host_port && a.protocol == b.protocol && same_place
}

fn choose(wanted: &Wanted, taken: impl Fn(&Published) -> bool) -> std::result::Result<Published, String> {
    let of = |host_port: u16| Published {
        host_ip: wanted.host_ip,
        host_port,
        port: wanted.port,
        protocol: wanted.protocol.clone(),
    };
    if *wanted.range.start() == 0 {
        let mut rng = rand::rng();
        let tries = std::iter::repeat_with(|| of(rng.random_range(ANY))).take(ATTEMPTS);
        return tries.into_iter().find(|p| !taken(p) && is_free(p).is_ok()).ok_or_else(|| "no port is free".to_owned());
    }
    let mut why = String::new();
    for number in wanted.range.clone() {
        let port = of(number);
        let shown = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        if taken(&port) {
            why = format!("Bind for {shown}:{number} failed: port is already allocated");
        } else if let Err(error) = is_free(&port) {
            let reason = match error.kind() {
                std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
                _ => error.to_string(),
            };
            why = format!("failed to bind host port for {shown}:{number}:/{}: {reason}", port.protocol);
        } else {
            return Ok(port);
        }
    }
    Err(why)
}

/// Whether a program of the host listens there: it would be hidden behind the container.
fn is_free(port: &Published) -> std::io::Result<()> {
    let address = (port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host_port);
    match port.protocol.as_str() {
        "udp" => UdpSocket::bind(address).map(drop),
        "tcp" => TcpListener::bind(address).map(drop),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(range: std::ops::RangeInclusive<u16>) -> Wanted {
        Wanted { host_ip: Some(Ipv4Addr::LOCALHOST), range, port: 80, protocol: "tcp".into() }
    }

    #[test]
    fn a_port_that_somebody_has_is_not_given_twice() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let busy = listener.local_addr().unwrap().port();
        let why = choose(&wanted(busy..=busy), |_| false).unwrap_err();
        assert!(why.contains("address already in use"), "{why}");
        let why = choose(&wanted(80..=81), |_| true).unwrap_err();
        assert!(why.contains("port is already allocated"), "{why}");
        assert!(ANY.contains(&choose(&wanted(0..=0), |_| false).unwrap().host_port));
    }
}
