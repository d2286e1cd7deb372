use super::*;
use serde_json::json;

fn labels(pairs: &[(&str, &str)]) -> Map<String, Value> {
    pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), Value::from(*v))).collect()
}

fn of(level: Level, minor: Option<u32>, spec: &Value) -> String {
    details(&violations(Standard { level, minor }, &json!({}), spec))
}

fn plain() -> Value {
    json!({"containers": [{"name": "c", "image": "i"}]})
}

fn hardened() -> Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        }}],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "projected": {}}],
    })
}

#[test]
fn a_plain_pod_violates_restricted_in_kubernetes_words() {
    let want = concat!(
        r#"allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), "#,
        r#"unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), "#,
        r#"runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), "#,
        r#"seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
    );
    assert_eq!(of(Level::Restricted, None, &plain()), want);
    assert_eq!(of(Level::Baseline, None, &plain()), "");
    assert_eq!(of(Level::Restricted, None, &hardened()), "");
}

#[test]
fn each_baseline_rule_is_found() {
    let with = |key: &str, value: Value| {
        let mut spec = plain();
        spec["containers"][0]["securityContext"] = json!({key: value});
        spec
    };
    let top = |key: &str, value: Value| {
        let mut spec = plain();
        spec[key] = value;
        spec
    };
    let container = |key: &str, value: Value| {
        let mut spec = plain();
        spec["containers"][0][key] = value;
        spec
    };
    let cases = [
        (with("privileged", json!(true)), r#"privileged (container "c" must not set securityContext.privileged=true)"#),
        (top("hostNetwork", json!(true)), "host namespaces (hostNetwork=true)"),
        (top("volumes", json!([{"name": "v", "hostPath": {"path": "/"}}])), r#"hostPath volumes (volume "v")"#),
        (container("ports", json!([{"hostPort": 80}])), r#"hostPort (container "c" uses hostPort 80)"#),
        (
            with("capabilities", json!({"add": ["SYS_ADMIN", "CHOWN"]})),
            r#"non-default capabilities (container "c" must not include "SYS_ADMIN" in securityContext.capabilities.add)"#,
        ),
        (
            with("procMount", json!("Unmasked")),
            r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            with("seccompProfile", json!({"type": "Unconfined"})),
            r#"seccompProfile (container "c" must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            with("seLinuxOptions", json!({"type": "spc_t", "user": "u"})),
            r#"seLinuxOptions (container "c" set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set)"#,
        ),
        (
            with("appArmorProfile", json!({"type": "Unconfined"})),
            r#"forbidden AppArmor profile (container "c" must not set AppArmor profile type to "Unconfined")"#,
        ),
        (
            top("securityContext", json!({"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]})),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            container("livenessProbe", json!({"httpGet": {"host": "example.com"}})),
            r#"probe or lifecycle host (container "c" uses probe or lifecycle host "example.com")"#,
        ),
        (
            top("securityContext", json!({"windowsOptions": {"hostProcess": true}})),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(of(Level::Baseline, None, &spec), want);
    }
}

#[test]
fn the_version_decides_which_rules_there_are() {
    let probe = json!({"containers": [{"name": "c", "livenessProbe": {"tcpSocket": {"host": "h"}}}]});
    assert_eq!(of(Level::Baseline, Some(33), &probe), "");
    assert!(of(Level::Baseline, Some(99), &probe).starts_with("probe or lifecycle host"));
    let mut root = hardened();
    root["securityContext"]["runAsUser"] = 0.into();
    assert_eq!(of(Level::Restricted, Some(22), &root), "");
    assert_eq!(of(Level::Restricted, Some(23), &root), "runAsUser=0 (pod must not set runAsUser=0)");
    root["hostUsers"] = false.into();
    assert_eq!(of(Level::Restricted, None, &root), "");
    let path = json!({"containers": [], "volumes": [{"name": "v", "hostPath": {}}]});
    let want = r#"restricted volume types (volume "v" uses restricted volume type "hostPath")"#;
    assert_eq!(of(Level::Restricted, None, &path), want);
}

#[test]
fn labels_are_read_with_their_versions_and_their_mistakes() {
    let (policy, errors) = super::policy(&labels(&[("enforce", "baseline"), ("enforce-version", "v1.30")]));
    assert!(errors.is_empty());
    assert_eq!(policy.enforce.to_string(), "baseline:v1.30");
    assert_eq!(policy.warn, policy.enforce);
    assert_eq!(policy.audit, Standard::NONE);
    let (policy, errors) = super::policy(&labels(&[("enforce", "strict"), ("warn-version", "1.2")]));
    assert_eq!(policy.enforce.to_string(), "restricted:latest");
    assert_eq!(policy.warn, Standard::NONE);
    let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            r#"metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted"#,
            r#"metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "1.2": must be "latest" or "v1.x""#,
        ]
    );
}

#[test]
fn existing_pods_are_told_together() {
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"hostNetwork": true, "containers": []}});
    let standard = Standard { level: Level::Baseline, minor: None };
    assert!(existing(standard, "n", &[json!({"metadata": {"name": "ok"}, "spec": plain()})]).is_empty());
    let lines = existing(standard, "n", &[pod("b"), pod("a"), pod("c")]);
    let head = r#"existing pods in namespace "n" violate the new PodSecurity enforce level "baseline:latest""#;
    assert_eq!(lines, [head, "a (and 2 other pods): host namespaces"]);
}
