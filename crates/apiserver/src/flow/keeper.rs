//! Follows the FlowSchemas and PriorityLevelConfigurations: obeys them, keeps the default ones as they are to be, and says
//! in the status of a schema whether its level exists.

use std::sync::Weak;
use std::time::Duration;

use api::status::ApiError;
use serde_json::{Value, json};
use store::{Compare, Op, Txn};
use tokio_util::sync::CancellationToken;

use super::defaults::{self, AUTO_UPDATE};
use crate::cache::KindCache;
use crate::handlers::write::{encode_stored, store_error};
use crate::server::ApiServer;

/// How long after a write the next look is taken: somebody who always undoes what is kept here must not keep it busy.
const PAUSE: Duration = Duration::from_millis(200);
/// How long after a failed write it is tried again: nothing else would tell.
const RETRY: Duration = Duration::from_secs(1);
/// Objects written in one transaction: each is a condition and a change.
const AT_ONCE: usize = store::MAX_TXN_OPS / 2;

/// Looks after them until `stop`, whenever one of them changes.
pub(crate) async fn run(server: Weak<ApiServer>, stop: CancellationToken) {
    let heads = server.upgrade().map(|s| kinds(&s).map(|cache| cache.map(KindCache::head)));
    let Some([Some(mut schemas), Some(mut levels)]) = heads else { return };
    loop {
        schemas.borrow_and_update();
        levels.borrow_and_update();
        let Some(server) = server.upgrade() else { return };
        let outcome = pass(&server).await;
        drop(server);
        if let Err(error) = &outcome {
            tracing::warn!(error = error.message, "flow schemas cannot be looked after");
        }
        let rest = if matches!(outcome, Ok(written) if written > 0) { PAUSE } else { Duration::ZERO };
        tokio::time::sleep(rest).await;
        tokio::select! {
            changed = schemas.changed() => if changed.is_err() { return },
            changed = levels.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if outcome.is_err() => {}
            () = stop.cancelled() => return,
        }
    }
}

fn kinds(server: &ApiServer) -> [Option<&KindCache>; 2] {
    ["flowschemas", "prioritylevelconfigurations"]
        .map(|plural| server.caches.by("flowcontrol.apiserver.k8s.io", plural).map(AsRef::as_ref))
}

/// One look; how many objects were written.
///
/// # Errors
/// What the store said.
pub(crate) async fn pass(server: &ApiServer) -> Result<usize, ApiError> {
    let [Some(schemas), Some(levels)] = kinds(server) else { return Ok(0) };
    let now = jiff::Timestamp::now();
    let read = |cache: &KindCache| -> Vec<(Value, u64)> {
        let entries = cache.snapshot("", None, 0, false, |_| true).entries;
        entries.iter().map(|e| (e.value(), e.revision)).collect()
    };
    let (mut schema_objects, mut level_objects) = (read(schemas), read(levels));
    let mandatory = |name: &str| matches!(name, "exempt" | "catch-all");
    let mut changed = kept(&mut level_objects, defaults::levels(), mandatory, now);
    changed.retain(|&i| !api::meta::is_deleting(&level_objects[i].0));
    let mut writes = puts(levels, &level_objects, changed);
    let mut changed = kept(&mut schema_objects, defaults::schemas(), mandatory, now);
    let values = |objects: &[(Value, u64)]| objects.iter().map(|(o, _)| o.clone()).collect::<Vec<_>>();
    let level_values = values(&level_objects);
    for (i, (schema, _)) in schema_objects.iter_mut().enumerate() {
        if say_dangling(schema, &level_values, now) && !changed.contains(&i) {
            changed.push(i);
        }
    }
    writes.extend(puts(schemas, &schema_objects, changed));
    // Obeyed before it is said in a status.
    server.flow.load(&values(&schema_objects), &level_values);
    for part in writes.chunks(AT_ONCE) {
        let (compare, ops) = part.iter().cloned().unzip();
        // Lost against another write: that one wakes the next pass.
        if let store::TxnOutcome::Committed { revision, .. } =
            server.caches.store().txn(Txn { compare, ops }).await.map_err(|e| store_error(&e))?
        {
            server.caches.written(revision).await?;
        }
    }
    Ok(writes.len())
}

fn puts(cache: &KindCache, objects: &[(Value, u64)], changed: Vec<usize>) -> Vec<(Compare, Op)> {
    let put = |i: usize| {
        let (object, expected) = &objects[i];
        let key = cache.store_key(api::meta::name(object));
        let op = Op::Put { key: key.clone(), value: encode_stored(object), lease_ttl_s: None };
        (Compare::ModRevision(key, *expected), op)
    };
    changed.into_iter().map(put).collect()
}

/// Adds the default objects that are missing and sets right those that are not as they are to be. Says which changed.
fn kept(
    objects: &mut Vec<(Value, u64)>,
    wanted: Vec<Value>,
    mandatory: impl Fn(&str) -> bool,
    now: jiff::Timestamp,
) -> Vec<usize> {
    let mut changed = Vec::new();
    for wanted in wanted {
        let name = api::meta::name(&wanted);
        match objects.iter().position(|(o, _)| api::meta::name(o) == name) {
            None => {
                let mut object = wanted;
                object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
                object["metadata"]["creationTimestamp"] = api::meta::format_time(now).into();
                object["metadata"]["generation"] = 1.into();
                changed.push(objects.len());
                objects.push((object, 0));
            }
            Some(i) => {
                if let Some(new) = revised(&objects[i].0, &wanted, mandatory(name)) {
                    objects[i].0 = new;
                    changed.push(i);
                }
            }
        }
    }
    changed
}

/// The object as it is to be, if that is not as it is.
fn revised(old: &Value, wanted: &Value, mandatory: bool) -> Option<Value> {
    let annotation = api::meta::annotations(old).and_then(|a| match a.get(AUTO_UPDATE)?.as_str()? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    });
    // Without a word from people, their changes count as one.
    let update = mandatory || annotation.unwrap_or(api::meta::generation(old) == 1);
    let mut new = old.clone();
    if annotation != Some(update) {
        new["metadata"]["annotations"][AUTO_UPDATE] = update.to_string().into();
    }
    if update && old.get("spec") != wanted.get("spec") {
        new["spec"] = wanted["spec"].clone();
        new["metadata"]["generation"] = (api::meta::generation(old) + 1).into();
    }
    (new != *old).then_some(new)
}

/// Says in the status whether the schema's level exists; whether that was not said yet.
fn say_dangling(schema: &mut Value, levels: &[Value], now: jiff::Timestamp) -> bool {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or("");
    let found = levels.iter().any(|l| api::meta::name(l) == level);
    let (status, reason, message) = match found {
        true => ("False", "Found", format!("the PriorityLevelConfiguration {level:?} of this FlowSchema exists")),
        false => (
            "True",
            "NotFound",
            format!("there is no PriorityLevelConfiguration {level:?}, to which this FlowSchema refers"),
        ),
    };
    let conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let old = conditions.iter().find(|c| c["type"] == "Dangling");
    let same = |c: &&Value| c["status"] == status && c["reason"] == reason && c["message"] == message.as_str();
    if old.is_some_and(|c| same(&c)) {
        return false;
    }
    let since = old
        .filter(|c| c["status"] == status)
        .map_or_else(|| Value::from(api::meta::format_time(now)), |c| c["lastTransitionTime"].clone());
    let condition = json!({
        "type": "Dangling",
        "status": status,
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    });
    let mut conditions: Vec<Value> = conditions.into_iter().filter(|c| c["type"] != "Dangling").collect();
    conditions.push(condition);
    schema["status"] = json!({"conditions": conditions});
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_is_missing_comes_and_then_there_is_nothing_to_do() {
        let (mut levels, mut schemas) = (Vec::new(), Vec::new());
        assert_eq!(kept(&mut levels, defaults::levels(), |_| false, at(0)).len(), 8);
        assert_eq!(kept(&mut schemas, defaults::schemas(), |_| false, at(0)).len(), 11);
        assert!(kept(&mut levels, defaults::levels(), |_| false, at(0)).is_empty());
        let levels: Vec<Value> = levels.into_iter().map(|(o, _)| o).collect();
        for (schema, revision) in &mut schemas {
            assert_eq!(*revision, 0);
            assert!(say_dangling(schema, &levels, at(0)));
            assert!(!say_dangling(schema, &levels, at(1)));
            assert_eq!(schema["status"]["conditions"][0]["status"], "False");
        }
    }

    #[test]
    fn specs_go_back_where_nobody_said_otherwise() {
        let wanted = defaults::levels().remove(2);
        let with = |annotation: Option<&str>, shares: i64, generation: i64| {
            let mut o = wanted.clone();
            o["metadata"]["generation"] = generation.into();
            o["spec"]["limited"]["nominalConcurrencyShares"] = shares.into();
            o["metadata"]["annotations"] = annotation.map_or(json!({}), |a| json!({AUTO_UPDATE: a}));
            o
        };
        // Annotation, shares, generation, mandatory; what becomes of annotation, shares and generation.
        let cases = [
            (Some("true"), 30, 1, false, None::<(&str, i64, i64)>),
            (Some("true"), 31, 2, false, Some(("true", 30, 3))),
            (Some("false"), 31, 2, false, None),
            (Some("false"), 31, 2, true, Some(("true", 30, 3))),
            (None, 31, 1, false, Some(("true", 30, 2))),
            (None, 31, 2, false, Some(("false", 31, 2))),
            (Some("perhaps"), 30, 1, false, Some(("true", 30, 1))),
        ];
        for (annotation, shares, generation, mandatory, want) in cases {
            let new = revised(&with(annotation, shares, generation), &wanted, mandatory);
            let got = new.as_ref().map(|n| {
                let annotation = n["metadata"]["annotations"][AUTO_UPDATE].as_str().unwrap();
                let shares = n["spec"]["limited"]["nominalConcurrencyShares"].as_i64().unwrap();
                (annotation, shares, api::meta::generation(n))
            });
            assert_eq!(got, want, "{annotation:?} {shares} {generation} {mandatory}");
        }
    }

    #[test]
    fn a_schema_without_its_level_dangles() {
        let mut schema = json!({"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "l"}},
            "status": {"conditions": [{"type": "Other", "status": "True"}]}});
        assert!(say_dangling(&mut schema, &[], at(1)));
        let condition = |s: &Value| s["status"]["conditions"][1].clone();
        assert_eq!(
            (&condition(&schema)["status"], &condition(&schema)["reason"]),
            (&json!("True"), &json!("NotFound"))
        );
        let level = json!({"metadata": {"name": "l"}});
        assert!(say_dangling(&mut schema, &[level], at(5)));
        assert_eq!(condition(&schema)["status"], "False");
        assert_eq!(condition(&schema)["lastTransitionTime"], api::meta::format_time(at(5)));
        assert_eq!(schema["status"]["conditions"].as_array().unwrap().len(), 2);
    }
}
