//! RBAC rules by themselves: what one allows, what one covers of another, and how they are shown.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Attributes;

/// Stands for everything.
pub const ALL: &str = "*";

/// A `PolicyRule` of rbac.authorization.k8s.io/v1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// What may be done.
    pub verbs: Vec<String>,
    /// In which API groups.
    pub groups: Vec<String>,
    /// With which resources, as `pods`, `pods/log`, `*/scale` or `*`.
    pub resources: Vec<String>,
    /// With objects of these names only; empty: of all names.
    pub names: Vec<String>,
    /// With which paths that are not resources; `*` at the end stands for any rest.
    pub urls: Vec<String>,
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

fn url_covers(rule: &str, path: &str) -> bool {
    rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

impl Rule {
    /// From its JSON.
    pub fn of(value: &Value) -> Self {
        Rule {
            verbs: strings(&value["verbs"]),
            groups: strings(&value["apiGroups"]),
            resources: strings(&value["resources"]),
            names: strings(&value["resourceNames"]),
            urls: strings(&value["nonResourceURLs"]),
        }
    }

    /// The rules of a Role or ClusterRole.
    pub fn all_of(role: &Value) -> Vec<Rule> {
        role["rules"].as_array().into_iter().flatten().map(Rule::of).collect()
    }

    /// Its JSON, without empty lists.
    pub fn to_json(&self) -> Value {
        let mut out = json!({"verbs": self.verbs});
        let lists = [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            out[key] = json!(list);
        }
        out
    }

    /// Whether the rule allows the request.
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, a.verb) {
            return false;
        }
        if a.resource.is_empty() {
            return self.urls.iter().any(|url| url_covers(url, a.path));
        }
        has_or_all(&self.groups, a.group)
            && self.names_resource(a)
            && (self.names.is_empty() || has(&self.names, a.name))
    }

    fn names_resource(&self, a: &Attributes<'_>) -> bool {
        self.resources.iter().any(|r| match r.split_once('/') {
            None => r == ALL || a.subresource.is_empty() && r == a.resource,
            Some((resource, sub)) => {
                !a.subresource.is_empty() && sub == a.subresource && (resource == ALL || resource == a.resource)
            }
        })
    }

    /// Whether the rule allows all that `part`, which has one verb, resource and name at most, allows.
    fn covers(&self, part: &Rule) -> bool {
        let verbs = part.verbs.iter().all(|v| has_or_all(&self.verbs, v));
        let groups = part.groups.iter().all(|g| has_or_all(&self.groups, g));
        let resources = part.resources.iter().all(|r| {
            let everywhere = r.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            has_or_all(&self.resources, r) || everywhere.is_some_and(|e| has(&self.resources, &e))
        });
        let names = match part.names.as_slice() {
            [] => self.names.is_empty(),
            names => self.names.is_empty() || names.iter().all(|n| has(&self.names, n)),
        };
        let urls = part.urls.iter().all(|url| self.urls.iter().any(|own| url_covers(own, url)));
        verbs && groups && resources && names && urls
    }

    /// The rule as rules with one verb, group, resource and name each.
    fn parts(&self) -> Vec<Rule> {
        let one = |s: &String| vec![s.clone()];
        let mut out = Vec::new();
        for verb in &self.verbs {
            for group in &self.groups {
                for resource in &self.resources {
                    let part =
                        Rule { verbs: one(verb), groups: one(group), resources: one(resource), ..Rule::default() };
                    if self.names.is_empty() {
                        out.push(part.clone());
                    }
                    out.extend(self.names.iter().map(|name| Rule { names: one(name), ..part.clone() }));
                }
            }
            out.extend(self.urls.iter().map(|url| Rule { verbs: one(verb), urls: one(url), ..Rule::default() }));
        }
        out
    }

    /// As refusals show it.
    fn shown(&self) -> String {
        let lists = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let shown: Vec<String> = lists
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(key, list)| format!("{key}:{}", quoted(list)))
            .collect();
        format!("{{{}}}", shown.join(", "))
    }
}

/// `["a" "b"]`.
pub fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

/// What `wanted` allows and `held` does not, in parts of one verb, resource and name each.
pub fn missing<'r>(held: impl Iterator<Item = &'r Rule> + Clone, wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::parts);
    parts.filter(|part| !held.clone().any(|rule| rule.covers(part))).collect()
}

/// The missing parts as lines of a refusal: those that differ only by verb are one line.
pub fn show_missing(parts: &[Rule]) -> String {
    let mut lines: Vec<Rule> = Vec::new();
    let mut seen: BTreeMap<[&[String]; 4], usize> = BTreeMap::new();
    for part in parts {
        let key = [&part.groups[..], &part.resources[..], &part.names[..], &part.urls[..]];
        match seen.get(&key) {
            Some(&at) if part.urls.is_empty() => lines[at].verbs.extend(part.verbs.iter().cloned()),
            _ => {
                seen.insert(key, lines.len());
                lines.push(part.clone());
            }
        }
    }
    let mut lines: Vec<String> = lines.iter().map(Rule::shown).collect();
    lines.sort();
    lines.dedup();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::UserInfo;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect();
        Rule { verbs: own(verbs), groups: own(groups), resources: own(resources), names: own(names), urls: Vec::new() }
    }

    fn urls(verbs: &[&str], urls: &[&str]) -> Rule {
        Rule { urls: urls.iter().map(|&s| s.to_owned()).collect(), ..rule(verbs, &[], &[], &[]) }
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        let user = UserInfo::new("x", &[]);
        // verb, group, resource/sub, name
        let ask = |rule: &Rule, verb: &str, group: &str, what: &str, name: &str| {
            let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
            rule.allows(&Attributes { verb, group, resource, subresource, name, ..Attributes::blank(&user) })
        };
        let pods = rule(&["get", "list"], &[""], &["pods", "pods/log"], &[]);
        for (verb, group, what, name, want) in [
            ("get", "", "pods", "a", true),
            ("list", "", "pods", "", true),
            ("watch", "", "pods", "", false),
            ("get", "apps", "pods", "a", false),
            ("get", "", "pods/log", "a", true),
            ("get", "", "pods/exec", "a", false),
            ("get", "", "services", "a", false),
        ] {
            assert_eq!(ask(&pods, verb, group, what, name), want, "{verb} {group} {what} {name}");
        }
        let named = rule(&["*"], &["*"], &["*/scale"], &["web"]);
        assert!(ask(&named, "update", "apps", "deployments/scale", "web"));
        assert!(!ask(&named, "update", "apps", "deployments/scale", "other"));
        assert!(!ask(&named, "create", "apps", "deployments/scale", ""));
        assert!(!ask(&named, "update", "apps", "deployments", "web"));
        assert!(!ask(&named, "update", "apps", "deployments/status", "web"));
        let all = rule(&["*"], &["*"], &["*"], &[]);
        assert!(ask(&all, "anything", "x.y", "things/parts", "n") && ask(&all, "get", "", "pods", ""));
        let path = |rule: &Rule, path: &str| rule.allows(&Attributes { verb: "get", path, ..Attributes::blank(&user) });
        assert!(!path(&all, "/metrics"), "a rule for resources says nothing about paths");
        let some = urls(&["get"], &["/metrics", "/api/*"]);
        for (at, want) in
            [("/metrics", true), ("/metrics/x", false), ("/api/", true), ("/api/v1", true), ("/api", false)]
        {
            assert_eq!(path(&some, at), want, "{at}");
        }
        assert!(path(&urls(&["*"], &["*"]), "/whatever"));
    }

    #[test]
    fn what_is_missing_is_told_by_resource() {
        let held = [rule(&["get", "list"], &[""], &["pods"], &[]), rule(&["*"], &["apps"], &["*/scale"], &[])];
        let wanted = [
            rule(&["get", "delete", "watch"], &[""], &["pods", "secrets"], &[]),
            rule(&["get"], &["apps"], &["deployments/scale"], &["a"]),
            urls(&["get"], &["/metrics"]),
        ];
        let parts = missing(held.iter(), &wanted);
        let want = "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"watch\"]}\n\
                    {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\" \"watch\"]}\n\
                    {NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}";
        assert_eq!(show_missing(&parts), want);
        let all = [rule(&["*"], &["*"], &["*"], &[]), urls(&["*"], &["*"])];
        assert!(missing(all.iter(), &wanted).is_empty());
        let narrow = [rule(&["get"], &[""], &["secrets"], &["a"])];
        assert_eq!(missing(narrow.iter(), &[rule(&["get"], &[""], &["secrets"], &[])]).len(), 1);
        assert!(missing(narrow.iter(), &[rule(&["get"], &[""], &["secrets"], &["a"])]).is_empty());
    }

    #[test]
    fn json_goes_there_and_back() {
        let value = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]});
        assert_eq!(Rule::of(&value).to_json(), value);
    }
}
