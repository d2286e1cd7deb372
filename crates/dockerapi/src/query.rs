//! Queries and filters, read as Docker reads them.

use std::collections::BTreeMap;

use crate::fault::{Fault, Result};

/// Bytes that a pattern of a filter may take, compiled.
const PATTERN_MAX: usize = 1 << 20;

/// The query of a request.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Of what stands behind the question mark.
    pub fn parse(text: &str) -> Self {
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        Query { pairs: pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).collect() }
    }

    /// The first value of a name; an empty one counts as none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A switch: off when absent, empty, `0`, `no`, `false` or `none`.
    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// A switch with a default.
    pub fn flag_or(&self, name: &str, default: bool) -> bool {
        let given = self.pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.trim().to_ascii_lowercase());
        given.map_or(default, |v| !matches!(v.as_str(), "" | "0" | "no" | "false" | "none"))
    }

    /// A number.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let read = |text: &str| text.parse().map_err(|_| Fault::bad(format!("invalid value {text:?} of {name}")));
        self.get(name).map(read).transpose()
    }

    /// The `filters` of a listing, of which only these are known.
    ///
    /// # Errors
    /// 400 when they cannot be read, or one is unknown.
    pub fn filters(&self, known: &[&str]) -> Result<Filters> {
        let Some(text) = self.get("filters") else { return Ok(Filters::default()) };
        let invalid = || Fault::bad("invalid filter");
        let given: BTreeMap<String, Values> = serde_json::from_str(text).map_err(|_| invalid())?;
        if let Some(name) = given.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(Fault::bad(format!("invalid filter '{name}'")));
        }
        Ok(Filters { values: given.into_iter().map(|(k, v)| (k, v.into_list())).collect() })
    }
}

/// Values of a filter: a list, or a set as an object of trues.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Set(BTreeMap<String, bool>),
}

impl Values {
    fn into_list(self) -> Vec<String> {
        match self {
            Values::List(list) => list,
            Values::Set(set) => set.into_iter().filter(|(_, on)| *on).map(|(k, _)| k).collect(),
        }
    }
}

/// Filters of a listing: what a thing has must fit one value of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    values: BTreeMap<String, Vec<String>>,
}

impl Filters {
    /// The values of one; none when it was not given.
    pub fn of(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether it was given.
    pub fn has(&self, name: &str) -> bool {
        !self.of(name).is_empty()
    }

    /// Whether one of its values satisfies `fits`, or it was not given.
    pub fn any(&self, name: &str, fits: impl Fn(&str) -> bool) -> bool {
        !self.has(name) || self.of(name).iter().any(|v| fits(v))
    }

    /// Whether one of its values is in a text as Docker looks for it: as a regular expression. One that is none is in nothing.
    pub fn matches(&self, name: &str, text: &str) -> bool {
        let found = |value: &str| {
            let pattern = regex::RegexBuilder::new(value).size_limit(PATTERN_MAX).build();
            value == text || pattern.is_ok_and(|p| p.is_match(text))
        };
        self.any(name, found)
    }

    /// Whether it is given as a switch, and how.
    ///
    /// # Errors
    /// 400 when it is neither true nor false.
    pub fn switch(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.of(name).first() else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            "1" | "true" => Ok(Some(true)),
            "0" | "false" => Ok(Some(false)),
            _ => Err(Fault::bad(format!("invalid filter '{name}=[{value}]'"))),
        }
    }

    /// Whether labels fit every `label` and no `label!`: `name` or `name=value`.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let fits = |wanted: &String| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        self.of("label").iter().all(fits) && !self.of("label!").iter().any(fits)
    }
}

/// A time as Docker's clients give it: seconds since the epoch with a fraction, or RFC 3339.
///
/// # Errors
/// 400 when it is neither.
pub fn time(text: &str) -> Result<jiff::Timestamp> {
    let invalid = || Fault::bad(format!("invalid value for time: {text:?}"));
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: i32 = digits.parse().map_err(|_| invalid())?;
    jiff::Timestamp::new(seconds, nanos).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_names_is_a_pattern() {
        let names = |text: &str| Filters { values: BTreeMap::from([("name".to_owned(), vec![text.to_owned()])]) };
        assert!(names("^/web$").matches("name", "/web") && !names("^/web$").matches("name", "/web2"));
        assert!(names("eb").matches("name", "web") && names("we(b").matches("name", "we(b"));
        assert!(!names("we(b").matches("name", "web") && Filters::default().matches("name", "any"));
    }

    #[test]
    fn switches_read_as_docker_reads_them() {
        let query = Query::parse("a=1&b=0&c=&d=False&e=yes&f");
        let on: Vec<bool> = ["a", "b", "c", "d", "e", "f", "g"].iter().map(|n| query.flag(n)).collect();
        assert_eq!(on, [true, false, false, false, true, false, false]);
        assert!(query.flag_or("g", true));
        assert!(Query::parse("n=x").number::<u32>("n").is_err());
    }

    #[test]
    fn filters_come_as_lists_and_as_sets() {
        let read = |json: &str| {
            let text: String =
                url::form_urlencoded::Serializer::new(String::new()).append_pair("filters", json).finish();
            Query::parse(&text).filters(&["label", "status"])
        };
        assert_eq!(read(r#"{"status":["a","b"]}"#).unwrap().of("status"), ["a", "b"]);
        assert_eq!(read(r#"{"status":{"a":true,"b":false}}"#).unwrap().of("status"), ["a"]);
        assert_eq!(read(r#"{"color":["a"]}"#).unwrap_err().message, "invalid filter 'color'");
        assert!(read("{").is_err());
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        assert!(read(r#"{"label":["a=1","a"]}"#).unwrap().labels(&labels));
        assert!(!read(r#"{"label":["a=2"]}"#).unwrap().labels(&labels));
    }

    #[test]
    fn times_are_seconds_or_rfc_3339() {
        assert_eq!(time("1.5").unwrap().as_millisecond(), 1500);
        assert_eq!(time("1700000000").unwrap().as_second(), 1_700_000_000);
        assert_eq!(time("1970-01-01T00:00:01Z").unwrap().as_second(), 1);
        assert!(time("soon").is_err() && time("1.-5").is_err());
    }
}
