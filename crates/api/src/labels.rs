//! Labels, in whatever form somebody has them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What has labels.
pub trait Labelled {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labelled for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl Labelled for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// Labels in one piece of memory, for those who remember many objects: `KEY=VALUE` and a new line each, which neither a key
/// nor a value can contain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<str>);

impl Labels {
    /// Those of a JSON object.
    pub fn of(labels: Option<&Map<String, Value>>) -> Self {
        Labels::collect(labels.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))))
    }

    /// Those of a typed object.
    pub fn of_typed(labels: Option<&BTreeMap<String, String>>) -> Self {
        Labels::collect(labels.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    fn collect<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        for (key, value) in pairs {
            text.extend([key, "=", value, "\n"]);
        }
        Labels(text.into())
    }

    /// Keys and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(|line| line.split_once('='))
    }

    /// The labels as they are in JSON.
    pub fn to_map(&self) -> Map<String, Value> {
        self.iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Labelled for Labels {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_labels_answer_as_a_map_does() {
        let map: BTreeMap<String, String> =
            [("a", "1"), ("a.b/c", "x"), ("ab", ""), ("z", "-")].map(|(k, v)| (k.into(), v.into())).into();
        let packed = Labels::of_typed(Some(&map));
        for key in ["a", "a.b/c", "ab", "z", "b", "", "a=1", "1"] {
            assert_eq!(packed.label(key), map.label(key), "{key:?}");
        }
        assert_eq!(Labels::of(Some(&packed.to_map())), packed);
        assert!(!packed.is_empty() && Labels::of(None).is_empty());
    }
}
