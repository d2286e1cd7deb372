//! What is asked of a build: the query and the headers of `POST /build` (Docker Engine API, ImageBuild).

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use engine::build::dockerfile::Network;
use engine::build::{DockerConfig, Options, Source};
use image::Reference;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::fault::{Fault, Result};
use crate::query::Query;

/// Most bytes that a context may unpack to: it lies on the disk as long as its build takes.
pub const CONTEXT_MAX: u64 = 16 << 30;
/// Names of an image at most.
pub const NAMES_MAX: usize = 64;

/// Limits and settings of the containers of a build that are not obeyed.
const REFUSED: [&str; 12] = [
    "cgroupparent",
    "cpuperiod",
    "cpuquota",
    "cpusetcpus",
    "cpusetmems",
    "cpushares",
    "memory",
    "memswap",
    "securityopt",
    "shmsize",
    "squash",
    "ulimits",
];

/// A build that is asked for.
#[derive(Debug)]
pub struct Asked {
    /// For the builder.
    pub options: Options,
    /// Where the context is, if the client does not send it.
    pub remote: Option<String>,
    /// Only the image's id is wanted.
    pub quiet: bool,
    /// What the client should know.
    pub warnings: Vec<String>,
}

/// A parameter of the query that is JSON; what is not there is empty.
///
/// # Errors
/// 400 for what cannot be read.
pub fn document<T: DeserializeOwned + Default>(query: &Query, name: &str) -> Result<T> {
    let Some(text) = query.get(name) else { return Ok(T::default()) };
    let read: Option<T> =
        serde_json::from_str(text).map_err(|e| Fault::bad(format!("error reading {name}: invalid JSON: {e}")))?;
    Ok(read.unwrap_or_default())
}

fn says_nothing(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "false" | "[]" | "{}" | "null")
}

/// `name:address` or `name=address`; the network is the host's, which has no gateway.
fn host(entry: &str) -> Result<(String, IpAddr)> {
    let bad = || Fault::bad(format!("bad format for add-host: {entry:?}"));
    let (name, address) = entry.split_once([':', '=']).ok_or_else(bad)?;
    if address == "host-gateway" {
        return Err(Fault::refused("extrahosts: host-gateway in a build"));
    }
    let address = address.trim_matches(['[', ']']).parse().map_err(|_| bad())?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(bad());
    }
    Ok((name.to_owned(), address))
}

fn network(mode: &str) -> Result<Network> {
    match mode {
        "" | "default" => Ok(Network::Default),
        "host" => Ok(Network::Host),
        "none" => Ok(Network::None),
        other => Err(Fault::refused(&format!(
            "networkmode={other:?} of a build (default and host are the host's network, none is none)"
        ))),
    }
}

/// `X-Registry-Config`: credentials by registry, base64 of JSON.
fn credentials(header: Option<&str>) -> Result<Option<DockerConfig>> {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
    let Some(text) = header.filter(|h| !h.is_empty()) else { return Ok(None) };
    let invalid = || Fault::bad("invalid X-Registry-Config header");
    let bytes = [URL_SAFE, URL_SAFE_NO_PAD, STANDARD].iter().find_map(|e| e.decode(text).ok()).ok_or_else(invalid)?;
    let auths: Option<BTreeMap<String, Value>> = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    let Some(auths) = auths.filter(|a| !a.is_empty()) else { return Ok(None) };
    Ok(Some(DockerConfig(serde_json::to_vec(&json!({ "auths": auths })).unwrap_or_default())))
}

/// Refuses limits and settings that would not be obeyed.
///
/// # Errors
/// 400 with the name of the first.
pub fn refuse_limits(query: &Query) -> Result<()> {
    for name in REFUSED {
        if query.all(name).any(|v| !says_nothing(v)) {
            return Err(Fault::refused(&format!("{name} of a build")));
        }
    }
    if !matches!(query.get("isolation").unwrap_or("default"), "default") {
        return Err(Fault::refused("isolation of a build"));
    }
    Ok(())
}

impl Asked {
    /// Of a request.
    ///
    /// # Errors
    /// 400 for what cannot be read or would not be obeyed.
    pub fn read(query: &Query, registry_config: Option<&str>) -> Result<Asked> {
        refuse_limits(query)?;
        if !document::<Vec<Value>>(query, "outputs")?.is_empty() {
            return Err(Fault::refused("outputs of a build"));
        }
        crate::containers::check::platform(query)?;
        let mut options = Options::new();
        options.names = names(query)?;
        options.source = Source::InContext(query.get("dockerfile").unwrap_or("Dockerfile").to_owned());
        options.target = query.get("target").map(str::to_owned);
        let args: BTreeMap<String, Option<String>> = document(query, "buildargs")?;
        // A name without a value is one that the client's environment did not have.
        options.args = args.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        options.labels = document(query, "labels")?;
        options.network = network(query.get("networkmode").unwrap_or_default())?;
        options.hosts = query.all("extrahosts").filter(|h| !h.is_empty()).map(host).collect::<Result<_>>()?;
        options.no_cache = query.flag("nocache");
        options.pull = query.flag("pull");
        options.docker_config = credentials(registry_config)?;
        options.context_max_bytes = CONTEXT_MAX;
        let mut warnings = Vec::new();
        let from: Vec<String> = document(query, "cachefrom")?;
        if !from.is_empty() {
            warnings.push(format!(
                "cache-from [{}] is not asked: steps are found by what they are made from",
                from.join(" ")
            ));
        }
        let remote = query.get("remote").filter(|r| *r != "client-session").map(str::to_owned);
        if query.get("remote") == Some("client-session") {
            return Err(Fault::bad("a context in a session needs version=2"));
        }
        Ok(Asked { options, remote, quiet: query.flag("q"), warnings })
    }
}

fn names(query: &Query) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for text in query.all("t").filter(|t| !t.is_empty()) {
        let reference: Reference = text.parse().map_err(Fault::from)?;
        if reference.digest().is_some() {
            return Err(Fault::bad("build tag cannot contain a digest"));
        }
        let normal = reference.to_string();
        if !names.contains(&normal) {
            names.push(normal);
        }
    }
    if names.len() > NAMES_MAX {
        return Err(Fault::bad(format!("more than {NAMES_MAX} names for an image")));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Asked> {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(pairs);
        Asked::read(&Query::parse(&text.finish()), None)
    }

    #[test]
    fn what_the_cli_always_sends_is_taken() {
        let asked = read(&[
            ("buildargs", r#"{"A":"1","B":null}"#),
            ("cachefrom", "[]"),
            ("cgroupparent", ""),
            ("cpuperiod", "0"),
            ("dockerfile", "sub/Dockerfile"),
            ("extrahosts", "a:1.2.3.4"),
            ("extrahosts", "b=::1"),
            ("labels", r#"{"l":"v"}"#),
            ("memory", "0"),
            ("networkmode", "none"),
            ("rm", "1"),
            ("shmsize", "0"),
            ("t", "a"),
            ("t", "reg.example:5000/b:2"),
            ("t", "a:latest"),
            ("target", ""),
            ("ulimits", "null"),
            ("version", "1"),
        ])
        .unwrap();
        let options = &asked.options;
        assert_eq!(options.names, ["docker.io/library/a:latest", "reg.example:5000/b:2"]);
        assert_eq!(options.args, BTreeMap::from([("A".to_owned(), "1".to_owned())]));
        assert_eq!(options.source, Source::InContext("sub/Dockerfile".to_owned()));
        assert_eq!((options.network, options.hosts.len()), (Network::None, 2));
        assert!(options.target.is_none() && asked.remote.is_none() && !asked.quiet && asked.warnings.is_empty());
    }

    #[test]
    fn what_is_not_obeyed_is_refused_or_said() {
        for (name, value, word) in [
            ("memory", "1000000", "memory"),
            ("squash", "1", "squash"),
            ("ulimits", r#"[{"Name":"nofile"}]"#, "ulimits"),
            ("networkmode", "bridge", "networkmode"),
            ("networkmode", "container:x", "networkmode"),
            ("extrahosts", "a", "add-host"),
            ("extrahosts", "a:host-gateway", "host-gateway"),
            ("outputs", r#"[{"Type":"tar"}]"#, "outputs"),
            ("platform", "linux/s390x", "platform"),
            ("t", "UPPER", "reference"),
            ("buildargs", "{", "buildargs"),
            ("remote", "client-session", "session"),
        ] {
            let message = read(&[(name, value)]).unwrap_err().message;
            assert!(message.contains(word), "{name}={value}: {message}");
        }
        let asked = read(&[("cachefrom", r#"["a:1"]"#), ("q", "1"), ("remote", "https://x.example/y.git")]).unwrap();
        assert!(asked.quiet && asked.warnings[0].contains("cache-from [a:1]"));
        assert_eq!(asked.remote.as_deref(), Some("https://x.example/y.git"));
    }

    #[test]
    fn credentials_of_registries_come_in_a_header() {
        let header = |json: &str| base64::engine::general_purpose::URL_SAFE.encode(json);
        assert!(credentials(Some(&header("{}"))).unwrap().is_none() && credentials(None).unwrap().is_none());
        let config = credentials(Some(&header(r#"{"r.example":{"username":"u","password":"p"}}"#))).unwrap().unwrap();
        let auth = image::Auth::from_docker_config(&config.0, &"r.example/a".parse().unwrap()).unwrap();
        assert_eq!(auth, Some(image::Auth::Basic { username: "u".into(), password: "p".into() }));
        assert!(credentials(Some("{")).is_err() && !format!("{config:?}").contains('p'));
    }
}
