//! `windlass ps`: what runs of a project, and where it answers.

use std::process::ExitCode;

use base::instance::Instance;
use kube::Client;
use serde_json::Value;

use super::source::{self, Source};
use super::{history, things};
use crate::cli::ProjectArgs;
use crate::exit::FAILED;
use crate::verbs::apply::wait;
use crate::{kubeapi, printer};

/// Runs the verb; fails when something is not where it should be.
pub async fn run(instance: &Instance, args: ProjectArgs) -> anyhow::Result<ExitCode> {
    let source = source::read_or_named(&args)?;
    let client = kubeapi::admin(instance).await?;
    let well = show(&client, &source).await?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Prints the workloads and their addresses; whether all are where they should be.
pub async fn show(client: &Client, source: &Source) -> anyhow::Result<bool> {
    let all = things::list(client, source).await?;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut well = true;
    for object in all.iter().filter(|o| wait::workload_key(o).is_some()) {
        let (kind, _, name) = things::identity(object);
        let left = wait::progress(&kind, object);
        well &= left.is_none();
        let state = left.unwrap_or_else(|| if kind == "Job" { "completed".into() } else { ready(&kind, object) });
        let containers = object["spec"]["template"]["spec"]["containers"].as_array();
        let images: Vec<&str> = containers.into_iter().flatten().filter_map(|c| c["image"].as_str()).collect();
        let ports = ports(&all, object);
        rows.push(vec![name, kind, state, ports.join(", "), images.join(", ")]);
    }
    if rows.is_empty() {
        println!("nothing of {} runs here", source.project);
        return Ok(true);
    }
    rows.sort();
    printer::table(&["NAME", "KIND", "STATE", "PORTS", "IMAGES"], &rows);
    let urls = urls(&all);
    if !urls.is_empty() {
        println!();
        printer::table(&["ADDRESS", "SERVICE"], &urls);
    }
    let releases = history::all(client, source).await?;
    if let Some(last) = releases.last() {
        let older: Vec<String> = releases.iter().rev().skip(1).map(|r| r.number.to_string()).collect();
        let older =
            if older.is_empty() { String::new() } else { format!("; windlass rollback --to {}", older.join("|")) };
        println!("\nrelease {}{older}", last.number);
    }
    Ok(well)
}

fn ready(kind: &str, object: &Value) -> String {
    let n = |v: &Value| v.as_i64().unwrap_or(0);
    let status = &object["status"];
    let (ready, wanted) = match kind {
        "DaemonSet" => (n(&status["numberReady"]), n(&status["desiredNumberScheduled"])),
        _ => (n(&status["readyReplicas"]), object["spec"]["replicas"].as_i64().unwrap_or(1)),
    };
    format!("{ready}/{wanted} ready")
}

/// What outside of the cluster leads to a workload, as docker prints it.
fn ports(all: &[Value], workload: &Value) -> Vec<String> {
    let selector = &workload["spec"]["selector"]["matchLabels"];
    let services =
        all.iter().filter(|o| o["kind"] == "Service" && !selector.is_null() && o["spec"]["selector"] == *selector);
    let mut found = Vec::new();
    for service in services.filter(|s| s["spec"]["type"] == "LoadBalancer") {
        let address = address(service);
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
            found.push(format!("{address}:{}->{}/{protocol}", port["port"], port["targetPort"]));
        }
    }
    found
}

fn address(service: &Value) -> &'static str {
    let ranges = service["spec"]["loadBalancerSourceRanges"].as_array();
    if ranges.is_some_and(|r| r.iter().all(|r| r == "127.0.0.0/8")) { "127.0.0.1" } else { "0.0.0.0" }
}

/// Addresses that a browser on this host can be given.
fn urls(all: &[Value]) -> Vec<Vec<String>> {
    let published = all.iter().filter(|o| o["kind"] == "Service" && o["spec"]["type"] == "LoadBalancer");
    let mut rows: Vec<Vec<String>> = published
        .flat_map(|service| {
            let (_, _, name) = things::identity(service);
            let own = service["spec"]["selector"][::convert::NAME].as_str().unwrap_or(&name).to_owned();
            let tcp = service["spec"]["ports"].as_array().into_iter().flatten().filter(|p| p["protocol"] != "UDP");
            tcp.map(move |p| vec![format!("http://localhost:{}", p["port"]), own.clone()]).collect::<Vec<_>>()
        })
        .collect();
    rows.sort();
    rows
}
