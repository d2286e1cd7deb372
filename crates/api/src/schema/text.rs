//! The text form of a schema, as `cargo xtask codegen` writes it.
//!
//! ```text
//! # comment
//! @apps/v1 Deployment apps.v1.Deployment      a kind and its type
//! =core.v1.Container atomic                   a struct; its fields follow
//! ports [core.v1.ContainerPort]map(containerPort,protocol) p=merge:containerPort
//! protocol string d=TCP                       d: default of a list-map key
//! name string !                               !: required
//! ```
//! Types: `string int32 int64 number bool bytes time quantity intstr any`, a struct name (it has a dot), `[T]` a list
//! (atomic, or followed by `set` or `map(keys)`), `{T}` a map (or `{T}atomic`). A struct name may be followed by `~` for
//! granular or `^` for atomic where the field says otherwise than the type.

use std::collections::HashSet;

use super::table::{Builder, FieldDef, ListKind, NO_NAME, PatchStrategy, Scalar, Schema, Type, TypeId};

/// A line of the schema text that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("schema text, line {line}: {what}")]
pub struct TextError {
    /// One-based line.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

type Parsed<T> = Result<T, &'static str>;

/// Decodes schema text.
pub(super) fn decode(text: &str) -> Result<Schema, TextError> {
    let mut builder = Builder::default();
    let atomic: HashSet<&str> =
        text.lines().filter_map(|l| l.strip_prefix('=').and_then(|rest| rest.strip_suffix(" atomic"))).collect();
    let mut open: Option<(u32, Vec<FieldDef>)> = None;
    for (index, line) in text.lines().enumerate() {
        let fail = |what| TextError { line: index + 1, what };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix('@') {
            kind_line(&mut builder, &atomic, rest).map_err(fail)?;
        } else if let Some(rest) = line.strip_prefix('=') {
            if let Some((index, fields)) = open.take() {
                builder.define(index, fields, false);
            }
            let name = rest.split(' ').next().unwrap_or_default();
            open = Some((builder.struct_index(name), Vec::new()));
        } else {
            let field = field_line(&mut builder, &atomic, line).map_err(fail)?;
            open.as_mut().ok_or_else(|| fail("a field before the first struct"))?.1.push(field);
        }
    }
    if let Some((index, fields)) = open.take() {
        builder.define(index, fields, false);
    }
    Ok(builder.finish())
}

fn kind_line(builder: &mut Builder, atomic: &HashSet<&str>, rest: &str) -> Parsed<()> {
    let mut words = rest.split(' ');
    let (Some(gv), Some(kind), Some(ty)) = (words.next(), words.next(), words.next()) else {
        return Err("a kind needs group/version, kind and type");
    };
    let (group, version) = gv.split_once('/').ok_or("group/version needs a slash")?;
    let ty = type_expr(builder, atomic, ty)?;
    builder.add_kind(group, version, kind, ty);
    Ok(())
}

fn field_line(builder: &mut Builder, atomic: &HashSet<&str>, line: &str) -> Parsed<FieldDef> {
    let mut words = line.split(' ');
    let (Some(name), Some(ty)) = (words.next(), words.next()) else { return Err("a field needs a name and a type") };
    let mut field = FieldDef {
        name: builder.intern(name),
        ty: type_expr(builder, atomic, ty)?,
        required: false,
        strategy: PatchStrategy::default(),
        merge_key: NO_NAME,
        default: NO_NAME,
    };
    for word in words {
        if word == "!" {
            field.required = true;
        } else if let Some(default) = word.strip_prefix("d=") {
            field.default = builder.intern(default);
        } else if let Some(patch) = word.strip_prefix("p=") {
            let (strategies, key) = patch.split_once(':').unwrap_or((patch, ""));
            for strategy in strategies.split(',') {
                match strategy {
                    "merge" => field.strategy.merge = true,
                    "replace" => field.strategy.replace = true,
                    "retainKeys" => field.strategy.retain_keys = true,
                    _ => return Err("unknown patch strategy"),
                }
            }
            if !key.is_empty() {
                field.merge_key = builder.intern(key);
            }
        } else {
            return Err("unknown attribute");
        }
    }
    Ok(field)
}

fn type_expr(builder: &mut Builder, atomic: &HashSet<&str>, text: &str) -> Parsed<TypeId> {
    let ty = if let Some(inner) = text.strip_prefix('[') {
        let (item, suffix) = inner.rsplit_once(']').ok_or("unclosed list")?;
        let item = type_expr(builder, atomic, item)?;
        let kind = match suffix {
            "" => ListKind::Atomic,
            "set" => ListKind::Set,
            _ => {
                let keys = suffix.strip_prefix("map(").and_then(|s| s.strip_suffix(')')).ok_or("bad list suffix")?;
                builder.list_keys(&keys.split(',').collect::<Vec<_>>())
            }
        };
        Type::List { item, kind }
    } else if let Some(inner) = text.strip_prefix('{') {
        let (value, suffix) = inner.rsplit_once('}').ok_or("unclosed map")?;
        let value = type_expr(builder, atomic, value)?;
        Type::Map { value, atomic: suffix == "atomic" }
    } else if text.contains('.') {
        let name = text.trim_end_matches(['~', '^']);
        let is_atomic = text.ends_with('^') || (!text.ends_with('~') && atomic.contains(name));
        Type::Struct { index: builder.struct_index(name), atomic: is_atomic }
    } else {
        scalar(text)?
    };
    Ok(builder.add_type(ty))
}

fn scalar(text: &str) -> Parsed<Type> {
    Ok(Type::Scalar(match text {
        "string" => Scalar::String,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "number" => Scalar::Number,
        "bool" => Scalar::Boolean,
        "bytes" => Scalar::Bytes,
        "time" => Scalar::Time,
        "quantity" => Scalar::Quantity,
        "intstr" => Scalar::IntOrString,
        "any" => return Ok(Type::Any),
        _ => return Err("unknown type"),
    }))
}
