//! Access to the API.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, NAME, col, wide};
use crate::json::{list_at, str_at};
use crate::kinds::Columns;
use crate::meta;
use crate::table::object_age;

/// Columns of role bindings and cluster role bindings.
pub const ROLE_BINDING: Columns = Columns {
    list: &[
        NAME,
        col("Role", "string", "Role the subjects get."),
        AGE,
        wide("Users", "Users of the binding."),
        wide("Groups", "Groups of the binding."),
        wide("ServiceAccounts", "Service accounts of the binding."),
    ],
    row: role_binding,
};

fn role_binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", str_at(o, &["roleRef", "kind"]), str_at(o, &["roleRef", "name"]));
    let subjects = list_at(o, &["subjects"]);
    let named = |kind: &str, name: fn(&Value) -> String| {
        let names: Vec<String> = subjects.iter().filter(|s| str_at(s, &["kind"]) == kind).map(name).collect();
        names.join(", ")
    };
    let name = |s: &Value| str_at(s, &["name"]).to_owned();
    vec![
        json!(meta::name(o)),
        json!(role),
        json!(object_age(o, now)),
        json!(named("User", name)),
        json!(named("Group", name)),
        json!(named("ServiceAccount", |s| format!("{}/{}", str_at(s, &["namespace"]), str_at(s, &["name"])))),
    ]
}
