//! The manifests say only what Kubernetes knows, and fit each other.
#![allow(clippy::unwrap_used, reason = "a manifest that cannot be read is a failed test")]

use std::collections::BTreeMap;

use k8s_openapi::api::{apps, batch, core, networking};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn documents() -> Vec<Value> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/k8s");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .flat_map(|f| serde_saphyr::from_multiple::<Value>(&std::fs::read_to_string(f).unwrap()).unwrap())
        .collect()
}

/// Fails on fields that the type does not know: they would be missing from what comes back.
fn known<T: DeserializeOwned + Serialize>(document: &Value) -> T {
    let typed: T = serde_json::from_value(document.clone()).unwrap();
    covers(&serde_json::to_value(&typed).unwrap(), document, &document["metadata"]["name"].to_string());
    typed
}

fn covers(found: &Value, wanted: &Value, at: &str) {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            for (key, value) in wanted {
                let path = format!("{at}.{key}");
                covers(found.get(key).unwrap_or_else(|| panic!("{path} is unknown")), value, &path);
            }
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.iter().zip(wanted).enumerate().for_each(|(n, (f, w))| covers(f, w, &format!("{at}[{n}]")));
        }
        _ => assert_eq!(found, wanted, "{at}"),
    }
}

#[test]
fn every_field_of_every_manifest_is_known() {
    for document in documents() {
        match document["kind"].as_str().unwrap() {
            "Namespace" => drop(known::<core::v1::Namespace>(&document)),
            "ConfigMap" => drop(known::<core::v1::ConfigMap>(&document)),
            "Service" => drop(known::<core::v1::Service>(&document)),
            "StatefulSet" => drop(known::<apps::v1::StatefulSet>(&document)),
            "Deployment" => drop(known::<apps::v1::Deployment>(&document)),
            "Job" => drop(known::<batch::v1::Job>(&document)),
            "Ingress" => drop(known::<networking::v1::Ingress>(&document)),
            "Secret" => drop(known::<core::v1::Secret>(&document)),
            other => panic!("no check for {other}"),
        }
    }
}

#[test]
fn services_ingresses_and_settings_lead_to_what_exists() {
    let all = documents();
    let of = |kind: &str| all.iter().filter(|d| d["kind"] == kind).cloned().collect::<Vec<_>>();
    let workloads: Vec<Value> = [of("Deployment"), of("StatefulSet")].concat();
    let port = |w: &Value, name: &Value| {
        let ports = w["spec"]["template"]["spec"]["containers"][0]["ports"].as_array().unwrap().clone();
        ports.iter().any(|p| p["name"] == *name)
    };
    let mut services = BTreeMap::new();
    for service in of("Service") {
        let name = service["metadata"]["name"].as_str().unwrap().to_owned();
        let selected: Vec<_> = workloads
            .iter()
            .filter(|w| {
                let labels = &w["spec"]["template"]["metadata"]["labels"];
                service["spec"]["selector"].as_object().unwrap().iter().all(|(k, v)| labels[k] == *v)
            })
            .collect();
        assert_eq!(selected.len(), 1, "service {name}");
        assert!(port(selected[0], &service["spec"]["ports"][0]["targetPort"]), "service {name}");
        services.insert(name, service);
    }
    for ingress in of("Ingress") {
        for rule in ingress["spec"]["rules"].as_array().unwrap() {
            let backend = &rule["http"]["paths"][0]["backend"]["service"];
            let service = &services[backend["name"].as_str().unwrap()];
            assert_eq!(service["spec"]["ports"][0]["name"], backend["port"]["name"]);
        }
    }
    let settings = of("ConfigMap");
    for key in ["ORDERS_URL", "SYNC_URL", "ERP_URL", "PGHOST"] {
        let url = settings[0]["data"][key].as_str().unwrap();
        let host = url.trim_start_matches("http://").split(':').next().unwrap();
        assert!(services.contains_key(host), "{key} leads to {host}");
    }
    let version = format!("windlass.local/distribution:{}", env!("CARGO_PKG_VERSION"));
    for workload in [workloads, of("Job")].concat() {
        let pod = &workload["spec"]["template"]["spec"];
        let image = pod["containers"][0]["image"].as_str().unwrap();
        assert!(image == version || image == "windlass.local/postgres:15", "{image}");
        if workload["kind"] == "Deployment" {
            let (grace, drain) =
                (pod["terminationGracePeriodSeconds"].as_i64(), &settings[0]["data"]["DRAIN_DELAY_SECONDS"]);
            // The delay, the requests in flight after it, and room to spare.
            assert!(grace.unwrap() > drain.as_str().unwrap().parse::<i64>().unwrap() + 15 + 2);
        }
    }
}
