//! One object as the server holds it: its encoded bytes, and the few facts that selectors and admission ask for.

use std::sync::{Arc, OnceLock};

use api::kinds::KindInfo;
use bytes::Bytes;
use serde_json::{Map, Value};

/// What the beginning of every stored object looks like after `apiVersion` and `kind`; see [`encode`].
const METADATA: &[u8] = b"\"metadata\":{";
const REVISION: &[u8] = b"\"resourceVersion\":\"";

/// What can be known of an object without parsing it again.
#[derive(Debug, Default)]
pub struct Facts {
    /// `metadata.labels`.
    pub labels: Map<String, Value>,
    /// Values that field selectors match on.
    pub fields: Vec<(&'static str, String)>,
    /// `metadata.uid`.
    pub uid: String,
    /// Whether its deletion has been asked for.
    pub deleting: bool,
    /// What a Service occupies; empty for other kinds.
    pub claims: Claims,
}

/// Addresses and node ports of a Service.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Cluster addresses.
    pub ips: Vec<std::net::Ipv4Addr>,
    /// Node ports, that of the health check included.
    pub ports: Vec<u16>,
}

impl Claims {
    /// Reads them from a Service.
    pub fn of(service: &Value) -> Self {
        let spec = &service["spec"];
        let mut ips: Vec<std::net::Ipv4Addr> = spec["clusterIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .chain(std::iter::once(&spec["clusterIP"]))
            .filter_map(|ip| ip.as_str()?.parse().ok())
            .collect();
        ips.sort_unstable();
        ips.dedup();
        let mut ports: Vec<u16> = spec["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| &p["nodePort"])
            .chain(std::iter::once(&spec["healthCheckNodePort"]))
            .filter_map(|p| u16::try_from(p.as_u64()?).ok().filter(|&p| p != 0))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Claims { ips, ports }
    }
}

/// One revision of one object.
#[derive(Debug, Clone)]
pub struct Entry {
    /// `NAMESPACE/NAME`, or `NAME` for cluster-scoped kinds.
    pub key: Arc<str>,
    /// Its `resourceVersion`.
    pub revision: u64,
    /// The JSON document, `resourceVersion` included.
    pub bytes: Bytes,
    /// What is known of it.
    pub facts: Arc<Facts>,
    /// What else was made of it, once for all who ask.
    forms: Arc<Forms>,
}

/// Other forms of an object, made when somebody first asks.
#[derive(Debug, Default)]
struct Forms {
    /// The document in the other served version, where a kind has two.
    converted: OnceLock<Bytes>,
    /// The fields in protobuf; `None` when they cannot be said in it.
    message: OnceLock<Option<Bytes>>,
}

impl Entry {
    /// From what the store holds.
    ///
    /// # Errors
    /// The value is not a JSON object.
    pub fn decode(kind: &KindInfo, key: &str, stored: &[u8], revision: u64) -> Result<Self, serde_json::Error> {
        let mut value: Value = serde_json::from_slice(stored)?;
        let changed = kind.custom.is_some() && {
            // The definition may have got defaults, or another stored version, since the object was written.
            let before = value.clone();
            kind.to_storage(&mut value);
            kind.default(&mut value);
            before != value
        };
        let facts = Facts {
            labels: api::meta::labels(&value).cloned().unwrap_or_default(),
            fields: kind.selectable(&value),
            uid: api::meta::uid(&value).to_owned(),
            deleting: api::meta::is_deleting(&value),
            claims: if kind.kind == "Service" { Claims::of(&value) } else { Claims::default() },
        };
        let bytes = match changed {
            true => slow_with_revision(&encode(&value), revision),
            // Bytes from the cache itself have their revision already.
            false if value["metadata"].get("resourceVersion").is_some() => Bytes::copy_from_slice(stored),
            false => with_revision(stored, revision),
        };
        Ok(Entry { key: key.into(), revision, bytes, facts: Arc::new(facts), forms: Arc::default() })
    }

    /// The same object with another `resourceVersion`: that of its deletion.
    pub fn at(&self, revision: u64) -> Self {
        Entry {
            key: self.key.clone(),
            revision,
            bytes: replace_revision(&self.bytes, revision),
            facts: self.facts.clone(),
            forms: Arc::default(),
        }
    }

    /// The object, parsed.
    pub fn value(&self) -> Value {
        // It was parsed when it came in.
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The document in the version of `kind`.
    pub fn document(&self, kind: &KindInfo) -> Bytes {
        if !is_converted(kind) {
            return self.bytes.clone();
        }
        let convert = || {
            let mut value = self.value();
            kind.from_storage(&mut value);
            Bytes::from(encode(&value))
        };
        if kind.custom.is_some() {
            // There may be several other versions: none is kept.
            return convert();
        }
        self.forms.converted.get_or_init(convert).clone()
    }

    /// The fields in protobuf, in the version of `kind`, encoded once for lists, watches and single reads. Kept beside the
    /// JSON (a little more than half its size) from the first time on, because reading the JSON again costs more than all
    /// the rest of an answer. `None` when the kind has no message.
    pub fn message(&self, kind: &KindInfo) -> Option<Bytes> {
        let encode = |bytes: &[u8]| {
            let value: Value = serde_json::from_slice(bytes).ok()?;
            api::protobuf::message(&value).map(|mut message| {
                message.shrink_to_fit();
                Bytes::from(message)
            })
        };
        if is_converted(kind) {
            return encode(&self.document(kind));
        }
        self.forms.message.get_or_init(|| encode(&self.bytes)).clone()
    }

    /// The namespace; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }
}

/// Whether documents of this kind are stored in another version than it is served in.
pub fn is_converted(kind: &KindInfo) -> bool {
    kind.group != kind.storage_group || kind.version != kind.storage_version
}

/// Encodes an object with `apiVersion`, `kind` and `metadata` first, so that the revision can be put in by position.
pub fn encode(object: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    let Some(map) = object.as_object() else { return b"{}".to_vec() };
    let write = |key: &str, value: &Value, out: &mut Vec<u8>| {
        if out.len() > 1 {
            out.push(b',');
        }
        // Writing a value to memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, key);
        out.push(b':');
        let _ = serde_json::to_writer(&mut *out, value);
    };
    const FIRST: [&str; 3] = ["apiVersion", "kind", "metadata"];
    for key in FIRST {
        if let Some(value) = map.get(key) {
            write(key, value, &mut out);
        }
    }
    for (key, value) in map.iter().filter(|(key, _)| !FIRST.contains(&key.as_str())) {
        write(key, value, &mut out);
    }
    out.push(b'}');
    out
}

/// Puts `resourceVersion` in front of the other metadata of a document made by [`encode`] without one.
pub fn with_revision(stored: &[u8], revision: u64) -> Bytes {
    let Some(at) = find_metadata(stored) else { return slow_with_revision(stored, revision) };
    let (head, tail) = stored.split_at(at);
    let digits = revision.to_string();
    let mut out = Vec::with_capacity(stored.len() + REVISION.len() + digits.len() + 2);
    out.extend_from_slice(head);
    out.extend_from_slice(REVISION);
    out.extend_from_slice(digits.as_bytes());
    out.push(b'"');
    if tail.first() != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(tail);
    out.into()
}

/// Replaces the revision of a document made by [`with_revision`].
fn replace_revision(bytes: &[u8], revision: u64) -> Bytes {
    let found = find_metadata(bytes)
        .filter(|&at| bytes[at..].starts_with(REVISION))
        .map(|at| at + REVISION.len())
        .and_then(|start| bytes[start..].iter().position(|&b| b == b'"').map(|len| (start, start + len)));
    let Some((start, end)) = found else { return slow_with_revision(bytes, revision) };
    let mut out = Vec::with_capacity(bytes.len() + 8);
    out.extend_from_slice(&bytes[..start]);
    out.extend_from_slice(revision.to_string().as_bytes());
    out.extend_from_slice(&bytes[end..]);
    out.into()
}

/// The position after `"metadata":{`. Only `apiVersion` and `kind`, which cannot contain it, come before.
fn find_metadata(bytes: &[u8]) -> Option<usize> {
    const NEAR: usize = 256;
    let head = &bytes[..bytes.len().min(NEAR)];
    head.windows(METADATA.len()).position(|w| w == METADATA).map(|at| at + METADATA.len())
}

/// For documents that something else wrote.
fn slow_with_revision(bytes: &[u8], revision: u64) -> Bytes {
    let mut value: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    api::meta::set_resource_version(&mut value, revision);
    encode(&value).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_revision_goes_in_and_is_replaced_without_parsing() {
        let object =
            json!({"spec": {"metadata": {"x": 1}}, "metadata": {"name": "a"}, "kind": "Pod", "apiVersion": "v1"});
        let stored = encode(&object);
        assert!(stored.starts_with(br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}"#));
        let bytes = with_revision(&stored, 7);
        let mut want = object.clone();
        want["metadata"]["resourceVersion"] = "7".into();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), want);
        want["metadata"]["resourceVersion"] = "1234567".into();
        assert_eq!(serde_json::from_slice::<Value>(&replace_revision(&bytes, 1_234_567)).unwrap(), want);
    }

    #[test]
    fn documents_of_another_order_still_get_their_revision() {
        let long = format!(r#"{{"data":{{"k":"{}"}},"metadata":{{"name":"a"}}}}"#, "x".repeat(500));
        let value: Value = serde_json::from_slice(&with_revision(long.as_bytes(), 3)).unwrap();
        assert_eq!(value["metadata"]["resourceVersion"], "3");
        let empty: Value = serde_json::from_slice(&with_revision(br#"{"metadata":{}}"#, 3)).unwrap();
        assert_eq!(empty["metadata"]["resourceVersion"], "3");
    }
}
