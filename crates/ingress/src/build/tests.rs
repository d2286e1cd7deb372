use super::*;
use serde_json::{Value, json};

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a valid object")
}

fn ingress(name: &str, created: u32, spec: Value) -> Ingress {
    object(json!({
        "metadata": { "name": name, "namespace": "shop", "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z") },
        "spec": spec,
    }))
}

fn rule(host: Option<&str>, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<Value> = paths
        .iter()
        .map(|(kind, path, service)| json!({ "path": path, "pathType": kind, "backend": backend(service) }))
        .collect();
    json!({ "host": host, "http": { "paths": paths } })
}

fn backend(service: &str) -> Value {
    json!({ "service": { "name": service, "port": { "number": 80 } } })
}

fn service(name: &str) -> Service {
    object(json!({
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "ports": [
            { "name": "http", "port": 80, "targetPort": 8080 },
            { "name": "admin", "port": 81 },
            { "name": "grpc", "port": 82, "appProtocol": "kubernetes.io/h2c" },
        ] },
    }))
}

fn slice(service: &str, endpoints: Value) -> EndpointSlice {
    object(json!({
        "metadata": { "name": service, "namespace": "shop", "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }, { "name": "admin", "port": 9090 }],
        "endpoints": endpoints,
    }))
}

/// Every service that a test names has one endpoint, so that a backend is known by its name.
fn table(ingresses: &[Ingress]) -> RouteTable {
    let services: Vec<Service> = ["a", "b", "c", "d"].map(service).into();
    RouteTable::build(&Input {
        ingresses: ingresses.iter().collect(),
        services: services.iter().collect(),
        ..Input::default()
    })
}

fn to<'t>(table: &'t RouteTable, host: &str, path: &str) -> &'t str {
    table.route(host, path).map_or("-", |b| b.name.trim_start_matches("shop/").trim_end_matches(":80"))
}

#[test]
fn paths_match_as_the_ingress_specification_says() {
    // The table of the Ingress documentation: type, path, request, whether it matches.
    for (kind, path, request, matches) in [
        ("Prefix", "/", "/any/thing", true),
        ("Exact", "/foo", "/foo", true),
        ("Exact", "/foo", "/bar", false),
        ("Exact", "/foo", "/foo/", false),
        ("Exact", "/foo/", "/foo", false),
        ("Exact", "/foo", "/Foo", false),
        ("Prefix", "/foo", "/foo", true),
        ("Prefix", "/foo", "/foo/", true),
        ("Prefix", "/foo/", "/foo", true),
        ("Prefix", "/foo/", "/foo/", true),
        ("Prefix", "/aaa/bb", "/aaa/bbb", false),
        ("Prefix", "/aaa/bbb", "/aaa/bbb", true),
        ("Prefix", "/aaa/bbb/", "/aaa/bbb", true),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/", true),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/ccc", true),
        ("Prefix", "/aaa/bbb", "/aaa/bbbxyz", false),
        ("Prefix", "/aaa", "/ccc", false),
        ("ImplementationSpecific", "/aaa", "/aaa/b", true),
    ] {
        let table = table(&[ingress("i", 0, json!({ "rules": [rule(None, &[(kind, path, "a")])] }))]);
        assert_eq!(to(&table, "any.example", request) == "a", matches, "{kind} {path} {request}");
    }
}

#[test]
fn the_longest_path_wins_and_exact_before_prefix() {
    let paths = [("Prefix", "/", "a"), ("Prefix", "/foo", "b"), ("Exact", "/foo", "c"), ("Prefix", "/foo/bar", "d")];
    let table = table(&[ingress("i", 0, json!({ "rules": [rule(None, &paths)] }))]);
    for (path, backend) in
        [("/", "a"), ("/foo", "c"), ("/foo/", "b"), ("/foo/x", "b"), ("/foo/bar/x", "d"), ("/fo", "a")]
    {
        assert_eq!(to(&table, "h", path), backend, "{path}");
    }
}

#[test]
fn an_exact_host_wins_over_a_wildcard_and_that_over_none() {
    let table = table(&[ingress(
        "i",
        0,
        json!({ "rules": [
            rule(Some("Foo.Example.com"), &[("Prefix", "/x", "a")]),
            rule(Some("*.example.com"), &[("Prefix", "/", "b")]),
            rule(None, &[("Prefix", "/any", "c")]),
        ] }),
    )]);
    for (host, path, backend) in [
        ("foo.example.com", "/x", "a"),
        ("foo.example.com", "/y", "b"),
        ("bar.example.com", "/x", "b"),
        ("a.b.example.com", "/x", "-"),
        ("example.com", "/x", "-"),
        (".example.com", "/x", "-"),
        ("a.b.example.com", "/any", "c"),
        ("other", "/any", "c"),
        ("other", "/", "-"),
    ] {
        assert_eq!(to(&table, host, path), backend, "{host}{path}");
    }
}

#[test]
fn a_default_backend_takes_what_no_rule_takes() {
    let table = table(&[
        ingress(
            "own",
            0,
            json!({ "defaultBackend": backend("a"), "rules": [rule(Some("h"), &[("Prefix", "/x", "b")])] }),
        ),
        ingress("all", 1, json!({ "defaultBackend": backend("c") })),
        ingress("late", 2, json!({ "defaultBackend": backend("d") })),
    ]);
    for (host, path, backend) in [("h", "/x", "b"), ("h", "/y", "a"), ("z", "/x", "c")] {
        assert_eq!(to(&table, host, path), backend, "{host}{path}");
    }
}

#[test]
fn of_two_that_say_the_same_the_older_holds() {
    let old = ingress("z-old", 1, json!({ "rules": [rule(Some("h"), &[("Prefix", "/", "a"), ("Exact", "/e", "a")])] }));
    let new = ingress("a-new", 2, json!({ "rules": [rule(Some("h"), &[("Prefix", "/", "b"), ("Exact", "/e", "b")])] }));
    let table = table(&[new, old]);
    assert_eq!((to(&table, "h", "/"), to(&table, "h", "/e")), ("a", "a"));
    let said: Vec<_> =
        table.problems().iter().filter(|p| p.message.contains("older")).map(|p| p.name.as_str()).collect();
    assert_eq!(said, ["a-new", "a-new"]);
}

#[test]
fn the_class_decides_whose_an_ingress_is() {
    let class = |name: &str, controller: &str| -> IngressClass {
        object(json!({ "metadata": { "name": name }, "spec": { "controller": controller } }))
    };
    let classes = [class("mine", CONTROLLER), class("nginx", "k8s.io/ingress-nginx"), class("stolen", "other/x")];
    let with = |class: Option<&str>| ingress("i", 0, json!({ "ingressClassName": class }));
    for (name, ours) in [
        (None, true),
        (Some("windlass"), true),
        (Some("mine"), true),
        (Some("nginx"), false),
        (Some("stolen"), false),
        (Some("unknown"), false),
    ] {
        assert_eq!(is_ours(&with(name), &classes), ours, "{name:?}");
    }
    let mut old = with(None);
    old.metadata.annotations = Some([(CLASS_ANNOTATION.to_owned(), "nginx".to_owned())].into());
    assert!(!is_ours(&old, &classes));
    assert!(!is_ours(&with(Some("windlass")), &[class("windlass", "other/x")]), "the object says otherwise");
}

fn endpoints(endpoints: Value, port: Value) -> (Vec<String>, Vec<Problem>) {
    let (service, slice) = (service("a"), slice("a", endpoints));
    let backend = json!({ "service": { "name": "a", "port": port } });
    let ingress = ingress("i", 0, json!({ "defaultBackend": backend }));
    let table = RouteTable::build(&Input {
        ingresses: vec![&ingress],
        services: vec![&service],
        endpoint_slices: vec![&slice],
        ..Input::default()
    });
    let found = table.backends()[0].endpoints.iter().map(ToString::to_string).collect();
    (found, table.problems)
}

#[test]
fn only_ready_endpoints_serve_until_there_is_none() {
    let ready = json!({ "addresses": ["10.0.0.1"], "conditions": { "ready": true } });
    let silent = json!({ "addresses": ["10.0.0.2"] });
    let starting = json!({ "addresses": ["10.0.0.3"], "conditions": { "ready": false } });
    let draining =
        json!({ "addresses": ["10.0.0.4"], "conditions": { "ready": false, "serving": true, "terminating": true } });
    let dying =
        json!({ "addresses": ["10.0.0.5"], "conditions": { "ready": false, "serving": false, "terminating": true } });
    let port = json!({ "number": 80 });
    let all = json!([dying, draining, starting, silent, ready]);
    assert_eq!(endpoints(all, port.clone()).0, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(endpoints(json!([dying, draining, starting]), port.clone()).0, ["10.0.0.4:8080"]);
    assert_eq!(endpoints(json!([dying, starting]), port).0, [""; 0]);
}

#[test]
fn a_port_is_found_by_number_or_name() {
    let one = json!([{ "addresses": ["10.0.0.1"] }]);
    assert_eq!(endpoints(one.clone(), json!({ "name": "admin" })).0, ["10.0.0.1:9090"]);
    assert_eq!(endpoints(one.clone(), json!({ "number": 81 })).0, ["10.0.0.1:9090"]);
    for (port, message) in [
        (json!({ "number": 99 }), "service \"a\" has no TCP port 99"),
        (json!({ "number": 82 }), "service \"a\" speaks \"kubernetes.io/h2c\", and only HTTP/1.1 is supported"),
    ] {
        let (found, problems) = endpoints(one.clone(), port);
        assert!(found.is_empty());
        assert!(problems[0].message.starts_with(message), "{problems:?}");
    }
}

#[test]
fn a_missing_service_is_a_backend_without_endpoints_and_a_problem() {
    let table = table(&[ingress("i", 0, json!({ "rules": [rule(None, &[("Prefix", "/", "nope")])] }))]);
    assert_eq!(table.route("h", "/").map(|b| b.endpoints.len()), Some(0));
    assert_eq!(table.problems()[0].message, "there is no service \"nope\"");
}

#[test]
fn certificates_go_with_their_hosts_and_missing_ones_are_named() {
    let pem = CertificatePem { chain: b"chain".as_slice().into(), key: b"key".as_slice().into() };
    let ingress = ingress(
        "i",
        0,
        json!({ "tls": [
            { "hosts": ["A.example", "*.b.example"], "secretName": "s" },
            { "secretName": "s" },
            { "hosts": ["c.example"], "secretName": "gone" },
        ] }),
    );
    let table = RouteTable::build(&Input {
        ingresses: vec![&ingress],
        certificates: [(("shop".to_owned(), "s".to_owned()), pem.clone())].into(),
        ..Input::default()
    });
    assert!(table.certificates.keys().eq(["*.b.example", "a.example"]));
    assert_eq!(table.default_certificate, Some(pem));
    assert_eq!(table.problems()[0].message, "there is no TLS secret \"gone\"");
}
