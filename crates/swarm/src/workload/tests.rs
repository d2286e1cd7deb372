use super::*;

fn around() -> Around {
    Around {
        networks: vec![Joined { key: "shop-default".to_owned(), aliases: vec!["web".to_owned()] }],
        host_network: false,
        nodes: Vec::new(),
        dns: Ipv4Addr::new(10, 0, 0, 10),
        pull_secret: None,
        rollback: false,
    }
}

fn read(more: Value) -> ServiceSpec {
    let mut document = json!({
        "Name": "shop_web", "Labels": {STACK: "shop"},
        "TaskTemplate": {"ContainerSpec": {"Image": "web:1"}}, "Mode": {"Replicated": {"Replicas": 3}},
    });
    merge(&mut document, more);
    ServiceSpec::read(&document).unwrap()
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            more.into_iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v));
        }
        (into, more) => *into = more,
    }
}

fn container(more: Value) -> Value {
    json!({"TaskTemplate": {"ContainerSpec": more}})
}

fn refused(more: Value) -> String {
    build(&read(more), &around()).unwrap_err().message
}

#[test]
fn a_replicated_service_is_a_deployment_and_its_name_that_of_its_tasks() {
    let ports = json!([{"TargetPort": 80, "PublishedPort": 8080}]);
    let built = build(&read(json!({"EndpointSpec": {"Ports": ports}})), &around()).unwrap();
    let workload = &built.workload;
    assert_eq!((&workload["kind"], &workload["metadata"]["name"]), (&json!("Deployment"), &json!("shop-web")));
    assert_eq!(workload["spec"]["replicas"], 3);
    assert_eq!(workload["spec"]["strategy"]["rollingUpdate"], json!({"maxSurge": 0, "maxUnavailable": 1}));
    let pod = &workload["spec"]["template"]["spec"];
    assert_eq!((&pod["dnsPolicy"], &pod["terminationGracePeriodSeconds"]), (&json!("None"), &json!(10)));
    assert_eq!(pod["dnsConfig"]["searches"], json!(["shop-default.docker-swarm.svc.cluster.local"]));
    let [name, published] = &built.services[..] else { panic!("{:?}", built.services) };
    assert_eq!((&name["spec"]["clusterIP"], &name["spec"]["ports"]), (&json!("None"), &Value::Null));
    let names = "web.shop-default tasks.web.shop-default shop_web.shop-default tasks.shop_web.shop-default";
    assert_eq!(name["metadata"]["annotations"][NAMES], names);
    assert_eq!(published["spec"]["type"], "LoadBalancer");
    assert_eq!(
        (&published["spec"]["ports"][0]["port"], &published["spec"]["ports"][0]["targetPort"]),
        (&json!(8080), &json!(80))
    );
    assert_eq!(name["spec"]["selector"], workload["spec"]["selector"]["matchLabels"]);
}

#[test]
fn only_what_tasks_are_changes_their_template() {
    let template = |more: Value| {
        let built = build(&read(more), &around()).unwrap();
        text(&built.workload["spec"]["template"]["metadata"]["annotations"][TEMPLATE])
    };
    let first = template(json!({}));
    assert_eq!(template(json!({"Mode": {"Replicated": {"Replicas": 5}}, "Labels": {"a": "b"}})), first);
    assert_ne!(template(container(json!({"Env": ["A=1"]}))), first);
    assert_ne!(template(json!({"TaskTemplate": {"ForceUpdate": 1}})), first);
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn modes_are_kinds() {
    let of = |mode: Value| build(&read(json!({"Mode": mode})), &around()).unwrap().workload;
    let global = of(json!({"Replicated": null, "Global": {}}));
    assert_eq!(
        (&global["kind"], &global["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"]),
        (&json!("DaemonSet"), &json!(1))
    );
    let job = of(json!({"Replicated": null, "ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}}));
    assert_eq!(
        (&job["kind"], &job["spec"]["completions"], &job["spec"]["parallelism"]),
        (&json!("Job"), &json!(5), &json!(2))
    );
    assert_eq!(job["spec"]["template"]["spec"]["restartPolicy"], "OnFailure");
    assert!(refused(json!({"Mode": {"Replicated": null, "GlobalJob": {}}})).contains("GlobalJob"));
}

#[test]
fn secrets_configs_and_mounts_are_volumes() {
    let spec = container(json!({
        "Secrets": [{"SecretID": "1", "SecretName": "shop_key", "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 256}}],
        "Configs": [{"ConfigID": "2", "ConfigName": "conf", "File": {"Name": "/etc/web.conf", "Mode": 292}}],
        "Mounts": [
            {"Type": "volume", "Source": "shop_data", "Target": "/data"},
            {"Type": "bind", "Source": "/srv", "Target": "/srv", "ReadOnly": true},
            {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": 1_048_576}},
        ],
    }));
    let built = build(&read(spec), &around()).unwrap();
    let pod = &built.workload["spec"]["template"]["spec"];
    let paths: Vec<&str> = pod["containers"][0]["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|m| m["mountPath"].as_str())
        .collect();
    assert_eq!(paths, ["/data", "/srv", "/tmp", "/run/secrets/key", "/etc/web.conf"]);
    let volume = |name: &str| pod["volumes"].as_array().unwrap().iter().find(|v| v["name"] == name).unwrap();
    assert_eq!(volume("mount-0")["persistentVolumeClaim"]["claimName"], "shop-data");
    assert_eq!(volume("mount-2")["emptyDir"]["sizeLimit"], "1Mi");
    assert_eq!(volume("secret-0")["secret"]["items"][0]["mode"], 256);
    assert_eq!(volume("config-0")["configMap"]["name"], "conf");
    assert_eq!(built.claims[0]["metadata"]["name"], "shop-data");
}

#[test]
fn what_is_not_obeyed_is_refused_by_its_name() {
    for (more, word) in [
        (container(json!({"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 1}]})), "Ulimits"),
        (container(json!({"Init": true})), "Init"),
        (container(json!({"User": "nobody"})), "user by name"),
        (container(json!({"Hostname": "{{.Task.Slot}}"})), "placeholder"),
        (container(json!({"DNSConfig": {"Nameservers": ["1.1.1.1"]}})), "Nameservers"),
        (container(json!({"Privileges": {"CredentialSpec": {"File": "x"}}})), "CredentialSpec"),
        (container(json!({"Mounts": [{"Type": "npipe", "Target": "/x"}]})), "npipe"),
        (
            container(json!({"Secrets": [{"SecretName": "a", "File": {"Name": "a", "UID": "5"}}]})),
            "owner other than root",
        ),
        (json!({"TaskTemplate": {"Resources": {"Limits": {"Pids": 5}}}}), "Pids"),
        (json!({"TaskTemplate": {"RestartPolicy": {"Condition": "none"}}}), "restart condition"),
        (json!({"TaskTemplate": {"LogDriver": {"Name": "syslog"}}}), "syslog"),
        (json!({"TaskTemplate": {"Placement": {"MaxReplicas": 2}}}), "MaxReplicas"),
        (json!({"UpdateConfig": {"MaxFailureRatio": 0.5}}), "MaxFailureRatio"),
        (json!({"Name": "a.b"}), "DNS name component"),
    ] {
        let message = refused(more.clone());
        assert!(message.contains(word), "{more}: {message}");
    }
}

#[test]
fn what_kubernetes_does_in_its_own_way_is_told() {
    let policy = json!({"Condition": "on-failure", "MaxAttempts": 3});
    let built = build(&read(json!({"TaskTemplate": {"RestartPolicy": policy}})), &around()).unwrap();
    assert_eq!(built.warnings.len(), 2, "{:?}", built.warnings);
}
