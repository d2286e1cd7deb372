//! From JSON values to protobuf.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::table::{Field, Form, Label, Message, Table, Type};
use super::wire::{put_bytes, put_nested, put_number, put_varint};
use super::{DEPTH, MAGIC};
use crate::kinds::Gvk;

/// Encodes an object, list, Status or options as a document, by its `apiVersion` and `kind`.
///
/// `None` when the kind has no message or a value is not of its field's type: then JSON must be used. Fields that the
/// message does not have cannot be said in this encoding and are left out.
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    // JSON is about twice as long as what comes out; most objects have a few hundred bytes.
    let mut out = Vec::with_capacity(512);
    document(object, DEPTH, &mut out)?;
    Some(out)
}

/// One event of a watch: the length (four bytes, big-endian) and `meta.v1.WatchEvent` with the object in it.
///
/// `None` when the object cannot be encoded.
pub fn watch_frame(event: &str, object: &Value) -> Option<Vec<u8>> {
    framed(event, &encode(object)?)
}

/// The same for an object whose fields [`message`] has encoded.
pub fn watch_frame_of(event: &str, api_version: &str, kind: &str, message: &[u8]) -> Option<Vec<u8>> {
    framed(event, &document_of(api_version, kind, message))
}

fn framed(event: &str, document: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(document.len() + event.len() + 24);
    out.extend_from_slice(&[0; 4]);
    put_bytes(&mut out, 1, event.as_bytes());
    put_varint(&mut out, 2 << 3 | 2);
    put_varint(&mut out, field_length(document.len()) as u64);
    put_bytes(&mut out, 1, document);
    let length = u32::try_from(out.len() - 4).ok()?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Some(out)
}

/// Whether the kind has a message at all; without one its objects can only be JSON.
pub fn is_encodable(group: &str, version: &str, kind: &str) -> bool {
    Table::get().of_kind(group, version, kind).is_some()
}

/// The fields of an object: what [`document_of`], [`watch_frame_of`] and [`put_item`] put in an envelope. An object is
/// encoded once this way, whatever it is sent in.
///
/// `None` as for [`encode`].
pub fn message(object: &Value) -> Option<Vec<u8>> {
    let (table, gvk) = (Table::get(), Gvk::of(object));
    let message = table.of_kind(&gvk.group, &gvk.version, &gvk.kind)?;
    let mut out = Vec::with_capacity(512);
    put_fields(table, object.as_object()?, table.message(message), DEPTH, &mut out)?;
    Some(out)
}

/// A document around the fields of an object.
pub fn document_of(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + api_version.len() + kind.len() + 32);
    put_head(&mut out, api_version, kind, message.len());
    out.extend_from_slice(message);
    out.extend_from_slice(DOCUMENT_END);
    out
}

/// The beginning of a list's document: all that comes before the items, which take `items` bytes together (see
/// [`item_length`]). [`put_item`] appends each of them, [`DOCUMENT_END`] ends the document.
///
/// `None` when the metadata cannot be encoded.
pub fn list_head(api_version: &str, list_kind: &str, metadata: &Value, items: usize) -> Option<Vec<u8>> {
    let table = Table::get();
    let message = table.message(table.find("meta.v1.ListMeta")?);
    let mut inner = Vec::with_capacity(64);
    put_nested(&mut inner, LIST_METADATA, |out| put_fields(table, metadata.as_object()?, message, DEPTH, out))?;
    let mut out = Vec::with_capacity(128);
    put_head(&mut out, api_version, list_kind, inner.len() + items);
    out.extend_from_slice(&inner);
    Some(out)
}

/// The bytes that an item of a list takes whose fields take `message` bytes.
pub fn item_length(message: usize) -> usize {
    field_length(message)
}

/// Appends an item of a list, given its fields.
pub fn put_item(out: &mut Vec<u8>, message: &[u8]) {
    put_bytes(out, LIST_ITEMS, message);
}

/// Field numbers that all lists of Kubernetes have in common, which a test checks.
const LIST_METADATA: u32 = 1;
const LIST_ITEMS: u32 = 2;

/// Content encoding and content type: Go writes them even when empty, and so do we, byte for byte.
pub const DOCUMENT_END: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// The magic number and the fields of `runtime.Unknown` up to the object, which takes `length` bytes.
fn put_head(out: &mut Vec<u8>, api_version: &str, kind: &str, length: usize) {
    out.extend_from_slice(MAGIC);
    put_varint(out, 1 << 3 | 2);
    put_varint(out, (field_length(api_version.len()) + field_length(kind.len())) as u64);
    put_bytes(out, 1, api_version.as_bytes());
    put_bytes(out, 2, kind.as_bytes());
    put_varint(out, 2 << 3 | 2);
    put_varint(out, length as u64);
}

/// Bytes of a field of so many bytes, its tag (of one byte) and length included.
fn field_length(content: usize) -> usize {
    let bits = usize::BITS - (content | 1).leading_zeros();
    1 + bits.div_ceil(7) as usize + content
}

/// The magic number and `runtime.Unknown`.
fn document(object: &Value, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    let (table, gvk) = (Table::get(), Gvk::of(object));
    let message = table.of_kind(&gvk.group, &gvk.version, &gvk.kind)?;
    out.extend_from_slice(MAGIC);
    put_nested(out, 1, |out| {
        put_bytes(out, 1, gvk.api_version().as_bytes());
        put_bytes(out, 2, gvk.kind.as_bytes());
        Some(())
    })?;
    put_nested(out, 2, |out| put_fields(table, object.as_object()?, table.message(message), depth, out))?;
    out.extend_from_slice(DOCUMENT_END);
    Some(())
}

fn put_fields(
    table: &'static Table,
    object: &Map<String, Value>,
    message: &Message,
    depth: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    for field in &message.fields {
        if field.label == Label::Inline {
            let Type::Message(inner) = field.ty else { return None };
            put_nested(out, field.number, |out| put_fields(table, object, table.message(inner), depth, out))?;
            continue;
        }
        match (field.label, object.get(field.name)) {
            (_, None | Some(Value::Null)) => {}
            (Label::List, Some(value)) => {
                for item in value.as_array()? {
                    put(table, field.ty, field.number, item, depth, out)?;
                }
            }
            (Label::Map, Some(value)) => put_map(table, field, value.as_object()?, depth, out)?,
            (_, Some(value)) => put(table, field.ty, field.number, value, depth, out)?,
        }
    }
    Some(())
}

/// Entries in the order of their keys, as Go's deterministic encoder has them.
fn put_map(
    table: &'static Table,
    field: &Field,
    map: &Map<String, Value>,
    depth: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    for (key, value) in entries {
        put_nested(out, field.number, |out| {
            put_bytes(out, 1, key.as_bytes());
            put(table, field.ty, 2, value, depth, out)
        })?;
    }
    Some(())
}

/// One value under a field number.
fn put(table: &'static Table, ty: Type, number: u32, value: &Value, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    match ty {
        Type::String => put_bytes(out, number, value.as_str()?.as_bytes()),
        Type::Bytes if value.is_null() => put_bytes(out, number, b""),
        Type::Bytes => put_bytes(out, number, &STANDARD.decode(value.as_str()?).ok()?),
        Type::Bool => put_number(out, number, value.as_bool()?.into()),
        Type::Int32 => put_number(out, number, i32::try_from(value.as_i64()?).ok()?.into()),
        Type::Int64 => put_number(out, number, value.as_i64()?),
        Type::Double => {
            put_varint(out, u64::from(number) << 3 | 1);
            out.extend_from_slice(&value.as_f64()?.to_bits().to_le_bytes());
        }
        Type::Time | Type::MicroTime => {
            // No time at all is an empty message.
            let time: Option<Timestamp> = if value.is_null() { None } else { Some(value.as_str()?.parse().ok()?) };
            put_nested(out, number, |out| {
                time.inspect(|time| put_time(out, *time, ty == Type::MicroTime));
                Some(())
            })?;
        }
        Type::Quantity => {
            let text = value.as_str().map_or_else(|| value.as_number().map(ToString::to_string), |s| Some(s.into()))?;
            put_nested(out, number, |out| {
                put_bytes(out, 1, text.as_bytes());
                Some(())
            })?;
        }
        Type::IntOrString => put_nested(out, number, |out| put_int_or_string(out, value))?,
        Type::Json => put_nested(out, number, |out| {
            if !value.is_null() {
                put_bytes(out, 1, &serde_json::to_vec(value).ok()?);
            }
            Some(())
        })?,
        Type::Message(index) => {
            let message = table.message(index);
            put_nested(out, number, |out| put_message(table, message, value, depth, out))?;
        }
    }
    Some(())
}

fn put_message(table: &'static Table, message: &Message, value: &Value, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    let part = |number: u32| message.field(number);
    match message.form {
        Form::Object => put_fields(table, value.as_object()?, message, depth, out),
        Form::List => put_items(table, part(1)?, value, depth, out),
        Form::OrList if value.is_array() => put_items(table, part(2)?, value, depth, out),
        Form::OrList => put(table, part(1)?.ty, 1, value, depth, out),
        Form::OrBool => {
            // Besides a schema Go's decoder expects that anything at all is allowed.
            put_number(out, 1, value.as_bool().unwrap_or(true).into());
            if value.is_object() { put(table, part(2)?.ty, 2, value, depth, out) } else { Some(()) }
        }
    }
}

fn put_items(table: &'static Table, field: &Field, value: &Value, depth: usize, out: &mut Vec<u8>) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    value.as_array()?.iter().try_for_each(|item| put(table, field.ty, field.number, item, depth, out))
}

fn put_time(out: &mut Vec<u8>, time: Timestamp, micro: bool) {
    // Before 1970 seconds are rounded down: nanoseconds are never negative on the wire.
    let nanos = time.as_nanosecond();
    let seconds = nanos.div_euclid(1_000_000_000);
    let rest = if micro { nanos.rem_euclid(1_000_000_000) / 1000 * 1000 } else { 0 };
    put_number(out, 1, i64::try_from(seconds).unwrap_or_default());
    put_number(out, 2, i64::try_from(rest).unwrap_or_default());
}

/// All three parts, as Go writes them.
fn put_int_or_string(out: &mut Vec<u8>, value: &Value) -> Option<()> {
    let (kind, number, text) = match value {
        Value::String(text) => (1, 0, text.as_str()),
        value => (0, i32::try_from(value.as_i64()?).ok()?, ""),
    };
    put_number(out, 1, kind);
    put_number(out, 2, number.into());
    put_bytes(out, 3, text.as_bytes());
    Some(())
}
