//! Fields that an apply would take from other managers.

use crate::managed_fields::{Entry, FieldSet, Operation, PathElement, path_text};
use crate::status::ApiError;

/// Conflicts reported one by one; beyond it only the count says how many there are.
const MAX_CAUSES: usize = 1000;

/// One field that another manager owns and the apply would change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conflict {
    owner: String,
    path: Vec<PathElement>,
}

impl Conflict {
    /// The conflicts with `entry` over `fields`.
    pub(super) fn all(entry: &Entry, fields: &FieldSet) -> Vec<Self> {
        let owner = words(entry);
        fields.paths().into_iter().map(|path| Self { owner: owner.clone(), path }).collect()
    }

    pub(super) fn path(&self) -> &[PathElement] {
        &self.path
    }
}

fn words(entry: &Entry) -> String {
    let mut out = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        out.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if entry.operation == Operation::Update {
        out.push_str(&format!(" using {}", entry.api_version));
    }
    out
}

/// The 409 that lists the conflicts.
pub(super) fn conflict_error(mut conflicts: Vec<Conflict>) -> ApiError {
    // Stable: the fields of one owner keep their order.
    conflicts.sort_by(|a, b| a.owner.cmp(&b.owner));
    let count = conflicts.len();
    conflicts.truncate(MAX_CAUSES);
    let message = match conflicts.as_slice() {
        [only] => format!("Apply failed with 1 conflict: conflict with {}: {}", only.owner, path_text(&only.path)),
        many => {
            let mut lines = Vec::with_capacity(many.len() + 1);
            for group in many.chunk_by(|a, b| a.owner == b.owner) {
                lines.push(format!("conflicts with {}:", group[0].owner));
                lines.extend(group.iter().map(|c| format!("- {}", path_text(&c.path))));
            }
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let causes: Vec<(String, String)> =
        conflicts.iter().map(|c| (format!("conflict with {}", c.owner), path_text(&c.path))).collect();
    ApiError::apply_conflict(message, &causes)
}
