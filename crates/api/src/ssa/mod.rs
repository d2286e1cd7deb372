//! Server-side apply: a client sends the fields it has an opinion on, and owns them from then on.
//!
//! Semantics are those of Kubernetes' structured merge: fields merge by their declared list and map types, fields that an
//! applier stops sending are removed unless somebody else owns them, and changing what another manager owns is a conflict
//! unless forced.

mod conflict;
mod last_applied;
mod merge;
mod overlay;
#[cfg(test)]
mod tests;
mod validate;

use serde_json::{Map, Value};

use crate::managed_fields::{
    Entry, FieldSet, Id, ItemError, Managers, Operation, compare, field_set, managed_of, record, reset_field,
    set_managed, strip_untracked, tracked_changes, without_field,
};
use crate::schema::TypeRef;
use crate::status::ApiError;
use conflict::{Conflict, conflict_error};
use merge::{merge, remove, with_named_fields};

pub use crate::managed_fields::update;
pub use overlay::overlay;

/// The manager that gets the fields of an object nobody owned when it is first applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// How to apply.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApplyOptions<'a> {
    /// `fieldManager` of the request; the caller has made sure that there is one.
    pub manager: &'a str,
    /// Take fields from other managers instead of failing.
    pub force: bool,
    /// RFC 3339 time in UTC with whole seconds.
    pub now: &'a str,
    /// The `apiVersion` of the request's path.
    pub api_version: &'a str,
    /// Subresource of the request's path; empty for the object itself.
    pub subresource: &'a str,
}

/// Applies `applied` to `live` (`None`: the object is new) and returns the new object with its `managedFields`.
///
/// Defaults are not filled in: nobody owns defaults, so the caller sets them afterwards. When nothing changes, the result
/// equals `live`, times included.
///
/// # Errors
/// 409 with a cause for each field owned by another manager, unless forced. 400 when the configuration carries
/// `managedFields`, is in another version, or does not fit the type.
pub fn apply(
    schema: TypeRef<'_>,
    live: Option<&Value>,
    applied: &Value,
    opts: &ApplyOptions<'_>,
) -> Result<Value, ApiError> {
    check_request(schema, applied, opts)?;
    let mut managers = Managers::decode(live.and_then(managed_of))
        .map_err(|e| ApiError::internal(format!("failed to decode managed fields: {e}")))?;
    let base = live.map(|live| {
        let mut base = live.clone();
        set_managed(&mut base, None);
        base
    });
    let reset = reset_field(schema, opts.subresource);
    if managers.is_empty() && base.is_some() {
        let mut all = compare(schema, None, base.as_ref()).map_err(unmergeable)?;
        tracked_changes(&mut all, reset);
        let id = Id { manager: BEFORE_FIRST_APPLY, operation: Operation::Update, ..opts.id() };
        record(&mut managers, all, id, opts.now);
    }
    let request = Request { schema, base: base.as_ref(), applied, opts, reset };
    let mut object = request.run(managers)?;
    if opts.manager == last_applied::MANAGER {
        last_applied::follow(&mut object, applied);
    }
    Ok(object)
}

impl<'a> ApplyOptions<'a> {
    fn id(&self) -> Id<'a> {
        Id {
            manager: self.manager,
            operation: Operation::Apply,
            api_version: self.api_version,
            subresource: self.subresource,
        }
    }
}

fn check_request(schema: TypeRef<'_>, applied: &Value, opts: &ApplyOptions<'_>) -> Result<(), ApiError> {
    if managed_of(applied).is_some_and(|m| !m.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let text = |pointer: &str| applied.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let version = text("/apiVersion");
    if version != opts.api_version {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            opts.api_version
        )));
    }
    if let Some(wrong) = validate::validate(schema, applied) {
        let about =
            format!("{}/{}; {version}, Kind={}", text("/metadata/namespace"), text("/metadata/name"), text("/kind"));
        return Err(ApiError::bad_request(format!("failed to create typed patch object ({about}): {wrong}")));
    }
    Ok(())
}

/// Stored objects were checked when they were written; one that cannot be walked anyway is the server's problem.
fn unmergeable(error: ItemError) -> ApiError {
    ApiError::internal(format!("failed to merge config: {error}"))
}

struct Request<'a> {
    schema: TypeRef<'a>,
    /// The live object without its managed fields.
    base: Option<&'a Value>,
    applied: &'a Value,
    opts: &'a ApplyOptions<'a>,
    reset: Option<&'static str>,
}

impl Request<'_> {
    fn run(&self, mut managers: Managers) -> Result<Value, ApiError> {
        let id = self.opts.id();
        let empty = Value::Object(Map::new());
        let base = self.base.unwrap_or(&empty);
        let mut object = merge(self.schema, Some(base), self.applied).map_err(unmergeable)?;
        let mut set = field_set(self.schema, self.applied).map_err(unmergeable)?;
        without_field(&mut set, self.reset);
        let last = managers.remove(id);
        if let Some(last) = &last {
            object = self.prune(object, &managers, &set, &last.set).map_err(unmergeable)?;
        }
        let mut changes = compare(self.schema, Some(base), Some(&object)).map_err(unmergeable)?;
        tracked_changes(&mut changes, self.reset);
        let taken = changes.modified.union(changes.added);
        if !self.opts.force {
            self.check_conflicts(&managers, &taken, base)?;
        }
        managers.release(&taken.union(changes.removed), None);
        strip_untracked(&mut set);
        let unchanged = object == *base;
        if !set.is_empty() {
            // The time is that of the last change: of the object, or of what the manager owns.
            let time = match &last {
                Some(last) if unchanged && last.set == set => last.time.clone(),
                _ => Some(self.opts.now.to_owned()),
            };
            managers.push(Entry::new(id, set, time));
        }
        set_managed(&mut object, managers.encode());
        Ok(object)
    }

    fn check_conflicts(&self, managers: &Managers, taken: &FieldSet, base: &Value) -> Result<(), ApiError> {
        let mut conflicts: Vec<Conflict> = Vec::new();
        for entry in managers.entries() {
            conflicts.extend(Conflict::all(entry, &entry.set.intersection(taken)));
        }
        if !conflicts.is_empty() && self.opts.manager == last_applied::MANAGER {
            let own = last_applied::still_applied(self.schema, base, self.opts.api_version);
            conflicts.retain(|c| !own.contains(c.path()));
        }
        if conflicts.is_empty() { Ok(()) } else { Err(conflict_error(conflicts)) }
    }

    /// Removes what the manager applied last time and not this time, unless somebody else owns it.
    fn prune(&self, merged: Value, others: &Managers, set: &FieldSet, last: &FieldSet) -> Result<Value, ItemError> {
        if last.is_empty() {
            return Ok(merged);
        }
        let ty = self.schema;
        let named = |set: FieldSet| with_named_fields(ty, set);
        let take_out = |set: &FieldSet| remove(ty, &merged, set).unwrap_or_else(|| Value::Object(Map::new()));
        let last = named(last.clone());
        let pruned = take_out(&last);
        // Put back what this configuration or any other manager owns.
        let owned = others.entries().iter().fold(set.clone(), |all, entry| all.union(entry.set.clone()));
        let all = named(field_set(ty, &merged)?);
        let keep = named(field_set(ty, &pruned)?).union(named(owned));
        let pruned = take_out(&all.difference(&keep));
        // Put back what went with an item or struct though this manager never owned it.
        let left = named(field_set(ty, &pruned)?);
        Ok(take_out(&all.difference(&left).intersection(&last)))
    }
}
