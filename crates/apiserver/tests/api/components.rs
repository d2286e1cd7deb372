//! `componentstatuses`: how the parts of the control plane are.

use std::sync::Arc;

use apiserver::{Components, SCHEDULER};
use serde_json::{Value, json};

use crate::common::*;

const PATH: &str = "/api/v1/componentstatuses";

/// A scheduler that is well beside controllers that are not.
#[derive(Debug)]
struct Half;

impl Components for Half {
    fn check(&self, component: &str) -> Option<Result<(), String>> {
        Some(if component == SCHEDULER { Ok(()) } else { Err("job: a worker ended by itself".to_owned()) })
    }

    fn lease(&self) -> &str {
        "kube-system/none"
    }
}

async fn cluster() -> Cluster {
    Cluster::configured(|config| config.components = Some(Arc::new(Half))).await
}

fn condition(object: &Value) -> (&str, &str, &str) {
    let condition = &object["conditions"][0];
    assert_eq!(condition["type"], "Healthy");
    let text = |v: &'_ Value| -> &'static str { Box::leak(v.as_str().unwrap().to_owned().into_boxed_str()) };
    (text(&object["metadata"]["name"]), text(&condition["status"]), text(&condition["message"]))
}

#[tokio::test]
async fn components_are_asked_and_whoever_asks_is_told_that_it_is_deprecated() {
    let cluster = cluster().await;
    let admin = cluster.admin();
    let list = admin.get(PATH).await;
    assert_eq!((list.code, &list.body["kind"]), (200, &json!("ComponentStatusList")));
    assert_eq!(list.headers["warning"], "299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
    let found: Vec<_> = list.body["items"].as_array().unwrap().iter().map(condition).collect();
    let broken = ("controller-manager", "False", "job: a worker ended by itself");
    assert_eq!(found, [broken, ("etcd-0", "True", "ok"), ("scheduler", "True", "ok")]);
    let one = admin.get(&format!("{PATH}/etcd-0")).await;
    assert_eq!(
        (one.code, &one.body["kind"], condition(&one.body)),
        (200, &json!("ComponentStatus"), ("etcd-0", "True", "ok"))
    );
    let none = admin.get(&format!("{PATH}/etcd-1")).await;
    assert_eq!((none.code, &none.body["message"]), (404, &json!("componentstatus \"etcd-1\" not found")));
    let by_name = admin.get(&format!("{PATH}?fieldSelector=metadata.name%3Dscheduler")).await.body;
    assert_eq!(by_name["items"].as_array().unwrap().len(), 1);
    let by_label = admin.get(&format!("{PATH}?labelSelector=a%3Db")).await.body;
    assert_eq!(by_label["items"], json!([]));
    for (method, path) in [("POST", PATH), ("DELETE", PATH), ("DELETE", "/api/v1/componentstatuses/etcd-0")] {
        assert_eq!(admin.send(method, path, "application/json", "{}").await.code, 405, "{method} {path}");
    }
    assert_eq!(admin.get(&format!("{PATH}?watch=1")).await.code, 405);
}

#[tokio::test]
async fn kubectl_shows_components_in_its_columns() {
    let cluster = cluster().await;
    let table = cluster.admin().header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").get(PATH).await.body;
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Name", "Status", "Message", "Error"]);
    let cells: Vec<&Value> = table["rows"].as_array().unwrap().iter().map(|row| &row["cells"]).collect();
    assert_eq!(cells[0], &json!(["controller-manager", "Unhealthy", "job: a worker ended by itself", ""]));
    assert_eq!(cells[1], &json!(["etcd-0", "Healthy", "ok", ""]));
    let core = cluster.admin().get("/api/v1").await.body;
    let found = core["resources"].as_array().unwrap().iter().find(|r| r["name"] == "componentstatuses").unwrap();
    assert_eq!((&found["shortNames"], &found["verbs"]), (&json!(["cs"]), &json!(["get", "list"])));
    let document = cluster.admin().get("/openapi/v3/api/v1").await.body;
    assert!(document["paths"]["/api/v1/componentstatuses/{name}"]["get"].is_object());
    assert!(document["components"]["schemas"]["io.k8s.api.core.v1.ComponentStatusList"].is_object());
}
