//! From protobuf to JSON values.
//!
//! Go writes a field that is no pointer even when it is zero. Where JSON leaves such a zero out, it is left out here too, so
//! that defaults apply as they do to JSON; a zero behind a pointer is meant and stays.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::table::{Field, Form, Label, Message, Table, Type};
use super::wire::{Reader, Wire, utf8};
use super::{DEPTH, DecodeError, MAGIC, MEDIA, VALUES};
use crate::kinds::split_api_version;
use crate::meta::{format_micro_time, format_time};
use crate::status::ApiError;

/// Decodes a document: the magic number, then `runtime.Unknown` with the object in it.
///
/// # Errors
/// 400 when it is malformed, too deep or too large; 415 when its kind has no message here: then JSON must be used.
pub fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let bad = |e: DecodeError| ApiError::bad_request(format!("the object provided is not valid protobuf: {e}"));
    let unknown = || ApiError::unsupported_media_type(&["application/json", "application/yaml"]);
    Decoder { table: Table::get(), left: VALUES }.document(body, DEPTH).map_err(bad)?.ok_or_else(unknown)
}

/// `runtime.Unknown`.
#[derive(Debug, Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    content_encoding: &'a str,
    content_type: &'a str,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (mut out, mut reader) = (Envelope::default(), Reader::new(bytes));
        while let Some(field) = reader.field()? {
            match field {
                (1, Wire::Bytes(meta)) => {
                    let mut reader = Reader::new(meta);
                    while let Some(field) = reader.field()? {
                        match field {
                            (1, Wire::Bytes(text)) => out.api_version = utf8(text)?,
                            (2, Wire::Bytes(text)) => out.kind = utf8(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => out.raw = raw,
                (3, Wire::Bytes(text)) => out.content_encoding = utf8(text)?,
                (4, Wire::Bytes(text)) => out.content_type = utf8(text)?,
                (1..=4, _) => return Err(DecodeError::Tag),
                _ => {}
            }
        }
        let known = matches!(out.content_type, "" | MEDIA | "application/json");
        if !out.content_encoding.is_empty() || !known {
            return Err(DecodeError::Content);
        }
        Ok(out)
    }
}

struct Decoder {
    table: &'static Table,
    /// Values that may still be made.
    left: usize,
}

impl Decoder {
    /// A whole document; `None` when its kind is not known.
    fn document(&mut self, bytes: &[u8], depth: usize) -> Result<Option<Value>, DecodeError> {
        let envelope = Envelope::read(bytes.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?)?;
        if envelope.content_type == "application/json" {
            return json(envelope.raw).map(Some);
        }
        let (group, version) = split_api_version(envelope.api_version);
        let Some(message) = self.table.of_kind(group, version, envelope.kind) else { return Ok(None) };
        let mut map = Map::new();
        map.insert("apiVersion".into(), envelope.api_version.into());
        map.insert("kind".into(), envelope.kind.into());
        self.fields(envelope.raw, self.table.message(message), &mut map, depth)?;
        Ok(Some(Value::Object(map)))
    }

    fn count(&mut self) -> Result<(), DecodeError> {
        self.left = self.left.checked_sub(1).ok_or(DecodeError::Many)?;
        Ok(())
    }

    /// The fields of a message, into `out`.
    fn fields(
        &mut self,
        bytes: &[u8],
        message: &'static Message,
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        let depth = depth.checked_sub(1).ok_or(DecodeError::Deep)?;
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field()? {
            // A field of a later release: dropped, as Kubernetes' own decoder drops it.
            let Some(field) = message.field(number) else { continue };
            self.count()?;
            self.field(field, wire, out, depth)?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &'static Field,
        wire: Wire<'_>,
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        match field.label {
            Label::One => {
                let Some(value) = self.value(field, wire, depth)? else { return Ok(()) };
                if !(field.drop_zero && is_zero(field.ty, &value)) {
                    merge(out, field.name, value);
                }
            }
            Label::Inline => {
                let (Type::Message(inner), Wire::Bytes(bytes)) = (field.ty, wire) else { return Err(wrong(field)) };
                self.fields(bytes, self.table.message(inner), out, depth)?;
            }
            Label::List => {
                let slot = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = slot {
                    self.item(field, wire, list, depth)?;
                }
            }
            Label::Map => {
                let Wire::Bytes(bytes) = wire else { return Err(wrong(field)) };
                let (key, value) = self.entry(field, bytes, depth)?;
                let slot = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = slot {
                    map.insert(key, value);
                }
            }
        }
        Ok(())
    }

    fn item(
        &mut self,
        field: &'static Field,
        wire: Wire<'_>,
        list: &mut Vec<Value>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if let (Type::Bool | Type::Int32 | Type::Int64, Wire::Bytes(packed)) = (field.ty, wire) {
            let mut reader = Reader::new(packed);
            while !reader.is_empty() {
                self.count()?;
                let wire = Wire::Varint(reader.varint()?);
                list.extend(self.value(field, wire, depth)?);
            }
            return Ok(());
        }
        list.push(self.value(field, wire, depth)?.unwrap_or(Value::Null));
        Ok(())
    }

    fn entry(&mut self, field: &'static Field, bytes: &[u8], depth: usize) -> Result<(String, Value), DecodeError> {
        let (mut key, mut found, mut reader) = ("", None, Reader::new(bytes));
        while let Some(part) = reader.field()? {
            match part {
                (1, Wire::Bytes(text)) => key = utf8(text)?,
                (2, wire) => found = Some(wire),
                _ => return Err(wrong(field)),
            }
        }
        let absent = match field.ty {
            Type::Bool | Type::Int32 | Type::Int64 => Wire::Varint(0),
            Type::Double => Wire::Fixed64(0),
            _ => Wire::Bytes(&[]),
        };
        let value = self.value(field, found.unwrap_or(absent), depth)?;
        Ok((key.to_owned(), value.unwrap_or(Value::Null)))
    }

    /// One value of the field's type; `None` for what stands for nothing, as the zero time does.
    fn value(&mut self, field: &'static Field, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, DecodeError> {
        let value = match (field.ty, wire) {
            (Type::String, Wire::Bytes(bytes)) => utf8(bytes)?.into(),
            (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Type::Bool, Wire::Varint(v)) => (v != 0).into(),
            // As Go does: what does not fit is cut.
            (Type::Int32, Wire::Varint(v)) => (v as i32).into(),
            (Type::Int64, Wire::Varint(v)) => v.cast_signed().into(),
            (Type::Double, Wire::Fixed64(v)) => Number::from_f64(f64::from_bits(v)).map_or(Value::Null, Value::Number),
            (Type::Double, Wire::Fixed32(v)) => {
                Number::from_f64(f32::from_bits(v).into()).map_or(Value::Null, Value::Number)
            }
            (Type::Time | Type::MicroTime, Wire::Bytes(bytes)) => return time(field, bytes),
            (Type::Quantity, Wire::Bytes(bytes)) => match utf8(first_bytes(field, bytes)?)? {
                "" => "0".into(),
                text => text.into(),
            },
            (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(field, bytes)?,
            (Type::Json, Wire::Bytes(bytes)) => match first_bytes(field, bytes)? {
                [] => return Ok(None),
                // An object in a list of anything.
                raw if raw.starts_with(MAGIC) => {
                    let depth = depth.checked_sub(1).ok_or(DecodeError::Deep)?;
                    self.document(raw, depth)?.ok_or(DecodeError::Content)?
                }
                raw => json(raw)?,
            },
            (Type::Message(message), Wire::Bytes(bytes)) => self.message(field, message, bytes, depth)?,
            _ => return Err(wrong(field)),
        };
        Ok(Some(value))
    }

    fn message(&mut self, field: &Field, index: u16, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
        let message = self.table.message(index);
        let mut map = Map::new();
        self.fields(bytes, message, &mut map, depth)?;
        let mut part = |number: u32| message.field(number).and_then(|f| map.remove(f.name));
        Ok(match message.form {
            Form::Object => Value::Object(map),
            Form::List => part(1).unwrap_or_else(|| Value::Array(Vec::new())),
            Form::OrList => part(2).or_else(|| part(1)).ok_or(wrong_name(field.name))?,
            Form::OrBool => part(2).or_else(|| part(1)).unwrap_or(false.into()),
        })
    }
}

fn wrong(field: &'static Field) -> DecodeError {
    wrong_name(field.name)
}

fn wrong_name(field: &'static str) -> DecodeError {
    DecodeError::Wire { field }
}

/// Sets a field. A message that comes in parts is put together.
fn merge(out: &mut Map<String, Value>, name: &'static str, value: Value) {
    match (out.get_mut(name), value) {
        (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
        (Some(old), value) => *old = value,
        (None, value) => {
            out.insert(name.to_owned(), value);
        }
    }
}

fn is_zero(ty: Type, value: &Value) -> bool {
    match value {
        // A quantity is a struct: JSON shows its zero.
        Value::String(text) => text.is_empty() && ty != Type::Quantity,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(on) => !on,
        _ => false,
    }
}

/// Text of JSON. Its depth is bounded by the parser.
fn json(raw: &[u8]) -> Result<Value, DecodeError> {
    serde_json::from_slice(raw).map_err(|_| DecodeError::Json)
}

/// Field 1 of a message that has no other.
fn first_bytes<'a>(field: &'static Field, bytes: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let (mut out, mut reader) = (&bytes[..0], Reader::new(bytes));
    while let Some(part) = reader.field()? {
        match part {
            (1, Wire::Bytes(found)) => out = found,
            (1, _) => return Err(wrong(field)),
            _ => {}
        }
    }
    Ok(out)
}

/// `{type = 1, intVal = 2, strVal = 3}`, where type 1 is text.
fn int_or_string(field: &'static Field, bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut kind, mut number, mut text, mut reader) = (0, 0, "", Reader::new(bytes));
    while let Some(part) = reader.field()? {
        match part {
            (1, Wire::Varint(v)) => kind = v,
            (2, Wire::Varint(v)) => number = v as i32,
            (3, Wire::Bytes(v)) => text = utf8(v)?,
            (1..=3, _) => return Err(wrong(field)),
            _ => {}
        }
    }
    match kind {
        0 => Ok(number.into()),
        1 => Ok(text.into()),
        _ => Err(wrong(field)),
    }
}

/// `{seconds = 1, nanos = 2}`; without fields it is no time at all.
fn time(field: &'static Field, bytes: &[u8]) -> Result<Option<Value>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos, mut reader) = (0, 0, Reader::new(bytes));
    while let Some(part) = reader.field()? {
        match part {
            (1, Wire::Varint(v)) => seconds = v.cast_signed(),
            (2, Wire::Varint(v)) => nanos = v as i32,
            (1 | 2, _) => return Err(wrong(field)),
            _ => {}
        }
    }
    let in_range = (0..1_000_000_000).contains(&nanos);
    let time = Timestamp::new(seconds, nanos).ok().filter(|t| in_range && t.as_second() >= -62_135_596_800);
    let time = time.ok_or(DecodeError::Time)?;
    Ok(Some(if field.ty == Type::MicroTime { format_micro_time(time) } else { format_time(time) }.into()))
}
