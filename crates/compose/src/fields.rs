//! A mapping read key by key: what was not asked for is an unknown key.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::yaml::{Node, Value};
use crate::{merge, words};

/// Something that a file says and that is lost or different, with its place.
pub type Notes = RefCell<Vec<String>>;

/// A mapping that is being read.
pub struct Fields<'a> {
    node: &'a Node,
    /// The way to it, as `services.web`.
    pub path: String,
    asked: RefCell<BTreeSet<&'static str>>,
    notes: &'a Notes,
}

impl<'a> Fields<'a> {
    /// Begins to read a mapping; nothing is an empty one.
    pub fn of(node: &'a Node, path: impl Into<String>, notes: &'a Notes) -> Result<Fields<'a>> {
        let path = path.into();
        match node.value {
            Value::Map(_) | Value::Null => Ok(Fields { node, path, asked: RefCell::default(), notes }),
            _ => Err(Error::new(&node.place, &path, format!("it must be a mapping, this is {}", node.kind()))),
        }
    }

    /// The node of a key, unless it is nothing.
    pub fn take(&self, key: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().insert(key);
        self.node.get(key).filter(|n| n.value != Value::Null)
    }

    /// The way to a key.
    pub fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// What is wrong with a key.
    pub fn wrong(&self, key: &str, message: impl Into<String>) -> Error {
        let place = self.node.get(key).map_or(&self.node.place, |n| &n.place);
        Error::new(place, &self.at(key), message)
    }

    /// Says that a key is lost or means something else.
    pub fn note(&self, key: &str, message: &str) {
        let place = self.node.get(key).map_or(&self.node.place, |n| &n.place);
        self.notes.borrow_mut().push(format!("{place}: {}: {message}", self.at(key)));
    }

    /// Where notes go.
    pub fn notes(&self) -> &'a Notes {
        self.notes
    }

    /// Keys that cannot be obeyed and matter: each is an error.
    pub fn refuse(&self, keys: &[(&'static str, &str)]) -> Result<()> {
        for (key, why) in keys {
            if self.take(key).is_some() {
                return Err(self.wrong(key, format!("not supported: {why}")));
            }
        }
        Ok(())
    }

    /// Keys that cannot be obeyed and may be missed: each is a note.
    pub fn lose(&self, keys: &[(&'static str, &str)]) {
        for (key, why) in keys {
            if self.take(key).is_some() {
                self.note(key, why);
            }
        }
    }

    fn parsed<T>(&self, key: &'static str, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| self.wrong(key, format!("{text:?} is not {what}")))
    }

    /// Text.
    pub fn text(&self, key: &'static str) -> Result<Option<String>> {
        let Some(node) = self.take(key) else { return Ok(None) };
        match node.text() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(self.wrong(key, format!("it must be text, this is {}", node.kind()))),
        }
    }

    /// A truth value.
    pub fn truth(&self, key: &'static str) -> Result<Option<bool>> {
        self.parsed(key, "true or false", words::truth)
    }

    /// A whole number.
    pub fn number<T: std::str::FromStr>(&self, key: &'static str) -> Result<Option<T>> {
        self.parsed(key, "a number that is allowed here", |t| t.parse().ok())
    }

    /// Whole seconds of a duration, at least one of a longer one than none.
    pub fn seconds(&self, key: &'static str) -> Result<Option<u32>> {
        let duration: Option<Duration> = self.parsed(key, "a duration, as 1m30s", words::duration)?;
        Ok(duration.map(|d| d.as_secs_f64().ceil() as u32))
    }

    /// Bytes.
    pub fn bytes(&self, key: &'static str) -> Result<Option<u64>> {
        self.parsed(key, "a number of bytes, as 512m", words::bytes)
    }

    /// Thousandths of processors.
    pub fn millis(&self, key: &'static str) -> Result<Option<u64>> {
        self.parsed(key, "a number of processors, as 0.5", words::millis)
    }

    /// One of some words.
    pub fn one_of(&self, key: &'static str, allowed: &[&str]) -> Result<Option<String>> {
        self.parsed(key, &format!("one of {}", allowed.join(", ")), |t| allowed.contains(&t).then(|| t.to_owned()))
    }

    /// The items of a list; one that is no list is an error.
    pub fn items(&self, key: &'static str) -> Result<Vec<&'a Node>> {
        match self.take(key).map(|n| (&n.value, n)) {
            None => Ok(Vec::new()),
            Some((Value::List(items), _)) => Ok(items.iter().collect()),
            Some((_, node)) => Err(self.wrong(key, format!("it must be a list, this is {}", node.kind()))),
        }
    }

    /// Text, or a list of texts.
    pub fn texts(&self, key: &'static str) -> Result<Vec<String>> {
        if let Some(text) = self.take(key).and_then(Node::text) {
            return Ok(vec![text.to_owned()]);
        }
        let text = |n: &Node| n.text().map(str::to_owned);
        let items = self.items(key)?.into_iter().map(text).collect::<Option<Vec<_>>>();
        items.ok_or_else(|| self.wrong(key, "its items must be texts"))
    }

    /// Words of a command: a list, or a text that is split as a shell does.
    pub fn command(&self, key: &'static str) -> Result<Option<Vec<String>>> {
        let Some(node) = self.take(key) else { return Ok(None) };
        match node.text() {
            Some(text) => words::split(text).map(Some).map_err(|m| self.wrong(key, m)),
            None => self.texts(key).map(Some),
        }
    }

    /// `NAME=VALUE`s, or a mapping, in the order of the file.
    pub fn pairs(&self, key: &'static str) -> Result<Vec<(String, Option<String>)>> {
        let Some(node) = self.take(key) else { return Ok(Vec::new()) };
        let map = merge::pairs(node.clone(), &[key])?;
        if !matches!(map.value, Value::Map(_)) {
            return Err(self.wrong(key, format!("it must be a mapping or a list, this is {}", node.kind())));
        }
        let one = |(name, value): &(String, Node)| match &value.value {
            Value::Null => Ok((name.clone(), None)),
            Value::Scalar(text) => Ok((name.clone(), Some(text.clone()))),
            _ => Err(Error::new(&value.place, &format!("{}.{name}", self.at(key)), "it must be text".to_owned())),
        };
        map.entries().iter().map(one).collect()
    }

    /// The mapping below a key.
    pub fn below(&self, key: &'static str) -> Result<Option<Fields<'a>>> {
        self.take(key).map(|node| Fields::of(node, self.at(key), self.notes)).transpose()
    }

    /// The entries below a key, of a mapping or of a list of names.
    pub fn named(&self, key: &'static str) -> Result<Vec<(String, Node)>> {
        let Some(node) = self.take(key) else { return Ok(Vec::new()) };
        let map = merge::names(node.clone(), None, &[key])?;
        match map.value {
            Value::Map(entries) => Ok(entries),
            _ => Err(self.wrong(key, format!("it must be a mapping or a list of names, this is {}", node.kind()))),
        }
    }

    /// An error when there is a key that nobody asked for. Those that begin with `x-` are anybody's.
    pub fn finish(&self) -> Result<()> {
        let asked = self.asked.borrow();
        let unknown = self.node.entries().iter().find(|(k, _)| !k.starts_with("x-") && !asked.contains(k.as_str()));
        match unknown {
            None => Ok(()),
            Some((key, node)) => Err(Error::new(&node.place, &self.at(key), "unknown key")),
        }
    }
}
