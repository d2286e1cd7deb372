//! Admission webhooks: services outside that change or check objects (MutatingWebhookConfiguration,
//! ValidatingWebhookConfiguration, admission.k8s.io/v1).
//!
//! Configurations are read once per change of any of them. Webhooks that change run one after the other, in order of the
//! names of their configurations; those that check run at the same time, and the first refusal in that order is told.

use std::sync::Arc;

use api::status::ApiError;
use futures::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::rules::{self, Target};
use super::{Admission, review};
use crate::cache::Caches;

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

/// The webhooks that were asked for changes.
#[derive(Default)]
pub(super) struct Called<'a> {
    hooks: Arc<Vec<Hook>>,
    /// Which of them, as what each saw the object, and whether it changed something.
    which: Vec<(usize, Target<'a>, bool)>,
}

impl Called<'_> {
    /// Whether any changed something.
    pub fn changed(&self) -> bool {
        self.which.iter().any(|(.., changed)| *changed)
    }
}

/// Lets webhooks change an object.
pub(super) async fn mutate<'a>(
    admission: &Admission<'a>,
    object: &mut Value,
    old: &Value,
) -> Result<Called<'a>, ApiError> {
    if rules::is_exempt(admission) {
        return Ok(Called::default());
    }
    let hooks = admission.server.admission.webhooks.of(Type::Mutating, admission.caches());
    let mut which = Vec::new();
    for (i, hook) in hooks.iter().enumerate() {
        if let Some(target) = hook.selects(admission, object, old)
            && let Some(changed) = change(admission, (hook, Turn { round: 0, index: i }), &target, object, old).await?
        {
            which.push((i, target, changed));
        }
    }
    Ok(Called { hooks, which })
}

/// Asks those once more that want to know what became of the object: because others changed it after them, or because
/// it was `touched` since.
pub(super) async fn again(
    admission: &Admission<'_>,
    called: Called<'_>,
    touched: bool,
    object: &mut Value,
    old: &Value,
) -> Result<(), ApiError> {
    let Called { hooks, which } = called;
    for (n, (i, target, _)) in which.iter().enumerate() {
        let later = which[n + 1..].iter().any(|(.., changed)| *changed);
        let hook = &hooks[*i];
        if hook.again && (later || touched) {
            change(admission, (hook, Turn { round: 1, index: *i }), target, object, old).await?;
        }
    }
    Ok(())
}

/// When a webhook is asked, as the audit log's annotations name it.
#[derive(Clone, Copy)]
struct Turn {
    round: u8,
    index: usize,
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "round_{}_index_{}", self.round, self.index)
    }
}

/// Asks one webhook for its changes; `None` when its conditions keep it out of this.
async fn change(
    admission: &Admission<'_>,
    (hook, turn): (&Hook, Turn),
    target: &Target<'_>,
    object: &mut Value,
    old: &Value,
) -> Result<Option<bool>, ApiError> {
    let Some([before, old]) = target.converted(admission, object, old).await? else {
        return change_here(admission, (hook, turn), target, object, old).await;
    };
    let mut made = before.clone();
    let changed = change_here(admission, (hook, turn), target, &mut made, &old).await?;
    if made != before {
        *object = target.converted_back(admission, made).await?;
    }
    Ok(changed)
}

/// The same for an object that needs no conversion.
async fn change_here(
    admission: &Admission<'_>,
    (hook, turn): (&Hook, Turn),
    target: &Target<'_>,
    object: &mut Value,
    old: &Value,
) -> Result<Option<bool>, ApiError> {
    let open = format!("failed-open.mutation.webhook.admission.k8s.io/{turn}");
    let Some(verdict) = ask(admission, hook, &open, target, object, old).await? else { return Ok(None) };
    let changed = match verdict {
        Verdict::Allowed { patch: Some(patch) } if patch.as_array().is_none_or(|p| !p.is_empty()) => {
            let about = json!({
                "configuration": hook.configuration, "webhook": hook.name, "patch": patch, "patchType": "JSONPatch",
            });
            admission.warnings.annotate_content(format!("patch.webhook.admission.k8s.io/{turn}"), about.to_string());
            patched(admission, hook, target, &patch, object, old)?
        }
        _ => false,
    };
    let about = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
    admission.warnings.annotate(format!("mutation.webhook.admission.k8s.io/{turn}"), about.to_string());
    Ok(Some(changed))
}

/// Applies a webhook's patch, and says whether it changes anything.
fn patched(
    admission: &Admission<'_>,
    hook: &Hook,
    target: &Target<'_>,
    patch: &Value,
    object: &mut Value,
    old: &Value,
) -> Result<bool, ApiError> {
    if object.is_null() {
        let name = &hook.name;
        return Err(ApiError::internal(format!(
            "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
        )));
    }
    let before = object.clone();
    let view = target.view(object, old);
    let new = api::patch::json_patch(&view, patch).map_err(|e| ApiError::internal(e.message))?;
    target.settle(admission, new, object)?;
    Ok(*object != before)
}

/// Lets webhooks check an object.
pub(super) async fn validate(admission: &Admission<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    let hooks = admission.server.admission.webhooks.of(Type::Validating, admission.caches());
    if hooks.is_empty() {
        return Ok(());
    }
    let all = hooks.iter().enumerate();
    let selected = all.filter_map(|(i, hook)| Some((i, hook, hook.selects(admission, object, old)?)));
    let asked = selected.map(|(index, hook, target)| async move {
        let open = format!("failed-open.validating.webhook.admission.k8s.io/{}", Turn { round: 0, index });
        let converted = target.converted(admission, object, old).await?;
        let [object, old] = converted.as_ref().map_or([object, old], |both| both.each_ref());
        ask(admission, hook, &open, &target, object, old).await
    });
    for answer in join_all(asked).await {
        answer?;
    }
    Ok(())
}

/// Calls a webhook. What goes wrong with the call is its failure policy's to judge; the annotation `open` says that the
/// request was let through although.
async fn ask(
    admission: &Admission<'_>,
    hook: &Hook,
    open: &str,
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
            admission.warnings.annotate(open, hook.name.as_str());
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
