//! Sets of fields, as trees: what one manager owns, what one request changed.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::element::{ElementError, PathElement};

/// A set of field paths. A path may be in the set, have descendants in it, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by element, no element twice, no node without content.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub element: PathElement,
    /// Whether the path itself is in the set.
    pub member: bool,
    pub children: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl FieldSet {
    /// The set of the given paths.
    pub fn from_paths(paths: &[&[PathElement]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(path);
        }
        set
    }

    /// Takes nodes in any order and merges those with the same element.
    pub(crate) fn from_nodes(mut nodes: Vec<Node>) -> Self {
        nodes.retain(|n| !n.is_empty());
        if nodes.is_sorted_by(|a, b| a.element < b.element) {
            return Self { nodes };
        }
        nodes.sort_by(|a, b| a.element.cmp(&b.element));
        nodes.dedup_by(|later, kept| {
            let same = later.element == kept.element;
            if same {
                kept.member |= later.member;
                kept.children = std::mem::take(&mut kept.children).union(std::mem::take(&mut later.children));
            }
            same
        });
        Self { nodes }
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Drops the nodes `keep` returns `false` for, and those it leaves empty.
    pub(crate) fn retain_nodes(&mut self, mut keep: impl FnMut(&mut Node) -> bool) {
        self.nodes.retain_mut(|node| keep(node) && !node.is_empty());
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Number of paths.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|n| usize::from(n.member) + n.children.len()).sum()
    }

    fn position(&self, element: &PathElement) -> Result<usize, usize> {
        self.nodes.binary_search_by(|n| n.element.cmp(element))
    }

    pub(crate) fn node(&self, element: &PathElement) -> Option<&Node> {
        self.position(element).ok().map(|at| &self.nodes[at])
    }

    /// Like [`Self::node`] for a field, without making an element of it.
    pub(crate) fn field_node(&self, name: &str) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|n| match &n.element {
            PathElement::Field(have) => (**have).cmp(name),
            _ => Ordering::Greater,
        });
        at.ok().map(|at| &self.nodes[at])
    }

    /// Adds a path; ancestors are not added. The empty path stands for the object and is never in a set.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = match self.position(first) {
            Ok(at) => at,
            Err(at) => {
                let node = Node { element: first.clone(), member: false, children: Self::default() };
                self.nodes.insert(at, node);
                at
            }
        };
        if rest.is_empty() {
            self.nodes[at].member = true;
        } else {
            self.nodes[at].children.insert(rest);
        }
    }

    /// Whether the path is in the set.
    pub fn contains(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.node(last).is_some_and(|n| n.member),
            [first, rest @ ..] => self.node(first).is_some_and(|n| n.children.contains(rest)),
        }
    }

    /// Paths in either set.
    pub fn union(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let mut nodes = Vec::with_capacity(self.nodes.len().max(other.nodes.len()));
        let (mut left, mut right) = (self.nodes.into_iter().peekable(), other.nodes.into_iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (Some(a), Some(b)) => a.element.cmp(&b.element),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Self { nodes },
            };
            match order {
                Ordering::Less => nodes.extend(left.next()),
                Ordering::Greater => nodes.extend(right.next()),
                Ordering::Equal => {
                    if let (Some(mut a), Some(b)) = (left.next(), right.next()) {
                        a.member |= b.member;
                        a.children = a.children.union(b.children);
                        nodes.push(a);
                    }
                }
            }
        }
    }

    /// Pairs each node of `self` with the node of `other` for the same element.
    fn paired<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a Node, Option<&'a Node>)> {
        let mut at = 0;
        self.nodes.iter().map(move |node| {
            while other.nodes.get(at).is_some_and(|o| o.element < node.element) {
                at += 1;
            }
            (node, other.nodes.get(at).filter(|o| o.element == node.element))
        })
    }

    /// Paths in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let both = self.paired(other).filter_map(|(a, b)| {
            let b = b?;
            let member = a.member && b.member;
            let children = a.children.intersection(&b.children);
            let found = member || !children.is_empty();
            found.then(|| Node { element: a.element.clone(), member, children })
        });
        Self { nodes: both.collect() }
    }

    /// Whether some path is in both sets.
    pub fn intersects(&self, other: &Self) -> bool {
        self.paired(other).any(|(a, b)| b.is_some_and(|b| (a.member && b.member) || a.children.intersects(&b.children)))
    }

    /// Paths in this set and not in the other. A parent's membership says nothing of its children.
    pub fn difference(&self, other: &Self) -> Self {
        let left = self.paired(other).filter_map(|(a, b)| {
            let Some(b) = b else { return Some(a.clone()) };
            let node = Node {
                element: a.element.clone(),
                member: a.member && !b.member,
                children: a.children.difference(&b.children),
            };
            (!node.is_empty()).then_some(node)
        });
        Self { nodes: left.collect() }
    }

    /// Every path, parents before children, in order.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut out = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut out);
        out
    }

    fn collect_paths(&self, prefix: &mut Vec<PathElement>, out: &mut Vec<Vec<PathElement>>) {
        for node in &self.nodes {
            prefix.push(node.element.clone());
            if node.member {
                out.push(prefix.clone());
            }
            node.children.collect_paths(prefix, out);
            prefix.pop();
        }
    }

    /// The `fieldsV1` object.
    pub fn to_json(&self) -> Value {
        self.encode(false)
    }

    fn encode(&self, member: bool) -> Value {
        let mut map = Map::new();
        if member && !self.nodes.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for node in &self.nodes {
            map.insert(node.element.encode(), node.children.encode(node.member));
        }
        Value::Object(map)
    }

    /// Reads a `fieldsV1` object.
    ///
    /// # Errors
    /// When a key does not parse.
    pub fn from_json(value: &Value) -> Result<Self, ElementError> {
        let (set, _) = Self::decode(value)?;
        Ok(set)
    }

    /// The children, and whether the path itself is in the set: said by a dot, or by there being nothing else.
    fn decode(value: &Value) -> Result<(Self, bool), ElementError> {
        let Some(map) = value.as_object() else { return Ok((Self::default(), true)) };
        let mut member = false;
        let mut nodes = Vec::with_capacity(map.len());
        for (key, child) in map {
            if key == "." {
                member = true;
            } else if let Some(element) = PathElement::parse(key)? {
                let (children, member) = Self::decode(child)?;
                nodes.push(Node { element, member, children });
            }
        }
        member |= nodes.is_empty();
        Ok((Self::from_nodes(nodes), member))
    }
}

/// A path as people read it: `.spec.containers[name="x"].image`.
pub fn path_text(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}
