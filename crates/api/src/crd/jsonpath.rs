//! The part of kubectl's JSONPath that printer columns and selectable fields use: fields, indexes, `*`, and filters that
//! compare one field with a constant.

use serde_json::Value;

/// Steps of a path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter { path: Vec<String>, equal: bool, value: Option<Value> },
}

impl Path {
    /// Parses `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`, `.a['b.c'][0]`, `.a\.b`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after).ok_or_else(|| format!("unterminated array in {text:?}"))?;
                steps.push(bracket(&after[..end]).ok_or_else(|| format!("invalid array index {:?}", &after[..end]))?);
                rest = &after[end + 1..];
                continue;
            }
            if rest.starts_with("..") {
                return Err(format!("recursive descent is not supported in {text:?}"));
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let (name, after) = field(rest);
            match name.as_str() {
                "" if after.is_empty() && steps.is_empty() => {}
                "" if after.starts_with('[') => {}
                "" => return Err(format!("empty field name in {text:?}")),
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = after;
        }
        Ok(Path(steps))
    }

    /// Whether the path names one field by its keys only.
    pub fn is_plain(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|s| matches!(s, Step::Field(_)))
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|s| if let Step::Field(name) = s { Some(name.as_str()) } else { None })
    }

    /// The values at the path.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|v| step.of(v)).collect();
        }
        found.retain(|v| !v.is_null());
        found
    }
}

impl Step {
    fn of<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let at = if *index < 0 { list.len() as i64 + index } else { *index };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            Step::All => match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Step::Filter { path, equal, value: wanted } => {
                let holds = |item: &&Value| {
                    let found = path.iter().try_fold(*item, |v, key| v.get(key));
                    match (found, wanted) {
                        (Some(found), Some(wanted)) => (found == wanted) == *equal,
                        (found, None) => found.is_some(),
                        (None, _) => false,
                    }
                };
                value.as_array().into_iter().flatten().filter(holds).collect()
            }
        }
    }
}

/// A field name, in which `\.` is a dot, and what comes after it.
fn field(text: &str) -> (String, &str) {
    let (mut name, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// The position of the bracket that ends what has been opened.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn quoted(text: &str) -> Option<String> {
    let inner = ['\'', '"'].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q))?;
    Some(inner.replace("\\\"", "\"").replace("\\'", "'"))
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = quoted(text) {
        return Some(Step::Field(name));
    }
    let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) else {
        return text.parse().ok().map(Step::Index);
    };
    let (left, operator) = match (filter.split_once("=="), filter.split_once("!=")) {
        (Some((left, right)), _) => (left, Some((right, true))),
        (_, Some((left, right))) => (left, Some((right, false))),
        _ => (filter, None),
    };
    let path = Path::parse(left.trim().strip_prefix('@')?).ok()?;
    let plain = path.is_plain().then(|| path.keys().map(str::to_owned).collect())?;
    let Some((right, equal)) = operator else { return Some(Step::Filter { path: plain, equal: true, value: None }) };
    let right = right.trim();
    let value = quoted(right).map(Value::String).or_else(|| serde_json::from_str(right).ok())?;
    Some(Step::Filter { path: plain, equal, value: Some(value) })
}
