//! `url('https://a/b')`: absolute URIs and absolute paths, as Go's `net/url.ParseRequestURI` takes them apart.

use std::collections::HashMap;

use cel::common::types::{CelBool, CelString};
use cel::{DeclarationError, Env, ExecutionError, Value, add_member_overload, add_overload};

use super::value::value;
use super::{failed, made};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Url {
    scheme: String,
    /// With the port.
    host: String,
    path: String,
    query: String,
}

value!(Url, "kubernetes.URL");

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(Url::TYPE)?;
    add_overload!(env, fn url: (CelString) -> Result<Url>, name = "url")?;
    add_overload!(env, fn is_url: (CelString) -> CelBool, name = "isURL")?;
    add_member_overload!(env, fn scheme: (Url) -> CelString, name = "getScheme")?;
    add_member_overload!(env, fn host: (Url) -> CelString, name = "getHost")?;
    add_member_overload!(env, fn hostname: (Url) -> CelString, name = "getHostname")?;
    add_member_overload!(env, fn port: (Url) -> CelString, name = "getPort")?;
    add_member_overload!(env, fn escaped_path: (Url) -> CelString, name = "getEscapedPath")?;
    env.add_member_overload("getQuery", "url_query", Url::TYPE, vec![], |args| {
        let url =
            args.first().and_then(|a| a.downcast_ref::<Url>()).ok_or_else(|| failed("getQuery", "no such overload"))?;
        made(Value::from(url.queries()))
    })
}

impl Url {
    /// Takes a text apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("URL parse error during conversion from string: parse {text:?}: {why}");
        if text.is_empty() {
            return Err(wrong("empty url"));
        }
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(wrong("net/url: invalid control character in URL"));
        }
        let (scheme, rest) = scheme_of(text).map_err(|why| wrong(&why))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut out = Url { scheme, host: String::new(), path: String::new(), query: query.to_owned() };
        if !rest.starts_with('/') {
            // What comes after a scheme without a slash is opaque.
            return if out.scheme.is_empty() && rest != "*" { Err(wrong("invalid URI for request")) } else { Ok(out) };
        }
        let mut path = rest;
        if let Some(authority) = rest.strip_prefix("//").filter(|_| !out.scheme.is_empty()) {
            let (authority, after) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
            out.host = host_of(authority).map_err(|why| wrong(&why))?;
            path = after;
        }
        unescape(path, false).ok_or_else(|| wrong("invalid URL escape"))?;
        out.path = path.to_owned();
        Ok(out)
    }

    fn queries(&self) -> HashMap<String, Vec<String>> {
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        for pair in self.query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(key), Some(value)) = (unescape(key, true), unescape(value, true)) {
                found.entry(key).or_default().push(value);
            }
        }
        found
    }

    fn split_port(&self) -> (&str, &str) {
        match self.host.rfind(':').filter(|at| !self.host[*at..].contains(']')) {
            Some(at) => (&self.host[..at], &self.host[at + 1..]),
            None => (&self.host, ""),
        }
    }
}

fn scheme_of(text: &str) -> Result<(String, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn host_of(authority: &str) -> Result<String, String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = match host.strip_prefix('[') {
        Some(inside) => match inside.split_once(']') {
            Some((_, after)) => after,
            None => return Err("missing ']' in host".to_owned()),
        },
        None => host.rfind(':').map_or("", |at| &host[at..]),
    };
    let digits = port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if !port.is_empty() && !digits {
        return Err(format!("invalid port {port:?} after host"));
    }
    let host = unescape(host, false).ok_or_else(|| format!("invalid URL escape in host {host:?}"))?;
    let allowed = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"".contains(c);
    match host.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(format!("invalid character {:?} in host name", c.to_string())),
        None => Ok(host),
    }
}

/// Resolves `%XX`, and `+` in queries; `None` when an escape is broken.
fn unescape(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let hex = [bytes.next()?, bytes.next()?];
                let hex = std::str::from_utf8(&hex).ok().filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
            }
            b'+' if plus => out.push(b' '),
            byte => out.push(byte),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn escaped(path: &str) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    if path.bytes().all(|b| unreserved(b) || b"!$&'()*+,;=:@[]/%".contains(&b)) {
        return path.to_owned();
    }
    let plain = unescape(path, false).unwrap_or_else(|| path.to_owned());
    plain.bytes().fold(String::new(), |mut out, b| {
        match b {
            b if unreserved(b) || b"$&+,/:;=@".contains(&b) => out.push(char::from(b)),
            b => out.push_str(&format!("%{b:02X}")),
        }
        out
    })
}

fn url(text: &CelString<'_>) -> Result<Url, ExecutionError> {
    Url::parse(text.inner()).map_err(|e| failed("url", e))
}

fn is_url(text: &CelString<'_>) -> CelBool {
    CelBool::from(Url::parse(text.inner()).is_ok())
}

fn scheme(this: &Url) -> CelString<'static> {
    this.scheme.clone().into()
}

fn host(this: &Url) -> CelString<'static> {
    this.host.clone().into()
}

fn hostname(this: &Url) -> CelString<'static> {
    let host = this.split_port().0;
    host.trim_start_matches('[').trim_end_matches(']').to_owned().into()
}

fn port(this: &Url) -> CelString<'static> {
    this.split_port().1.to_owned().into()
}

fn escaped_path(this: &Url) -> CelString<'static> {
    escaped(&this.path).into()
}
