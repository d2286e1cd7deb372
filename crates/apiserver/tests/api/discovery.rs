//! Discovery: what is served is found, in the old form and in the aggregated one.

use crate::common::*;
use serde_json::{Value, json};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// What clients send that take the old form as well.
const EITHER: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;\
    g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// A resource that every cluster has, for each group and version.
const ALWAYS: [(&str, &str, &str); 19] = [
    ("", "v1", "namespaces"),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "v1", "apiservices"),
    ("apps", "v1", "deployments"),
    ("authentication.k8s.io", "v1", "tokenreviews"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
    ("autoscaling", "v1", "horizontalpodautoscalers"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("batch", "v1", "jobs"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests"),
    ("coordination.k8s.io", "v1", "leases"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("events.k8s.io", "v1", "events"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("node.k8s.io", "v1", "runtimeclasses"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "v1", "priorityclasses"),
    ("storage.k8s.io", "v1", "csinodes"),
];

/// Whether an `APIGroupDiscoveryList` has a resource.
fn has(list: &Value, group: &str, version: &str, resource: &str) -> bool {
    let of = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut groups = of(list, "items").into_iter();
    let found = groups.find(|g| g["metadata"]["name"].as_str().unwrap_or_default() == group).unwrap_or_default();
    let found = of(&found, "versions").into_iter().find(|v| v["version"] == version).unwrap_or_default();
    of(&found, "resources").iter().any(|r| r["resource"] == resource)
}

fn definition(group: &str) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("testcrds.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": "testcrds", "singular": "testcrd", "kind": "testcrd", "listKind": "testcrdList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    })
}

// conformance: [sig-api-machinery] AggregatedDiscovery should support aggregated discovery interface
// conformance: [sig-api-machinery] AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers
#[tokio::test]
async fn the_aggregated_documents_have_every_group_that_is_built_in() {
    let cluster = Cluster::start().await;
    for accept in [AGGREGATED, EITHER] {
        let client = cluster.admin().header("accept", accept);
        let (core, named) = (client.get("/api").await, client.get("/apis").await);
        for answer in [&core, &named] {
            assert_eq!((answer.code, answer.headers["content-type"].to_str().unwrap()), (200, AGGREGATED));
            assert_eq!(answer.body["kind"], "APIGroupDiscoveryList");
        }
        for (group, version, resource) in ALWAYS {
            let list = if group.is_empty() { &core.body } else { &named.body };
            assert!(has(list, group, version, resource), "{group}/{version} {resource}");
        }
    }
    // Who asks for another version of the form, or for none, has the old form.
    for accept in
        ["application/json", "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json"]
    {
        let old = cluster.admin().header("accept", accept).get("/apis").await;
        assert_eq!(old.body["kind"], "APIGroupList", "{accept}");
    }
}

// conformance: [sig-api-machinery] AggregatedDiscovery should support aggregated discovery interface for CRDs
// conformance: [sig-api-machinery] AggregatedDiscovery should support raw aggregated discovery request for CRDs
#[tokio::test]
async fn the_aggregated_documents_have_custom_resources() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let group = "group.example.com";
    for accept in [AGGREGATED, EITHER] {
        let client = admin.header("accept", accept);
        assert!(!has(&client.get("/apis").await.body, group, "v1", "testcrds"));
        established(&admin, &definition(group)).await;
        let list = client.get("/apis").await.body;
        assert!(has(&list, group, "v1", "testcrds"), "{list}");
        let from = admin.get(CRDS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let mut gone = admin.watch(&format!("{CRDS}?watch=1&resourceVersion={from}")).await;
        admin.delete(&format!("{CRDS}/testcrds.{group}")).await;
        while gone.next().await.unwrap()["type"] != "DELETED" {}
    }
}

// conformance: [sig-api-machinery] Discovery should validate PreferredVersion for each APIGroup
#[tokio::test]
async fn every_group_prefers_a_version_that_it_has() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let list = admin.get("/apis/").await;
    assert_eq!((list.code, list.body["kind"].as_str()), (200, Some("APIGroupList")));
    let groups = list.body["groups"].as_array().unwrap();
    assert!(groups.len() > 15, "{groups:?}");
    for group in groups {
        let name = group["name"].as_str().unwrap();
        let own = admin.get(&format!("/apis/{name}/")).await;
        assert_eq!(
            (own.code, own.body["kind"].as_str(), own.body["name"].as_str()),
            (200, Some("APIGroup"), Some(name))
        );
        assert_eq!(
            (&own.body["versions"], &own.body["preferredVersion"]),
            (&group["versions"], &group["preferredVersion"])
        );
        let versions = own.body["versions"].as_array().unwrap();
        assert!(versions.contains(&own.body["preferredVersion"]), "{}", own.body);
        for version in versions {
            assert_eq!(version["groupVersion"], format!("{name}/{}", version["version"].as_str().unwrap()));
        }
    }
}

// conformance: [sig-api-machinery] Discovery should locate the groupVersion and a resource within each APIGroup
// conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] should include custom resource definition resources in discovery documents
#[tokio::test]
async fn every_group_version_lists_its_resources() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let groups = admin.get("/apis").await.body;
    for (group, version, resource) in ALWAYS {
        let (path, api_version) = match group {
            "" => (format!("/api/{version}"), version.to_owned()),
            _ => (format!("/apis/{group}/{version}"), format!("{group}/{version}")),
        };
        let list = admin.get(&path).await;
        assert_eq!((list.code, list.body["kind"].as_str()), (200, Some("APIResourceList")), "{path}");
        assert_eq!(list.body["groupVersion"], api_version);
        let resources = list.body["resources"].as_array().unwrap();
        let found = resources.iter().find(|r| r["name"] == resource).unwrap_or_else(|| panic!("{path} {resource}"));
        assert!(!found["kind"].as_str().unwrap().is_empty() && !found["verbs"].as_array().unwrap().is_empty());
        if group.is_empty() {
            continue;
        }
        let mut listed = groups["groups"].as_array().unwrap().iter();
        let listed = listed.find(|g| g["name"] == group).unwrap_or_else(|| panic!("{group} is not in /apis"));
        let own = admin.get(&format!("/apis/{group}")).await.body;
        for of in [listed, &own] {
            assert_eq!(of["name"], group);
            let versions = of["versions"].as_array().unwrap();
            assert!(versions.iter().any(|v| v["groupVersion"] == api_version && v["version"] == version), "{of}");
        }
    }
}
