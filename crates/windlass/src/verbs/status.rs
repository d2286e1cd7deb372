//! `windlass status`: one screen that says whether the instance runs and what runs in it.

use std::process::ExitCode;

use base::instance::Instance;
use serde_json::Value;

use crate::exit::{FAILED, Unfit};
use crate::instance_file::InstanceFile;
use crate::{kubeapi, printer};

const LISTS: [(&str, &str); 3] = [
    ("Deployment", "/apis/apps/v1/deployments"),
    ("StatefulSet", "/apis/apps/v1/statefulsets"),
    ("Job", "/apis/batch/v1/jobs"),
];

/// Prints the instance, its node, its workloads and their URLs.
pub async fn run(instance: &Instance) -> anyhow::Result<ExitCode> {
    let Some(file) = InstanceFile::read(instance)?.filter(InstanceFile::alive) else {
        return Err(Unfit::error(
            format!("instance {:?} does not run", instance.name()),
            "start it with: windlass server --detach",
        ));
    };
    println!("instance   {} (pid {}, data in {})", instance.name(), file.pid, file.data_dir.display());
    println!("api        https://{}", file.api);
    let client = kubeapi::admin(instance).await?;
    let nodes = items(&client, "/api/v1/nodes").await?;
    for node in &nodes {
        println!("node       {} {}", text(&node["metadata"]["name"]), node_state(node));
    }
    let mut rows = Vec::new();
    for (kind, path) in LISTS {
        rows.extend(items(&client, path).await?.iter().map(|o| row(kind, o)));
    }
    rows.sort();
    println!();
    if rows.is_empty() {
        println!("No workloads. Try: windlass apply -f MANIFESTS");
    } else {
        printer::table(&["NAMESPACE", "KIND", "NAME", "READY", "IMAGES"], &rows);
    }
    let urls = urls(&items(&client, "/apis/networking.k8s.io/v1/ingresses").await?, file.http);
    if !urls.is_empty() {
        println!();
        printer::table(&["URL", "SERVICE"], &urls);
    }
    let healthy = nodes.iter().all(|n| node_state(n) == "Ready");
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

async fn items(client: &kube::Client, path: &str) -> anyhow::Result<Vec<Value>> {
    let list = kubeapi::get(client, path).await?.unwrap_or_default();
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

fn node_state(node: &Value) -> &'static str {
    let ready = node["status"]["conditions"]
        .as_array()
        .is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    if ready { "Ready" } else { "NotReady" }
}

fn row(kind: &str, o: &Value) -> Vec<String> {
    let n = |v: &Value| v.as_i64().unwrap_or(0);
    let (ready, wanted) = match kind {
        "Job" => (n(&o["status"]["succeeded"]), o["spec"]["completions"].as_i64().unwrap_or(1)),
        _ => (n(&o["status"]["readyReplicas"]), o["spec"]["replicas"].as_i64().unwrap_or(1)),
    };
    let containers = o["spec"]["template"]["spec"]["containers"].as_array();
    let images: Vec<String> = containers.into_iter().flatten().map(|c| text(&c["image"])).collect();
    let meta = &o["metadata"];
    vec![text(&meta["namespace"]), kind.into(), text(&meta["name"]), format!("{ready}/{wanted}"), images.join(",")]
}

fn urls(ingresses: &[Value], http: Option<std::net::SocketAddr>) -> Vec<Vec<String>> {
    let Some(http) = http else { return Vec::new() };
    let port = if http.port() == 80 { String::new() } else { format!(":{}", http.port()) };
    let mut rows = Vec::new();
    for ingress in ingresses {
        for rule in ingress["spec"]["rules"].as_array().into_iter().flatten() {
            let host = rule["host"].as_str().map_or_else(|| http.ip().to_string(), str::to_owned);
            for path in rule["http"]["paths"].as_array().into_iter().flatten() {
                let url = format!("http://{host}{port}{}", path["path"].as_str().unwrap_or("/"));
                rows.push(vec![url, text(&path["backend"]["service"]["name"])]);
            }
        }
    }
    rows
}
