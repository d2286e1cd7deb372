//! Which flow schema a request matches (KEP-1040, and the field descriptions of flowcontrol.apiserver.k8s.io/v1). Pure.

use serde_json::Value;

use crate::authz::Attributes;

/// A list of names in which `*`, alone, stands for all.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    All,
    Of(Vec<String>),
}

impl Names {
    fn read(value: &Value) -> Self {
        let names: Vec<String> =
            value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        if names == ["*"] { Names::All } else { Names::Of(names) }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Names::All => true,
            Names::Of(names) => names.iter().any(|n| n == name),
        }
    }
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Everybody,
    User(String),
    Group(String),
    /// The user name of a service account, or with `:` at its end the beginning of all names in the namespace.
    Account(String),
}

impl Subject {
    fn read(value: &Value) -> Option<Self> {
        let name = |member: &str| value[member]["name"].as_str();
        Some(match value["kind"].as_str()? {
            "User" | "Group" if name("user").or(name("group")) == Some("*") => Subject::Everybody,
            "User" => Subject::User(name("user")?.to_owned()),
            "Group" => Subject::Group(name("group")?.to_owned()),
            "ServiceAccount" => {
                let namespace = value["serviceAccount"]["namespace"].as_str()?;
                let name = name("serviceAccount").filter(|n| *n != "*").unwrap_or("");
                Subject::Account(format!("system:serviceaccount:{namespace}:{name}"))
            }
            _ => return None,
        })
    }

    fn is(&self, asked: &Attributes<'_>) -> bool {
        match self {
            Subject::Everybody => true,
            Subject::User(name) => asked.user.name == *name,
            Subject::Group(group) => asked.user.in_group(group),
            Subject::Account(prefix) if prefix.ends_with(':') => asked.user.name.starts_with(prefix),
            Subject::Account(name) => asked.user.name == *name,
        }
    }
}

/// Requests for resources.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    /// `RESOURCE` or `RESOURCE/SUBRESOURCE`.
    resources: Names,
    namespaces: Names,
    cluster: bool,
}

impl ResourceRule {
    fn read(value: &Value) -> Self {
        ResourceRule {
            verbs: Names::read(&value["verbs"]),
            groups: Names::read(&value["apiGroups"]),
            resources: Names::read(&value["resources"]),
            namespaces: Names::read(&value["namespaces"]),
            cluster: value["clusterScope"] == true,
        }
    }

    fn matches(&self, asked: &Attributes<'_>) -> bool {
        let resource = match (&self.resources, asked.subresource) {
            (names, "") => names.has(asked.resource),
            (Names::All, _) => true,
            (Names::Of(names), sub) => {
                names.iter().any(|n| n.split_once('/').is_some_and(|(r, s)| r == asked.resource && s == sub))
            }
        };
        let place = if asked.namespace.is_empty() { self.cluster } else { self.namespaces.has(asked.namespace) };
        resource && place && self.verbs.has(asked.verb) && self.groups.has(asked.group)
    }
}

/// Requests for paths.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PathRule {
    verbs: Names,
    paths: Names,
}

impl PathRule {
    fn read(value: &Value) -> Self {
        PathRule { verbs: Names::read(&value["verbs"]), paths: Names::read(&value["nonResourceURLs"]) }
    }

    fn matches(&self, asked: &Attributes<'_>) -> bool {
        // A path stands for all below it as well.
        let below = |rule: &String| {
            let parent = rule.strip_suffix('*').unwrap_or(rule);
            let parent = parent.strip_suffix('/').unwrap_or(parent);
            asked.path == rule || asked.path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'))
        };
        let path = match &self.paths {
            Names::All => true,
            Names::Of(paths) => paths.iter().any(below),
        };
        path && self.verbs.has(asked.verb)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

impl Rule {
    fn read(value: &Value) -> Self {
        let list = |key: &str| value[key].as_array().map(Vec::as_slice).unwrap_or_default();
        Rule {
            subjects: list("subjects").iter().filter_map(Subject::read).collect(),
            resources: list("resourceRules").iter().map(ResourceRule::read).collect(),
            paths: list("nonResourceRules").iter().map(PathRule::read).collect(),
        }
    }

    fn matches(&self, asked: &Attributes<'_>) -> bool {
        // Cheap questions first: most rules are about other people.
        self.subjects.iter().any(|s| s.is(asked))
            && match asked.resource {
                "" => self.paths.iter().any(|r| r.matches(asked)),
                _ => self.resources.iter().any(|r| r.matches(asked)),
            }
    }
}

/// What tells flows of one schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distinguisher {
    /// Nothing: all requests are one flow.
    None,
    /// The user.
    User,
    /// The namespace.
    Namespace,
}

/// A FlowSchema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Smaller goes first.
    pub precedence: i64,
    /// Name of its priority level.
    pub level: String,
    /// What tells its flows apart.
    pub distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

impl Schema {
    /// Reads an object that has been validated; what is malformed all the same matches nothing.
    pub fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        Schema {
            name: api::meta::name(object).to_owned(),
            uid: api::meta::uid(object).to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(i64::MAX),
            level: spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or("").to_owned(),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: spec["rules"].as_array().into_iter().flatten().map(Rule::read).collect(),
        }
    }

    /// Whether the request is one of this schema's.
    pub fn matches(&self, asked: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(asked))
    }

    /// What tells the request's flow from others of the schema.
    pub fn flow<'a>(&self, asked: &Attributes<'a>) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &asked.user.name,
            Distinguisher::Namespace => asked.namespace,
        }
    }
}

/// Brings schemas in the order in which they are tried: by precedence, equal ones by name.
pub fn in_order(schemas: &mut [Schema]) {
    schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authn::UserInfo;

    fn schema(rules: Value) -> Schema {
        Schema::read(&json!({
            "metadata": {"name": "s", "uid": "u"},
            "spec": {"matchingPrecedence": 7, "priorityLevelConfiguration": {"name": "l"}, "rules": rules},
        }))
    }

    fn resources(verbs: &[&str], groups: &[&str], resources: &[&str], namespaces: &[&str], cluster: bool) -> Value {
        json!([{"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": namespaces, "clusterScope": cluster}])
    }

    /// `GROUP:RESOURCE[/SUBRESOURCE][@NAMESPACE]`, or `/PATH`.
    fn asks<'a>(user: &'a UserInfo, verb: &'a str, what: &'a str) -> Attributes<'a> {
        let Some((group, what)) = what.split_once(':') else {
            return Attributes { verb, path: what, ..Attributes::blank(user) };
        };
        let (what, namespace) = what.split_once('@').unwrap_or((what, ""));
        let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
        Attributes { verb, group, resource, subresource, namespace, ..Attributes::blank(user) }
    }

    #[test]
    fn subjects_are_users_groups_and_accounts() {
        let any = resources(&["*"], &["*"], &["*"], &["*"], true);
        let account = |namespace: &str, name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}});
        let cases = [
            (json!({"kind": "User", "user": {"name": "ann"}}), "ann", true),
            (json!({"kind": "User", "user": {"name": "ann"}}), "bob", false),
            (json!({"kind": "User", "user": {"name": "*"}}), "bob", true),
            (json!({"kind": "Group", "group": {"name": "g"}}), "bob", true),
            (json!({"kind": "Group", "group": {"name": "h"}}), "bob", false),
            (json!({"kind": "Group", "group": {"name": "*"}}), "bob", true),
            (account("n", "a"), "system:serviceaccount:n:a", true),
            (account("n", "a"), "system:serviceaccount:n:ab", false),
            (account("n", "*"), "system:serviceaccount:n:ab", true),
            (account("n", "*"), "system:serviceaccount:nn:ab", false),
            (json!({"kind": "Robot"}), "bob", false),
        ];
        for (subject, name, want) in cases {
            let user = UserInfo::new(name, &["g"]);
            let schema = schema(json!([{"subjects": [subject], "resourceRules": any}]));
            assert_eq!(schema.matches(&asks(&user, "get", ":pods@x")), want, "{subject} {name}");
        }
    }

    #[test]
    fn resource_rules_look_at_verb_group_resource_and_place() {
        let everybody = json!([{"kind": "Group", "group": {"name": "*"}}]);
        let user = UserInfo::new("ann", &[]);
        let pods = resources(&["get", "list"], &[""], &["pods", "nodes/status"], &["a"], false);
        let cluster = resources(&["*"], &["*"], &["*"], &[], true);
        let every = resources(&["*"], &["*"], &["*"], &["*"], false);
        let cases = [
            (&pods, "get", ":pods@a", true),
            (&pods, "watch", ":pods@a", false),
            (&pods, "get", ":pods@b", false),
            (&pods, "get", ":pods", false),
            (&pods, "get", "apps:pods@a", false),
            (&pods, "get", ":pods/log@a", false),
            (&pods, "get", ":nodes@a", false),
            (&pods, "get", ":nodes/status@a", true),
            (&cluster, "get", ":nodes", true),
            (&cluster, "get", ":pods/log", true),
            (&cluster, "get", ":pods@a", false),
            (&every, "delete", "apps:deployments@a", true),
            (&every, "delete", ":nodes", false),
            (&every, "get", "/healthz", false),
        ];
        for (rules, verb, what, want) in cases {
            let schema = schema(json!([{"subjects": everybody, "resourceRules": rules}]));
            assert_eq!(schema.matches(&asks(&user, verb, what)), want, "{rules} {verb} {what}");
        }
    }

    #[test]
    fn path_rules_stand_for_what_is_below() {
        let everybody = json!([{"kind": "User", "user": {"name": "*"}}]);
        let user = UserInfo::new("ann", &[]);
        let cases = [
            (json!(["*"]), "/version", true),
            (json!(["/healthz"]), "/healthz", true),
            (json!(["/healthz"]), "/healthz/etcd", true),
            (json!(["/healthz"]), "/healthzz", false),
            (json!(["/openapi/*"]), "/openapi/v3", true),
            (json!(["/openapi/*"]), "/openapi", false),
            (json!(["/openapi/*"]), "/apis", false),
            (json!(["/"]), "/apis", true),
        ];
        for (paths, path, want) in cases {
            let rules =
                json!([{"subjects": everybody, "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": paths}]}]);
            assert_eq!(schema(rules.clone()).matches(&asks(&user, "get", path)), want, "{paths} {path}");
            assert!(!schema(rules).matches(&asks(&user, "post", path)));
        }
    }

    #[test]
    fn order_is_by_precedence_then_name_and_flows_by_what_distinguishes_them() {
        let user = UserInfo::new("ann", &[]);
        let of = |name: &str, precedence: i64, method: &str| {
            Schema::read(
                &json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": precedence, "distinguisherMethod": {"type": method}}}),
            )
        };
        let mut all = [of("z", 5, ""), of("b", 9, "ByUser"), of("a", 9, "ByNamespace")];
        in_order(&mut all);
        assert_eq!(all.each_ref().map(|s| s.name.as_str()), ["z", "a", "b"]);
        assert_eq!(all.each_ref().map(|s| s.flow(&asks(&user, "get", ":pods@n"))), ["", "n", "ann"]);
    }
}
