//! Merging an applied configuration into the live object, and taking fields out of an object.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::managed_fields::{FieldSet, Form, ItemError, PathElement, form, is_hollow, item_element};
use crate::schema::{ListType, Shape, TypeRef};

/// `live` with the fields of `applied` laid over it. Nothing is removed. Lists of items keep the live order, except that
/// items which `applied` orders otherwise follow it.
///
/// # Errors
/// When an item of an associative list cannot be identified.
pub(super) fn merge(ty: TypeRef<'_>, live: Option<&Value>, applied: &Value) -> Result<Value, ItemError> {
    let Some(live) = live else { return Ok(without_nulls(ty, applied.clone())) };
    if is_hollow(Some(live)) && is_hollow(Some(applied)) {
        return Ok(applied.clone());
    }
    match (form(ty, applied), live, applied) {
        (Form::Object(ty), Value::Object(live), Value::Object(applied)) => merge_maps(ty, live, applied),
        (Form::List(item, list), Value::Array(live), Value::Array(applied)) => {
            merge_lists(item, list, live, applied).map(Value::Array)
        }
        // Saying nothing about a container leaves what is in it.
        (Form::Object(_) | Form::List(..), live, Value::Null) => Ok(live.clone()),
        _ => Ok(without_nulls(ty, applied.clone())),
    }
}

fn merge_maps(ty: TypeRef<'_>, live: &Map<String, Value>, applied: &Map<String, Value>) -> Result<Value, ItemError> {
    let mut out = live.clone();
    for (key, value) in applied {
        let merged = match ty.child(key) {
            Some(child) => merge(child, live.get(key), value)?,
            None => value.clone(),
        };
        if merged.is_null() && ty.is_object() {
            out.remove(key);
        } else {
            out.insert(key.clone(), merged);
        }
    }
    Ok(Value::Object(out))
}

/// Typed objects cannot hold a null in a declared field: it means the field is not set.
fn without_nulls(ty: TypeRef<'_>, mut value: Value) -> Value {
    match (ty.shape(), &mut value) {
        (Shape::Struct { .. }, Value::Object(map)) => {
            map.retain(|_, child| !child.is_null());
            for (key, child) in map.iter_mut() {
                if let Some(field) = ty.field(key) {
                    *child = without_nulls(field.ty, child.take());
                }
            }
        }
        (Shape::List { item, .. }, Value::Array(list)) => {
            list.iter_mut().for_each(|child| *child = without_nulls(item, child.take()));
        }
        (Shape::Map { value: ty, .. }, Value::Object(map)) => {
            map.values_mut().for_each(|child| *child = without_nulls(ty, child.take()));
        }
        _ => {}
    }
    value
}

fn merge_lists(
    item: TypeRef<'_>,
    list: ListType<'_>,
    live: &[Value],
    applied: &[Value],
) -> Result<Vec<Value>, ItemError> {
    let live_keys = elements(item, list, live)?;
    let applied_keys = elements(item, list, applied)?;
    let applied_at: BTreeMap<&PathElement, usize> = applied_keys.iter().enumerate().map(|(i, k)| (k, i)).collect();
    // An item that occurs more than once in the live list cannot be merged with: the applied one stands for all of them.
    let mut live_at: BTreeMap<&PathElement, Option<usize>> = BTreeMap::new();
    for (index, key) in live_keys.iter().enumerate() {
        live_at.entry(key).and_modify(|at| *at = None).or_insert(Some(index));
    }
    let take = |at: usize| {
        let base = live_at.get(&applied_keys[at]).copied().flatten().map(|i| &live[i]);
        merge(item, base, &applied[at])
    };
    let mut shared = applied_keys.iter().filter(|key| live_at.contains_key(key));
    let mut next_shared = shared.next();
    let mut merged = vec![false; applied.len()];
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut a) = (0, 0);
    while l < live.len() || a < applied.len() {
        if l < live.len() {
            let in_applied = applied_at.get(&live_keys[l]).copied();
            match in_applied {
                // Only in the live list: it keeps its place.
                None => {
                    out.push(live[l].clone());
                    l += 1;
                    continue;
                }
                Some(at) if a < applied.len() => {
                    if at == a {
                        l += 1;
                    } else if next_shared.is_some_and(|next| *next != live_keys[l]) {
                        // Shared, but not the one whose turn it is: it comes where the applied list has it.
                        l += 1;
                        continue;
                    } else if merged[at] {
                        l += 1;
                    }
                }
                Some(_) => {
                    l += 1;
                    continue;
                }
            }
        }
        if a < applied.len() {
            out.push(take(a)?);
            merged[a] = true;
            if next_shared == Some(&applied_keys[a]) {
                next_shared = shared.next();
            }
            a += 1;
        }
    }
    Ok(out)
}

fn elements(item: TypeRef<'_>, list: ListType<'_>, values: &[Value]) -> Result<Vec<PathElement>, ItemError> {
    values.iter().map(|value| item_element(item, list, value)).collect()
}

/// `value` without the fields and items in `set`. `None` when nothing is left.
pub(super) fn remove(ty: TypeRef<'_>, value: &Value, set: &FieldSet) -> Option<Value> {
    if is_hollow(Some(value)) {
        return None;
    }
    match (form(ty, value), value) {
        (Form::Object(ty), Value::Object(map)) => {
            let mut out = Map::new();
            for (key, child) in map {
                let Some(node) = set.field_node(key) else {
                    out.insert(key.clone(), child.clone());
                    continue;
                };
                if node.member {
                    continue;
                }
                let left = match ty.child(key) {
                    Some(child_ty) => remove(child_ty, child, &node.children),
                    None => Some(child.clone()),
                };
                if let Some(left) = left {
                    out.insert(key.clone(), left);
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        (Form::List(item, list), Value::Array(items)) => {
            let mut out = Vec::with_capacity(items.len());
            for value in items {
                let node = item_element(item, list, value).ok().and_then(|element| set.node(&element));
                match node {
                    Some(node) if node.member => {}
                    Some(node) => out.extend(remove(item, value, &node.children)),
                    None => out.push(value.clone()),
                }
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
        // Atomic values go as a whole, which their own node decides; scalars have nothing inside.
        (Form::Leaf, Value::Object(_) | Value::Array(_)) => None,
        _ => Some(value.clone()),
    }
}

/// The set with every declared field that has something below it as a member too: so that taking fields out also takes
/// out the structs that held nothing else.
pub(super) fn with_named_fields(ty: TypeRef<'_>, set: FieldSet) -> FieldSet {
    let mut set = set;
    set.retain_nodes(|node| {
        if !node.children.is_empty() {
            let below = match &node.element {
                PathElement::Field(name) => {
                    node.member |= ty.field(name).is_some();
                    ty.child(name)
                }
                PathElement::Key(_) => ty.item(),
                PathElement::Value(_) | PathElement::Index(_) => None,
            };
            if let Some(below) = below {
                node.children = with_named_fields(below, std::mem::take(&mut node.children));
            }
        }
        true
    });
    set
}
