//! What a pod is given of its service account.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::command::LIMIT;
use e2e::{Ctx, IDLE, container, eventually, merge, pod, skip};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};

const DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The claims of a token, unverified.
fn claims(token: &str) -> Result<Value> {
    let part = token.split('.').nth(1).context("it has three parts")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

// conformance: [sig-auth] ServiceAccounts should mount an API token into pods
pub fn each_container_reads_token_authority_and_namespace(ctx: &Ctx) -> Result<()> {
    let files = ["token", "ca.crt", "namespace"];
    let containers: Vec<Value> =
        files.iter().map(|f| container(&f.replace('.', "-"), &format!("cat {DIR}/{f}; echo; {IDLE}"))).collect();
    ctx.ok(&["create", "serviceaccount", "mounted"])?;
    let mut object = pod("reader", IDLE, json!({"serviceAccountName": "mounted"}));
    object["spec"]["containers"] = containers.into();
    ctx.ready_pod(object)?;
    let said = |container: &str| -> Result<String> {
        eventually(Duration::from_secs(60), &format!("{container} speaks"), || {
            let text = ctx.ok(&["logs", "reader", "-c", container])?;
            ensure!(text.ends_with('\n') && !text.trim().is_empty(), "{text:?}");
            Ok(text.trim().to_owned())
        })
    };
    let token = said("token")?;
    let claims = claims(&token)?;
    ensure!(claims["sub"] == format!("system:serviceaccount:{}:mounted", ctx.ns), "{claims}");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let review = ctx.run_for(&["create", "-o", "json", "-f", "-"], Some(review.to_string().as_bytes()), LIMIT)?.ok()?;
    let status = &serde_json::from_str::<Value>(&review)?["status"];
    ensure!(status["authenticated"] == true, "{status}");
    ensure!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == json!(["reader"]), "{status}");
    let authority = ctx.ok(&["get", "configmap", "kube-root-ca.crt", "-o", r"jsonpath={.data['ca\.crt']}"])?;
    ensure!(said("ca-crt")? == authority.trim());
    ensure!(said("namespace")? == ctx.ns);
    Ok(())
}

// conformance: [sig-auth] ServiceAccounts should allow opting out of API token automount
pub fn pods_and_accounts_may_do_without_the_token(ctx: &Ctx) -> Result<()> {
    for (name, automount) in [("mount", json!(true)), ("nomount", json!(false)), ("unset", Value::Null)] {
        let mut account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        if !automount.is_null() {
            account["automountServiceAccountToken"] = automount;
        }
        ctx.apply(&[account])?;
    }
    let cases = [
        ("unset", None, true),
        ("mount", None, true),
        ("nomount", None, false),
        ("unset", Some(true), true),
        ("mount", Some(true), true),
        ("nomount", Some(true), true),
        ("unset", Some(false), false),
        ("mount", Some(false), false),
        ("nomount", Some(false), false),
    ];
    let name = |account: &str, own: Option<bool>| {
        let own = own.map_or("unset", |own| if own { "mount" } else { "nomount" });
        format!("{account}-{own}")
    };
    let script = format!("test -s {DIR}/token && echo there || echo none");
    let pods: Vec<Value> = cases
        .iter()
        .map(|(account, own, _)| {
            let spec = json!({"restartPolicy": "Never", "serviceAccountName": account});
            let mut object = pod(&name(account, *own), &script, spec);
            if let Some(own) = own {
                object["spec"]["automountServiceAccountToken"] = (*own).into();
            }
            object
        })
        .collect();
    ctx.apply(&pods)?;
    for (account, own, wanted) in cases {
        let name = name(account, own);
        ctx.wait(&format!("pod/{name}"), "jsonpath={.status.phase}=Succeeded")?;
        let said = ctx.ok(&["logs", &name])?;
        ensure!(said.trim() == if wanted { "there" } else { "none" }, "{name}: {said}");
        let mounts = ctx.json(&format!("pod/{name}"))?["spec"]["containers"][0]["volumeMounts"].take();
        let mounted = mounts.as_array().is_some_and(|m| m.iter().any(|m| m["mountPath"] == DIR));
        ensure!(mounted == wanted, "{name}: {mounts}");
    }
    Ok(())
}

/// A pod with a token of its own for an audience.
fn with_token(name: &str, script: &str, audience: Option<&str>) -> Value {
    let mut source = json!({"path": "token", "expirationSeconds": 3600});
    if let Some(audience) = audience {
        source["audience"] = audience.into();
    }
    pod(
        name,
        script,
        json!({
            "restartPolicy": "Never",
            "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}],
            "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": source}]}}],
        }),
    )
}

// conformance: [sig-auth] ServiceAccounts should mount projected service account token
pub fn a_projected_token_is_a_file(ctx: &Ctx) -> Result<()> {
    let token = ctx.output_of(with_token("projected", "cat /v/token", None))?;
    ensure!(token.split('.').count() == 3, "{token}");
    let claims = claims(token.trim())?;
    let lifetime = claims["exp"].as_i64().context("exp")? - claims["iat"].as_i64().context("iat")?;
    ensure!(lifetime == 3600, "{claims}");
    ensure!(claims["kubernetes.io"]["pod"]["name"] == "projected", "{claims}");
    Ok(())
}

// conformance: [sig-auth] ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer
pub fn a_pod_finds_the_issuer_and_the_keys_of_its_token(ctx: &Ctx) -> Result<()> {
    if !std::path::Path::new("/usr/bin/curl").exists() {
        return Err(skip("/usr/bin/curl is not there: the base image has no ciphers that the server would accept"));
    }
    // So the pod gets the tools of the host.
    let script = format!(
        "cat /v/token; echo; for path in .well-known/openid-configuration openid/v1/jwks; do \
           /usr/bin/curl -sSf --cacert {DIR}/ca.crt -H \"Authorization: Bearer $(cat {DIR}/token)\" \
             https://kubernetes.default.svc/$path || exit 1; echo; done"
    );
    let audience = "oidc-discovery-test";
    let mut object = with_token("validator", &script, Some(audience));
    for dir in ["/usr", "/lib", "/lib64"].into_iter().filter(|d| std::path::Path::new(d).exists()) {
        let spec = json!({
            "containers": [{"name": "main", "volumeMounts": [{"name": &dir[1..], "mountPath": dir, "readOnly": true}]}],
            "volumes": [{"name": &dir[1..], "hostPath": {"path": dir}}],
        });
        object = merge(object, json!({"spec": spec}));
    }
    let said = ctx.output_of(object)?;
    let mut lines = said.lines().filter(|l| !l.is_empty());
    let mut next = || lines.next().with_context(|| format!("too few lines in {said}"));
    let token = next()?;
    let (document, keys): (Value, Value) = (serde_json::from_str(next()?)?, serde_json::from_str(next()?)?);
    let claims = claims(token)?;
    ensure!(document["issuer"] == claims["iss"] && claims["iss"].is_string(), "{document} {claims}");
    ensure!(claims["aud"] == json!([audience]), "{claims}");
    ensure!(claims["sub"] == format!("system:serviceaccount:{}:default", ctx.ns), "{claims}");
    ensure!(
        document["jwks_uri"].as_str().is_some_and(|u| u.starts_with("https://") && u.ends_with("/openid/v1/jwks")),
        "{document}"
    );
    ensure!(document["id_token_signing_alg_values_supported"] == json!(["ES256"]), "{document}");
    let (signed, signature) = token.rsplit_once('.').context("it is signed")?;
    let signature = URL_SAFE_NO_PAD.decode(signature)?;
    let verified = keys["keys"].as_array().context("keys")?.iter().any(|key| {
        let part = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap_or_default()).unwrap_or_default();
        let point = [vec![4], part("x"), part("y")].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &signature).is_ok()
    });
    ensure!(verified, "none of {keys} is that of {token}");
    Ok(())
}

// conformance: [sig-auth] ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace
pub fn the_authority_of_a_namespace_comes_back(ctx: &Ctx) -> Result<()> {
    let authority = || ctx.field("configmap/kube-root-ca.crt", r".data['ca\.crt']");
    let whole = eventually(Duration::from_secs(60), "it is made", authority)?;
    ensure!(whole.starts_with("-----BEGIN CERTIFICATE-----"), "{whole}");
    let is_back = |what: &str| {
        eventually(Duration::from_secs(60), what, || {
            let now = authority()?;
            ensure!(now == whole, "{now:?}");
            Ok(())
        })
    };
    ctx.ok(&["delete", "configmap", "kube-root-ca.crt", "--grace-period=0"])?;
    is_back("it is made again")?;
    let spoiled = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": ""},
    });
    ctx.feed(&["replace", "-f", "-"], &[spoiled])?.ok()?;
    is_back("it is put right")
}
