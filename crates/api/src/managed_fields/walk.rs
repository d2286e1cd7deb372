//! From objects to sets of fields: what an object mentions, and what changed between two.

use serde_json::{Map, Value};

use super::element::{ItemError, PathElement, item_element};
use super::set::{FieldSet, Node};
use crate::schema::{self, ListType, Shape, TypeRef};

/// Fields of Kubernetes' own types that are there even in an empty object, since their Go types are plain structs. A
/// request that fills them adds what is inside, not the field. (Required lists and structs are the other such fields.)
const ALWAYS_THERE: &[&str] = &["metadata", "spec", "status", "template", "strategy", "updateStrategy", "loadBalancer"];

/// What a value is merged as: its declared type, or for "anything" what the value itself is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form<'a> {
    Leaf,
    Object(TypeRef<'a>),
    List(TypeRef<'a>, ListType<'a>),
}

/// The form of `value` declared as `ty`. `null` takes the form of its type; "anything" that is `null` is a leaf.
pub(crate) fn form<'a>(ty: TypeRef<'a>, value: &Value) -> Form<'a> {
    match ty.shape() {
        Shape::Struct { atomic: false, .. } | Shape::Map { atomic: false, .. } => Form::Object(ty),
        Shape::List { item, list: list @ (ListType::Set | ListType::Map(_)) } => Form::List(item, list),
        Shape::Any if value.is_object() => Form::Object(ty),
        _ => Form::Leaf,
    }
}

/// Whether a container value is absent, null or without content; such containers count as leaves.
pub(crate) fn is_hollow(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// Every leaf and item that `value` mentions.
///
/// # Errors
/// When an item of an associative list cannot be identified.
pub fn field_set(ty: TypeRef<'_>, value: &Value) -> Result<FieldSet, ItemError> {
    mentioned(ty, value).map(|(_, set)| set)
}

/// Whether the value itself counts as a member, and what is inside it.
fn mentioned(ty: TypeRef<'_>, value: &Value) -> Result<(bool, FieldSet), ItemError> {
    match (form(ty, value), value) {
        (Form::Leaf, _) => Ok((true, FieldSet::default())),
        (Form::Object(ty), Value::Object(map)) => Ok((false, mentioned_in_map(ty, map)?)),
        (Form::List(item, list), Value::Array(items)) => Ok((false, mentioned_in_list(item, list, items)?)),
        (_, Value::Null) => Ok((false, FieldSet::default())),
        // A value of another kind than declared: one thing, whatever it is.
        _ => Ok((true, FieldSet::default())),
    }
}

fn mentioned_in_map(ty: TypeRef<'_>, map: &Map<String, Value>) -> Result<FieldSet, ItemError> {
    let mut nodes = Vec::with_capacity(map.len());
    for (key, child) in map {
        let declared = ty.field(key);
        let (own, children) = match declared.map(|f| f.ty).or_else(|| ty.child(key)) {
            Some(child_ty) => mentioned(child_ty, child)?,
            None => (true, FieldSet::default()),
        };
        let hollow = child.is_null() || child.as_object().is_some_and(Map::is_empty);
        let member = own || hollow || declared.is_none();
        nodes.push(Node { element: PathElement::field(key), member, children });
    }
    Ok(FieldSet::from_nodes(nodes))
}

fn mentioned_in_list(item: TypeRef<'_>, list: ListType<'_>, items: &[Value]) -> Result<FieldSet, ItemError> {
    let mut keyed = Vec::with_capacity(items.len());
    for value in items {
        keyed.push((item_element(item, list, value)?, value));
    }
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    let mut nodes: Vec<Node> = Vec::with_capacity(keyed.len());
    for (element, value) in keyed {
        match nodes.last_mut() {
            // Repeated items are owned together, as one thing.
            Some(last) if last.element == element => last.children = FieldSet::default(),
            _ => nodes.push(Node { element, member: true, children: mentioned(item, value)?.1 }),
        }
    }
    Ok(FieldSet::from_nodes(nodes))
}

/// What changed between two objects. No path is in more than one of the sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// In the first object only.
    pub removed: FieldSet,
    /// In both, different.
    pub modified: FieldSet,
    /// In the second object only.
    pub added: FieldSet,
}

impl Comparison {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// Applies `change` to each of the three sets.
    pub(crate) fn each(&mut self, mut change: impl FnMut(&mut FieldSet)) {
        change(&mut self.removed);
        change(&mut self.modified);
        change(&mut self.added);
    }
}

/// Compares two objects of one type. An absent object is an empty one.
///
/// # Errors
/// When an item of an associative list cannot be identified.
pub fn compare(ty: TypeRef<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<Comparison, ItemError> {
    let walk = Walk { builtin: ty.is_of(schema::kubernetes()) };
    let mut out = Parts::default();
    let old = old.or(Some(&Value::Null));
    walk.compare(ty, Side { old, new, virtual_old: true }, &mut out)?;
    Ok(Comparison {
        removed: FieldSet::from_nodes(out.removed),
        modified: FieldSet::from_nodes(out.modified),
        added: FieldSet::from_nodes(out.added),
    })
}

/// In which set a path itself is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Same,
    Removed,
    Modified,
    Added,
}

/// The nodes below one path, for each set.
#[derive(Default)]
struct Parts {
    removed: Vec<Node>,
    modified: Vec<Node>,
    added: Vec<Node>,
}

impl Parts {
    fn put(nodes: &mut Vec<Node>, element: &impl Fn() -> PathElement, member: bool, children: Vec<Node>) {
        if member || !children.is_empty() {
            nodes.push(Node { element: element(), member, children: FieldSet::from_nodes(children) });
        }
    }

    fn push(&mut self, element: impl Fn() -> PathElement, own: Own, below: Parts) {
        Self::put(&mut self.removed, &element, own == Own::Removed, below.removed);
        Self::put(&mut self.modified, &element, own == Own::Modified, below.modified);
        Self::put(&mut self.added, &element, own == Own::Added, below.added);
    }
}

#[derive(Clone, Copy)]
struct Side<'v> {
    old: Option<&'v Value>,
    new: Option<&'v Value>,
    /// The old value is absent, but an empty one counts as present.
    virtual_old: bool,
}

impl Side<'_> {
    fn own(&self) -> Own {
        match (self.old, self.new) {
            (None, Some(_)) if !self.virtual_old => Own::Added,
            (Some(_), None) => Own::Removed,
            _ => Own::Same,
        }
    }
}

struct Walk {
    builtin: bool,
}

impl Walk {
    fn compare(&self, ty: TypeRef<'_>, side: Side<'_>, out: &mut Parts) -> Result<Own, ItemError> {
        let old_form = side.old.map(|v| form(ty, v));
        let new_form = side.new.map(|v| form(ty, v));
        match (old_form, new_form) {
            (Some(Form::Object(ty)), Some(Form::Object(_)) | None) | (None, Some(Form::Object(ty))) => {
                self.objects(ty, side, out)
            }
            (Some(Form::List(item, list)), Some(Form::List(..)) | None) | (None, Some(Form::List(item, list))) => {
                self.lists(item, list, side, out)
            }
            // "Anything" that was one kind of value and became another: it changed, and so did what is inside.
            (Some(Form::Object(ty)), Some(_)) => {
                self.objects(ty, Side { new: None, ..side }, out)?;
                Ok(Own::Modified)
            }
            (Some(_), Some(Form::Object(ty))) => {
                self.objects(ty, Side { old: None, virtual_old: false, ..side }, out)?;
                Ok(Own::Modified)
            }
            _ => Ok(leaf(side)),
        }
    }

    fn objects(&self, ty: TypeRef<'_>, side: Side<'_>, out: &mut Parts) -> Result<Own, ItemError> {
        if is_hollow(side.old) && is_hollow(side.new) {
            return Ok(if side.virtual_old { Own::Same } else { leaf(side) });
        }
        let (old, new) = (side.old.and_then(Value::as_object), side.new.and_then(Value::as_object));
        // Equal values that are not objects where objects are declared: nothing to look into.
        if old.is_none() && new.is_none() {
            return Ok(leaf(side));
        }
        let there = side.old.is_some() || side.virtual_old;
        for (key, old_child) in old.into_iter().flatten() {
            let new_child = new.and_then(|m| m.get(key));
            self.member(ty, key, Side { old: Some(old_child), new: new_child, virtual_old: false }, there, out)?;
        }
        for (key, new_child) in new.into_iter().flatten() {
            if old.is_none_or(|m| !m.contains_key(key)) {
                self.member(ty, key, Side { old: None, new: Some(new_child), virtual_old: false }, there, out)?;
            }
        }
        Ok(side.own())
    }

    fn member(
        &self,
        ty: TypeRef<'_>,
        key: &str,
        mut side: Side<'_>,
        there: bool,
        out: &mut Parts,
    ) -> Result<(), ItemError> {
        let field = ty.field(key);
        let mut below = Parts::default();
        let own = match field.map(|f| f.ty).or_else(|| ty.child(key)) {
            Some(child) => {
                if self.builtin && there && side.old.is_none() && !matches!(child.shape(), Shape::Scalar(_)) {
                    side.virtual_old =
                        field.is_some_and(|f| f.required) || (field.is_some() && ALWAYS_THERE.contains(&key));
                }
                self.compare(child, side, &mut below)?
            }
            None => leaf(side),
        };
        out.push(|| PathElement::field(key), own, below);
        Ok(())
    }

    fn lists(&self, item: TypeRef<'_>, list: ListType<'_>, side: Side<'_>, out: &mut Parts) -> Result<Own, ItemError> {
        if is_hollow(side.old) && is_hollow(side.new) {
            return Ok(if side.virtual_old { Own::Same } else { leaf(side) });
        }
        let (old, new) = (side.old.and_then(Value::as_array), side.new.and_then(Value::as_array));
        if old.is_none() && new.is_none() {
            return Ok(leaf(side));
        }
        let mut all: Vec<(PathElement, bool, &Value)> = Vec::new();
        for (is_new, values) in [(false, old), (true, new)] {
            for value in values.into_iter().flatten() {
                all.push((item_element(item, list, value)?, is_new, value));
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        for group in all.chunk_by(|a, b| a.0 == b.0) {
            // Sorting is stable: the old items of a group come first.
            let (old, new) = group.split_at(group.partition_point(|g| !g.1));
            self.items(item, old, new, out)?;
        }
        Ok(side.own())
    }

    /// Items with the same identity. Repeated ones are compared as one thing.
    fn items(&self, ty: TypeRef<'_>, old: &[Item<'_>], new: &[Item<'_>], out: &mut Parts) -> Result<(), ItemError> {
        let element = || old.first().or(new.first()).map(|i| i.0.clone()).unwrap_or(PathElement::Index(0));
        let values = |items: &[Item<'_>]| items.iter().map(|i| i.2.clone()).collect::<Vec<_>>();
        let mut below = Parts::default();
        let side = |old, new| Side { old, new, virtual_old: false };
        let own = match (old, new) {
            ([] | [_], [] | [_]) => {
                let side = side(old.first().map(|i| i.2), new.first().map(|i| i.2));
                self.compare(ty, side, &mut below)?
            }
            ([_, _, ..], [_, _, ..]) => {
                if values(old) == values(new) {
                    Own::Same
                } else {
                    Own::Modified
                }
            }
            ([_, _, ..], _) => {
                if let Some(item) = new.first() {
                    let own = self.compare(ty, side(None, Some(item.2)), &mut below)?;
                    out.push(element, own, std::mem::take(&mut below));
                }
                Own::Removed
            }
            (_, [_, _, ..]) => {
                if let Some(item) = old.first() {
                    let own = self.compare(ty, side(Some(item.2), None), &mut below)?;
                    out.push(element, own, std::mem::take(&mut below));
                }
                Own::Added
            }
        };
        out.push(element, own, below);
        Ok(())
    }
}

type Item<'v> = (PathElement, bool, &'v Value);

fn leaf(side: Side<'_>) -> Own {
    match (side.old, side.new) {
        (None, None) => Own::Same,
        (None, Some(_)) => Own::Added,
        (Some(_), None) => Own::Removed,
        (Some(old), Some(new)) if old == new => Own::Same,
        _ => Own::Modified,
    }
}
