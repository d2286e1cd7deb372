//! How many watches may want to know of a write (KEP-1040, width of mutating requests).
//!
//! Watches are told apart by resource, namespace and name. Those of pods on one node are left out: each sees few of the changes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::authz::Attributes;

/// The watches under way. Their number is bounded with that of streams.
#[derive(Debug, Default)]
pub struct Watched(Mutex<HashMap<String, HashMap<String, Watches>>>);

/// Those of one resource.
#[derive(Debug, Default)]
struct Watches {
    /// Of all of its objects.
    all: usize,
    namespaces: HashMap<String, usize>,
    /// By `NAMESPACE/NAME`.
    objects: HashMap<String, usize>,
}

/// A watch that counts until this is dropped.
#[derive(Debug)]
pub struct Registered {
    watched: Arc<Watched>,
    group: String,
    resource: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    All,
    Namespace(String),
    Object(String),
}

impl Place {
    fn of(asked: &Attributes<'_>) -> Self {
        match (asked.namespace, asked.name) {
            ("", "") => Place::All,
            (namespace, "") => Place::Namespace(namespace.to_owned()),
            (namespace, name) => Place::Object(format!("{namespace}/{name}")),
        }
    }
}

/// Adds one, or takes one away; forgets what nobody watches.
fn change(counts: &mut HashMap<String, usize>, key: &str, begins: bool) {
    if begins {
        *counts.entry(key.to_owned()).or_default() += 1;
    } else if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Watches {
    fn change(&mut self, place: &Place, begins: bool) {
        match place {
            Place::All if begins => self.all += 1,
            Place::All => self.all -= 1,
            Place::Namespace(namespace) => change(&mut self.namespaces, namespace, begins),
            Place::Object(key) => change(&mut self.objects, key, begins),
        }
    }

    fn is_empty(&self) -> bool {
        self.all == 0 && self.namespaces.is_empty() && self.objects.is_empty()
    }
}

impl Watched {
    /// Counts a watch; `None` for one that is left out.
    pub fn register(self: &Arc<Self>, asked: &Attributes<'_>) -> Option<Registered> {
        if asked.resource == "pods" && !asked.node.is_empty() {
            return None;
        }
        let registered = Registered {
            watched: self.clone(),
            group: asked.group.to_owned(),
            resource: asked.resource.to_owned(),
            place: Place::of(asked),
        };
        registered.change(true);
        Some(registered)
    }

    /// How many watches may see what a write does.
    pub fn interested(&self, asked: &Attributes<'_>) -> usize {
        let groups = self.0.lock();
        let Some(watches) = groups.get(asked.group).and_then(|group| group.get(asked.resource)) else { return 0 };
        let mut count = watches.all;
        if !asked.namespace.is_empty() {
            count += watches.namespaces.get(asked.namespace).copied().unwrap_or(0);
        }
        if !asked.name.is_empty() && !watches.objects.is_empty() {
            count += watches.objects.get(&format!("{}/{}", asked.namespace, asked.name)).copied().unwrap_or(0);
        }
        count
    }
}

impl Registered {
    fn change(&self, begins: bool) {
        let mut groups = self.watched.0.lock();
        let group = groups.entry(self.group.clone()).or_default();
        let watches = group.entry(self.resource.clone()).or_default();
        watches.change(&self.place, begins);
        if watches.is_empty() {
            group.remove(&self.resource);
        }
        if group.is_empty() {
            groups.remove(&self.group);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.change(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::UserInfo;

    #[test]
    fn a_write_is_of_interest_to_watches_of_everything_of_its_namespace_and_of_itself() {
        let user = UserInfo::new("a", &[]);
        let of = |resource, namespace, name| Attributes { resource, namespace, name, ..Attributes::blank(&user) };
        let watched = Arc::<Watched>::default();
        let places = [
            ("pods", "", ""),
            ("pods", "n", ""),
            ("pods", "n", ""),
            ("pods", "n", "a"),
            ("pods", "m", ""),
            ("nodes", "", "x"),
        ];
        let mut all: Vec<_> = places.into_iter().map(|(r, n, o)| watched.register(&of(r, n, o))).collect();
        let cases = [
            (("pods", "n", "a"), 4),
            (("pods", "n", "b"), 3),
            (("pods", "m", "a"), 2),
            (("pods", "o", ""), 1),
            (("nodes", "", "x"), 1),
            (("nodes", "", ""), 0),
            (("secrets", "n", "a"), 0),
        ];
        for ((resource, namespace, name), want) in cases {
            assert_eq!(watched.interested(&of(resource, namespace, name)), want, "{resource} {namespace} {name}");
        }
        let other = Attributes { group: "apps", ..of("pods", "n", "a") };
        assert_eq!(watched.interested(&other), 0);
        all.truncate(1);
        assert_eq!(watched.interested(&of("pods", "n", "a")), 1);
        all.clear();
        assert!(watched.0.lock().is_empty(), "nothing is left behind");
        let node = Attributes { node: "n1", ..of("pods", "", "") };
        assert!(watched.register(&node).is_none());
    }
}
