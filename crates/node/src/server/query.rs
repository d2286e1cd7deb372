//! Query parameters, decoded.

use http::Uri;

/// Pairs at most; more are not looked at.
const PAIRS_MAX: usize = 1024;

/// Parameters in the order given; a name may come several times.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Those of a request.
    pub fn of(uri: &Uri) -> Self {
        let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Query(pairs.take(PAIRS_MAX).map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a name, if not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    /// Set, in any of the ways clients have to say so.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true" | "True" | "t" | "T"))
    }
}
