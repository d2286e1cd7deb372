//! The order of a merged list: what the patch orders, with the rest where the server had it.

use std::collections::HashMap;

use serde_json::Value;

/// What identifies an item: the value of its merge key, or the item itself. As text, for look-up.
pub(super) fn identity(item: &Value, key: Option<&str>) -> Option<String> {
    match key {
        Some(key) => item.get(key).map(Value::to_string),
        None => Some(item.to_string()),
    }
}

/// First position of each identity.
pub(super) fn positions(items: &[Value], key: Option<&str>) -> HashMap<String, usize> {
    let mut out = HashMap::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        if let Some(id) = identity(item, key) {
            out.entry(id).or_insert(index);
        }
    }
    out
}

/// Orders `merged`: the items named in `order` as they are there, the others as in `server`, and the two interleaved as
/// far as `server` says how; where it does not, the patch's items come first.
pub(super) fn arrange(merged: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let in_order = positions(order, key);
    let in_server = positions(server, key);
    let mut patched = Vec::new();
    let mut rest = Vec::new();
    for item in merged {
        let id = identity(&item, key).unwrap_or_default();
        let server_at = in_server.get(&id).copied();
        match in_order.get(&id) {
            Some(at) => patched.push((*at, server_at, item)),
            None => rest.push((server_at, item)),
        }
    }
    patched.sort_by_key(|(at, ..)| *at);
    rest.sort_by_key(|(at, _)| at.unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(patched.len() + rest.len());
    let mut rest = rest.into_iter().peekable();
    for (_, server_at, item) in patched {
        while let (Some(at), Some((rest_at, _))) = (server_at, rest.peek()) {
            match rest_at {
                Some(rest_at) if *rest_at < at => out.extend(rest.next().map(|(_, item)| item)),
                _ => break,
            }
        }
        out.push(item);
    }
    out.extend(rest.map(|(_, item)| item));
    out
}
