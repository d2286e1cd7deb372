//! Admission policies: rules written as expressions, and the bindings that say where they count.
//! ValidatingAdmissionPolicy checks objects (KEP-3488), MutatingAdmissionPolicy changes them (KEP-3962).
//!
//! What cannot be evaluated denies, unless the policy's failure policy is `Ignore`.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::{Admission, Operation, rules};
use crate::cache::{Caches, KindCache};

mod base;
mod check;
mod mutate;
mod validate;

pub(crate) use check::{check, observe};
pub(super) use mutate::Round;
pub(super) use validate::validate;

const GROUP: &str = "admissionregistration.k8s.io";

/// The policies of both kinds.
#[derive(Default)]
pub(crate) struct Policies {
    validating: Slot<validate::Policy>,
    mutating: Slot<mutate::Policy>,
}

/// Policies of one kind with their bindings, as of positions in the changes of both.
struct Slot<P>(Mutex<Option<Compiled<P>>>);

struct Compiled<P> {
    positions: (u64, u64),
    policies: Arc<Vec<P>>,
}

impl<P> Default for Slot<P> {
    fn default() -> Self {
        Slot(Mutex::new(None))
    }
}

impl<P> Slot<P> {
    /// The policies that are bound, in the order of their names.
    fn current(&self, caches: &Caches, kinds: [&str; 2], make: fn(&Value, &[&Value]) -> P) -> Arc<Vec<P>> {
        let [Some(policies), Some(bindings)] = kinds.map(|plural| caches.by(GROUP, plural)) else {
            return Arc::default();
        };
        let positions = (*policies.head().borrow(), *bindings.head().borrow());
        let mut slot = self.0.lock();
        if let Some(compiled) = slot.as_ref().filter(|c| c.positions == positions) {
            return compiled.policies.clone();
        }
        let values = |cache: &KindCache| -> Vec<Value> {
            cache.snapshot("", None, 0, false, |_| true).entries.iter().map(|e| e.value()).collect()
        };
        let bindings = values(bindings);
        let all = values(policies).into_iter().filter_map(|policy| {
            let name = api::meta::name(&policy);
            let own: Vec<&Value> = bindings.iter().filter(|b| b["spec"]["policyName"] == name).collect();
            (!own.is_empty()).then(|| make(&policy, &own))
        });
        let policies = Arc::new(all.collect());
        slot.insert(Compiled { positions, policies }).policies.clone()
    }
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("").to_owned()
}

fn is_empty(admission: &Admission<'_>, plural: &str) -> bool {
    admission.caches().by(GROUP, plural).is_none_or(|c| c.is_empty())
}

/// Whether no policy checks anything, or none may be asked about this object.
pub(super) fn are_none(admission: &Admission<'_>) -> bool {
    is_empty(admission, "validatingadmissionpolicybindings") || rules::is_no_concern_of_policies(admission)
}

/// Whether no policy changes anything, or none may change this object.
pub(super) fn changes_nothing(admission: &Admission<'_>) -> bool {
    is_empty(admission, "mutatingadmissionpolicybindings")
        || admission.operation == Operation::Delete
        || rules::is_no_concern_of_policies(admission)
}
