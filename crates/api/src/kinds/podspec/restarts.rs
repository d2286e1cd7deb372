//! Rules of a container's own restart policy (KEP-5307, KEP-5532).

use serde_json::Value;

use crate::json::{at, list_at, str_at};
use crate::kinds::check::Check;
use crate::status::FieldError;

/// The action that begins the whole pod anew.
const ALL: &str = "RestartAllContainers";
/// Most rules of a container, and most exit codes of a rule.
const RULES_MAX: usize = 20;
const CODES_MAX: usize = 255;

/// Checks `restartPolicy` and `restartPolicyRules` of an ordinary or an init container.
pub(super) fn validate_restarts(check: &mut Check, container: &Value, field: &str) {
    let rules = list_at(container, &["restartPolicyRules"]);
    check.one_of(container, "restartPolicy", field, &["Always", "Never", "OnFailure"]);
    if at(container, &["restartPolicy"]).is_none() && !rules.is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        check.required(format!("{field}.restartPolicy"), detail);
    }
    let list = format!("{field}.restartPolicyRules");
    if rules.len() > RULES_MAX {
        check.extend([FieldError::too_many(list.clone(), rules.len(), RULES_MAX)]);
    }
    for (i, rule) in rules.iter().enumerate() {
        let field = format!("{list}[{i}]");
        known(check, rule, "action", &field, &["Restart", ALL]);
        let Some(codes) = at(rule, &["exitCodes"]) else {
            check.required(format!("{field}.exitCodes"), "must be specified");
            continue;
        };
        let field = format!("{field}.exitCodes");
        known(check, codes, "operator", &field, &["In", "NotIn"]);
        let values = list_at(codes, &["values"]).len();
        if values > CODES_MAX {
            check.extend([FieldError::too_many(format!("{field}.values"), values, CODES_MAX)]);
        }
    }
}

/// Whether a container may run again after an end with that code: by a rule of any container of the pod, by its own rules, by
/// its own policy or by the pod's.
pub(in crate::kinds) fn may_run_again(spec: &Value, name: &str, exit: i64) -> bool {
    let of_all = |c: &Value| list_at(c, &["restartPolicyRules"]).iter().any(|r| str_at(r, &["action"]) == ALL);
    if ["initContainers", "containers"].iter().any(|list| list_at(spec, &[list]).iter().any(of_all)) {
        return true;
    }
    let found = list_at(spec, &["containers"]).iter().find(|c| str_at(c, &["name"]) == name);
    let own = found.map(|c| str_at(c, &["restartPolicy"])).filter(|policy| !policy.is_empty());
    let about = |rule: &Value| {
        let listed = list_at(rule, &["exitCodes", "values"]).iter().any(|code| code.as_i64() == Some(exit));
        (str_at(rule, &["exitCodes", "operator"]) == "NotIn") != listed
    };
    if own.is_some() && found.is_some_and(|c| list_at(c, &["restartPolicyRules"]).iter().any(about)) {
        return true;
    }
    match own.unwrap_or_else(|| str_at(spec, &["restartPolicy"])) {
        "Never" => false,
        "OnFailure" => exit != 0,
        _ => true,
    }
}

/// One of the known words; none at all is not one of them.
fn known(check: &mut Check, object: &Value, key: &str, field: &str, words: &[&str]) {
    let word = str_at(object, &[key]);
    if !words.contains(&word) {
        check.extend([FieldError::not_supported(format!("{field}.{key}"), word, words)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(container: &Value) -> Vec<String> {
        let mut check = Check::default();
        validate_restarts(&mut check, container, "spec.containers[0]");
        check.errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_container_runs_again_by_a_rule_its_own_policy_or_the_pods() {
        let rule = |action: &str, operator: &str| json!({"action": action, "exitCodes": {"operator": operator, "values": [42]}});
        let ruled = |action: &str, operator: &str| json!({"restartPolicy": "Never", "restartPolicyRules": [rule(action, operator)]});
        for (pod, own, exit, again) in [
            ("Always", json!({}), 0, true),
            ("OnFailure", json!({}), 0, false),
            ("OnFailure", json!({}), 1, true),
            ("Never", json!({}), 1, false),
            ("Never", json!({"restartPolicy": "Always"}), 0, true),
            ("Always", json!({"restartPolicy": "Never"}), 1, false),
            ("Never", ruled("Restart", "In"), 42, true),
            ("Never", ruled("Restart", "In"), 41, false),
            ("Never", ruled("Restart", "NotIn"), 41, true),
            ("Never", ruled("RestartAllContainers", "In"), 0, true),
        ] {
            let mut c = own.clone();
            c["name"] = json!("c");
            let spec = json!({"restartPolicy": pod, "containers": [c, {"name": "other"}]});
            assert_eq!(may_run_again(&spec, "c", exit), again, "{pod} {own} {exit}");
        }
        let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c"}],
            "initContainers": [ruled("RestartAllContainers", "In")]});
        assert!(may_run_again(&spec, "c", 0), "the rule of another one is about all");
    }

    #[test]
    fn rules_need_a_policy_an_action_and_codes() {
        let rule = |action: &str, codes: Value| json!({"action": action, "exitCodes": codes});
        let fine = rule("RestartAllContainers", json!({"operator": "In", "values": [42]}));
        assert_eq!(told(&json!({"restartPolicy": "Never", "restartPolicyRules": [fine]})), [""; 0]);
        assert_eq!(told(&json!({})), [""; 0]);
        for (container, field) in [
            (json!({"restartPolicyRules": [fine]}), "restartPolicy: Required value: must specify restartPolicy when"),
            (json!({"restartPolicy": "Sometimes"}), "restartPolicy: Unsupported value: \"Sometimes\""),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": [rule("Stop", json!({"operator": "In"}))]}),
                "restartPolicyRules[0].action: Unsupported value: \"Stop\"",
            ),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart"}]}),
                "restartPolicyRules[0].exitCodes: Required value: must be specified",
            ),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": [rule("Restart", json!({"operator": "Is"}))]}),
                "restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\"",
            ),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": vec![fine.clone(); 21]}),
                "restartPolicyRules: Too many: 21: must have at most 20 items",
            ),
        ] {
            let errors = told(&container);
            assert!(errors.len() == 1 && errors[0].contains(field), "{field}: {errors:?}");
        }
    }
}
