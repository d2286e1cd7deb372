//! `metadata.managedFields`: one entry for each manager, operation, version and subresource.

use serde_json::{Map, Value};

use super::element::ElementError;
use super::set::FieldSet;

/// Entries of update operations kept; the oldest beyond it are merged (Kubernetes' default).
const MAX_UPDATE_ENTRIES: usize = 10;
/// The manager that merged entries go to.
const ANCIENT: &str = "ancient-changes";

/// How a manager came to own its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply: the entry is the manager's whole intent.
    Apply,
    /// Create, update or patch: the entry is what the manager changed.
    Update,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One manager's fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Manager name.
    pub manager: String,
    /// How the fields came to be owned.
    pub operation: Operation,
    /// The version the fields are named in.
    pub api_version: String,
    /// The subresource written through; empty for the object itself.
    pub subresource: String,
    /// RFC 3339 time of the last change.
    pub time: Option<String>,
    /// The fields.
    pub set: FieldSet,
    /// `fieldsV1` as read, while `set` is unchanged: most entries go back as they came.
    encoded: Option<Value>,
}

/// A `managedFields` list that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a list of objects.
    #[error("managedFields must be a list of objects")]
    NotAList,
    /// An operation that is neither `Apply` nor `Update`.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// No `apiVersion`.
    #[error("apiVersion must not be empty")]
    ApiVersion,
    /// No `fieldsType`.
    #[error("missing fieldsType in managed fields entry {0}")]
    MissingFieldsType(usize),
    /// A `fieldsType` other than `FieldsV1`.
    #[error("invalid fieldsType {fields_type:?} in managed fields entry {index}")]
    FieldsType {
        /// The value found.
        fields_type: String,
        /// Position of the entry.
        index: usize,
    },
    /// `fieldsV1` with a malformed key.
    #[error("error decoding set: {0}")]
    Set(#[from] ElementError),
}

/// Who owns what in one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Managers {
    entries: Vec<Entry>,
}

impl Entry {
    pub(crate) fn new(id: Id<'_>, set: FieldSet, time: Option<String>) -> Self {
        Self {
            manager: id.manager.to_owned(),
            operation: id.operation,
            api_version: id.api_version.to_owned(),
            subresource: id.subresource.to_owned(),
            time,
            set,
            encoded: None,
        }
    }

    fn id(&self) -> Id<'_> {
        Id {
            manager: &self.manager,
            operation: self.operation,
            api_version: &self.api_version,
            subresource: &self.subresource,
        }
    }

    /// Replaces the fields.
    pub(crate) fn set_fields(&mut self, set: FieldSet) {
        self.set = set;
        self.encoded = None;
    }

    fn decode(index: usize, value: &Value) -> Result<Self, DecodeError> {
        let map = value.as_object().ok_or(DecodeError::NotAList)?;
        let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err(DecodeError::Operation),
        };
        if text("apiVersion").is_empty() {
            return Err(DecodeError::ApiVersion);
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(DecodeError::MissingFieldsType(index)),
            other => return Err(DecodeError::FieldsType { fields_type: other.to_owned(), index }),
        }
        let fields = map.get("fieldsV1");
        Ok(Self {
            manager: text("manager").to_owned(),
            operation,
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: map.get("time").and_then(Value::as_str).map(str::to_owned),
            set: fields.map(FieldSet::from_json).transpose()?.unwrap_or_default(),
            encoded: fields.cloned(),
        })
    }

    fn encode(self) -> Value {
        let mut map = Map::new();
        if !self.manager.is_empty() {
            map.insert("manager".into(), self.manager.into());
        }
        map.insert("operation".into(), self.operation.text().into());
        map.insert("apiVersion".into(), self.api_version.into());
        if let Some(time) = self.time {
            map.insert("time".into(), time.into());
        }
        map.insert("fieldsType".into(), "FieldsV1".into());
        map.insert("fieldsV1".into(), self.encoded.unwrap_or_else(|| self.set.to_json()));
        if !self.subresource.is_empty() {
            map.insert("subresource".into(), self.subresource.into());
        }
        Value::Object(map)
    }
}

/// What makes an entry the same as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id<'a> {
    pub manager: &'a str,
    pub operation: Operation,
    pub api_version: &'a str,
    pub subresource: &'a str,
}

impl Id<'_> {
    /// Appliers keep their entry when they move to another version; updaters get one for each version.
    fn matches(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

impl Managers {
    /// Reads `metadata.managedFields`; an absent list is an empty one.
    ///
    /// # Errors
    /// When an entry is malformed.
    pub fn decode(list: Option<&Value>) -> Result<Self, DecodeError> {
        let items = match list {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(DecodeError::NotAList),
        };
        let mut managers = Self::default();
        for (index, item) in items.iter().enumerate() {
            let entry = Entry::decode(index, item)?;
            // Of two entries with one identity the later counts.
            managers.remove(entry.id());
            managers.entries.push(entry);
        }
        Ok(managers)
    }

    /// The list for `metadata.managedFields`, `None` when nobody owns anything. Appliers come first, then by time.
    pub fn encode(mut self) -> Option<Value> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.sort_by(|a, b| {
            let key = |e: &Entry| (e.operation, e.time.clone().unwrap_or_default());
            key(a)
                .cmp(&key(b))
                .then_with(|| a.manager.cmp(&b.manager))
                .then_with(|| a.api_version.cmp(&b.api_version))
                .then_with(|| a.subresource.cmp(&b.subresource))
        });
        Some(Value::Array(self.entries.into_iter().map(Entry::encode).collect()))
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, id: Id<'_>) -> Option<usize> {
        self.entries.iter().position(|e| e.id().matches(&id))
    }

    pub(crate) fn remove(&mut self, id: Id<'_>) -> Option<Entry> {
        self.position(id).map(|at| self.entries.remove(at))
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Takes `changed` away from every entry but `except`, and drops entries left with nothing.
    pub(crate) fn release(&mut self, changed: &FieldSet, except: Option<Id<'_>>) {
        for entry in &mut self.entries {
            let spared = except.is_some_and(|id| entry.id().matches(&id));
            if !spared && entry.set.intersects(changed) {
                let left = entry.set.difference(changed);
                entry.set_fields(left);
            }
        }
        self.entries.retain(|e| !e.set.is_empty());
    }

    /// Adds fields to an entry, making it if need be.
    pub(crate) fn extend(&mut self, id: Id<'_>, set: FieldSet, time: &str) {
        match self.position(id) {
            Some(at) => {
                let entry = &mut self.entries[at];
                let union = std::mem::take(&mut entry.set).union(set);
                entry.set_fields(union);
                entry.time = Some(time.to_owned());
            }
            None => self.entries.push(Entry::new(id, set, Some(time.to_owned()))),
        }
    }

    /// Merges the oldest update entries, version by version, until no more than the allowed number is left.
    pub(crate) fn cap(&mut self) {
        let is_update = |e: &Entry| e.operation == Operation::Update;
        let mut count = self.entries.iter().filter(|e| is_update(e)).count();
        if count <= MAX_UPDATE_ENTRIES {
            return;
        }
        let (mut updates, others): (Vec<Entry>, Vec<Entry>) = self.entries.drain(..).partition(is_update);
        updates.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.manager.cmp(&b.manager)));
        let mut kept: Vec<Entry> = others;
        // The first entry seen of each version: it becomes the bucket once a second one joins it.
        let mut first_of: Vec<(String, usize)> = Vec::new();
        for entry in updates {
            let first = first_of.iter().find(|(version, _)| *version == entry.api_version).map(|(_, at)| *at);
            match first {
                Some(at) if count > MAX_UPDATE_ENTRIES => {
                    let bucket = &mut kept[at];
                    let union = std::mem::take(&mut bucket.set).union(entry.set);
                    bucket.set_fields(union);
                    bucket.manager = ANCIENT.into();
                    bucket.subresource = String::new();
                    bucket.time = entry.time;
                    count -= 1;
                }
                _ => {
                    first_of.push((entry.api_version.clone(), kept.len()));
                    kept.push(entry);
                }
            }
        }
        self.entries = kept;
    }
}
