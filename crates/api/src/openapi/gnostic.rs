//! Swagger 2.0 in protobuf: the messages of gnostic's `OpenAPIv2.proto`, which `kubectl` and client-go read. Only what this
//! server's documents hold is written; extensions are YAML, of which JSON is a part.

use serde_json::{Map, Value};

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: u32, message: Message) {
        self.bytes(number, &message.0);
    }

    /// An absent string is an empty one.
    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u32, value: &Value) {
        for text in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u32, value: &Value) {
        if value == &Value::Bool(true) {
            self.varint(u64::from(number << 3));
            self.varint(1);
        }
    }

    fn integer(&mut self, number: u32, value: &Value) {
        // Of a negative number the two's complement, as int64 has it.
        if let Some(value) = value.as_i64().filter(|v| *v != 0) {
            self.varint(u64::from(number << 3));
            self.varint(value.cast_unsigned());
        }
    }

    fn double(&mut self, number: u32, value: &Value) {
        if let Some(value) = value.as_f64().filter(|v| *v != 0.0) {
            self.varint(u64::from(number << 3 | 1));
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// `Any` with its `yaml`.
    fn any(&mut self, number: u32, value: &Value) {
        if !value.is_null() {
            let mut any = Message::default();
            any.bytes(2, value.to_string().as_bytes());
            self.message(number, any);
        }
    }

    /// `Named…`: a name and a value.
    fn named(&mut self, number: u32, name: &str, value: Message) {
        let mut named = Message::default();
        named.bytes(1, name.as_bytes());
        named.message(2, value);
        self.message(number, named);
    }

    /// Members that begin with `x-`.
    fn extensions(&mut self, number: u32, of: &Value) {
        for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Message::default();
            any.bytes(2, value.to_string().as_bytes());
            self.named(number, name, any);
        }
    }
}

/// `Document` without paths and definitions.
pub(super) fn frame(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    out.message(2, info);
    for requirement in document["security"].as_array().into_iter().flatten() {
        let mut message = Message::default();
        for (name, scopes) in requirement.as_object().into_iter().flatten() {
            let mut list = Message::default();
            list.texts(1, scopes);
            message.named(1, name, list);
        }
        out.message(12, message);
    }
    let mut definitions = Message::default();
    for (name, definition) in document["securityDefinitions"].as_object().into_iter().flatten() {
        let mut key = Message::default();
        for (number, field) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            key.text(number, &definition[field]);
        }
        let mut item = Message::default();
        item.message(2, key);
        definitions.named(1, name, item);
    }
    out.message(13, definitions);
    out.0
}

/// `Document` with nothing but these.
pub(super) fn part(paths: &Map<String, Value>, definitions: &Map<String, Value>) -> Vec<u8> {
    let mut out = Message::default();
    let mut message = Message::default();
    for (path, item) in paths {
        message.named(2, path, path_item(item));
    }
    out.message(8, message);
    let mut message = Message::default();
    for (name, definition) in definitions {
        message.named(1, name, schema(definition));
    }
    out.message(9, message);
    out.0
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    let methods = [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (number, method) in methods {
        if item[method].is_object() {
            out.message(number, operation(&item[method]));
        }
    }
    parameters(&mut out, 9, &item["parameters"]);
    out.extensions(10, item);
    out
}

fn operation(op: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, &op["tags"]);
    out.text(2, &op["summary"]);
    out.text(3, &op["description"]);
    out.text(5, &op["operationId"]);
    out.texts(6, &op["produces"]);
    out.texts(7, &op["consumes"]);
    parameters(&mut out, 8, &op["parameters"]);
    let mut responses = Message::default();
    for (code, response) in op["responses"].as_object().into_iter().flatten() {
        let mut message = Message::default();
        message.text(1, &response["description"]);
        if response["schema"].is_object() {
            let mut item = Message::default();
            item.message(1, schema(&response["schema"]));
            message.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, message);
        responses.named(1, code, value);
    }
    out.message(9, responses);
    out.texts(10, &op["schemes"]);
    out.flag(11, &op["deprecated"]);
    out.extensions(13, op);
    out
}

fn parameters(out: &mut Message, number: u32, list: &Value) {
    for parameter in list.as_array().into_iter().flatten() {
        let mut message = Message::default();
        if parameter["in"] == "body" {
            message.message(1, body_parameter(parameter));
        } else {
            message.message(2, plain_parameter(parameter));
        }
        let mut item = Message::default();
        item.message(1, message);
        out.message(number, item);
    }
}

fn body_parameter(parameter: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &parameter["description"]);
    out.text(2, &parameter["name"]);
    out.text(3, &parameter["in"]);
    out.flag(4, &parameter["required"]);
    if parameter["schema"].is_object() {
        out.message(5, schema(&parameter["schema"]));
    }
    out.extensions(6, parameter);
    out
}

/// Of the query or the path, whose messages differ in one number after the fourth.
fn plain_parameter(parameter: &Value) -> Message {
    let mut inner = Message::default();
    inner.flag(1, &parameter["required"]);
    inner.text(2, &parameter["in"]);
    inner.text(3, &parameter["description"]);
    inner.text(4, &parameter["name"]);
    let (kind, ty, unique) = if parameter["in"] == "path" { (4, 5, 19) } else { (3, 6, 20) };
    inner.text(ty, &parameter["type"]);
    inner.flag(unique, &parameter["uniqueItems"]);
    let mut out = Message::default();
    out.message(kind, inner);
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    for (number, key) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description")] {
        out.text(number, &value[key]);
    }
    out.any(5, &value["default"]);
    out.double(6, &value["multipleOf"]);
    out.double(7, &value["maximum"]);
    out.flag(8, &value["exclusiveMaximum"]);
    out.double(9, &value["minimum"]);
    out.flag(10, &value["exclusiveMinimum"]);
    out.integer(11, &value["maxLength"]);
    out.integer(12, &value["minLength"]);
    out.text(13, &value["pattern"]);
    out.integer(14, &value["maxItems"]);
    out.integer(15, &value["minItems"]);
    out.flag(16, &value["uniqueItems"]);
    out.integer(17, &value["maxProperties"]);
    out.integer(18, &value["minProperties"]);
    out.texts(19, &value["required"]);
    value["enum"].as_array().into_iter().flatten().for_each(|item| out.any(20, item));
    match &value["additionalProperties"] {
        Value::Bool(allowed) => {
            // A field of a `oneof` is written also when it is false.
            let mut item = Message::default();
            item.varint(2 << 3);
            item.varint(u64::from(*allowed));
            out.message(21, item);
        }
        Value::Object(_) => {
            let mut item = Message::default();
            item.message(1, schema(&value["additionalProperties"]));
            out.message(21, item);
        }
        _ => {}
    }
    if let Some(ty) = value["type"].as_str() {
        let mut item = Message::default();
        item.bytes(1, ty.as_bytes());
        out.message(22, item);
    }
    if value["items"].is_object() {
        let mut item = Message::default();
        item.message(1, schema(&value["items"]));
        out.message(23, item);
    }
    value["allOf"].as_array().into_iter().flatten().for_each(|s| out.message(24, schema(s)));
    if let Some(properties) = value["properties"].as_object() {
        let mut message = Message::default();
        for (name, property) in properties {
            message.named(1, name, schema(property));
        }
        out.message(25, message);
    }
    out.flag(27, &value["readOnly"]);
    out.any(30, &value["example"]);
    out.extensions(31, value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_frame_is_wire_encoded() {
        let frame = frame(&json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1"}}));
        assert!(frame.starts_with(b"\x0a\x032.0\x12\x10\x0a\x0aKubernetes\x12\x02v1"));
    }

    #[test]
    fn a_schema_is_wire_encoded() {
        let value = json!({"type": "object", "required": ["a"], "minLength": 300, "x-k": [1],
            "properties": {"a": {"$ref": "#/definitions/B"}}, "additionalProperties": false});
        let mut want = b"\x60\xac\x02".to_vec(); // minLength 300
        want.extend_from_slice(b"\x9a\x01\x01a"); // required
        want.extend_from_slice(b"\xaa\x01\x02\x10\x00"); // additionalProperties
        want.extend_from_slice(b"\xb2\x01\x08\x0a\x06object"); // type
        want.extend_from_slice(b"\xca\x01\x18\x0a\x16\x0a\x01a\x12\x11\x0a\x0f#/definitions/B"); // properties
        want.extend_from_slice(b"\xfa\x01\x0c\x0a\x03x-k\x12\x05\x12\x03[1]"); // extension
        assert_eq!(schema(&value).0, want);
    }
}
