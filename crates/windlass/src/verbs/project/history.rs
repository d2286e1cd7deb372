//! Releases of a project, each a Secret beside it: what was applied, so that it can be applied again.

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::source::{Source, Unit};
use super::things;
use crate::kubeapi;

/// Releases that are remembered, the one in force included.
const KEPT: usize = 6;
/// Largest release that is remembered, bytes of JSON: an object holds 1 MiB, and base64 adds a third.
const BYTES_MAX: usize = 700_000;
/// Type of the Secrets.
const TYPE: &str = "windlass.dev/release";
/// Annotation with the number.
const NUMBER: &str = "windlass.dev/release";

/// A release.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Release {
    /// Counted from 1.
    pub number: u64,
    /// Units by name, without what is kept under the name of its content.
    pub units: Vec<(String, Vec<Value>)>,
}

impl Release {
    /// The objects of a unit.
    pub fn unit(&self, name: &str) -> Option<&Vec<Value>> {
        self.units.iter().find(|(n, _)| n == name).map(|(_, objects)| objects)
    }

    /// All of it as units without an order.
    pub fn as_units(&self) -> Vec<Unit> {
        let unit = |(name, objects): &(String, Vec<Value>)| Unit {
            name: name.clone(),
            objects: objects.clone(),
            needs: Vec::new(),
        };
        self.units.iter().map(unit).collect()
    }
}

fn path(source: &Source, number: u64) -> String {
    format!("/api/v1/namespaces/{}/secrets/{}", source.namespace, secret_name(source, number))
}

fn secret_name(source: &Source, number: u64) -> String {
    ::convert::name(&format!("windlass-release-{}-{number}", source.project))
}

/// The releases that are remembered, the oldest first.
pub async fn all(client: &Client, source: &Source) -> anyhow::Result<Vec<Release>> {
    let mut found = Vec::new();
    for secret in things::list(client, source).await?.iter().filter(|o| o["type"] == TYPE) {
        let text = secret["data"]["release"].as_str().unwrap_or_default();
        let bytes = STANDARD.decode(text).context("read a release")?;
        found.push(serde_json::from_slice::<Release>(&bytes).context("read a release")?);
    }
    found.sort_by_key(|r| r.number);
    Ok(found)
}

/// Remembers what is in force now as the release after these, and forgets the oldest.
pub async fn keep(
    client: &Client,
    source: &Source,
    before: &[Release],
    units: Vec<(String, Vec<Value>)>,
) -> anyhow::Result<u64> {
    if let Some(last) = before.last().filter(|last| last.units == units) {
        return Ok(last.number);
    }
    let number = before.last().map_or(1, |r| r.number + 1);
    let bytes = serde_json::to_vec(&Release { number, units })?;
    if bytes.len() > BYTES_MAX {
        eprintln!("warning: the release has {} bytes and is not remembered: it cannot be rolled back to", bytes.len());
        return Ok(number);
    }
    let labels: serde_json::Map<String, Value> =
        source.labels.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": TYPE, "immutable": true,
        "metadata": {
            "name": secret_name(source, number), "namespace": source.namespace, "labels": labels,
            "annotations": {NUMBER: number.to_string()},
        },
        "data": {"release": STANDARD.encode(bytes)},
    });
    kubeapi::apply(client, &secret).await.context("remember the release")?;
    let surplus = (before.len() + 1).saturating_sub(KEPT);
    for old in &before[..surplus] {
        kubeapi::delete(client, &path(source, old.number)).await?;
    }
    Ok(number)
}

/// Whether an object is a remembered release.
pub fn is_release(object: &Value) -> bool {
    object["kind"] == "Secret" && object["type"] == TYPE
}
