//! Strategic merge patch: a merge patch that knows the types, with directives for what merging cannot say.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::order::{arrange, identity, positions};
use super::{check_depth, unprocessable};
use crate::schema::{PatchStrategy, TypeRef};
use crate::status::ApiError;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// Why a patch cannot be merged.
#[derive(Debug, thiserror::Error)]
enum StrategicError {
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective { directive: String, map: String },
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetOrder,
    #[error("The order in patch list:\n{patch}\n doesn't match {SET_ORDER} list:\n{order}\n")]
    OrderMismatch { patch: String, order: String },
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirectiveInList,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("list element types are not identical: {0}")]
    MixedList(String),
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: String },
    #[error("cannot merge lists without merge key for {0}")]
    NoKeyDeclared(String),
}

impl From<StrategicError> for ApiError {
    fn from(error: StrategicError) -> Self {
        match error {
            StrategicError::ListOfLists | StrategicError::NoMergeKey { .. } => unprocessable(error),
            other => ApiError::bad_request(other.to_string()),
        }
    }
}

type Result<T> = std::result::Result<T, StrategicError>;
type Object = Map<String, Value>;

/// Merges `patch` into `doc`, an object of type `schema`.
///
/// # Errors
/// 400 for a malformed patch, 422 when list items lack their merge key.
pub fn strategic_merge(schema: TypeRef<'_>, doc: &Value, patch: &Value) -> std::result::Result<Value, ApiError> {
    let Value::Object(patch_map) = patch else { return Err(ApiError::bad_request("invalid JSON document")) };
    check_depth(patch)?;
    let mut out = match doc {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    merge_map(Some(schema), &mut out, patch_map.clone())?;
    Ok(Value::Object(out))
}

/// What the type says of one field; nothing, for fields it does not know.
#[derive(Default, Clone, Copy)]
struct Rule<'a> {
    ty: Option<TypeRef<'a>>,
    strategy: PatchStrategy,
    key: Option<&'a str>,
}

fn rule<'a>(ty: Option<TypeRef<'a>>, name: &str) -> Rule<'a> {
    let Some(ty) = ty else { return Rule::default() };
    match ty.field(name) {
        Some(field) => Rule { ty: Some(field.ty), strategy: field.strategy, key: field.merge_key },
        None => Rule { ty: ty.child(name), ..Rule::default() },
    }
}

fn merge_map(ty: Option<TypeRef<'_>>, original: &mut Object, mut patch: Object) -> Result<()> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(directive) => match directive.as_str() {
            Some("replace") => {
                discard_nulls(&mut patch);
                *original = patch;
                return Ok(());
            }
            Some("delete") => {
                original.clear();
                return Ok(());
            }
            Some("merge") => {}
            _ => {
                let map = Value::Object(patch).to_string();
                return Err(StrategicError::UnknownDirective { directive: directive.to_string(), map });
            }
        },
    }
    retain_keys(original, &mut patch)?;
    set_orders(ty, original, &mut patch)?;
    for (key, value) in patch {
        merge_field(ty, original, key, value)?;
    }
    Ok(())
}

fn merge_field(ty: Option<TypeRef<'_>>, original: &mut Object, key: String, value: Value) -> Result<()> {
    if key.starts_with(DELETE_FROM) {
        let name = directive_target(&key, DELETE_FROM).ok_or(StrategicError::PrimitiveList)?;
        return delete_from(original, name, value);
    }
    if value.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let rule = rule(ty, &key);
    match (original.get_mut(&key), value) {
        (Some(Value::Object(old)), Value::Object(new)) if !rule.strategy.replace => merge_map(rule.ty, old, new),
        (Some(Value::Object(old)), Value::Object(mut new)) => {
            new.remove(DIRECTIVE);
            discard_nulls(&mut new);
            *old = new;
            Ok(())
        }
        (Some(Value::Array(old)), Value::Array(new)) if rule.strategy.merge => {
            *old = merge_list(rule, std::mem::take(old), new)?;
            Ok(())
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            *old = new;
            Ok(())
        }
        // Absent, or of another kind: the patch's value, without what only means something when merging.
        (_, mut value) => {
            discard_nulls_in(&mut value);
            match without_directives(value) {
                Some(value) => original.insert(key, value),
                None => original.remove(&key),
            };
            Ok(())
        }
    }
}

/// The `x` of `$directive/x`.
fn directive_target<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

/// `$retainKeys: [a, b]`: of the original's fields only these stay; the patch may not set others.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let list = list.as_array().ok_or(StrategicError::RetainKeys)?;
    let retained: HashSet<&str> = list.iter().filter_map(Value::as_str).collect();
    let stray = patch.iter().any(|(key, value)| {
        let directive = key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
        !value.is_null() && !directive && !retained.contains(key.as_str())
    });
    if stray {
        return Err(StrategicError::RetainKeys);
    }
    original.retain(|key, _| retained.contains(key.as_str()));
    Ok(())
}

/// `$deleteFromPrimitiveList/x: [..]`.
fn delete_from(original: &mut Object, name: &str, values: Value) -> Result<()> {
    let values = values.as_array().ok_or(StrategicError::PrimitiveList)?;
    let gone = positions(values, None);
    if let Some(Value::Array(list)) = original.get_mut(name) {
        list.retain(|item| !gone.contains_key(&item.to_string()));
    }
    Ok(())
}

/// `$setElementOrder/x: [..]`: merges `x` now and puts its items in this order.
fn set_orders(ty: Option<TypeRef<'_>>, original: &mut Object, patch: &mut Object) -> Result<()> {
    let keys: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for key in keys {
        let Some(Value::Array(order)) = patch.remove(&key) else { return Err(StrategicError::SetOrder) };
        let name = directive_target(&key, SET_ORDER).ok_or(StrategicError::SetOrder)?;
        let rule = rule(ty, name);
        let list = |value: Option<Value>| match value {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(StrategicError::SetOrder),
        };
        // An explicit null deletes the list; there is nothing to order.
        if patch.get(name).is_some_and(Value::is_null) {
            continue;
        }
        let patched = list(patch.remove(name))?;
        let server = list(original.get(name).cloned())?;
        if let Some(patched) = &patched {
            check_order(patched, &order, rule.key)?;
        }
        let merged = match (server.clone(), patched) {
            (None, None) => continue,
            (Some(server), None) => server,
            (None, Some(patched)) => {
                let mut value = Value::Array(patched);
                discard_nulls_in(&mut value);
                match without_directives(value) {
                    Some(Value::Array(list)) => list,
                    _ => continue,
                }
            }
            (Some(server), Some(patched)) if rule.strategy.merge => merge_list(rule, server, patched)?,
            (Some(_), Some(patched)) => patched,
        };
        check_keys(&merged, rule.key)?;
        let arranged = arrange(merged, &order, server.as_deref().unwrap_or_default(), rule.key);
        original.insert(name.to_owned(), Value::Array(arranged));
    }
    Ok(())
}

/// The items of the patch (but those that are deleted) must occur in the order list, in that order.
fn check_order(patched: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    if patched.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut order_at = order.iter();
    for item in patched {
        if item.get(DIRECTIVE).is_some() {
            continue;
        }
        let id = require_identity(item, key)?;
        let found = order_at.any(|other| identity(other, key).as_ref() == Some(&id));
        if !found {
            return Err(StrategicError::OrderMismatch {
                patch: Value::from(patched.to_vec()).to_string(),
                order: Value::from(order.to_vec()).to_string(),
            });
        }
    }
    Ok(())
}

fn require_identity(item: &Value, key: Option<&str>) -> Result<String> {
    identity(item, key)
        .ok_or_else(|| StrategicError::NoMergeKey { map: item.to_string(), key: key.unwrap_or_default().to_owned() })
}

fn check_keys(items: &[Value], key: Option<&str>) -> Result<()> {
    items.iter().try_for_each(|item| require_identity(item, key).map(drop))
}

/// Merges a list whose strategy is to merge.
fn merge_list(rule: Rule<'_>, original: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let objects = element_kind(&original, &patch)?;
    if !objects {
        let mut seen = HashSet::new();
        let both = original.iter().chain(&patch).filter(|v| seen.insert(v.to_string())).cloned().collect();
        return Ok(arrange(both, &patch, &original, None));
    }
    let Some(key) = rule.key else {
        let name = rule.ty.and_then(TypeRef::item).and_then(TypeRef::name).unwrap_or_default();
        return Err(StrategicError::NoKeyDeclared(name.to_owned()));
    };
    let (original, patch) = special_items(original, patch, key)?;
    let item_ty = rule.ty.and_then(TypeRef::item);
    let mut at = positions(&original, Some(key));
    let mut merged = original.clone();
    for item in &patch {
        let id = require_identity(item, Some(key))?;
        match (at.get(&id).map(|at| &mut merged[*at]), item) {
            (Some(Value::Object(old)), Value::Object(new)) => merge_map(item_ty, old, new.clone())?,
            _ => {
                at.insert(id, merged.len());
                merged.push(item.clone());
            }
        }
    }
    for item in merged.iter_mut().skip(original.len()) {
        discard_nulls_in(item);
        *item = without_directives(item.take()).unwrap_or_default();
    }
    check_keys(&merged, Some(key))?;
    Ok(arrange(merged, &patch, &original, Some(key)))
}

/// Whether the items are objects; all must be of one kind.
fn element_kind(original: &[Value], patch: &[Value]) -> Result<bool> {
    let mut kind = None;
    for item in original.iter().chain(patch) {
        if item.is_array() {
            return Err(StrategicError::ListOfLists);
        }
        let this = std::mem::discriminant(item);
        if *kind.get_or_insert(this) != this {
            return Err(StrategicError::MixedList(Value::from(patch.to_vec()).to_string()));
        }
    }
    Ok(original.iter().chain(patch).next().is_some_and(Value::is_object))
}

/// Carries out the items of the patch that are directives: `{$patch: delete, key: x}` and `{$patch: replace}`.
fn special_items(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut gone = HashSet::new();
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => plain.push(item),
            Some("delete") => {
                gone.insert(require_identity(&item, Some(key))?);
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(StrategicError::MergeDirectiveInList),
            Some(other) => {
                let directive = other.to_owned();
                return Err(StrategicError::UnknownDirective { directive, map: item.to_string() });
            }
        }
    }
    if replace {
        return Ok((plain, Vec::new()));
    }
    if !gone.is_empty() {
        original.retain(|item| identity(item, Some(key)).is_none_or(|id| !gone.contains(&id)));
    }
    Ok((original, plain))
}

fn discard_nulls(map: &mut Object) {
    map.retain(|_, value| !value.is_null());
    map.values_mut().for_each(discard_nulls_in);
}

/// Nulls say what to delete; where there is nothing to delete from they say nothing.
fn discard_nulls_in(value: &mut Value) {
    match value {
        Value::Object(map) => discard_nulls(map),
        Value::Array(list) => list.iter_mut().for_each(discard_nulls_in),
        _ => {}
    }
}

/// The value without directives; `None` when it is one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            let kept = map
                .into_iter()
                .filter(|(key, _)| key != RETAIN_KEYS && !key.starts_with(SET_ORDER) && !key.starts_with(DELETE_FROM));
            Some(Value::Object(kept.filter_map(|(key, v)| Some((key, without_directives(v)?))).collect()))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}
