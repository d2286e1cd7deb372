//! Whose signatures the images of a pod must have: what its namespace said when it was made. The node checks them, because only
//! there it is known which image a name means; the pod carries the demand, so that nobody takes it off later.

use api::meta::REQUIRE_SIGNATURE;
use api::status::ApiError;
use serde_json::{Value, json};

use super::{Admission, Operation};

fn said(object: &Value) -> Option<&str> {
    api::meta::annotations(object)?.get(REQUIRE_SIGNATURE)?.as_str().filter(|name| !name.is_empty())
}

/// Writes on a pod what is demanded of it, and nothing else.
fn write(pod: &mut Value, wanted: Option<&str>) {
    match wanted {
        Some(name) => {
            if !pod["metadata"]["annotations"].is_object() {
                pod["metadata"]["annotations"] = json!({});
            }
            pod["metadata"]["annotations"][REQUIRE_SIGNATURE] = name.into();
        }
        None => {
            if let Some(annotations) = pod["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove(REQUIRE_SIGNATURE);
            }
        }
    }
}

/// What the namespace of a pod demands now.
fn demanded(admission: &Admission<'_>) -> Option<String> {
    let namespace = admission.caches().core("namespaces").get(admission.namespace)?;
    // Most have nothing of the kind, and are not parsed for that.
    let bytes: &[u8] = &namespace.bytes;
    let mentioned = bytes.windows(REQUIRE_SIGNATURE.len()).any(|part| part == REQUIRE_SIGNATURE.as_bytes());
    mentioned.then(|| namespace.value()).and_then(|object| said(&object).map(str::to_owned))
}

/// Of a new pod.
pub(super) fn create(admission: &Admission<'_>, pod: &mut Value) {
    let wanted = demanded(admission);
    if let Some(given) = said(pod).filter(|given| Some(*given) != wanted.as_deref()) {
        let why =
            format!("metadata.annotations[{REQUIRE_SIGNATURE}]: {given:?} is replaced by what the namespace says");
        admission.warnings.add(why);
    }
    write(pod, wanted.as_deref());
}

/// What was demanded stays, also when a writer leaves it out.
pub(super) fn update(pod: &mut Value, old: &Value) {
    if said(pod) != said(old) {
        write(pod, said(old));
    }
}

/// # Errors
/// 403 when a policy or a webhook changed what is demanded.
pub(super) fn check(admission: &Admission<'_>, pod: &Value, old: &Value) -> Result<(), ApiError> {
    let kept = match admission.operation {
        Operation::Create => said(pod) == demanded(admission).as_deref(),
        Operation::Update => said(pod) == said(old),
        Operation::Delete | Operation::Connect => true,
    };
    let why = format!("metadata.annotations[{REQUIRE_SIGNATURE}] is what the namespace said when the pod was made");
    if kept { Ok(()) } else { Err(admission.forbidden(&why)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_demanded_stays() {
        let of = |name: &str| json!({"metadata": {"name": "p", "annotations": {REQUIRE_SIGNATURE: name, "a": "b"}}});
        for mut changed in [of("other"), json!({"metadata": {"name": "p"}}), of("")] {
            update(&mut changed, &of("team"));
            assert_eq!(said(&changed), Some("team"), "{changed}");
        }
        let mut added = of("team");
        update(&mut added, &json!({"metadata": {"name": "p"}}));
        assert_eq!(added, json!({"metadata": {"name": "p", "annotations": {"a": "b"}}}));
    }
}
