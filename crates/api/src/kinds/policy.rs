//! Pod disruption budgets.

use serde_json::Value;

use super::Hooks;
use super::apps::int_or_percent;
use super::check::Check;
use crate::json::at;
use crate::selectors::validate_label_selector;
use crate::status::FieldError;

pub(super) const DISRUPTION_BUDGET: Hooks = Hooks {
    validate: validate_budget,
    validate_update: |new, _| validate_budget(new),
    validate_status_update: |new, _| {
        let mut check = Check::default();
        let status = at(new, &["status"]).unwrap_or(&Value::Null);
        for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            check.non_negative(status, key, "status");
        }
        check.conditions(status, "status.conditions");
        check.errors
    },
    ..Hooks::NONE
};

fn validate_budget(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let (min, max) = (at(spec, &["minAvailable"]), at(spec, &["maxUnavailable"]));
    if min.is_some() && max.is_some() {
        check.invalid("spec", spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for key in ["minAvailable", "maxUnavailable"] {
        int_or_percent(&mut check, spec, key, "spec", true);
    }
    if let Some(selector) = at(spec, &["selector"]) {
        check.extend(validate_label_selector(selector, "spec.selector"));
    }
    check.one_of(spec, "unhealthyPodEvictionPolicy", "spec", &["AlwaysAllow", "IfHealthyBudget"]);
    check.errors
}
