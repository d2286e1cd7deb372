//! The messages of Kubernetes' protobuf encoding, read once from `kubernetes.fields`.
//!
//! The file has one line per message, `=NAME [FORM]`, followed by one line per field, `NUMBER JSON-NAME TYPE [-]`:
//! - NAME is the name the schema has for the type, as `core.v1.Pod`. FORM is how JSON shows the message where that is not
//!   an object with its fields: `list` (the items of field 1), `or-list` (field 1 or the items of field 2), `or-bool`
//!   (field 2 or, without it, field 1).
//! - JSON-NAME is `^` for a message whose fields JSON shows in the parent.
//! - TYPE is a message, `string`, `bytes`, `bool`, `int32`, `int64`, `double`, `time`, `microtime`, `quantity`, `intstr` or
//!   `json` (a message with JSON text as field 1); `[T]` is a list, `{T}` a map with text for keys.
//! - `-` marks a field whose zero is the same as no value: Go writes such fields always, JSON leaves them out.

use std::collections::HashMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("kubernetes.fields");

/// The type of a field, of a list's items or of a map's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    Json,
    /// By position in [`Table::messages`].
    Message(u16),
}

/// How often a field's type occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    One,
    List,
    Map,
    /// A message whose fields JSON shows in the parent.
    Inline,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub number: u32,
    pub name: &'static str,
    pub ty: Type,
    pub label: Label,
    /// A zero is the same as no value.
    pub drop_zero: bool,
}

/// How JSON shows a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    List,
    OrList,
    OrBool,
}

#[derive(Debug)]
pub(super) struct Message {
    pub form: Form,
    /// By number.
    pub fields: Vec<Field>,
}

impl Message {
    /// The field with the number.
    pub fn field(&self, number: u32) -> Option<&Field> {
        // Numbers mostly have no gaps: then the position is known.
        let guess = self.fields.get((number as usize).wrapping_sub(1));
        if let Some(field) = guess.filter(|f| f.number == number) {
            return Some(field);
        }
        self.fields.binary_search_by_key(&number, |f| f.number).ok().map(|at| &self.fields[at])
    }
}

#[derive(Debug)]
pub(super) struct Table {
    messages: Vec<Message>,
    names: HashMap<&'static str, u16>,
}

impl Table {
    /// The table of this build.
    pub fn get() -> &'static Table {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| Table::parse(TEXT).expect("the generated table is read by a test"))
    }

    pub fn message(&self, index: u16) -> &Message {
        &self.messages[usize::from(index)]
    }

    /// The position of a message.
    pub fn find(&self, name: &str) -> Option<u16> {
        self.names.get(name).copied()
    }

    /// The message a kind is encoded as.
    pub fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<u16> {
        let named = crate::schema::for_kind(group, version, kind).and_then(|ty| self.find(ty.name()?));
        // Options and lists of anything exist in all groups with the same shape; the schema lists at most one of them.
        named.or_else(|| self.find(&format!("meta.v1.{kind}")).filter(|_| is_meta(group, version, kind)))
    }

    fn parse(text: &'static str) -> Option<Table> {
        let lines = || text.lines().filter(|l| !l.starts_with('#'));
        let heads = lines().filter_map(|l| l.strip_prefix('='));
        let names: HashMap<_, _> =
            heads.enumerate().map(|(i, l)| (l.split(' ').next().unwrap_or(l), i as u16)).collect();
        let mut messages: Vec<Message> = Vec::with_capacity(names.len());
        for line in lines() {
            if let Some(head) = line.strip_prefix('=') {
                let form = match head.split_once(' ').map(|(_, form)| form) {
                    None => Form::Object,
                    Some("list") => Form::List,
                    Some("or-list") => Form::OrList,
                    Some("or-bool") => Form::OrBool,
                    Some(_) => return None,
                };
                messages.push(Message { form, fields: Vec::new() });
            } else {
                messages.last_mut()?.fields.push(parse_field(line, &names)?);
            }
        }
        messages.iter_mut().for_each(|m| m.fields.sort_by_key(|f| f.number));
        Some(Table { messages, names })
    }

    #[cfg(test)]
    pub fn names(&self) -> impl Iterator<Item = (&'static str, u16)> {
        self.names.iter().map(|(name, index)| (*name, *index))
    }
}

/// Whether a kind is one of those that every group has.
fn is_meta(group: &str, version: &str, kind: &str) -> bool {
    let options = kind.ends_with("Options") || matches!(kind, "Status" | "WatchEvent");
    options || group == "meta.k8s.io" || (group.is_empty() && version == "v1" && kind == "List")
}

fn parse_field(line: &'static str, names: &HashMap<&'static str, u16>) -> Option<Field> {
    let mut words = line.split(' ');
    let (number, name, ty) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let drop_zero = words.next() == Some("-");
    let (label, ty) = if name == "^" {
        (Label::Inline, ty)
    } else if let Some(item) = ty.strip_prefix('[') {
        (Label::List, item.strip_suffix(']')?)
    } else if let Some(value) = ty.strip_prefix('{') {
        (Label::Map, value.strip_suffix('}')?)
    } else {
        (Label::One, ty)
    };
    let ty = match ty {
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "intstr" => Type::IntOrString,
        "json" => Type::Json,
        message => Type::Message(*names.get(message)?),
    };
    Some(Field { number, name, ty, label, drop_zero })
}
