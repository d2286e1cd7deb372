//! Role-based access control: what Roles and ClusterRoles allow to those whom RoleBindings and ClusterRoleBindings name.
//!
//! An index from subject to bindings follows the watch cache by its events, so that a decision is a map lookup for the
//! user and each group, and a look at the rules of the few roles found there.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use super::feed::{Feed, Step};
use super::rules::Rule;
use super::{Attributes, Authorizer, Decision};
use crate::authn::UserInfo;
use crate::cache::{Caches, Entry};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whom a binding names, as a request shows it: a service account is a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// A role that somebody is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    /// The binding, as its cache keys it.
    binding: Arc<str>,
    /// `Role` or `ClusterRole`.
    kind: String,
    /// Its name.
    role: String,
    /// The subject as the binding words it, for reasons.
    subject: String,
}

/// What a namespace (empty: the cluster) grants to a subject.
type Grants = HashMap<Subject, Vec<Grant>>;

#[derive(Default)]
struct Index {
    /// Rules by role: `NAME` of a ClusterRole, `NAMESPACE/NAME` of a Role.
    roles: HashMap<Arc<str>, Arc<[Rule]>>,
    cluster_roles: HashMap<Arc<str>, Arc<[Rule]>>,
    /// By namespace; empty for ClusterRoleBindings.
    grants: HashMap<String, Grants>,
    /// Whom each binding names, so that it can be taken out: by namespace, and key.
    subjects: HashMap<(String, Arc<str>), Vec<Subject>>,
}

const KINDS: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

/// The authorizer.
#[derive(Default)]
pub struct Rbac {
    /// With how far each of [`KINDS`] has been read.
    index: RwLock<(Index, [Feed; 4])>,
}

/// A rule with where it comes from.
struct Found<'i> {
    grant: &'i Grant,
    /// Empty for a ClusterRoleBinding.
    namespace: &'i str,
    /// The rules of its role, unless there is no such role.
    rules: Option<&'i Arc<[Rule]>>,
}

impl Found<'_> {
    /// How Kubernetes words why something is allowed.
    fn describe(&self) -> String {
        let Grant { binding, kind, role, subject } = self.grant;
        let name = binding.rsplit('/').next().unwrap_or(binding);
        match self.namespace {
            "" => format!("RBAC: allowed by ClusterRoleBinding {name:?} of {kind} {role:?} to {subject}"),
            ns => format!("RBAC: allowed by RoleBinding {:?} of {kind} {role:?} to {subject}", format!("{name}/{ns}")),
        }
    }

    /// How Kubernetes words that the role is not there.
    fn absent(&self) -> String {
        not_found(&self.grant.kind, &self.grant.role)
    }
}

fn not_found(kind: &str, name: &str) -> String {
    format!("{}.{GROUP} {name:?} not found", kind.to_ascii_lowercase())
}

impl Authorizer for Rbac {
    fn decide(&self, a: &Attributes<'_>, caches: &Caches) -> Decision {
        let allowed = self.with(caches, |index| {
            index.visit(a.user, a.namespace, |found| {
                found.rules.is_some_and(|rules| rules.iter().any(|r| r.allows(a))).then_some(())
            })
        });
        if allowed.is_some() { Decision::Allow } else { Decision::NoOpinion }
    }

    fn reason(&self, a: &Attributes<'_>, caches: &Caches) -> Option<String> {
        let mut errors = Vec::new();
        let allowed = self.with(caches, |index| {
            index.visit(a.user, a.namespace, |found| {
                let Some(rules) = found.rules else {
                    let error = found.absent();
                    if !errors.contains(&error) {
                        errors.push(error);
                    }
                    return None;
                };
                rules.iter().any(|r| r.allows(a)).then(|| found.describe())
            })
        });
        match (allowed, errors.as_slice()) {
            (Some(why), _) => Some(why),
            (None, []) => None,
            (None, [one]) => Some(format!("RBAC: {one}")),
            (None, several) => Some(format!("RBAC: [{}]", several.join(", "))),
        }
    }
}

impl Rbac {
    /// Everything that roles allow to the user in the namespace (empty: in the whole cluster), and which roles that he is
    /// bound to do not exist.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str, caches: &Caches) -> (Vec<Arc<[Rule]>>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        self.with(caches, |index| {
            index.visit(user, namespace, |found| {
                match found.rules {
                    Some(found) => rules.push(found.clone()),
                    None => errors.push(found.absent()),
                }
                None::<()>
            })
        });
        (rules, errors)
    }

    /// The rules of a role that a binding in the namespace (empty: the cluster) refers to.
    ///
    /// # Errors
    /// The sentence for a role that does not exist.
    pub fn rules_of(&self, namespace: &str, kind: &str, role: &str, caches: &Caches) -> Result<Arc<[Rule]>, String> {
        self.with(caches, |index| index.role(namespace, kind, role).cloned()).ok_or_else(|| not_found(kind, role))
    }

    /// Reads the index, after taking in what changed since it was read last.
    fn with<T>(&self, caches: &Caches, mut read: impl FnMut(&Index) -> T) -> T {
        let cache = |plural: &str| caches.by(GROUP, plural);
        {
            let locked = self.index.read();
            let mut feeds = locked.1.iter().zip(KINDS);
            if feeds.all(|(feed, plural)| cache(plural).is_none_or(|cache| feed.is_current(cache))) {
                return read(&locked.0);
            }
        }
        let mut locked = self.index.write();
        let (index, feeds) = &mut *locked;
        for (which, (feed, plural)) in feeds.iter_mut().zip(KINDS).enumerate() {
            let Some(cache) = cache(plural) else { continue };
            feed.catch_up(cache, |step| match step {
                Step::Forget => index.forget(which),
                Step::There(entry) => index.take_in(which, entry, true),
                Step::Gone(entry) => index.take_in(which, entry, false),
            });
        }
        read(&parking_lot::RwLockWriteGuard::downgrade(locked).0)
    }
}

impl Index {
    fn forget(&mut self, which: usize) {
        match which {
            0 => self.cluster_roles.clear(),
            1 => self.roles.clear(),
            _ => {
                let cluster = which == 2;
                self.subjects.retain(|(namespace, _), _| namespace.is_empty() != cluster);
                self.grants.retain(|namespace, _| namespace.is_empty() != cluster);
            }
        }
    }

    fn take_in(&mut self, which: usize, entry: &Entry, there: bool) {
        if which < 2 {
            let roles = if which == 0 { &mut self.cluster_roles } else { &mut self.roles };
            if there {
                roles.insert(entry.key.clone(), Rule::all_of(&entry.value()).into());
            } else {
                roles.remove(&entry.key);
            }
            return;
        }
        self.unbind(entry);
        if there {
            self.bind(entry);
        }
    }

    fn unbind(&mut self, entry: &Entry) {
        let namespace = entry.namespace().to_owned();
        let Some(subjects) = self.subjects.remove(&(namespace.clone(), entry.key.clone())) else { return };
        let Some(grants) = self.grants.get_mut(&namespace) else { return };
        for subject in subjects {
            if let Some(list) = grants.get_mut(&subject) {
                list.retain(|grant| grant.binding != entry.key);
                if list.is_empty() {
                    grants.remove(&subject);
                }
            }
        }
        if grants.is_empty() {
            self.grants.remove(&namespace);
        }
    }

    fn bind(&mut self, entry: &Entry) {
        let binding = entry.value();
        let namespace = entry.namespace();
        let role = &binding["roleRef"];
        let (kind, role) = (role["kind"].as_str().unwrap_or(""), role["name"].as_str().unwrap_or(""));
        let grants = self.grants.entry(namespace.to_owned()).or_default();
        let mut named = Vec::new();
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let Some((subject, shown)) = subject_of(subject, namespace) else { continue };
            let grant =
                Grant { binding: entry.key.clone(), kind: kind.to_owned(), role: role.to_owned(), subject: shown };
            grants.entry(subject.clone()).or_default().push(grant);
            named.push(subject);
        }
        self.subjects.insert((namespace.to_owned(), entry.key.clone()), named);
    }

    fn role(&self, namespace: &str, kind: &str, role: &str) -> Option<&Arc<[Rule]>> {
        match kind {
            "ClusterRole" => self.cluster_roles.get(role),
            "Role" if !namespace.is_empty() => self.roles.get(format!("{namespace}/{role}").as_str()),
            _ => None,
        }
    }

    /// Shows every grant to the user, those of the cluster first, until one is answered.
    fn visit<T>(&self, user: &UserInfo, namespace: &str, mut f: impl FnMut(Found<'_>) -> Option<T>) -> Option<T> {
        let name = Subject::User(user.name.clone());
        let subjects: Vec<Subject> =
            std::iter::once(name).chain(user.groups.iter().map(|g| Subject::Group(g.clone()))).collect();
        let places = if namespace.is_empty() { &[""][..] } else { &["", namespace][..] };
        for &place in places {
            let Some(grants) = self.grants.get(place) else { continue };
            for grant in subjects.iter().filter_map(|s| grants.get(s)).flatten() {
                let rules = self.role(place, &grant.kind, &grant.role);
                if let Some(answer) = f(Found { grant, namespace: place, rules }) {
                    return Some(answer);
                }
            }
        }
        None
    }
}

/// A subject of a binding, and how it is shown.
fn subject_of(subject: &Value, namespace: &str) -> Option<(Subject, String)> {
    let name = subject["name"].as_str()?;
    match subject["kind"].as_str()? {
        "User" => Some((Subject::User(name.to_owned()), format!("User {name:?}"))),
        "Group" => Some((Subject::Group(name.to_owned()), format!("Group {name:?}"))),
        "ServiceAccount" => {
            let namespace = subject["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or(namespace);
            // Of no namespace it is nobody.
            let user = (!namespace.is_empty()).then(|| format!("system:serviceaccount:{namespace}:{name}"))?;
            Some((Subject::User(user), format!("ServiceAccount {:?}", format!("{name}/{namespace}"))))
        }
        _ => None,
    }
}
