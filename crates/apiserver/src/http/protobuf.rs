//! Request bodies in Kubernetes' protobuf encoding, which Go clients (kubectl among them) send for built-in kinds. They
//! become JSON values and go the way of all others; answers are JSON, which those clients accept.
//!
//! Types are those of `api::schema`; only field numbers, and what JSON does not show, are in `wire.table`.

use std::collections::HashMap;
use std::sync::OnceLock;

use api::schema::{self, Scalar, Shape, TypeRef};
use api::status::ApiError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

/// What every document begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages.
const DEPTH: usize = 64;

/// The media type.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";

/// Why bytes are not a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Bad {
    #[error("it does not begin with the magic number")]
    Magic,
    #[error("it ends too early")]
    Short,
    #[error("a number is too long")]
    Varint,
    #[error("a field has another wire type than its declaration")]
    Wire,
    #[error("a string is not UTF-8")]
    Utf8,
    #[error("it is nested too deeply")]
    Deep,
    #[error("embedded JSON is malformed")]
    Json,
    #[error("a quantity or time is malformed")]
    Scalar,
}

/// A field of a message.
#[derive(Debug)]
enum Field {
    /// Under its JSON name.
    Named {
        name: &'static str,
        /// An explicit zero is kept.
        keep_zero: bool,
    },
    /// A message whose fields JSON shows in the parent.
    Inline(&'static str),
}

type Message = HashMap<u32, Field>;

fn messages() -> &'static HashMap<&'static str, Message> {
    static MESSAGES: OnceLock<HashMap<&'static str, Message>> = OnceLock::new();
    MESSAGES.get_or_init(|| parse_table(include_str!("protobuf/wire.table")))
}

fn parse_table(text: &'static str) -> HashMap<&'static str, Message> {
    let mut out: HashMap<&'static str, Message> = HashMap::new();
    let mut open = "";
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix('=') {
            open = name;
            out.insert(name, Message::new());
        } else if let Some((number, name)) = line.split_once(' ')
            && let (Ok(number), Some(message)) = (number.parse(), out.get_mut(open))
        {
            let field = match name.strip_prefix('^') {
                Some(inline) => Field::Inline(inline),
                None => Field::Named { name: name.trim_end_matches('?'), keep_zero: name.ends_with('?') },
            };
            message.insert(number, field);
        }
    }
    out
}

/// Decodes a document.
///
/// # Errors
/// 400 when it is malformed, 415 when its type is not known: then JSON must be used.
pub fn decode(bytes: &[u8]) -> Result<Value, ApiError> {
    let bad = |e: Bad| ApiError::bad_request(format!("the object provided is not valid protobuf: {e}"));
    let body = bytes.strip_prefix(MAGIC).ok_or(bad(Bad::Magic))?;
    let envelope = Envelope::read(body).map_err(bad)?;
    let (group, version) = api::kinds::split_api_version(envelope.api_version);
    // DeleteOptions and the like exist in every group with the same shape.
    let ty = schema::for_kind(group, version, envelope.kind).or_else(|| schema::for_kind("", "v1", envelope.kind));
    let message = ty.and_then(|ty| Some((ty, messages().get(ty.name()?)?)));
    let Some((ty, message)) = message else {
        return Err(ApiError::unsupported_media_type(&["application/json", "application/yaml"]));
    };
    let mut map = Map::new();
    map.insert("apiVersion".into(), envelope.api_version.into());
    map.insert("kind".into(), envelope.kind.into());
    read_message(envelope.raw, ty, message, &mut map, DEPTH).map_err(bad)?;
    Ok(Value::Object(map))
}

/// `runtime.Unknown`: the type and the bytes of the object.
#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(mut bytes: &'a [u8]) -> Result<Self, Bad> {
        let mut out = Envelope::default();
        while !bytes.is_empty() {
            match field(&mut bytes)? {
                (1, Wire::Bytes(mut meta)) => {
                    while !meta.is_empty() {
                        match field(&mut meta)? {
                            (1, Wire::Bytes(text)) => out.api_version = utf8(text)?,
                            (2, Wire::Bytes(text)) => out.kind = utf8(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => out.raw = raw,
                _ => {}
            }
        }
        Ok(out)
    }
}

/// One value as it is on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Bad> {
    let mut out = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Bad::Short)?;
        *bytes = rest;
        out |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(out);
        }
    }
    Err(Bad::Varint)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Bad> {
    let (head, rest) = bytes.split_at_checked(count).ok_or(Bad::Short)?;
    *bytes = rest;
    Ok(head)
}

fn field<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Wire<'a>), Bad> {
    let key = varint(bytes)?;
    let number = u32::try_from(key >> 3).map_err(|_| Bad::Varint)?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(bytes)?),
        1 => Wire::Fixed64(u64::from_le_bytes(take(bytes, 8)?.try_into().map_err(|_| Bad::Short)?)),
        2 => {
            let count = usize::try_from(varint(bytes)?).map_err(|_| Bad::Varint)?;
            Wire::Bytes(take(bytes, count)?)
        }
        5 => Wire::Fixed32(u32::from_le_bytes(take(bytes, 4)?.try_into().map_err(|_| Bad::Short)?)),
        _ => return Err(Bad::Wire),
    };
    Ok((number, wire))
}

fn utf8(bytes: &[u8]) -> Result<&str, Bad> {
    std::str::from_utf8(bytes).map_err(|_| Bad::Utf8)
}

fn read_message(
    mut bytes: &[u8],
    ty: TypeRef<'static>,
    message: &Message,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Bad> {
    let depth = depth.checked_sub(1).ok_or(Bad::Deep)?;
    while !bytes.is_empty() {
        let (number, wire) = field(&mut bytes)?;
        match message.get(&number) {
            // A field of a later release: dropped, as Kubernetes' own decoder drops it.
            None => {}
            Some(Field::Inline(name)) => {
                let (Wire::Bytes(inner), Some(message)) = (wire, messages().get(name)) else { return Err(Bad::Wire) };
                read_message(inner, ty, message, out, depth)?;
            }
            Some(Field::Named { name, keep_zero }) => {
                let Some(field) = ty.field(name) else { continue };
                read_field(wire, field.ty, name, *keep_zero || field.required, out, depth)?;
            }
        }
    }
    Ok(())
}

fn read_field(
    wire: Wire<'_>,
    ty: TypeRef<'static>,
    name: &str,
    keep_zero: bool,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Bad> {
    match ty.shape() {
        Shape::List { item, .. } => {
            let slot = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = slot {
                list.push(read_value(wire, item, depth)?.unwrap_or(Value::Null));
            }
        }
        Shape::Map { value, .. } => {
            let Wire::Bytes(mut entry) = wire else { return Err(Bad::Wire) };
            let (mut key, mut found) = ("", None);
            while !entry.is_empty() {
                match field(&mut entry)? {
                    (1, Wire::Bytes(text)) => key = utf8(text)?,
                    (2, wire) => found = Some(wire),
                    _ => {}
                }
            }
            let value = match found {
                Some(wire) => read_wrapped(wire, value, depth)?,
                None => zero(value),
            };
            let slot = out.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = slot {
                map.insert(key.to_owned(), value);
            }
        }
        _ => {
            let Some(value) = read_value(wire, ty, depth)? else { return Ok(()) };
            if keep_zero || !is_zero(&value) {
                out.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// A value of a map. Lists there are messages with one repeated field.
fn read_wrapped(wire: Wire<'_>, ty: TypeRef<'static>, depth: usize) -> Result<Value, Bad> {
    let Shape::List { item, .. } = ty.shape() else {
        return Ok(read_value(wire, ty, depth)?.unwrap_or_else(|| zero(ty)));
    };
    let Wire::Bytes(mut bytes) = wire else { return Err(Bad::Wire) };
    let mut list = Vec::new();
    while !bytes.is_empty() {
        if let (1, wire) = field(&mut bytes)? {
            list.push(read_value(wire, item, depth)?.unwrap_or(Value::Null));
        }
    }
    Ok(Value::Array(list))
}

/// What an absent value of a map entry stands for.
fn zero(ty: TypeRef<'static>) -> Value {
    match ty.shape() {
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Number) => 0.into(),
        Shape::Scalar(Scalar::Boolean) => false.into(),
        Shape::Scalar(_) => "".into(),
        Shape::List { .. } => Value::Array(Vec::new()),
        _ => Value::Object(Map::new()),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Bool(b) => !b,
        _ => false,
    }
}

/// One value; `None` for what stands for nothing, as the zero time does.
fn read_value(wire: Wire<'_>, ty: TypeRef<'static>, depth: usize) -> Result<Option<Value>, Bad> {
    let value = match (ty.shape(), wire) {
        (Shape::Scalar(scalar), wire) => return read_scalar(scalar, wire),
        (Shape::Any, Wire::Bytes(bytes)) => match first_bytes(bytes, 1)? {
            Some(raw) if !raw.is_empty() => serde_json::from_slice(raw).map_err(|_| Bad::Json)?,
            _ => return Ok(None),
        },
        (Shape::Struct { .. }, Wire::Bytes(bytes)) => {
            let mut map = Map::new();
            match ty.name().and_then(|name| messages().get(name)) {
                Some(message) => read_message(bytes, ty, message, &mut map, depth)?,
                // Objects of free form (managed fields) come as JSON.
                None => match first_bytes(bytes, 1)? {
                    Some(raw) if !raw.is_empty() => {
                        return serde_json::from_slice(raw).map(Some).map_err(|_| Bad::Json);
                    }
                    _ => {}
                },
            }
            Value::Object(map)
        }
        (Shape::List { .. } | Shape::Map { .. }, wire) => return read_wrapped(wire, ty, depth).map(Some),
        _ => return Err(Bad::Wire),
    };
    Ok(Some(value))
}

fn read_scalar(scalar: Scalar, wire: Wire<'_>) -> Result<Option<Value>, Bad> {
    Ok(Some(match (scalar, wire) {
        (Scalar::String, Wire::Bytes(text)) => utf8(text)?.into(),
        (Scalar::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Scalar::Boolean, Wire::Varint(v)) => (v != 0).into(),
        // Negative numbers are ten bytes long on the wire.
        (Scalar::Int32 | Scalar::Int64 | Scalar::Number, Wire::Varint(v)) => v.cast_signed().into(),
        (_, Wire::Fixed64(v)) => Number::from_f64(f64::from_bits(v)).map_or(Value::Null, Value::Number),
        (_, Wire::Fixed32(v)) => Number::from_f64(f32::from_bits(v).into()).map_or(Value::Null, Value::Number),
        (Scalar::Quantity, Wire::Bytes(bytes)) => utf8(first_bytes(bytes, 1)?.unwrap_or_default())?.into(),
        (Scalar::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Scalar::Time, Wire::Bytes(bytes)) => return time(bytes),
        _ => return Err(Bad::Wire),
    }))
}

fn first_bytes(mut bytes: &[u8], wanted: u32) -> Result<Option<&[u8]>, Bad> {
    let mut out = None;
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (number, Wire::Bytes(found)) if number == wanted => out = Some(found),
            _ => {}
        }
    }
    Ok(out)
}

/// `{type = 1, intVal = 2, strVal = 3}`, where type 1 is a string.
fn int_or_string(mut bytes: &[u8]) -> Result<Value, Bad> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Wire::Varint(v)) => is_text = v == 1,
            (2, Wire::Varint(v)) => number = v.cast_signed(),
            (3, Wire::Bytes(v)) => text = utf8(v)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// `{seconds = 1, nanos = 2}`; without fields it is no time at all.
fn time(mut bytes: &[u8]) -> Result<Option<Value>, Bad> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Wire::Varint(v)) => seconds = v.cast_signed(),
            (2, Wire::Varint(v)) => nanos = i32::try_from(v.cast_signed()).map_err(|_| Bad::Scalar)?,
            _ => {}
        }
    }
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| Bad::Scalar)?;
    let text = if nanos == 0 { api::meta::format_time(time) } else { api::meta::format_micro_time(time) };
    Ok(Some(text.into()))
}

#[cfg(test)]
mod tests;
