//! Documents that are too large, too deep, ambiguous or not of their kind's types, in every way in which documents come in.

use crate::common::*;
use bytes::Bytes;
use serde_json::{Value, json};

const LIMIT: usize = 3 << 20;
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// A ConfigMap, padded with blanks to so many bytes.
fn padded(name: &str, length: usize) -> String {
    let mut text = config_map(name).to_string();
    text.push_str(&" ".repeat(length - text.len()));
    text
}

#[tokio::test]
async fn bodies_up_to_the_limit_are_read_and_one_byte_more_is_not() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let one = format!("{CONFIG_MAPS}/a");
    let apply = format!("{one}?fieldManager=m");
    let cases = [
        ("POST", CONFIG_MAPS, JSON, 201),
        ("PUT", &one, JSON, 200),
        ("PATCH", &one, MERGE, 200),
        ("PATCH", &one, STRATEGIC, 200),
        ("PATCH", &apply, APPLY, 200),
        ("POST", CONFIG_MAPS, YAML, 409),
    ];
    for (method, path, kind, code) in cases {
        let answer = admin.send(method, path, kind, padded("a", LIMIT)).await;
        assert_eq!(answer.code, code, "{method} {kind}: {}", answer.body);
        let answer = admin.send(method, path, kind, padded("a", LIMIT + 1)).await;
        assert_eq!(
            (answer.code, &answer.body["reason"], &answer.body["message"]),
            (413, &json!("RequestEntityTooLarge"), &json!("Request entity is too large: limit is 3145728")),
            "{method} {kind}"
        );
    }
    // What is read is not yet what may be stored.
    let mut large = config_map("b");
    large["data"]["k"] = "x".repeat((1 << 20) + 1).into();
    let refused = admin.post(CONFIG_MAPS, &large).await;
    assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")));
    assert_eq!(admin.get(&one).await.code, 200);
}

#[tokio::test]
async fn nesting_is_bounded_in_every_format() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(CONFIG_MAPS, &config_map("a")).await;
    let one = format!("{CONFIG_MAPS}/a");
    let apply = format!("{one}?fieldManager=m");
    for depth in [200, 100_000] {
        let objects = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        let lists =
            format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","data":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        let block: String = (0..depth.min(1000)).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        let operation = format!(r#"[{{"op":"add","path":"/data","value":{objects}}}]"#);
        let pointer = format!(r#"[{{"op":"test","path":"{}","value":1}}]"#, "/a".repeat(depth));
        let cases = [
            ("POST", CONFIG_MAPS, JSON, &objects),
            ("POST", CONFIG_MAPS, YAML, &objects),
            ("POST", CONFIG_MAPS, YAML, &lists),
            ("POST", CONFIG_MAPS, YAML, &block),
            ("PUT", &one, JSON, &lists),
            ("PATCH", &one, MERGE, &objects),
            ("PATCH", &one, STRATEGIC, &lists),
            ("PATCH", &one, JSON_PATCH, &operation),
            ("PATCH", &one, JSON_PATCH, &pointer),
            ("PATCH", &apply, APPLY, &lists),
            ("PATCH", &apply, APPLY, &block),
            ("DELETE", &one, JSON, &objects),
        ];
        for (method, path, kind, body) in cases {
            let answer = admin.send(method, path, kind, body.clone()).await;
            assert!((400..500).contains(&answer.code), "{method} {kind} {depth}: {} {}", answer.code, answer.body);
            assert_eq!(answer.body["kind"], "Status", "{method} {kind} {depth}");
        }
    }
    assert_eq!(admin.get(&one).await.code, 200);
}

#[tokio::test]
async fn repeated_keys_are_an_error_a_warning_or_nothing_as_the_client_asks() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let json = |name: &str| {
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"1","k":"2"}}}}"#)
    };
    let yaml =
        |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  k: '1'\n  k: '2'\n");
    for (kind, body) in [(JSON, &json as &dyn Fn(&str) -> String), (YAML, &yaml)] {
        let prefix = if kind == JSON { "j" } else { "y" };
        let send = |mode: &str| {
            let body = body(&format!("{prefix}-{}", mode.to_lowercase()));
            let path = format!("{CONFIG_MAPS}?fieldValidation={mode}");
            let admin = admin.clone();
            async move { admin.send("POST", &path, kind, body).await }
        };
        let strict = send("Strict").await;
        let message = r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.k""#;
        assert_eq!((strict.code, &strict.body["message"]), (400, &json!(message)));
        let warn = send("Warn").await;
        assert_eq!(
            (warn.code, &warn.headers["warning"]),
            (201, &r#"299 - "duplicate field \"data.k\"""#.parse().unwrap())
        );
        assert_eq!(warn.body["data"]["k"], "2", "the last one counts");
        let ignore = send("Ignore").await;
        assert_eq!((ignore.code, ignore.headers.get("warning")), (201, None));
    }
}

#[tokio::test]
async fn values_that_are_not_of_their_fields_types_are_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let raw = |replicas: &str| {
        let text = deployment("d").to_string();
        text.replace(r#""replicas":1"#, &format!(r#""replicas":{replicas}"#))
    };
    assert_ne!(raw("2"), raw("3"), "the value is where it is looked for");
    let numbers =
        ["99999999999", "-99999999999", "1.5", "1e400", "1e-400", "18446744073709551616", "\"1\"", "true", "[]", "{}"];
    for number in numbers {
        let answer = admin.send("POST", DEPLOYMENTS, JSON, raw(number)).await;
        assert_eq!(answer.code, 400, "{number}: {}", answer.body);
        assert_eq!(answer.body["reason"], "BadRequest", "{number}");
    }
    let too_wide = admin.send("POST", DEPLOYMENTS, JSON, raw("99999999999")).await.body;
    assert_eq!(
        too_wide["message"],
        r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal number 99999999999 into Go struct field DeploymentSpec.spec.replicas of type int32"#
    );
    assert_eq!(admin.send("POST", DEPLOYMENTS, JSON, raw("-1")).await.code, 422, "a number, and no number of replicas");
    admin.create(DEPLOYMENTS, &deployment("e")).await;
    let one = format!("{DEPLOYMENTS}/e");
    let apply = format!("{one}?fieldManager=m");
    for wrong in [json!("three"), json!(99_999_999_999u64), json!([1]), json!({"a": 1})] {
        let patch = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": wrong}});
        for (path, form) in [(&one, "merge"), (&one, "strategic"), (&apply, "apply")] {
            let answer = admin.patch(path, form, &patch).await;
            assert!(matches!(answer.code, 400 | 422 | 500), "{form} {wrong}: {} {}", answer.code, answer.body);
            assert!(answer.code < 500, "{form} {wrong}: {}", answer.body);
        }
        let operations = json!([{"op": "replace", "path": "/spec/replicas", "value": wrong}]);
        let answer = admin.patch(&one, "json", &operations).await;
        assert!((400..500).contains(&answer.code), "{wrong}: {}", answer.body);
    }
    assert_eq!(admin.get(&one).await.body["spec"]["replicas"], 1);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused_wherever_they_stand() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(CONFIG_MAPS, &config_map("a")).await;
    let one = format!("{CONFIG_MAPS}/a");
    let apply = format!("{one}?fieldManager=m");
    let bodies: [&[u8]; 4] = [
        b"{\"data\":{\"k\":\"\xff\xfe\"}}",
        b"{\"data\":{\"\xc3\x28\":\"v\"}}",
        b"{\"data\":{\"k\":\"\\ud800\"}}",
        b"\xef\xbb\xbf\xff{}",
    ];
    for body in bodies {
        for (method, path, kind) in [
            ("POST", CONFIG_MAPS, JSON),
            ("POST", CONFIG_MAPS, YAML),
            ("PUT", &one, JSON),
            ("PATCH", &one, MERGE),
            ("PATCH", &one, STRATEGIC),
            ("PATCH", &one, JSON_PATCH),
            ("PATCH", &apply, APPLY),
        ] {
            let answer = admin.send(method, path, kind, Bytes::copy_from_slice(body)).await;
            assert_eq!(answer.code, 400, "{method} {kind} {body:?}: {}", answer.body);
        }
    }
    for (path, codes) in [
        ("/api/v1/namespaces/default/configmaps/%FF", [400, 404]),
        ("/api/v1/namespaces/%FF%FE/configmaps", [200, 404]),
        ("/api/v1/namespaces/default/configmaps?labelSelector=%FF", [400, 400]),
        ("/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3D%FF", [200, 400]),
        ("/api/v1/namespaces/default/configmaps?continue=%FF%FF", [400, 400]),
        ("/api/v1/namespaces/default/configmaps?limit=99999999999999999999", [400, 400]),
        ("/api/v1/namespaces/default/configmaps?limit=-1", [400, 200]),
        ("/api/v1/namespaces/default/configmaps?resourceVersion=99999999999999999999", [400, 400]),
    ] {
        let answer = admin.get(path).await;
        assert!(codes.contains(&answer.code), "{path}: {} {}", answer.code, answer.body);
    }
    let data: Value = admin.get(&one).await.body["data"].take();
    assert_eq!(data, json!({"k": "v"}));
}

#[tokio::test]
async fn patches_and_selectors_cannot_be_made_to_take_long() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(CONFIG_MAPS, &config_map("a")).await;
    let one = format!("{CONFIG_MAPS}/a");
    // Each operation copies what the last one made: 2^n.
    let mut doubling = vec![json!({"op": "add", "path": "/metadata/annotations", "value": {"a": "x".repeat(1000)}})];
    for i in 0..100 {
        doubling.push(json!({"op": "copy", "from": "/metadata", "path": format!("/metadata/x{i}")}));
    }
    let answer = admin.patch(&one, "json", &json!(doubling)).await;
    assert!((400..500).contains(&answer.code), "{}", answer.code);
    let many: Vec<Value> =
        (0..20_000).map(|i| json!({"op": "add", "path": "/data/k", "value": i.to_string()})).collect();
    let answer = admin.patch(&one, "json", &json!(many)).await;
    assert_eq!(answer.code, 413, "{}", answer.body);
    let selector = (0..2000).map(|i| format!("k{i}!=v")).collect::<Vec<_>>().join(",");
    assert!(admin.get(&format!("{CONFIG_MAPS}?labelSelector={selector}")).await.code < 500);
    assert_eq!(admin.get(&one).await.body["data"], json!({"k": "v"}));
}
