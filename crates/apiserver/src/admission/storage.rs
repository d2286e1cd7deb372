//! The default StorageClass of claims that name none, and the protection of what is in use.

use serde_json::Value;

use crate::cache::Caches;

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Keeps a claim until no pod uses it; the volume controller takes it off.
pub(super) const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume until no claim is bound to it.
pub(super) const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// Adds a finalizer that guards the data of a claim or volume from being deleted while it is in use.
pub(super) fn protect(object: &mut Value, finalizer: &str) {
    if api::meta::finalizers(object).contains(&finalizer) {
        return;
    }
    match &mut object["metadata"]["finalizers"] {
        Value::Array(list) => list.push(finalizer.into()),
        absent => *absent = Value::Array(vec![finalizer.into()]),
    }
}

/// Fills `spec.storageClassName` when it is absent (an empty one means: none).
pub(super) fn create(caches: &Caches, claim: &mut Value) {
    let named = claim["spec"].get("storageClassName").is_some_and(|v| !v.is_null())
        || api::meta::annotations(claim).is_some_and(|a| a.contains_key(OLD_CLASS));
    if named || !claim["spec"].is_object() {
        return;
    }
    let Some(cache) = caches.by("storage.k8s.io", "storageclasses") else { return };
    let mut classes: Vec<Value> = Vec::new();
    cache.find_map(|entry| {
        let class = entry.value();
        let default =
            api::meta::annotations(&class).and_then(|a| a.get(DEFAULT)).and_then(Value::as_str) == Some("true");
        if default {
            classes.push(class);
        }
        None::<()>
    });
    // Of several the newest, then the first by name.
    classes.sort_by(|a, b| {
        let key = |v: &Value| std::cmp::Reverse(api::meta::creation_timestamp(v));
        key(a).cmp(&key(b)).then_with(|| api::meta::name(a).cmp(api::meta::name(b)))
    });
    if let Some(class) = classes.first() {
        claim["spec"]["storageClassName"] = api::meta::name(class).into();
    }
}
