//! Who owns which field: `fieldsV1` sets, the entries of `metadata.managedFields`, and their upkeep.

mod element;
mod entries;
mod set;
#[cfg(test)]
mod tests;
mod track;
mod walk;

pub use element::{ElementError, ItemError, PathElement};
pub use entries::{DecodeError, Entry, Managers, Operation};
pub use set::{FieldSet, path_text};
pub use track::update;
pub use walk::{Comparison, compare, field_set};

pub(crate) use element::item_element;
pub(crate) use entries::Id;
pub(crate) use track::{managed_of, record, reset_field, set_managed, strip_untracked, tracked_changes, without_field};
pub(crate) use walk::{Form, form, is_hollow};
