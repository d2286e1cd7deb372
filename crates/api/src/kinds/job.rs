//! Jobs.

use serde_json::{Value, json};

use super::Hooks;
use super::apps::labels_match;
use super::check::Check;
use super::{job_policy, podspec};
use crate::json::{at, bool_at, carry, ensure_object, int_at, is_unset, list_mut, semantic_eq, set_default, str_at};
use crate::meta;
use crate::names;
use crate::selectors::validate_label_selector;
use crate::status::FieldError;

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
/// The labels before they had a domain; still written for clients that select on them.
const LEGACY_UID_LABEL: &str = "controller-uid";
const LEGACY_NAME_LABEL: &str = "job-name";

pub(super) const HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    validate,
    validate_create,
    validate_update,
    warnings: |o| {
        let mut out = super::warnings::label_name(o);
        out.extend(super::warnings::job(at(o, &["spec"]), "spec"));
        out
    },
    selectable: &[("status.successful", |o| int_at(o, &["status", "succeeded"]).unwrap_or(0).to_string())],
    ..Hooks::NONE
};

fn default(o: &mut Value) {
    let template_labels = at(o, &["spec", "template", "metadata", "labels"]).cloned();
    let metadata = ensure_object(o, "metadata");
    if let Some(labels) = template_labels
        && metadata.get("labels").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
    {
        metadata["labels"] = labels;
    }
    let spec = ensure_object(o, "spec");
    let counted = !is_unset(spec, "parallelism");
    if is_unset(spec, "completions") && !counted {
        spec["completions"] = 1.into();
    }
    set_default(spec, "parallelism", 1);
    let backoff = if at(spec, &["backoffLimitPerIndex"]).is_some() { i64::from(i32::MAX) } else { 6 };
    set_default(spec, "backoffLimit", backoff);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "manualSelector", false);
    let replacement = if at(spec, &["podFailurePolicy"]).is_some() { "Failed" } else { "TerminatingOrFailed" };
    set_default(spec, "podReplacementPolicy", replacement);
    for rule in list_mut(spec, &["podFailurePolicy", "rules"]) {
        for pattern in list_mut(rule, &["onPodConditions"]) {
            set_default(pattern, "status", "True");
        }
    }
    podspec::default_template(spec, "template");
}

/// Labels the pods with the job's uid and name and selects them by uid, unless the user selects by hand.
fn prepare_create(o: &mut Value) {
    if bool_at(o, &["spec", "manualSelector"]) {
        return;
    }
    let uid = meta::uid(o).to_owned();
    let mut name = meta::name(o).to_owned();
    if name.len() > crate::names::LABEL_MAX {
        name.truncate(crate::names::LABEL_MAX);
        name.truncate(name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len());
    }
    let spec = ensure_object(o, "spec");
    let labels = ensure_object(ensure_object(ensure_object(spec, "template"), "metadata"), "labels");
    for (key, value) in [(UID_LABEL, &uid), (NAME_LABEL, &name), (LEGACY_UID_LABEL, &uid), (LEGACY_NAME_LABEL, &name)] {
        // A label the user set to something else is left for validation to refuse.
        set_default(labels, key, value.as_str());
    }
    let selector = ensure_object(spec, "selector");
    set_default(ensure_object(selector, "matchLabels"), UID_LABEL, uid);
}

fn validate(o: &Value) -> Vec<FieldError> {
    let mut check = Check { errors: validate_spec(o) };
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    match at(spec, &["selector"]) {
        None => check.required("spec.selector", ""),
        Some(selector) => {
            check.extend(validate_label_selector(selector, "spec.selector"));
            labels_match(&mut check, spec, selector);
        }
    }
    check.errors
}

/// The rules of a job's spec that also hold in a cron job's template.
pub(super) fn validate_spec(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        check.non_negative(spec, key, "spec");
    }
    check.one_of(spec, "completionMode", "spec", &["Indexed", "NonIndexed"]);
    let replacement: &[&str] =
        if at(spec, &["podFailurePolicy"]).is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    check.one_of(spec, "podReplacementPolicy", "spec", replacement);
    if at(spec, &["maxFailedIndexes"]).is_some() && at(spec, &["backoffLimitPerIndex"]).is_none() {
        check.required("spec.backoffLimitPerIndex", "when maxFailedIndexes is specified");
    }
    validate_manager(&mut check, str_at(spec, &["managedBy"]));
    let indexed = str_at(spec, &["completionMode"]) == "Indexed";
    if indexed {
        validate_indexed(&mut check, spec);
    } else {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(v) = int_at(spec, &[key]) {
                check.invalid(format!("spec.{key}"), v, "requires indexed completion mode");
            }
        }
    }
    job_policy::validate(&mut check, spec);
    let template = at(spec, &["template"]).unwrap_or(&Value::Null);
    podspec::validate_template(&mut check, template, "spec.template");
    validate_restart_policy(&mut check, spec);
    check.errors
}

/// A job's pods end: they may not restart always.
fn validate_restart_policy(check: &mut Check, spec: &Value) {
    let field = "spec.template.spec.restartPolicy";
    match str_at(spec, &["template", "spec", "restartPolicy"]) {
        "" | "Always" => check.required(field, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        policy @ "OnFailure" => {
            if at(spec, &["podFailurePolicy"]).is_some() {
                check.invalid(field, policy, "only \"Never\" is supported when podFailurePolicy is specified");
            }
        }
        other => check.extend([FieldError::not_supported(field, other, &["OnFailure", "Never"])]),
    }
}

/// `DOMAIN/PATH` of another controller than the built-in one.
fn validate_manager(check: &mut Check, manager: &str) {
    const MAX: usize = 63;
    if manager.is_empty() {
        return;
    }
    match manager.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            check.syntax("spec.managedBy", domain, names::dns1123_subdomain(domain));
        }
        _ => check.invalid("spec.managedBy", manager, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if manager.len() > MAX {
        check.extend([FieldError::too_long("spec.managedBy", MAX)]);
    }
}

/// Bounds of indexed jobs, so that the lists of indexes in the status stay small.
fn validate_indexed(check: &mut Check, spec: &Value) {
    const MAX: i64 = 100_000;
    const MAX_OF_MANY: i64 = 10_000;
    let read = |key: &str| int_at(spec, &[key]);
    let completions = read("completions");
    if completions.is_none() {
        check.required("spec.completions", "when completion mode is Indexed");
    }
    if let Some(p) = read("parallelism").filter(|p| *p > MAX) {
        let detail = format!("must be less than or equal to {MAX} when completion mode is Indexed");
        check.invalid("spec.parallelism", p, detail);
    }
    let failed = read("maxFailedIndexes");
    if let Some(failed) = failed {
        if completions.is_some_and(|c| failed > c) {
            check.invalid("spec.maxFailedIndexes", failed, "must be less than or equal to completions");
        }
        if failed > MAX {
            check.invalid("spec.maxFailedIndexes", failed, format!("must be less than or equal to {MAX}"));
        }
    }
    if completions.is_none_or(|c| c <= MAX) || read("backoffLimitPerIndex").is_none() {
        return;
    }
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MAX}");
        check.required("spec.maxFailedIndexes", &detail);
    }
    for key in ["parallelism", "maxFailedIndexes"] {
        if let Some(n) = read(key).filter(|n| *n > MAX_OF_MANY) {
            let detail = format!(
                "must be less than or equal to {MAX_OF_MANY} when completions are above {MAX} and used with backoff limit per index"
            );
            check.invalid(format!("spec.{key}"), n, detail);
        }
    }
}

/// The pods of an indexed job have its name and their index as host names.
fn validate_host_names(check: &mut Check, o: &Value) {
    let completions = int_at(o, &["spec", "completions"]).unwrap_or(0);
    if str_at(o, &["spec", "completionMode"]) != "Indexed" || completions <= 0 {
        return;
    }
    let name = meta::name(o);
    let longest = format!("{name}-{}", completions - 1);
    if !names::dns1123_label(&longest).is_empty() {
        let detail = format!("will not able to create pod with invalid DNS label: {longest}");
        check.invalid("metadata.name", name, detail);
    }
}

fn validate_create(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    validate_host_names(&mut check, o);
    if bool_at(o, &["spec", "manualSelector"]) {
        return check.errors;
    }
    let labels = at(o, &["spec", "template", "metadata", "labels"]).cloned().unwrap_or_else(|| json!({}));
    let uid = meta::uid(o);
    for (key, want) in [(UID_LABEL, uid), (LEGACY_UID_LABEL, uid)] {
        if str_at(&labels, &[key]) != want {
            check.invalid("spec.template.metadata.labels", labels.clone(), format!("must be '{want}'"));
        }
    }
    let expected = json!({"matchLabels": {UID_LABEL: uid}});
    if !semantic_eq(at(o, &["spec", "selector"]), Some(&expected)) {
        let selector = at(o, &["spec", "selector"]).cloned().unwrap_or(Value::Null);
        check.invalid("spec.selector", selector, "`selector` not auto-generated");
    }
    check.errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check { errors: validate(new) };
    validate_completions(&mut check, new, old);
    for key in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        check.immutable(new, old, &["spec", key]);
    }
    let mut template = at(new, &["spec", "template"]).cloned().unwrap_or(Value::Null);
    let old_template = at(old, &["spec", "template"]).unwrap_or(&Value::Null);
    // A job that is suspended and never started may still be steered to other nodes.
    let started = at(old, &["status", "startTime"]).is_some();
    if bool_at(old, &["spec", "suspend"]) && !started {
        for key in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            if let Some(old_spec) = old_template.get("spec") {
                carry(&mut template["spec"], old_spec, key);
            }
        }
        if let Some(old_meta) = old_template.get("metadata") {
            let metadata = ensure_object(&mut template, "metadata");
            carry(metadata, old_meta, "labels");
            carry(metadata, old_meta, "annotations");
        }
    }
    if !semantic_eq(Some(&template), Some(old_template)) {
        let value = at(new, &["spec", "template"]).cloned().unwrap_or(Value::Null);
        check.invalid("spec.template", value, super::check::IMMUTABLE);
    }
    check.errors
}

/// Completions of an indexed job may change together with its parallelism.
fn validate_completions(check: &mut Check, new: &Value, old: &Value) {
    let read = |o: &Value, key: &str| int_at(o, &["spec", key]);
    let (have, want) = (read(old, "completions"), read(new, "completions"));
    if have == want {
        return;
    }
    let elastic = str_at(new, &["spec", "completionMode"]) == "Indexed" && have.is_some() && want.is_some();
    if !elastic {
        check.immutable(new, old, &["spec", "completions"]);
    } else if want != read(new, "parallelism") {
        let detail = format!("can only be modified in tandem with {}", "spec.parallelism");
        check.invalid("spec.completions", want, detail);
    }
}
