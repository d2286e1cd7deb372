//! Which requests are recorded, and how much of them: the `Policy` of audit.k8s.io/v1. The first rule that fits decides; a
//! request that none fits is not recorded.

use serde::Deserialize;

use crate::authn::UserInfo;

/// How much of a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who did what, when, and what came of it.
    Metadata,
    /// The object in the request as well.
    Request,
    /// The object in the answer as well.
    RequestResponse,
}

impl Level {
    /// The word in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// A moment in the life of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// It is known who asks for what.
    RequestReceived,
    /// The answer begins, and goes on for long: watches and the like.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The server failed.
    Panic,
}

impl Stage {
    /// The word in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// The document. Unknown fields are refused: a rule that is not understood must not record less than was meant.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code)] // Allowed by every document, of no meaning here.
    metadata: Option<serde_json::Value>,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a request is about, as far as rules ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct About<'a> {
    /// The verb.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Resource; empty when it is a path.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// The path.
    pub path: &'a str,
}

/// What is recorded of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How much.
    pub level: Level,
    /// When not.
    pub omit: Vec<Stage>,
    /// Whether `managedFields` are left out of objects.
    pub omit_managed_fields: bool,
}

fn fits(list: &[String], wanted: &str) -> bool {
    list.is_empty() || list.iter().any(|item| item == wanted)
}

impl Rule {
    fn fits(&self, user: &UserInfo, about: &About<'_>) -> bool {
        let groups = self.user_groups.is_empty() || self.user_groups.iter().any(|g| user.in_group(g));
        if !fits(&self.users, &user.name) || !groups || !fits(&self.verbs, about.verb) {
            return false;
        }
        if !self.resources.is_empty() || !self.namespaces.is_empty() {
            return !about.resource.is_empty()
                && fits(&self.namespaces, about.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.fits(about)));
        }
        if !self.non_resource_urls.is_empty() {
            let url = |rule: &String| match rule.strip_suffix('*') {
                Some(prefix) => about.path.starts_with(prefix),
                None => rule == about.path,
            };
            return about.resource.is_empty() && self.non_resource_urls.iter().any(url);
        }
        true
    }
}

impl Resources {
    fn fits(&self, about: &About<'_>) -> bool {
        if self.group != about.group || !fits(&self.resource_names, about.name) {
            return false;
        }
        self.resources.is_empty()
            || self.resources.iter().any(|rule| match rule.split_once('/') {
                None => rule == "*" || about.subresource.is_empty() && rule == about.resource,
                Some((resource, sub)) => {
                    !about.subresource.is_empty()
                        && (resource == "*" || resource == about.resource)
                        && (sub == "*" || sub == about.subresource)
                }
            })
    }
}

impl Policy {
    /// From YAML or JSON.
    ///
    /// # Errors
    /// A sentence on what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let policy: Policy = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err(format!("{}, Kind={} is not audit.k8s.io/v1, Kind=Policy", policy.api_version, policy.kind));
        }
        if policy.rules.is_empty() {
            return Err("a policy without rules records nothing".to_owned());
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            if !rule.non_resource_urls.is_empty() && (!rule.resources.is_empty() || !rule.namespaces.is_empty()) {
                return Err(format!(
                    "rules[{i}].nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
                ));
            }
            let star = |url: &&String| url.trim_end_matches('*').contains('*') || url.ends_with("**");
            if let Some(url) = rule.non_resource_urls.iter().find(star) {
                return Err(format!(
                    "rules[{i}].nonResourceURLs: {url:?}: non-resource URL wildcards '*' must be the final character of the rule"
                ));
            }
            let named = |r: &Resources| !r.resource_names.is_empty() && r.resources.is_empty();
            if rule.resources.iter().any(named) {
                return Err(format!("rules[{i}].resources: using resourceNames requires at least one resource"));
            }
        }
        Ok(policy)
    }

    /// What is recorded of a request.
    pub fn verdict(&self, user: &UserInfo, about: &About<'_>) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(user, about)) else {
            return Verdict { level: Level::None, omit: Vec::new(), omit_managed_fields: false };
        };
        let mut omit = self.omit_stages.clone();
        omit.extend(&rule.omit_stages);
        let omit_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Verdict { level: rule.level, omit, omit_managed_fields }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: ["watch"]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: Metadata
  resources:
  - group: ""
    resources: ["secrets", "pods/log", "*/status"]
- level: RequestResponse
  omitManagedFields: true
  resources:
  - group: "apps"
- level: Request
  namespaces: ["kube-system"]
  userGroups: ["devs"]
  omitStages: [ResponseStarted]
"#;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(POLICY).unwrap();
        let user = UserInfo::new("ann", &["devs"]);
        let about = |verb, group, what: &'static str, namespace| {
            let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
            About { verb, group, resource, subresource, namespace, ..About::default() }
        };
        for (asked, want) in [
            (about("get", "", "secrets", "a"), Level::Metadata),
            (about("get", "", "pods/log", "a"), Level::Metadata),
            (about("get", "", "pods/exec", "a"), Level::None),
            (about("update", "", "nodes/status", ""), Level::Metadata),
            (about("get", "apps", "deployments/scale", "a"), Level::RequestResponse),
            (about("get", "", "pods", "kube-system"), Level::Request),
            (about("get", "", "pods", "other"), Level::None),
            (About { verb: "get", path: "/healthz/ping", ..About::default() }, Level::None),
            (About { verb: "get", path: "/apis", ..About::default() }, Level::None),
        ] {
            assert_eq!(policy.verdict(&user, &asked).level, want, "{asked:?}");
        }
        let proxy = UserInfo::new("system:kube-proxy", &["devs"]);
        assert_eq!(policy.verdict(&proxy, &about("watch", "", "secrets", "a")).level, Level::None);
        assert_eq!(policy.verdict(&proxy, &about("get", "", "secrets", "a")).level, Level::Metadata);
        let found = policy.verdict(&user, &about("get", "", "pods", "kube-system"));
        assert_eq!(found.omit, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(policy.verdict(&user, &about("get", "apps", "deployments", "a")).omit_managed_fields);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let with = |rule: &str| format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {rule}\n");
        for bad in ["level: Most", "level: None\n  verb: [get]", "level: None\n  nonResourceURLs: ['/a*b']"] {
            assert!(Policy::parse(&with(bad)).is_err(), "{bad}");
        }
        assert!(Policy::parse("apiVersion: v1\nkind: Policy\nrules: [{level: None}]").is_err());
        assert!(Policy::parse(&with("level: None\n  namespaces: [a]\n  nonResourceURLs: [/x]")).is_err());
    }
}
