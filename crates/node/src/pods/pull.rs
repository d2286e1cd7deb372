//! Image pull policies and pull secrets.

use std::time::Instant;

use base64::Engine as _;
use k8s_openapi::api::core::v1::{Container, Pod};
use reconcile::pod::Failure;
use serde::Deserialize;

use crate::context::Context;
use crate::events::{Level, container_reference};
use crate::images::{Credentials, ImageFailure, Present};
use crate::objects::{Key, Kind};
use crate::spec::Lookup;

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

fn policy(c: &Container) -> Policy {
    let image = c.image.as_deref().unwrap_or_default();
    match c.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        // The API's default: a moving name is asked for again.
        _ if image.contains('@') => Policy::IfNotPresent,
        _ => match image.rsplit_once('/').map_or(image, |(_, last)| last).rsplit_once(':') {
            None | Some((_, "latest")) => Policy::Always,
            Some(_) => Policy::IfNotPresent,
        },
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

impl DockerAuth {
    fn credentials(self) -> Option<Credentials> {
        if let (Some(username), Some(password)) = (self.username, self.password) {
            return Some(Credentials::Basic { username, password });
        }
        let text = base64::engine::general_purpose::STANDARD.decode(self.auth?).ok()?;
        let text = String::from_utf8(text).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Credentials::Basic { username: username.to_owned(), password: password.to_owned() })
    }
}

/// Whether an entry of a docker config is for this repository: same host, and a path that leads to it.
fn is_for(entry: &str, registry: &str, repository: &str) -> bool {
    let entry = entry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = entry.split_once('/').unwrap_or((entry, ""));
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    let same = host == registry || hub.contains(&host) && hub.contains(&registry);
    let leads = path.is_empty() || repository == path || repository.starts_with(&format!("{path}/"));
    same && leads
}

/// Credentials of the pod's pull secrets for a repository, and none at the end.
fn credentials(pod: &Pod, objects: &Lookup, registry: &str, repository: &str) -> Vec<Credentials> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut found = Vec::new();
    for secret in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        let key = Key { kind: Kind::Secret, namespace: namespace.clone(), name: secret.name.clone() };
        let Some(content) = objects.get(&key).cloned().flatten() else { continue };
        let config = match (content.data().get(".dockerconfigjson"), content.data().get(".dockercfg")) {
            (Some(json), _) => serde_json::from_slice::<DockerConfig>(json).ok(),
            (None, Some(json)) => serde_json::from_slice(json).ok().map(|auths| DockerConfig { auths }),
            _ => None,
        };
        let auths = config.map(|c| c.auths).unwrap_or_default();
        found.extend(
            auths.into_iter().filter(|(e, _)| is_for(e, registry, repository)).filter_map(|(_, a)| a.credentials()),
        );
    }
    found.push(Credentials::Anonymous);
    found
}

/// Makes a container's image present, as its policy says.
pub(crate) async fn ensure(ctx: &Context, pod: &Pod, c: &Container, objects: &Lookup) -> Result<Present, Failure> {
    let image = c.image.as_deref().unwrap_or_default();
    let about = || container_reference(pod, &c.name);
    let invalid = |message: String| {
        ctx.recorder.event(about(), Level::Warning, "InspectFailed", message.clone());
        Failure::new("InvalidImageName", message)
    };
    let Some((registry, repository)) = ctx.puller.images().registry_of(image) else {
        return Err(invalid(format!("Failed to apply default image tag {image:?}: couldn't parse image name")));
    };
    let policy = policy(c);
    if policy != Policy::Always {
        let present = match ctx.puller.images().get(image).await {
            Ok(present) => present,
            Err(ImageFailure::InvalidName(message)) => return Err(invalid(message)),
            Err(ImageFailure::Pull(message)) => return Err(Failure::new("ImageInspectError", message)),
        };
        if let Some(present) = present {
            let message = format!("Container image {image:?} already present on machine");
            ctx.recorder.normal(about(), "Pulled", message);
            return Ok(present);
        }
        if policy == Policy::Never {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            ctx.recorder.warn(about(), "ErrImageNeverPull", message.clone());
            return Err(Failure::new("ErrImageNeverPull", message));
        }
    }
    ctx.recorder.normal(about(), "Pulling", format!("Pulling image {image:?}"));
    let began = Instant::now();
    match ctx.puller.pull(image, credentials(pod, objects, &registry, &repository)).await {
        Ok(present) => {
            let took = began.elapsed().as_millis();
            let message =
                format!("Successfully pulled image {image:?} in {took}ms. Image size: {} bytes.", present.size_bytes);
            ctx.recorder.normal(about(), "Pulled", message);
            Ok(present)
        }
        Err(ImageFailure::InvalidName(message)) => Err(invalid(message)),
        Err(ImageFailure::Pull(message)) => {
            ctx.recorder.warn(about(), "Failed", format!("Failed to pull image {image:?}: {message}"));
            ctx.recorder.warn(about(), "Failed", "Error: ErrImagePull");
            Err(Failure::new("ErrImagePull", format!("failed to pull image {image:?}: {message}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Content;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn moving_names_are_pulled_again() {
        let of = |image: &str| policy(&Container { image: Some(image.into()), ..Container::default() });
        assert_eq!(of("busybox"), Policy::Always);
        assert_eq!(of("host:5000/busybox"), Policy::Always);
        assert_eq!(of("busybox:latest"), Policy::Always);
        assert_eq!(of("busybox:1.36"), Policy::IfNotPresent);
        assert_eq!(of("busybox@sha256:00"), Policy::IfNotPresent);
    }

    #[test]
    fn entries_match_by_host_and_path() {
        assert!(is_for("https://index.docker.io/v1/", "docker.io", "library/busybox"));
        assert!(is_for("reg:5000", "reg:5000", "a/b"));
        assert!(is_for("reg:5000/a", "reg:5000", "a/b"));
        assert!(!is_for("reg:5000/ab", "reg:5000", "a/b"));
        assert!(!is_for("evil.io", "reg:5000", "a/b"));
    }

    #[test]
    fn pull_secrets_are_tried_before_going_without() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "ns"},
            "spec": {"containers": [], "imagePullSecrets": [{"name": "s"}, {"name": "gone"}]}}))
        .expect("a pod");
        let config = json!({"auths": {"reg": {"auth": base64::engine::general_purpose::STANDARD.encode("u:p:q")}}});
        let content = Content::Data([(".dockerconfigjson".to_owned(), config.to_string().into_bytes())].into());
        let key = Key { kind: Kind::Secret, namespace: "ns".into(), name: "s".into() };
        let objects = Lookup::from([(key, Some(Arc::new(content)))]);
        let basic = Credentials::Basic { username: "u".into(), password: "p:q".into() };
        assert_eq!(credentials(&pod, &objects, "reg", "x"), [basic, Credentials::Anonymous]);
        assert_eq!(credentials(&pod, &objects, "other", "x"), [Credentials::Anonymous]);
    }
}
