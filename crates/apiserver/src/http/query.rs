//! Query parameters, parsed once and strictly: a value that cannot be understood is refused, never skipped.

use api::status::ApiError;

/// Who may have written a field that the caller does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Say nothing.
    Ignore,
    /// Answer, with warnings.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Exactly that revision.
    Exact,
    /// That revision or a later one.
    NotOlderThan,
}

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Indented output.
    pub pretty: bool,
    /// Most items of a page; 0 for all.
    pub limit: usize,
    /// Where the last page ended.
    pub cont: String,
    /// `resourceVersion`; `None` when absent or empty.
    pub revision: Option<u64>,
    /// `resourceVersionMatch`.
    pub matching: Option<Match>,
    /// `labelSelector`.
    pub labels: String,
    /// `fieldSelector`.
    pub fields: String,
    /// `watch`.
    pub watch: bool,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial_events: Option<bool>,
    /// `timeoutSeconds`.
    pub timeout_s: Option<u64>,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldManager`.
    pub manager: String,
    /// `fieldValidation`.
    pub validation: FieldValidation,
    /// `force` of an apply.
    pub force: Option<bool>,
    /// `gracePeriodSeconds`.
    pub grace_s: Option<i64>,
    /// `propagationPolicy`.
    pub propagation: String,
    /// `orphanDependents`.
    pub orphan: Option<bool>,
    /// `includeObject` of a Table.
    pub include: String,
    /// Everything as it came, for what is passed on.
    pub raw: Vec<(String, String)>,
}

impl Query {
    /// Whether the part of a URL after the question mark asks for a watch, whatever else is in it.
    pub fn asks_to_watch(query: &str) -> bool {
        url::form_urlencoded::parse(query.as_bytes()).any(|(k, v)| k == "watch" && v != "false" && v != "0")
    }

    /// Parses the part of a URL after the question mark.
    ///
    /// # Errors
    /// 400 for a value that is not of its parameter's form.
    // allow-long: one line per parameter
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let mut out = Query::default();
        if query.is_empty() {
            return Ok(out);
        }
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let v = value.as_ref();
            match key.as_ref() {
                "pretty" => out.pretty = v != "false" && v != "0",
                "limit" => out.limit = number(&key, v)?,
                "continue" => out.cont = v.to_owned(),
                "resourceVersion" => out.revision = if v.is_empty() { None } else { Some(revision(v)?) },
                "resourceVersionMatch" => out.matching = matching(v)?,
                "labelSelector" => out.labels = v.to_owned(),
                "fieldSelector" => out.fields = v.to_owned(),
                "watch" => out.watch = boolean(&key, v)?,
                "allowWatchBookmarks" => out.bookmarks = boolean(&key, v)?,
                "sendInitialEvents" => out.initial_events = Some(boolean(&key, v)?),
                "timeoutSeconds" => out.timeout_s = Some(number(&key, v)?).filter(|&t| t > 0),
                "dryRun" => out.dry_run = dry_run(v)?,
                "fieldManager" => out.manager = manager(v)?,
                "fieldValidation" => out.validation = validation(v)?,
                "force" => out.force = Some(boolean(&key, v)?),
                "gracePeriodSeconds" => out.grace_s = Some(signed(&key, v)?),
                "propagationPolicy" => out.propagation = v.to_owned(),
                "orphanDependents" => out.orphan = Some(boolean(&key, v)?),
                "includeObject" => out.include = v.to_owned(),
                _ => {}
            }
            out.raw.push((key.into_owned(), value.into_owned()));
        }
        Ok(out)
    }

    /// The first value of a parameter that only some subresources know.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.raw.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, ApiError> {
    value
        .parse()
        .map_err(|_| ApiError::bad_request(format!("invalid value {value:?} of parameter {key:?}: not a number")))
}

fn signed(key: &str, value: &str) -> Result<i64, ApiError> {
    number(key, value)
}

fn revision(value: &str) -> Result<u64, ApiError> {
    value.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "resourceVersion: Invalid value: {value:?}: strconv.ParseUint: parsing {value:?}: invalid syntax"
        ))
    })
}

/// As Go reads booleans; a bare parameter is true.
fn boolean(key: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ApiError::bad_request(format!("invalid value {value:?} of parameter {key:?}: not a boolean"))),
    }
}

fn matching(value: &str) -> Result<Option<Match>, ApiError> {
    match value {
        "" => Ok(None),
        "Exact" => Ok(Some(Match::Exact)),
        "NotOlderThan" => Ok(Some(Match::NotOlderThan)),
        _ => Err(ApiError::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {value:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

pub(crate) fn dry_run(value: &str) -> Result<bool, ApiError> {
    match value {
        "" => Ok(false),
        "All" => Ok(true),
        _ => Err(ApiError::bad_request(format!("dryRun: Unsupported value: {value:?}: supported values: \"All\""))),
    }
}

fn validation(value: &str) -> Result<FieldValidation, ApiError> {
    match value {
        "Ignore" => Ok(FieldValidation::Ignore),
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Strict" => Ok(FieldValidation::Strict),
        _ => Err(ApiError::bad_request(format!(
            "fieldValidation: Unsupported value: {value:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
        ))),
    }
}

/// Longest name of a field manager, as in Kubernetes.
const MANAGER_MAX: usize = 128;

fn manager(value: &str) -> Result<String, ApiError> {
    if value.len() > MANAGER_MAX || value.chars().any(char::is_control) {
        return Err(ApiError::bad_request(format!(
            "fieldManager: Invalid value: {value:?}: must be at most {MANAGER_MAX} printable characters"
        )));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_nonsense_is_refused() {
        let q = Query::parse("limit=5&watch=1&labelSelector=a%3Db&resourceVersion=&fieldValidation=Strict&dryRun=All")
            .unwrap();
        assert_eq!((q.limit, q.watch, q.labels.as_str(), q.revision), (5, true, "a=b", None));
        assert_eq!((q.validation, q.dry_run), (FieldValidation::Strict, true));
        for bad in
            ["limit=x", "watch=maybe", "dryRun=Some", "resourceVersion=abc", "resourceVersionMatch=Near", "force=2"]
        {
            assert_eq!(Query::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
