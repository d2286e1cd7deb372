//! Answers in YAML, as kube-apiserver gives them: everything but streams and what is JSON whatever is asked for.

use serde_json::{Value, json};

use crate::common::*;

const MEDIA: &str = "application/yaml";

fn read(answer: &Answer) -> Value {
    assert_eq!(answer.headers["content-type"], MEDIA, "{}", answer.body);
    let text = answer.body.as_str().expect("block style is no JSON");
    serde_saphyr::from_str(text).unwrap()
}

#[tokio::test]
async fn objects_lists_tables_and_errors_come_as_yaml() {
    let cluster = Cluster::start().await;
    let (plain, yaml) = (cluster.admin(), cluster.admin().header("accept", MEDIA));
    let made = yaml.post(CONFIG_MAPS, &config_map("a")).await;
    assert_eq!((made.code, &read(&made)["data"]["k"]), (201, &json!("v")));
    for path in [format!("{CONFIG_MAPS}/a"), CONFIG_MAPS.to_owned(), format!("{DEPLOYMENTS}?limit=1")] {
        let (want, got) = (plain.get(&path).await.body, yaml.get(&path).await);
        assert_eq!((got.code, read(&got)), (200, want), "{path}");
    }
    let text = yaml.get(&format!("{CONFIG_MAPS}/a")).await.body;
    assert!(
        text.as_str().unwrap().starts_with("apiVersion: v1\ndata:\n  k: v\nkind: ConfigMap\nmetadata:\n"),
        "{text}"
    );
    let none = yaml.get(&format!("{CONFIG_MAPS}/none")).await;
    let status = read(&none);
    assert_eq!((none.code, &status["kind"], &status["reason"]), (404, &json!("Status"), &json!("NotFound")));
    let table = cluster.admin().header("accept", "application/yaml;as=Table;g=meta.k8s.io;v=v1");
    let table = read(&table.get(CONFIG_MAPS).await);
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    let gone = yaml.delete(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!((gone.code, &read(&gone)["status"]), (200, &json!("Success")));
}

#[tokio::test]
async fn yaml_is_taken_by_its_place_among_what_the_client_accepts() {
    let cluster = Cluster::start().await;
    for (accept, media) in [
        ("application/yaml, application/json", MEDIA),
        ("application/json, application/yaml", "application/json"),
        ("application/json;q=0.5, application/yaml", MEDIA),
        ("application/yaml;q=0, */*", "application/json"),
        ("application/*", "application/json"),
        ("application/vnd.kubernetes.protobuf, application/yaml", "application/vnd.kubernetes.protobuf"),
        ("application/yaml;stream=watch, application/json", "application/json"),
    ] {
        let answer = cluster.admin().header("accept", accept).raw("GET", CONFIG_MAPS, "", "").await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &media.parse().unwrap()),
            "{accept}"
        );
    }
}

#[tokio::test]
async fn streams_are_not_yaml_and_discovery_is() {
    let cluster = Cluster::start().await;
    let (plain, yaml) = (cluster.admin(), cluster.admin().header("accept", MEDIA));
    let refused = yaml.get(&format!("{CONFIG_MAPS}?watch=1")).await;
    let status = read(&refused);
    let words = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert_eq!((refused.code, &status["message"]), (406, &json!(words)));
    for path in ["/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"] {
        let (want, got) = (plain.get(path).await.body, yaml.get(path).await);
        assert_eq!((got.code, read(&got)), (200, want), "{path}");
    }
    // JSON for everybody, as Kubernetes has it.
    let version = yaml.get("/version").await;
    assert_eq!((version.code, &version.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    let aggregated = "application/yaml;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io";
    assert_eq!(cluster.admin().header("accept", aggregated).get("/apis").await.code, 406);
    assert_eq!(yaml.get("/openapi/v3").await.code, 406);
}
