//! The instance's Kubernetes API as a client sees it: the same HTTPS and the same admin kubeconfig that kubectl uses.

use std::path::Path;

use anyhow::{Context, bail};
use base::instance::Instance;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::exit::Unfit;

/// A client with the rights of the kubeconfig.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// A client with the administrator's rights, or the reason why there is none.
pub async fn admin(instance: &Instance) -> anyhow::Result<Client> {
    let path = admin_kubeconfig(instance);
    if !path.exists() {
        return Err(Unfit::error(
            format!("there is no instance {:?} in {}", instance.name(), instance.data_dir().display()),
            "start one with: windlass server --detach",
        ));
    }
    client(&path).await
}

/// Where the administrator's kubeconfig is.
pub fn admin_kubeconfig(instance: &Instance) -> std::path::PathBuf {
    instance.data_dir().join("admin.kubeconfig")
}

/// The URL path of an object from its apiVersion, kind and names.
pub fn object_path(object: &Value) -> anyhow::Result<String> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let api_version = text(&object["apiVersion"]).context("a manifest has no apiVersion")?;
    let kind = text(&object["kind"]).context("a manifest has no kind")?;
    let name = text(&object["metadata"]["name"]).with_context(|| format!("a {kind} has no metadata.name"))?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let Some(info) = api::kinds::registry().by_kind(group, version, &kind) else {
        bail!("no matches for kind {kind:?} in version {api_version:?}");
    };
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    if !info.namespaced {
        return Ok(format!("{root}/{}/{name}", info.plural));
    }
    let namespace = text(&object["metadata"]["namespace"]).unwrap_or_else(|| "default".into());
    Ok(format!("{root}/namespaces/{namespace}/{}/{name}", info.plural))
}

/// What applying did to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Created,
    Configured,
    Unchanged,
}

/// Server-side apply with the field manager `windlass`; conflicts are errors, as with kubectl.
pub async fn apply(client: &Client, object: &Value) -> anyhow::Result<Applied> {
    let path = object_path(object)?;
    let before = get(client, &path).await?;
    let request = http::Request::patch(format!("{path}?fieldManager=windlass&force=true"))
        .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(serde_json::to_vec(object)?)?;
    let after: Value = client.request(request).await?;
    let version = |o: &Value| o["metadata"]["resourceVersion"].clone();
    Ok(match before {
        None => Applied::Created,
        Some(b) if version(&b) == version(&after) => Applied::Unchanged,
        Some(_) => Applied::Configured,
    })
}

/// Removes an object, its dependents before it; none is no error.
pub async fn delete(client: &Client, path: &str) -> anyhow::Result<bool> {
    let options = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"});
    let request = http::Request::delete(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&options)?)?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(s)) if s.code == 404 => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The object at a path, or `None` when there is none.
pub async fn get(client: &Client, path: &str) -> anyhow::Result<Option<Value>> {
    match client.request::<Value>(http::Request::get(path).body(Vec::new())?).await {
        Ok(v) => Ok(Some(v)),
        Err(kube::Error::Api(s)) if s.code == 404 => Ok(None),
        Err(e) => Err(e.into()),
    }
}
