//! Admission webhooks: services outside that change or check objects (MutatingWebhookConfiguration,
//! ValidatingWebhookConfiguration, admission.k8s.io/v1).
//!
//! Configurations are read once per change of any of them. Webhooks that change run one after the other, in order of the
//! names of their configurations; those that check run at the same time, and the first refusal in that order is told.

use std::sync::Arc;

use api::status::ApiError;
use futures::future::join_all;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::rules::{self, Target};
use super::{Admission, Operation, review};
use crate::cache::Caches;
use crate::handlers::write::{check_types, storage_schema_of};

mod hook;

use super::review::Verdict;
use hook::Hook;

const GROUP: &str = "admissionregistration.k8s.io";
/// Calls under way at once; more wait for their place as long as their own time allows.
const CALLS: usize = 256;

/// The two kinds of webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Mutating,
    Validating,
}

impl Type {
    fn plural(self) -> &'static str {
        match self {
            Type::Mutating => "mutatingwebhookconfigurations",
            Type::Validating => "validatingwebhookconfigurations",
        }
    }
}

/// Webhooks as of a position in the changes of their configurations.
#[derive(Default)]
struct Compiled {
    position: u64,
    hooks: Arc<Vec<Hook>>,
}

/// All webhooks.
pub(crate) struct Webhooks {
    mutating: Mutex<Option<Compiled>>,
    validating: Mutex<Option<Compiled>>,
    calls: Semaphore,
}

impl Default for Webhooks {
    fn default() -> Self {
        Webhooks { mutating: Mutex::default(), validating: Mutex::default(), calls: Semaphore::new(CALLS) }
    }
}

impl Webhooks {
    /// The webhooks of a type, in order.
    fn of(&self, kind: Type, caches: &Caches) -> Arc<Vec<Hook>> {
        let Some(cache) = caches.by(GROUP, kind.plural()).filter(|c| !c.is_empty()) else { return Arc::default() };
        let position = *cache.head().borrow();
        let mut slot = match kind {
            Type::Mutating => self.mutating.lock(),
            Type::Validating => self.validating.lock(),
        };
        if let Some(compiled) = slot.as_ref().filter(|c| c.position == position) {
            return compiled.hooks.clone();
        }
        let all = cache.snapshot("", None, 0, false, |_| true);
        let hooks = all.entries.iter().flat_map(|e| hook::compile(&e.value())).collect();
        let compiled = slot.insert(Compiled { position, hooks: Arc::new(hooks) });
        compiled.hooks.clone()
    }
}

/// Whether no webhook is configured at all, or none may be asked about this object.
pub(super) fn are_none(admission: &Admission<'_>) -> bool {
    let empty = |kind: Type| admission.caches().by(GROUP, kind.plural()).is_none_or(|c| c.is_empty());
    empty(Type::Mutating) && empty(Type::Validating) || rules::is_exempt(admission)
}

/// Lets webhooks change an object, and says whether any did.
pub(super) async fn mutate(admission: &Admission<'_>, object: &mut Value, old: &Value) -> Result<bool, ApiError> {
    let hooks = admission.server.admission.webhooks.of(Type::Mutating, admission.caches());
    if hooks.is_empty() {
        return Ok(false);
    }
    // Which were called, and whether each changed something.
    let mut called: Vec<(&Hook, Target<'_>, bool)> = Vec::new();
    for hook in hooks.iter() {
        if let Some(target) = hook.selects(admission, object, old)
            && let Some(changed) = change(admission, hook, &target, object, old).await?
        {
            called.push((hook, target, changed));
        }
    }
    if !called.iter().any(|(.., changed)| *changed) {
        return Ok(false);
    }
    let before = object.clone();
    admission.built_in(object, old)?;
    let completed = *object != before;
    for (i, (hook, target, _)) in called.iter().enumerate() {
        let later = called[i + 1..].iter().any(|(.., changed)| *changed);
        if hook.again && (later || completed) {
            change(admission, hook, target, object, old).await?;
        }
    }
    Ok(true)
}

/// Asks one webhook for its changes; `None` when its conditions keep it out of this.
async fn change(
    admission: &Admission<'_>,
    hook: &Hook,
    target: &Target<'_>,
    object: &mut Value,
    old: &Value,
) -> Result<Option<bool>, ApiError> {
    let Some(verdict) = ask(admission, hook, target, object, old).await? else { return Ok(None) };
    let Verdict::Allowed { patch: Some(patch) } = verdict else { return Ok(Some(false)) };
    if patch.as_array().is_some_and(Vec::is_empty) {
        return Ok(Some(false));
    }
    if object.is_null() {
        let name = &hook.name;
        return Err(ApiError::internal(format!(
            "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
        )));
    }
    let mut new = target.view(object, old);
    new = api::patch::json_patch(&new, &patch).map_err(|e| ApiError::internal(e.message))?;
    settle(admission, target, &mut new)?;
    keeps_identity(admission, &new, object)?;
    let changed = new != *object;
    *object = new;
    Ok(Some(changed))
}

/// Back to the stored version: types checked, unknown fields dropped, defaults filled in.
fn settle(admission: &Admission<'_>, target: &Target<'_>, object: &mut Value) -> Result<(), ApiError> {
    target.kind.to_storage(object);
    if admission.operation == Operation::Update {
        api::meta::clear_resource_version(object);
    }
    if admission.subresource.is_empty() || admission.subresource == "status" {
        let ty = storage_schema_of(target.kind)?;
        check_types(ty, target.kind.kind, target.kind.version, object).map_err(|e| ApiError::internal(e.message))?;
        ty.prune(object);
        admission.kind.default(object);
    }
    Ok(())
}

/// A webhook may not turn the object into another one.
fn keeps_identity(admission: &Admission<'_>, new: &Value, old: &Value) -> Result<(), ApiError> {
    let facts = |v: &Value| {
        let text = |key: &str| v[key].as_str().unwrap_or("").to_owned();
        (text("apiVersion"), text("kind"), api::meta::namespace(v).to_owned(), api::meta::name(v).to_owned())
    };
    if facts(new) == facts(old) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "a webhook changed the kind, namespace or name of {} {:?}",
        admission.kind.qualified_resource(),
        admission.name
    )))
}

/// Lets webhooks check an object.
pub(super) async fn validate(admission: &Admission<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    let hooks = admission.server.admission.webhooks.of(Type::Validating, admission.caches());
    if hooks.is_empty() {
        return Ok(());
    }
    let selected = hooks.iter().filter_map(|hook| Some((hook, hook.selects(admission, object, old)?)));
    let asked = selected.map(|(hook, target)| async move { ask(admission, hook, &target, object, old).await });
    for answer in join_all(asked).await {
        answer?;
    }
    Ok(())
}

/// Calls a webhook. What goes wrong with the call is its failure policy's to judge.
async fn ask(
    admission: &Admission<'_>,
    hook: &Hook,
    target: &Target<'_>,
    object: &Value,
    old: &Value,
) -> Result<Option<Verdict>, ApiError> {
    let called = call(admission, hook, target, object, old).await;
    match called {
        Ok(verdict) => verdict.map(|v| v.or_refusal(&hook.name)).transpose(),
        Err(review::Failure::Refused(error)) => Err(error),
        Err(review::Failure::Call(why)) if hook.ignore => {
            tracing::warn!(webhook = hook.name, why, "failed calling webhook, failing open");
            Ok(Some(Verdict::Allowed { patch: None }))
        }
        Err(review::Failure::Call(why)) => {
            Err(ApiError::internal(format!("failed calling webhook {:?}: {why}", hook.name)))
        }
    }
}

async fn call(
    admission: &Admission<'_>,
    hook: &Hook,
    target: &Target<'_>,
    object: &Value,
    old: &Value,
) -> Result<Option<Verdict>, review::Failure> {
    let request = review::request(admission, target, object, old);
    if !hook.concerns(admission, &request)? {
        return Ok(None);
    }
    if admission.dry_run && !hook.dry {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(review::Failure::Refused(ApiError::bad_request(why)));
    }
    let uid = request["uid"].as_str().unwrap_or("").to_owned();
    let body = review::document(request);
    let sent = async {
        let _place = admission.server.admission.webhooks.calls.acquire().await;
        hook.client.post(admission.caches(), hook.timeout, body).await
    };
    let answer = match tokio::time::timeout(hook.timeout, sent).await {
        Ok(answer) => answer,
        Err(_) => Err("context deadline exceeded".to_owned()),
    };
    let prefix = || format!("failed to call webhook: Post {:?}", hook.client.url(hook.timeout));
    let bytes = answer.map_err(|why| review::Failure::Call(format!("{}: {why}", prefix())))?;
    let verdict = review::read(&bytes, &uid, &hook.name, admission.warnings)?;
    Ok(Some(verdict))
}
