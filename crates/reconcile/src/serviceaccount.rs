//! What every namespace has from the start: the `default` ServiceAccount and the cluster's CA certificate.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::plan::{CONFIG_MAPS, Plan, SERVICE_ACCOUNTS, name, terminating};

const CA_NAME: &str = "kube-root-ca.crt";

/// Decides for one namespace, given what it has of the two.
pub fn plan(ns: &Namespace, account: Option<&ServiceAccount>, ca: Option<&ConfigMap>, ca_pem: &str) -> Plan {
    let mut plan = Plan::default();
    let phase = ns.status.as_ref().and_then(|s| s.phase.as_deref());
    if terminating(&ns.metadata) || phase == Some("Terminating") {
        return plan;
    }
    let meta =
        |n: &str| ObjectMeta { name: Some(n.to_owned()), namespace: ns.metadata.name.clone(), ..Default::default() };
    if account.is_none() {
        let object = ServiceAccount { metadata: meta("default"), ..Default::default() };
        plan.create(SERVICE_ACCOUNTS, Some(name(&ns.metadata)), &object);
    }
    let data = [("ca.crt".to_owned(), ca_pem.to_owned())].into();
    match ca {
        None => {
            let object = ConfigMap { metadata: meta(CA_NAME), data: Some(data), ..Default::default() };
            plan.create(CONFIG_MAPS, Some(name(&ns.metadata)), &object);
        }
        Some(c) if c.data.as_ref() != Some(&data) => plan.patch(CONFIG_MAPS, &c.metadata, json!({"data": data})),
        Some(_) => {}
    }
    plan
}
