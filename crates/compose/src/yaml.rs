//! YAML as Compose files need it: every node knows its place, and keeps the tags `!reset` and `!override`.
//!
//! Aliases are copied and merge keys (`<<`) are filled in while a file is read, so that what comes after sees plain nodes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag as YamlTag};

use crate::error::{Error, Result};

/// Largest file, bytes. Compose files are written by hand.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Most nodes of a file, those that aliases copy included: a few lines of aliases could otherwise fill any memory.
const NODES_MAX: usize = 100_000;
/// Deepest nesting.
const DEPTH_MAX: usize = 64;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What a file says of merging a node (compose-spec, "Merge").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tag {
    /// Merged by the rules of its key.
    #[default]
    None,
    /// `!reset`: what stood there before goes.
    Reset,
    /// `!override`: takes the place of what stood there before.
    Override,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
    /// How it is merged.
    pub tag: Tag,
}

/// What a node is. Scalars stay text: what they mean is up to the key they stand under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text, a number or a truth value.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// A node that stands where another does.
    pub fn at(place: &Place, value: Value) -> Node {
        Node { value, place: place.clone(), tag: Tag::None }
    }

    /// The value of a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Map(entries) => entries.iter_mut().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Sets a key of a mapping.
    pub fn set(&mut self, key: &str, node: Node) {
        if let Value::Map(entries) = &mut self.value {
            match entries.iter_mut().find(|(k, _)| k == key) {
                Some((_, old)) => *old = node,
                None => entries.push((key.to_owned(), node)),
            }
        }
    }

    /// Removes a key of a mapping.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let Value::Map(entries) = &mut self.value else { return None };
        let at = entries.iter().position(|(k, _)| k == key)?;
        Some(entries.remove(at).1)
    }

    /// The entries of a mapping; none of anything else.
    pub fn entries(&self) -> &[(String, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a scalar",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    fn count(&self) -> usize {
        match &self.value {
            Value::Null | Value::Scalar(_) => 1,
            Value::List(items) => 1 + items.iter().map(Node::count).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(_, v)| v.count()).sum::<usize>(),
        }
    }
}

/// The documents of a file that hold something.
///
/// # Errors
/// When it is no YAML, is larger than the limits, or has a key twice.
pub fn parse(name: &str, text: &str) -> Result<Vec<Node>> {
    let file: Arc<str> = name.into();
    let start = Place { file: file.clone(), line: 1, column: 1 };
    if text.len() > FILE_BYTES_MAX {
        return Err(Error::new(&start, "", format!("the file is larger than {FILE_BYTES_MAX} bytes")));
    }
    let mut reader = Reader { file, anchors: HashMap::new(), nodes: 0, stack: Vec::new(), documents: Vec::new() };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let at = e.marker();
            let place = Place { line: at.line(), column: at.col() + 1, ..start.clone() };
            Error::new(&place, "", e.info())
        })?;
        reader.event(event, span)?;
    }
    Ok(reader.documents.into_iter().filter(|n| n.value != Value::Null).collect())
}

/// A collection that is being read.
struct Open {
    node: Node,
    anchor: usize,
    /// Of a mapping: the key whose value comes next, and where it stands.
    key: Option<(String, Place)>,
    /// Of a mapping: what merge keys bring.
    merged: Vec<Node>,
}

struct Reader {
    file: Arc<str>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    stack: Vec<Open>,
    documents: Vec<Node>,
}

impl Reader {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<()> {
        let place = Place { file: self.file.clone(), line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let (tag, quoted) = tags(tag.as_deref(), &place)?;
                let plain = matches!(style, ScalarStyle::Plain) && !quoted;
                let value = match text.as_ref() {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    text => Value::Scalar(text.to_owned()),
                };
                self.done(Node { value, place, tag }, anchor)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(Error::new(&place, "", "the alias leads into what it stands in".to_owned()));
                };
                self.nodes += node.count();
                self.done(node, 0)
            }
            Event::SequenceStart(_, anchor, tag) => self.open(Value::List(Vec::new()), place, anchor, tag.as_deref()),
            Event::MappingStart(_, anchor, tag) => self.open(Value::Map(Vec::new()), place, anchor, tag.as_deref()),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.stack.pop() else { return Ok(()) };
                let mut node = open.node;
                fill(&mut node, open.merged);
                self.done(node, open.anchor)
            }
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, value: Value, place: Place, anchor: usize, tag: Option<&YamlTag>) -> Result<()> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(Error::new(&place, "", format!("more than {DEPTH_MAX} levels")));
        }
        let (tag, _) = tags(tag, &place)?;
        self.stack.push(Open { node: Node { value, place, tag }, anchor, key: None, merged: Vec::new() });
        Ok(())
    }

    /// A node is whole: it goes where it belongs.
    fn done(&mut self, node: Node, anchor: usize) -> Result<()> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Error::new(&node.place, "", format!("more than {NODES_MAX} nodes")));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match open.key.take() {
                None => {
                    let key = match node.value {
                        Value::Scalar(text) => text,
                        Value::Null => "null".to_owned(),
                        _ => return Err(Error::new(&node.place, "", "a key must be text".to_owned())),
                    };
                    open.key = Some((key, node.place));
                }
                Some((key, place)) if key == "<<" => open.merged.extend(merged(node, &place)?),
                Some((key, place)) => {
                    if entries.iter().any(|(k, _)| *k == key) {
                        return Err(Error::new(&place, &key, "the key is there twice".to_owned()));
                    }
                    entries.push((key, node));
                }
            },
            Value::Null | Value::Scalar(_) => {}
        }
        Ok(())
    }
}

/// The mappings of a merge key: one, or several of which the first counts most.
fn merged(node: Node, place: &Place) -> Result<Vec<Node>> {
    let all = match node.value {
        Value::List(items) => items,
        _ => vec![node],
    };
    match all.iter().find(|n| !matches!(n.value, Value::Map(_))) {
        Some(_) => Err(Error::new(place, "<<", "only mappings can be merged".to_owned())),
        None => Ok(all),
    }
}

fn fill(node: &mut Node, merged: Vec<Node>) {
    let Value::Map(entries) = &mut node.value else { return };
    for other in merged {
        let Value::Map(theirs) = other.value else { continue };
        for (key, value) in theirs {
            if !entries.iter().any(|(k, _)| *k == key) {
                entries.push((key, value));
            }
        }
    }
}

/// The tag of merging, and whether the tag says that it is text.
fn tags(tag: Option<&YamlTag>, place: &Place) -> Result<(Tag, bool)> {
    let Some(tag) = tag else { return Ok((Tag::None, false)) };
    if tag.is_yaml_core_schema() {
        return Ok((Tag::None, tag.is_yaml_core_schema_tag("str")));
    }
    match (tag.handle(), tag.suffix()) {
        ("!", "reset") => Ok((Tag::Reset, false)),
        ("!", "override") => Ok((Tag::Override, false)),
        ("!", "") => Ok((Tag::None, true)),
        (handle, suffix) => Err(Error::new(place, "", format!("the tag {handle}{suffix} is not known"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        parse("f.yaml", text).unwrap().remove(0)
    }

    #[test]
    fn merge_keys_fill_in_and_own_keys_win() {
        let n = one("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 9\n");
        let c = n.get("c").unwrap();
        let text = |k: &str| c.get(k).unwrap().text().unwrap().to_owned();
        assert_eq!((text("x"), text("y"), text("z")), ("9".into(), "2".into(), "4".into()));
    }

    #[test]
    fn nodes_know_their_place_and_tags() {
        let n = one("a:\n  b: !reset null\n  c: !override [1]\n  d: '~'\n  e: ~\n");
        let a = n.get("a").unwrap();
        assert_eq!(a.get("b").unwrap().tag, Tag::Reset);
        assert_eq!(a.get("c").unwrap().tag, Tag::Override);
        assert_eq!(a.get("d").unwrap().text(), Some("~"));
        assert_eq!(a.get("e").unwrap().value, Value::Null);
        assert_eq!(a.get("e").unwrap().place.to_string(), "f.yaml:5:6");
    }

    #[test]
    fn what_is_no_compose_yaml_is_refused_with_its_place() {
        let error = |text: &str| parse("f", text).unwrap_err().to_string();
        assert!(error("a: 1\na: 2\n").starts_with("f:2:1: a: "), "{}", error("a: 1\na: 2\n"));
        assert!(error("a: !thing 1\n").contains("!thing"));
        assert!(error("a: [\n").starts_with("f:"));
        assert!(error("<<: 1\n").contains("merged"));
        let bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
                    e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
        assert!(error(bomb).contains("nodes"));
    }
}
