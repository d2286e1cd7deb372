//! Pod create → Ready, as a client that watches sees it.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::client::Target;
use crate::percentile;

const COLLECTION: &str = "/api/v1/namespaces/default/pods";

/// Creates pods one after the other and prints the times.
pub async fn run(kubeconfig: &Path, image: &str, count: usize) -> anyhow::Result<()> {
    let target = Target::read(kubeconfig)?;
    let mut times = Vec::new();
    for i in 0..count {
        times.push(one(&target, image, &format!("bench-{i}")).await?);
    }
    let ms: Vec<String> = times.iter().map(|t| format!("{t:.0}")).collect();
    println!("| measurement | p50 | p99 | all |\n|---|---|---|---|");
    println!(
        "| pod create → Ready, one at a time | {:.0} ms | {:.0} ms | {} |",
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        ms.join(", ")
    );
    Ok(())
}

async fn one(target: &Target, image: &str, name: &str) -> anyhow::Result<f64> {
    let mut writer = target.connect().await?;
    let mut watcher = target.connect().await?;
    let path = format!("{COLLECTION}?watch=1&fieldSelector=metadata.name%3D{name}");
    let mut body = watcher.open(Method::GET, &path, None).await?.into_body();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": image, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", "exec sleep 600"]}]}});
    let started = Instant::now();
    writer.call(Method::POST, COLLECTION, Some(("application/json", Bytes::from(pod.to_string())))).await?;
    let mut buffer = Vec::new();
    loop {
        let frame = body.frame().await.context("the watch ended")??;
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            let conditions = event["object"]["status"]["conditions"].as_array();
            if conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")) {
                let took = started.elapsed().as_secs_f64() * 1000.0;
                writer.call(Method::DELETE, &format!("{COLLECTION}/{name}?gracePeriodSeconds=0"), None).await?;
                return Ok(took);
            }
        }
    }
}
