//! One object as the server holds it: its encoded bytes, and the few facts that selectors and admission ask for.

use std::sync::{Arc, OnceLock};

use api::kinds::KindInfo;
use bytes::Bytes;
use serde_json::Value;

mod facts;

pub use facts::{Claims, Facts};

/// What the beginning of every stored object looks like after `apiVersion` and `kind`; see [`encode`].
const METADATA: &[u8] = b"\"metadata\":{";
const REVISION: &[u8] = b"\"resourceVersion\":\"";

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
    /// The version that the document of a custom object is in, which is the one it was stored in. Empty for built-in kinds.
    pub version: &'static str,
    /// What else was made of it, once for all who ask: nothing, of most objects.
    forms: OnceLock<Arc<Forms>>,
    /// Of a custom object.
    custom: Option<Arc<Custom>>,
}

/// What only custom objects have.
#[derive(Debug, Default)]
struct Custom {
    /// What the store holds, when the object reads differently now: defaults and fields have changed since.
    stored: Option<Bytes>,
    /// The object in other versions, where its kind has several.
    views: Views,
}

/// An object in the other versions of its definition: as many as it has, and only those that were asked for.
#[derive(Debug, Default)]
struct Views {
    made: parking_lot::Mutex<Vec<Arc<Entry>>>,
    /// Held by who has it converted, so that others who want the same wait for that.
    turn: tokio::sync::Mutex<()>,
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
        let value: Value = serde_json::from_slice(stored)?;
        let facts = Facts::of(kind, &value);
        let bytes = own_bytes(&value, stored, revision);
        Ok(Entry::new(key.into(), revision, bytes, facts, ""))
    }

    /// `version` is empty for built-in kinds.
    fn new(key: Arc<str>, revision: u64, bytes: Bytes, facts: Facts, version: &'static str) -> Self {
        let custom = (!version.is_empty()).then(Arc::default);
        Entry { key, revision, bytes, facts: Arc::new(facts), version, forms: OnceLock::new(), custom }
    }

    /// A custom object from what the store holds, parsed, as the version it was stored in reads it now: a definition may
    /// have got defaults, or lost fields, since the object was written.
    pub fn of_custom(kind: &KindInfo, key: &str, stored: &[u8], before: Value, revision: u64) -> Self {
        let mut value = before.clone();
        api::crd::conversion::read(kind, &mut value);
        let facts = Facts::of(kind, &value);
        if value != before {
            let bytes = slow_with_revision(&encode(&value), revision);
            let custom = Custom { stored: Some(Bytes::copy_from_slice(stored)), views: Views::default() };
            let custom = Some(Arc::new(custom));
            return Entry { custom, ..Entry::new(key.into(), revision, bytes, facts, kind.version) };
        }
        let bytes = own_bytes(&value, stored, revision);
        Entry::new(key.into(), revision, bytes, facts, kind.version)
    }

    /// What the store holds; the revision may be in it.
    pub fn stored(&self) -> &Bytes {
        self.custom.as_ref().and_then(|c| c.stored.as_ref()).unwrap_or(&self.bytes)
    }

    /// Whether these bytes are what the store holds, whatever the order of their fields.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let read = |bytes: &[u8]| {
            let mut value: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
            api::meta::clear_resource_version(&mut value);
            value
        };
        read(self.stored()) == read(bytes)
    }

    /// Whether a write that changes nothing may change what is stored all the same, because that is in another version than
    /// `version` or lacks what was added when it was read.
    pub fn is_stale(&self, version: &str) -> bool {
        self.custom.as_ref().is_some_and(|c| c.stored.is_some())
            || (!self.version.is_empty() && self.version != version)
    }

    /// The object in another version, if it has been converted to it.
    pub fn view(&self, version: &str) -> Option<Arc<Entry>> {
        self.custom.as_ref()?.views.made.lock().iter().find(|e| e.version == version).cloned()
    }

    /// Keeps the object in another version.
    pub fn keep_view(&self, kind: &KindInfo, object: &Value) -> Arc<Entry> {
        let bytes = slow_with_revision(&encode(object), self.revision);
        let view = Arc::new(Entry::new(self.key.clone(), self.revision, bytes, Facts::of(kind, object), kind.version));
        if let Some(custom) = &self.custom {
            let mut made = custom.views.made.lock();
            made.retain(|e| e.version != kind.version);
            made.push(view.clone());
        }
        view
    }

    /// Whose turn it is to convert the object, which is a custom one.
    pub fn turn(&self) -> Option<&tokio::sync::Mutex<()>> {
        Some(&self.custom.as_ref()?.views.turn)
    }

    /// The same object with another `resourceVersion`: that of its deletion.
    pub fn at(&self, revision: u64) -> Self {
        let custom = self.custom.as_ref().map(|custom| {
            let made = custom.views.made.lock().iter().map(|view| Arc::new(view.at(revision))).collect();
            let views = Views { made: parking_lot::Mutex::new(made), turn: tokio::sync::Mutex::default() };
            Arc::new(Custom { stored: custom.stored.clone(), views })
        });
        Entry {
            key: self.key.clone(),
            revision,
            bytes: replace_revision(&self.bytes, revision),
            facts: self.facts.clone(),
            version: self.version,
            forms: OnceLock::new(),
            custom,
        }
    }

    /// The object, parsed.
    pub fn value(&self) -> Value {
        // It was parsed when it came in.
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The document in the version of `kind`. A custom object must have been converted to it.
    pub fn document(&self, kind: &KindInfo) -> Bytes {
        if !is_converted(kind) {
            return self.bytes.clone();
        }
        let convert = || {
            let mut value = self.value();
            kind.from_storage(&mut value);
            Bytes::from(encode(&value))
        };
        self.forms().converted.get_or_init(convert).clone()
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
        self.forms().message.get_or_init(|| encode(&self.bytes)).clone()
    }

    fn forms(&self) -> &Forms {
        self.forms.get_or_init(Arc::default)
    }

    /// The value of a field that field selectors match on; empty when it is not set.
    pub fn field(&self, field: &str) -> &str {
        match field {
            "metadata.name" => self.name(),
            "metadata.namespace" => self.namespace(),
            field => self.facts.field(field),
        }
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

/// The document with its revision, which bytes from the cache itself have already.
fn own_bytes(value: &Value, stored: &[u8], revision: u64) -> Bytes {
    match value["metadata"].get("resourceVersion").is_some() {
        true => Bytes::copy_from_slice(stored),
        false => with_revision(stored, revision),
    }
}

/// Whether documents of this built-in kind are stored in another version than it is served in.
pub fn is_converted(kind: &KindInfo) -> bool {
    kind.custom.is_none() && is_other(kind)
}

fn is_other(kind: &KindInfo) -> bool {
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
