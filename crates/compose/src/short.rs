//! The short syntaxes of ports and volumes.

use crate::words;

/// A volume in the short syntax, `[SOURCE:]TARGET[:OPTIONS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// A path or the name of a volume; none is an anonymous volume.
    pub source: Option<String>,
    /// Where in the container.
    pub target: String,
    /// What stands behind it, between commas.
    pub options: Vec<String>,
}

impl Volume {
    /// Whether the source is a path of the host.
    pub fn is_bind(&self) -> bool {
        self.source.as_deref().is_some_and(is_path)
    }
}

/// Whether a source is a path and no name.
pub fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.', '~'])
}

/// Reads a volume.
///
/// # Errors
/// What is wrong with it.
pub fn volume(text: &str) -> Result<Volume, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, None),
        [source, target] => (Some(source), target, None),
        [source, target, options] => (Some(source), target, Some(options)),
        _ => return Err(format!("{text:?} is not [SOURCE:]TARGET[:OPTIONS]")),
    };
    if !target.starts_with('/') || source.is_some_and(str::is_empty) {
        return Err(format!("{text:?} is not [SOURCE:]TARGET[:OPTIONS]: the target must be an absolute path"));
    }
    let options = options.map(|o| o.split(',').map(str::to_owned).collect()).unwrap_or_default();
    Ok(Volume { source: source.map(str::to_owned), target: target.to_owned(), options })
}

/// A port in the short syntax, `[[HOST:]PUBLISHED:]CONTAINER[/PROTOCOL]`, where ports may be ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Address of the host.
    pub host_ip: Option<String>,
    /// Ports of the host; none is any free one.
    pub published: Option<(u16, u16)>,
    /// Ports of the container.
    pub target: (u16, u16),
    /// The protocol, in lower case.
    pub protocol: String,
}

/// Reads a port.
///
/// # Errors
/// What is wrong with it.
pub fn port(text: &str) -> Result<Port, String> {
    let wrong = || format!("{text:?} is not [[HOST:]PUBLISHED:]CONTAINER[/PROTOCOL]");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    // An IPv6 address stands in brackets.
    let (host_ip, rest) = match ports.strip_prefix('[').and_then(|r| r.split_once("]:")) {
        Some((ip, rest)) => (Some(ip.to_owned()), rest),
        None => (None, ports),
    };
    let parts: Vec<&str> = rest.split(':').collect();
    let (host_ip, published, target) = match (host_ip, &parts[..]) {
        (None, [target]) => (None, None, *target),
        (None, [ip, published, target]) => (Some((*ip).to_owned()), Some(*published), *target),
        (ip, [published, target]) => (ip, Some(*published), *target),
        _ => return Err(wrong()),
    };
    let target = words::range(target).ok_or_else(wrong)?;
    let published = match published {
        None | Some("") => None,
        Some(text) => Some(words::range(text).ok_or_else(wrong)?),
    };
    let span = |(first, last): (u16, u16)| last - first;
    if let Some(published) = published
        && span(published) != span(target)
    {
        if span(target) > 0 {
            return Err(format!("the ranges of {text:?} have different lengths"));
        }
        return Err(format!("{text:?}: a port out of a range of the host's cannot be chosen; name one"));
    }
    Ok(Port { host_ip, published, target, protocol: protocol.to_ascii_lowercase() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_in_every_form() {
        let v = volume("./a:/b:ro,z").unwrap();
        assert!(v.is_bind() && v.target == "/b" && v.options == ["ro", "z"]);
        assert!(!volume("data:/b").unwrap().is_bind());
        assert_eq!(volume("/b").unwrap().source, None);
        for bad in ["a:b", "", ":/b", "a:/b:ro:x"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_in_every_form() {
        let of = |t: &str| port(t).unwrap();
        let make = |ip: Option<&str>, published, target, protocol: &str| Port {
            host_ip: ip.map(str::to_owned),
            published,
            target,
            protocol: protocol.into(),
        };
        assert_eq!(of("80"), make(None, None, (80, 80), "tcp"));
        assert_eq!(of("8080:80/UDP"), make(None, Some((8080, 8080)), (80, 80), "udp"));
        assert_eq!(of("127.0.0.1:1-2:3-4"), make(Some("127.0.0.1"), Some((1, 2)), (3, 4), "tcp"));
        assert_eq!(of("127.0.0.1::80"), make(Some("127.0.0.1"), None, (80, 80), "tcp"));
        assert_eq!(of("[::1]:1:2"), make(Some("::1"), Some((1, 1)), (2, 2), "tcp"));
        for bad in ["", "x", "1:2:3:4", "1-2:3", "1:2-3", "70000", "0", "8080:"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }
}
