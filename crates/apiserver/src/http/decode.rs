//! Request bodies to JSON values: JSON or YAML, bounded in depth, with repeated keys found and named.

use std::fmt;

use api::status::ApiError;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use api::protobuf;

/// Deepest nesting of a request's document. Kubernetes objects stay below 30.
const DEPTH: usize = 100;
/// Stack of the thread that reads YAML, bytes: its parser takes up to 40 KiB for a level. Only what is used takes memory.
const YAML_STACK: usize = 16 << 20;
/// At most so many repeated keys are named.
const REPEATED: usize = 100;

/// A decoded document.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The document; of a repeated key the last value.
    pub value: Value,
    /// Paths of repeated keys, as `spec.replicas`.
    pub repeated: Vec<String>,
}

/// The media type of the body, without parameters and in lower case; empty when not given.
pub fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// Decodes an object in the request's media type.
///
/// # Errors
/// 415 for another media type, 400 for what is not a document of it.
pub fn object(headers: &HeaderMap, bytes: &Bytes) -> Result<Decoded, ApiError> {
    match content_type(headers).as_str() {
        "" | "application/json" => json(bytes),
        "application/yaml" => yaml(bytes),
        protobuf::MEDIA => Ok(Decoded { value: protobuf::decode(bytes)?, repeated: Vec::new() }),
        _ => Err(ApiError::unsupported_media_type(&["application/json", "application/yaml"])),
    }
}

/// Decodes JSON.
///
/// # Errors
/// 400 with what the parser says.
pub fn json(bytes: &[u8]) -> Result<Decoded, ApiError> {
    let mut repeated = Vec::new();
    let mut path = String::new();
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let seed = Tree { repeated: &mut repeated, path: &mut path, depth: 0 };
    let value = seed
        .deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value))
        .map_err(|e| ApiError::bad_request(format!("the object provided is not valid JSON: {e}")))?;
    Ok(Decoded { value, repeated })
}

/// Decodes YAML (of which JSON is a part).
///
/// # Errors
/// 400 with what the parser says.
pub fn yaml(bytes: &[u8]) -> Result<Decoded, ApiError> {
    // Almost every client sends JSON here too, and JSON is far faster to read.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
        && let Ok(decoded) = json(bytes)
    {
        return Ok(decoded);
    }
    let bad = |e: &dyn fmt::Display| ApiError::bad_request(format!("error decoding YAML: {e}"));
    let text = std::str::from_utf8(bytes).map_err(|e| bad(&e))?;
    let read = || {
        // Repeated keys are found here, so that the request's `fieldValidation` decides. The parser's own limits on aliases,
        // nodes and depth stay as they are.
        let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
        let Document(decoded) = serde_saphyr::from_str_with_options(text, options).map_err(|e| bad(&e))?;
        Ok(decoded)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("yaml".to_owned()).stack_size(YAML_STACK);
        let reading = thread.spawn_scoped(scope, read).map_err(|e| ApiError::internal(format!("read YAML: {e}")))?;
        reading.join().map_err(|_| ApiError::internal("the YAML parser panicked"))?
    })
}

/// What [`Tree`] reads, for parsers that take no seed.
struct Document(Decoded);

impl<'de> serde::Deserialize<'de> for Document {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut repeated, mut path) = (Vec::new(), String::new());
        let seed = Tree { repeated: &mut repeated, path: &mut path, depth: 0 };
        let value = seed.deserialize(deserializer)?;
        Ok(Document(Decoded { value, repeated }))
    }
}

struct Tree<'a> {
    repeated: &'a mut Vec<String>,
    path: &'a mut String,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let Tree { repeated, path, depth } = self;
        if depth >= DEPTH {
            return Err(A::Error::custom("exceeded max depth"));
        }
        let mut items = Vec::new();
        let length = path.len();
        loop {
            use fmt::Write as _;
            let _ = write!(path, "[{}]", items.len());
            let next = seq.next_element_seed(Tree { repeated, path, depth: depth + 1 })?;
            path.truncate(length);
            match next {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Tree { repeated, path, depth } = self;
        if depth >= DEPTH {
            return Err(A::Error::custom("exceeded max depth"));
        }
        let mut out = Map::new();
        let length = path.len();
        while let Some(key) = map.next_key::<String>()? {
            if length > 0 {
                path.push('.');
            }
            path.push_str(&key);
            let value = map.next_value_seed(Tree { repeated, path, depth: depth + 1 })?;
            if out.insert(key, value).is_some() && repeated.len() < REPEATED {
                repeated.push(path.clone());
            }
            path.truncate(length);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_are_named_with_their_path() {
        let text = br#"{"spec":{"replicas":1,"replicas":2,"list":[{"a":1},{"a":1,"a":3}]}}"#;
        let decoded = json(text).unwrap();
        assert_eq!(decoded.repeated, ["spec.replicas", "spec.list[1].a"]);
        assert_eq!(decoded.value["spec"]["replicas"], 2);
    }

    #[test]
    fn deep_nesting_bad_utf8_and_trailing_bytes_are_refused() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(json(deep.as_bytes()).unwrap_err().code, 400);
        let hopeless = "[".repeat(1_000_000);
        assert_eq!(json(hopeless.as_bytes()).unwrap_err().code, 400);
        assert_eq!(json(b"{\"a\":\"\xff\"}").unwrap_err().code, 400);
        assert_eq!(json(b"{} {}").unwrap_err().code, 400);
        assert_eq!(json(b"").unwrap_err().code, 400);
        assert_eq!(yaml(deep.as_bytes()).unwrap_err().code, 400);
        let indented: String = (0..200).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert_eq!(yaml(indented.as_bytes()).unwrap_err().code, 400);
        assert_eq!(yaml(b"a: \xff").unwrap_err().code, 400);
    }

    #[test]
    fn aliases_cannot_be_made_to_explode() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let last = format!("*a{}, ", i - 1).repeat(10);
            bomb.push_str(&format!("a{i}: &a{i} [{last}]\n"));
        }
        assert_eq!(yaml(bomb.as_bytes()).unwrap_err().code, 400);
    }

    #[test]
    fn repeated_keys_of_yaml_are_named_too() {
        let decoded = yaml(b"spec:\n  replicas: 1\n  replicas: 2\n  list:\n  - {a: 1, a: 3}\n").unwrap();
        assert_eq!(decoded.repeated, ["spec.replicas", "spec.list[0].a"]);
        assert_eq!(
            (&decoded.value["spec"]["replicas"], &decoded.value["spec"]["list"][0]["a"]),
            (&2.into(), &3.into())
        );
    }

    #[test]
    fn yaml_and_json_give_the_same() {
        let text = b"kind: Pod\nmetadata:\n  name: \"1\"\n  labels: {a: 'true', n: no}\nspec:\n  n: 5\n";
        let value = yaml(text).unwrap().value;
        assert_eq!(value["metadata"]["labels"]["a"], "true");
        assert_eq!(value["spec"]["n"], 5);
        assert_eq!(yaml(br#"{"a": [1, 2.5]}"#).unwrap().value, json(br#"{"a": [1, 2.5]}"#).unwrap().value);
    }
}
