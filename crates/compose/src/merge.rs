//! One Compose file over another (compose-spec, "Merge"): mappings are merged, lists appended, scalars replaced; commands and
//! tests of health are replaced as a whole; lists of `NAME=VALUE` are mappings; mounts are told apart by their target.

use crate::error::{Error, Result};
use crate::yaml::{Node, Tag, Value};

/// Merges a file over a base, both from their roots.
///
/// # Errors
/// The place of what cannot stand where it stands.
pub fn files(base: Node, over: Node) -> Result<Node> {
    merge(base, over, &[])
}

/// Merges a service over the one that it extends.
///
/// # Errors
/// As [`files`].
pub fn services(base: Node, over: Node) -> Result<Node> {
    merge(base, over, &["services", "*"])
}

/// What is left of a file when `!reset` and `!override` have nothing before them.
pub fn clean(node: Node) -> Option<Node> {
    if node.tag == Tag::Reset {
        return None;
    }
    let value = match node.value {
        Value::List(items) => Value::List(items.into_iter().filter_map(clean).collect()),
        Value::Map(entries) => Value::Map(entries.into_iter().filter_map(|(k, v)| clean(v).map(|v| (k, v))).collect()),
        other => other,
    };
    Some(Node { value, place: node.place, tag: Tag::None })
}

/// How the value of a key is merged.
enum Rule {
    /// By what it is.
    Usual,
    /// The later takes the place of the earlier.
    Replace,
    /// A list of `NAME=VALUE` or a mapping.
    Pairs,
    /// A list of names or a mapping; of a name alone stands this.
    Names(Option<(&'static str, &'static str)>),
    /// Text or a list of texts; what is there already is not added again.
    Texts,
    /// A list whose elements have a key.
    Keyed(fn(&Node) -> Option<String>),
    /// Text that stands for a mapping with this key.
    Short(&'static str),
}

fn rule(path: &[&str]) -> Rule {
    let ["services", _, rest @ ..] = path else {
        return match path {
            [_, _, "labels"] => Rule::Pairs,
            _ => Rule::Usual,
        };
    };
    match rest {
        ["command" | "entrypoint"] | ["healthcheck", "test"] => Rule::Replace,
        ["environment" | "labels" | "annotations" | "sysctls" | "extra_hosts"]
        | ["build", "args" | "labels" | "additional_contexts" | "extra_hosts" | "ssh"]
        | ["deploy", "labels"] => Rule::Pairs,
        ["depends_on"] => Rule::Names(Some(("condition", "service_started"))),
        ["networks" | "models"] => Rule::Names(None),
        ["dns" | "dns_search" | "dns_opt" | "tmpfs" | "env_file" | "label_file" | "profiles"]
        | ["cap_add" | "cap_drop" | "expose" | "links" | "external_links" | "group_add" | "security_opt" | "ports"]
        | ["devices" | "volumes_from" | "device_cgroup_rules"]
        | ["build", "tags" | "cache_from" | "cache_to" | "platforms" | "entitlements"] => Rule::Texts,
        ["volumes"] => Rule::Keyed(target),
        ["secrets" | "configs"] => Rule::Keyed(file),
        ["build"] => Rule::Short("context"),
        ["extends"] => Rule::Short("service"),
        ["ulimits" | "environment" | "labels" | "annotations" | "sysctls" | "extra_hosts", _]
        | ["build", "args" | "labels" | "additional_contexts" | "extra_hosts", _] => Rule::Replace,
        _ => Rule::Usual,
    }
}

/// Where a volume is mounted.
fn target(node: &Node) -> Option<String> {
    let target = match node.text() {
        Some(text) => crate::short::volume(text).ok()?.target,
        None => node.get("target")?.text()?.to_owned(),
    };
    Some(target.trim_end_matches('/').to_owned())
}

/// Where a config or secret is, or which it is.
fn file(node: &Node) -> Option<String> {
    let of = |key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
    node.text().map(str::to_owned).or_else(|| of("target")).or_else(|| of("source"))
}

fn merge(base: Node, over: Node, path: &[&str]) -> Result<Node> {
    if over.tag != Tag::None {
        return Ok(clean(Node { tag: Tag::None, ..over }).expect("its own tag is gone"));
    }
    let (base, over) = match rule(path) {
        Rule::Replace => return Ok(over),
        Rule::Usual => (base, over),
        Rule::Pairs => (pairs(base, path)?, pairs(over, path)?),
        Rule::Names(with) => (names(base, with, path)?, names(over, with, path)?),
        Rule::Short(key) => (short(base, key), short(over, key)),
        Rule::Texts => return Ok(append(list(base), list(over), &|a, b| a.value == b.value)),
        Rule::Keyed(key) => {
            return Ok(append(list(base), list(over), &|a, b| key(a).is_some() && key(a) == key(b)));
        }
    };
    let place = over.place.clone();
    let value = match (base.value, over.value) {
        (base, Value::Null) => base,
        (Value::Map(mut entries), Value::Map(theirs)) => {
            for (key, theirs) in theirs {
                let at = entries.iter().position(|(k, _)| *k == key);
                if theirs.tag == Tag::Reset {
                    at.map(|at| entries.remove(at));
                    continue;
                }
                let below: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
                match at {
                    Some(at) => {
                        let was = std::mem::replace(&mut entries[at].1, Node::at(&place, Value::Null));
                        entries[at].1 = merge(was, theirs, &below)?;
                    }
                    None => entries.extend(clean(theirs).map(|n| (key.clone(), n))),
                }
            }
            Value::Map(entries)
        }
        (Value::List(mut items), Value::List(theirs)) => {
            items.extend(theirs.into_iter().filter_map(clean));
            Value::List(items)
        }
        (Value::Null | Value::Scalar(_), value @ (Value::Scalar(_) | Value::Map(_) | Value::List(_))) => value,
        (base, over) => {
            let what = |v: &Value| Node::at(&place, v.clone()).kind();
            let message = format!("{} cannot be merged over {}", what(&over), what(&base));
            return Err(Error::new(&place, &path.join("."), message));
        }
    };
    Ok(Node { value, place, tag: Tag::None })
}

/// The items of both, those of the second in place of the same of the first.
fn append(base: Node, over: Node, same: &dyn Fn(&Node, &Node) -> bool) -> Node {
    let place = over.place.clone();
    let (Value::List(mut items), Value::List(theirs)) = (base.value, over.value) else {
        return Node::at(&place, Value::Null);
    };
    for item in theirs.into_iter().filter_map(clean) {
        match items.iter_mut().find(|i| same(i, &item)) {
            Some(old) => *old = item,
            None => items.push(item),
        }
    }
    Node::at(&place, Value::List(items))
}

fn list(node: Node) -> Node {
    let place = node.place.clone();
    match node.value {
        Value::List(_) => node,
        Value::Null => Node::at(&place, Value::List(Vec::new())),
        _ => Node::at(&place, Value::List(vec![node])),
    }
}

fn short(node: Node, key: &str) -> Node {
    let place = node.place.clone();
    match node.value {
        Value::Scalar(_) => Node::at(&place, Value::Map(vec![(key.to_owned(), node)])),
        _ => node,
    }
}

/// A list of `NAME=VALUE` (of hosts also `NAME:ADDRESS`) as a mapping.
///
/// # Errors
/// When an item is no text.
pub fn pairs(node: Node, path: &[&str]) -> Result<Node> {
    let place = node.place.clone();
    let Value::List(items) = node.value else { return Ok(node) };
    let hosts = path.last() == Some(&"extra_hosts");
    let mut entries: Vec<(String, Node)> = Vec::new();
    for item in items {
        let Some(text) = item.text() else {
            return Err(Error::new(
                &item.place,
                &path.join("."),
                format!("it must be NAME=VALUE, this is {}", item.kind()),
            ));
        };
        let split = text.split_once('=').or_else(|| text.split_once(':').filter(|_| hosts));
        let (key, value) = match split {
            Some((key, value)) => (key.to_owned(), Value::Scalar(value.to_owned())),
            None => (text.to_owned(), Value::Null),
        };
        let value = Node::at(&item.place, value);
        match entries.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) if hosts => {
                let mut both = list(std::mem::replace(old, Node::at(&place, Value::Null)));
                if let Value::List(all) = &mut both.value {
                    all.push(value);
                }
                *old = both;
            }
            Some((_, old)) => *old = value,
            None => entries.push((key, value)),
        }
    }
    Ok(Node::at(&place, Value::Map(entries)))
}

/// A list of names as a mapping.
///
/// # Errors
/// When an item is no text.
pub fn names(node: Node, with: Option<(&str, &str)>, path: &[&str]) -> Result<Node> {
    let place = node.place.clone();
    let Value::List(items) = node.value else { return Ok(node) };
    let mut entries = Vec::new();
    for item in items {
        let Some(text) = item.text() else {
            return Err(Error::new(
                &item.place,
                &path.join("."),
                format!("it must be a name, this is {}", item.kind()),
            ));
        };
        let value = match with {
            None => Value::Null,
            Some((key, value)) => {
                Value::Map(vec![(key.to_owned(), Node::at(&item.place, Value::Scalar(value.to_owned())))])
            }
        };
        entries.push((text.to_owned(), Node::at(&item.place, value)));
    }
    Ok(Node::at(&place, Value::Map(entries)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    fn of(text: &str) -> Node {
        parse("f", text).unwrap().remove(0)
    }

    /// The service `a` of one file over another, as one line.
    fn merged(base: &str, over: &str) -> String {
        let file = |body: &str| of(&format!("services:\n  a: {body}\n"));
        let merged = files(file(base), file(over)).unwrap();
        show(merged.get("services").unwrap().get("a").unwrap())
    }

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".into(),
            Value::Scalar(s) => s.clone(),
            Value::List(l) => format!("[{}]", l.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Map(m) => {
                format!("{{{}}}", m.iter().map(|(k, v)| format!("{k}:{}", show(v))).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn each_key_has_its_rule() {
        for (base, over, wanted) in [
            ("{image: a}", "{image: b}", "{image:b}"),
            ("{command: [a, b]}", "{command: c}", "{command:c}"),
            (
                "{healthcheck: {test: [CMD, a], retries: 3}}",
                "{healthcheck: {test: b}}",
                "{healthcheck:{test:b retries:3}}",
            ),
            ("{environment: [A=1, B=2]}", "{environment: {B: 3, C: ~}}", "{environment:{A:1 B:3 C:~}}"),
            ("{ports: ['80:80']}", "{ports: ['80:80', '81:81']}", "{ports:[80:80 81:81]}"),
            ("{volumes: ['x:/d', './y:/e']}", "{volumes: ['z:/d/']}", "{volumes:[z:/d/ ./y:/e]}"),
            (
                "{depends_on: [b]}",
                "{depends_on: {c: {condition: service_healthy}}}",
                "{depends_on:{b:{condition:service_started} c:{condition:service_healthy}}}",
            ),
            ("{build: ./x}", "{build: {target: t}}", "{build:{context:./x target:t}}"),
            ("{dns: 1.1.1.1}", "{dns: [8.8.8.8, 1.1.1.1]}", "{dns:[1.1.1.1 8.8.8.8]}"),
            (
                "{extra_hosts: ['a:1.1.1.1', 'a:2.2.2.2']}",
                "{extra_hosts: ['b=3.3.3.3']}",
                "{extra_hosts:{a:[1.1.1.1 2.2.2.2] b:3.3.3.3}}",
            ),
        ] {
            assert_eq!(merged(base, over), wanted, "{over} over {base}");
        }
    }

    #[test]
    fn reset_removes_and_override_replaces() {
        assert_eq!(merged("{ports: [a], image: i}", "{ports: !reset []}"), "{image:i}");
        assert_eq!(merged("{ports: [a], image: i}", "{ports: !override [b]}"), "{ports:[b] image:i}");
        assert_eq!(merged("{environment: {A: 1, B: 2}}", "{environment: {A: !reset null}}"), "{environment:{B:2}}");
        assert_eq!(show(&clean(of("a: !reset 1\nb: !override [1]\n")).unwrap()), "{b:[1]}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_place() {
        let error =
            files(of("services: {a: {deploy: {replicas: 1}}}"), of("services: {a: {deploy: [1]}}")).unwrap_err();
        assert!(error.to_string().starts_with("f:1:"), "{error}");
    }
}
