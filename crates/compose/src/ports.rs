//! `ports`, `expose`: who reaches a service where.

use convert::{Port, Protocol, Published, Workload};

use crate::error::Result;
use crate::fields::Fields;
use crate::short;
use crate::words;

/// Most ports of a service: a Service is one object.
const PORTS_MAX: usize = 256;

/// Reads them into the workload.
pub fn read(fields: &Fields<'_>, workload: &mut Workload) -> Result<Vec<String>> {
    for item in fields.items("ports")? {
        let (port, mode) = match item.text() {
            Some(text) => (short::port(text).map_err(|m| fields.wrong("ports", m))?, None),
            None => long(item, fields)?,
        };
        let protocol = protocol(&port.protocol)
            .ok_or_else(|| fields.wrong("ports", format!("{:?} is not a protocol: tcp, udp or sctp", port.protocol)))?;
        let everywhere = match port.host_ip.as_deref() {
            None | Some("" | "0.0.0.0" | "::") => true,
            Some("127.0.0.1" | "localhost") => false,
            Some(ip) => {
                return Err(fields.wrong("ports", format!("address {ip} is not supported: 127.0.0.1, or none for all")));
            }
        };
        if port.published.is_none() {
            fields.note(
                "ports",
                &format!("no port of the host is named for {}: it is reached from pods only", port.target.0),
            );
        }
        for (i, container) in (port.target.0..=port.target.1).enumerate() {
            let number = port.published.map(|(first, _)| first + i as u16);
            let published = match (number, mode.as_deref()) {
                (None, _) => Published::Cluster,
                (Some(_), Some("host")) if !everywhere => {
                    return Err(fields.wrong("ports", "mode host has no address"));
                }
                (Some(number), Some("host")) => Published::OnNode(number),
                (Some(number), _) if everywhere => Published::Everywhere(number),
                (Some(number), _) => Published::Loopback(number),
            };
            workload.ports.push(Port { container, protocol, published });
        }
        if workload.ports.len() > PORTS_MAX {
            return Err(fields.wrong("ports", format!("more than {PORTS_MAX} ports")));
        }
    }
    for text in fields.texts("expose")? {
        let (range, name) = text.split_once('/').unwrap_or((&text, "tcp"));
        let (Some((first, last)), Some(protocol)) = (words::range(range), protocol(name)) else {
            return Err(fields.wrong("expose", format!("{text:?} is not PORT[/PROTOCOL]")));
        };
        if usize::from(last - first) + workload.ports.len() >= PORTS_MAX {
            return Err(fields.wrong("expose", format!("more than {PORTS_MAX} ports")));
        }
        for container in first..=last {
            if !workload.ports.iter().any(|p| p.container == container && p.protocol == protocol) {
                workload.ports.push(Port { container, protocol, published: Published::Cluster });
            }
        }
    }
    // Two pods cannot have one port of one node.
    workload.update.stop_first = workload.ports.iter().any(|p| matches!(p.published, Published::OnNode(_)));
    // As in Compose a name resolves whatever is told of ports: then to the pods themselves.
    workload.headless = workload.ports.is_empty();
    Ok(Vec::new())
}

fn protocol(text: &str) -> Option<Protocol> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn long(item: &crate::yaml::Node, fields: &Fields<'_>) -> Result<(short::Port, Option<String>)> {
    let one = Fields::of(item, fields.at("ports"), fields.notes())?;
    let range = |key: &'static str| -> Result<Option<(u16, u16)>> {
        let Some(text) = one.text(key)?.filter(|t| !t.is_empty()) else { return Ok(None) };
        words::range(&text).map(Some).ok_or_else(|| one.wrong(key, format!("{text:?} is not a port")))
    };
    let target = range("target")?.ok_or_else(|| one.wrong("target", "it is needed"))?;
    let published = range("published")?;
    if target.0 != target.1 || published.is_some_and(|(a, b)| a != b) {
        return Err(one.wrong("published", "ranges need the short syntax"));
    }
    let port = short::Port {
        host_ip: one.text("host_ip")?,
        published,
        target,
        protocol: one.text("protocol")?.unwrap_or_else(|| "tcp".to_owned()),
    };
    let mode = one.one_of("mode", &["host", "ingress"])?;
    one.text("name")?;
    one.lose(&[("app_protocol", "it is not told to the cluster")]);
    one.finish()?;
    Ok((port, mode))
}
