//! Doors for the fuzz targets to what reads Docker's clients.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::containers::attach::{STDERR, STDOUT, frame};
use crate::containers::keys::Detach;
use crate::containers::{check, model::Creation};
use crate::images::{asked::Asked, transfer};
use crate::query::{Query, time};
use crate::route;

/// Filters that some listing knows.
const FILTERS: &[&str] = &["label", "label!", "status", "until", "dangling", "reference", "name"];

/// Reads `/path?query` and, after a line's end, a header with credentials; says how it went.
pub fn request(input: &str) -> String {
    let (line, header) = input.split_once('\n').unwrap_or((input, ""));
    let (path, query) = line.split_once('?').unwrap_or((line, ""));
    let mut said: Vec<String> = Vec::new();
    let mut tell = |fault: Option<crate::fault::Fault>| said.extend(fault.map(|f| f.message));
    tell(route::fuzzed(path).err());
    let query = Query::parse(query);
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    match query.filters(FILTERS) {
        Ok(filters) => {
            let _ = (filters.labels(&labels), filters.any("name", |name| name == "a"));
            tell(filters.switch("dangling").err());
        }
        Err(fault) => tell(Some(fault)),
    }
    for name in ["since", "until"] {
        tell(query.get(name).map(time).and_then(Result::err));
    }
    tell(query.number::<u32>("t").err());
    tell(check::platform(&query).err());
    tell(Asked::read(&query, Some(header)).err());
    tell(transfer::credentials(Some(header)).err());
    if said.is_empty() { "ok".to_owned() } else { said.join("; ") }
}

/// Reads the body of a container to create; says how it went.
pub fn container(input: &[u8]) -> String {
    let Ok(document) = serde_json::from_slice::<Value>(input) else { return "no JSON".to_owned() };
    let read = Creation::read(document).and_then(|asked| check::creation(&asked, &mut Vec::new()));
    read.map_or_else(|fault| fault.message, |()| "ok".to_owned())
}

/// Takes an attached client's input, in pieces, through the watch for the keys to leave, and its output through frames. The
/// input is the keys, a line's end, and what is typed; a piece ends where a byte says.
///
/// # Panics
/// When bytes were lost, or frames cannot be told apart again.
pub fn stream(input: &[u8]) -> String {
    let at = input.iter().position(|b| *b == b'\n').unwrap_or(input.len());
    let (keys, typed) = (String::from_utf8_lossy(&input[..at]), input.get(at + 1..).unwrap_or_default());
    let keys = if keys.is_empty() { None } else { Some(&*keys) };
    let mut watch = match Detach::parse(keys) {
        Ok(watch) => watch.expect("there are keys, if only those of Docker"),
        Err(fault) => return fault.message,
    };
    let (mut wire, mut passed, mut rest) = (Vec::new(), Vec::new(), typed);
    let mut left = false;
    while let Some(first) = rest.first().filter(|_| !left) {
        let (piece, after) = rest.split_at(usize::from(*first).clamp(1, rest.len()));
        let (through, leave) = watch.pass(piece);
        wire.extend_from_slice(&frame(if first % 2 == 0 { STDOUT } else { STDERR }, &through));
        passed.extend_from_slice(&through);
        (rest, left) = (after, leave);
    }
    assert!(typed.starts_with(&passed), "what goes through is what was typed");
    assert!(left || typed.len() - passed.len() <= watch.held(), "nothing but keys is held back");
    let (mut wire, mut told) = (wire.as_slice(), Vec::new());
    while !wire.is_empty() {
        let (head, body) = wire.split_at(8);
        assert!(matches!(head[0], STDOUT | STDERR) && head[1..4] == [0; 3]);
        let (piece, after) = body.split_at(u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize);
        told.extend_from_slice(piece);
        wire = after;
    }
    assert!(told == passed, "frames hold what went through");
    if left { "ok, left".to_owned() } else { "ok".to_owned() }
}
