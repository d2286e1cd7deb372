//! Cron jobs.

use serde_json::{Value, json};

use super::Hooks;
use super::check::Check;
use super::{job, warnings};
use crate::cron;
use crate::json::{at, bool_at, ensure_object, list_mut, object_mut, set_default, str_at};
use crate::meta;
use crate::names;
use crate::status::FieldError;

/// Jobs are named after the cron job, a dash and a time in ten digits, and must still be labels.
const MAX_NAME: usize = names::LABEL_MAX - 11;

pub(super) const HOOKS: Hooks = Hooks {
    default: |o| {
        let spec = ensure_object(o, "spec");
        set_default(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        let Some(job) = object_mut(spec, &["jobTemplate", "spec"]) else { return };
        for rule in list_mut(job, &["podFailurePolicy", "rules"]) {
            for pattern in list_mut(rule, &["onPodConditions"]) {
                set_default(pattern, "status", "True");
            }
        }
        super::podspec::default_template(job, "template");
    },
    validate,
    validate_create: |o| {
        let mut check = Check::default();
        let name = meta::name(o);
        if name.len() > MAX_NAME {
            check.invalid("metadata.name", name, format!("must be no more than {MAX_NAME} characters"));
        }
        check.extend(zone_problems(o));
        check.errors
    },
    validate_update: |new, old| {
        let mut errors = validate(new);
        if at(new, &["spec", "timeZone"]) != at(old, &["spec", "timeZone"]) {
            errors.extend(zone_problems(new));
        }
        errors
    },
    warnings: |o| {
        let mut out = warnings::label_name(o);
        out.extend(warnings::job(at(o, &["spec", "jobTemplate", "spec"]), "spec.jobTemplate.spec"));
        out
    },
    ..Hooks::NONE
};

fn validate(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    if check.need_str(spec, "schedule", "spec") {
        let schedule = str_at(spec, &["schedule"]);
        if let Err(problem) = cron::Schedule::parse(schedule) {
            check.invalid("spec.schedule", schedule, problem);
        }
        if schedule.contains("TZ") {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            check.invalid("spec.schedule", schedule, detail);
        }
    }
    for key in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check.non_negative(spec, key, "spec");
    }
    check.need_one_of(spec, "concurrencyPolicy", "spec", &["Allow", "Forbid", "Replace"]);
    let template = at(spec, &["jobTemplate", "spec"]).unwrap_or(&Value::Null);
    // The rules of jobs name their fields from `spec`.
    let findings = job::validate_spec(&json!({"spec": template}));
    check.extend(findings.into_iter().map(|e| FieldError { field: format!("spec.jobTemplate.{}", e.field), ..e }));
    let field = "spec.jobTemplate.spec";
    if let Some(selector) = at(template, &["selector"]) {
        check.invalid(format!("{field}.selector"), selector.clone(), "`selector` will be auto-generated");
    }
    if bool_at(template, &["manualSelector"]) {
        check.extend([FieldError::not_supported(format!("{field}.manualSelector"), true, &["nil", "false"])]);
    }
    check.errors
}

fn zone_problems(o: &Value) -> Option<FieldError> {
    let zone = at(o, &["spec", "timeZone"])?.as_str()?;
    let invalid = |detail: String| Some(FieldError::invalid("spec.timeZone", zone, detail));
    if zone.is_empty() {
        return invalid("timeZone must be nil or non-empty string".to_owned());
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return invalid(detail.to_owned());
    }
    if cron::zone(zone).is_none() {
        return invalid(format!("unknown time zone {zone}"));
    }
    None
}
