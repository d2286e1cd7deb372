//! Label selectors of typed objects. The meaning of each operator is the one of `api`'s selectors.

use std::collections::BTreeMap;

pub use api::labels::{Labelled, Labels};
use api::selectors::{LabelSelector, Operator, Requirement};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Typed, ObjectMeta};

/// A selector ready to be asked many times.
#[derive(Debug, Clone)]
pub struct Selector {
    /// `None` matches nothing.
    requirements: Option<Vec<Requirement>>,
}

/// The selector, or one that matches nothing when it cannot be read (validation refuses such objects before).
pub fn selector(typed: &Typed) -> Selector {
    let value = serde_json::to_value(typed).expect("a selector always serialises");
    Selector { requirements: LabelSelector::from_json(&value).ok().map(|s| s.requirements().to_vec()) }
}

/// Whether the labels of an object match.
pub fn matches(selector: &Selector, meta: &ObjectMeta) -> bool {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    selects(selector, meta.labels.as_ref().unwrap_or(&NONE))
}

/// Whether labels match.
pub fn selects(selector: &Selector, labels: &impl Labelled) -> bool {
    selector.requirements.as_ref().is_some_and(|all| all.iter().all(|r| meets(r, labels)))
}

/// Whether labels meet one condition.
pub fn meets(r: &Requirement, labels: &impl Labelled) -> bool {
    let value = labels.label(&r.key);
    let number = |s: &str| s.parse::<i64>().ok();
    let compare = |f: fn(i64, i64) -> bool| match (value.and_then(number), r.values.first().and_then(|v| number(v))) {
        (Some(have), Some(want)) => f(have, want),
        _ => false,
    };
    match r.operator {
        Operator::In => value.is_some_and(|v| r.values.contains(v)),
        Operator::NotIn => value.is_none_or(|v| !r.values.contains(v)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::Gt => compare(|a, b| a > b),
        Operator::Lt => compare(|a, b| a < b),
    }
}

/// What an absent selector means: it matches nothing.
pub fn nothing() -> Selector {
    Selector { requirements: None }
}
