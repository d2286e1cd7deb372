//! What changes an object after the server itself has: policies, then webhooks, and those among both that want to see
//! what others made of it (`reinvocationPolicy: IfNeeded`) once more.

use api::status::ApiError;
use serde_json::Value;

use super::{Admission, policy, webhook};

/// Lets policies and webhooks change an object.
///
/// # Errors
/// What they say.
pub(super) async fn mutate(admission: &Admission<'_>, object: &mut Value, old: &Value) -> Result<(), ApiError> {
    let mut policies = policy::Round::default();
    let changed = Box::pin(policies.first(admission, object, old)).await?;
    let after_policies = object.clone();
    let hooks = webhook::mutate(admission, object, old).await?;
    if !changed && !hooks.changed() {
        return Ok(());
    }
    let before = object.clone();
    admission.built_in(object, old)?;
    if changed || *object != after_policies {
        Box::pin(policies.again(admission, object, old)).await?;
    }
    let touched = *object != before;
    webhook::again(admission, hooks, touched, object, old).await
}
