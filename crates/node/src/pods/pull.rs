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
use crate::spec::{Lookup, refs};

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

/// The keys of which one must have signed the pod's images; `None` when nobody must.
///
/// # Errors
/// They are nowhere to be found: then nothing is good.
fn signers(pod: &Pod, objects: &Lookup) -> Result<Option<Vec<String>>, ImageFailure> {
    let Some(key) = refs::signers(pod) else { return Ok(None) };
    let missing = |why: &str| ImageFailure::Signature(format!("{key} in namespace {:?} {why}", key.namespace));
    let content =
        objects.get(&key).cloned().flatten().ok_or_else(|| missing("with the keys of who signs is not there"))?;
    let texts = content.data().values().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let texts: Vec<String> = texts.filter(|text| text.contains("-----BEGIN")).collect();
    if texts.is_empty() { Err(missing("has no public key (PEM)")) } else { Ok(Some(texts)) }
}

/// One container's image on its way.
struct Wanted<'a> {
    ctx: &'a Context,
    pod: &'a Pod,
    container: &'a str,
    image: &'a str,
    /// `registry/path@`: how a digest of its repository begins.
    own: String,
    credentials: Vec<Credentials>,
    /// Of which one must have signed it.
    keys: Option<Vec<String>>,
}

/// Makes a container's image present, as its policy says. What has to be signed is, and is known by the digest that was signed.
pub(crate) async fn ensure(ctx: &Context, pod: &Pod, c: &Container, objects: &Lookup) -> Result<Present, Failure> {
    let image = c.image.as_deref().unwrap_or_default();
    let Some((registry, repository)) = ctx.puller.images().registry_of(image) else {
        let message = format!("Failed to apply default image tag {image:?}: couldn't parse image name");
        return Err(invalid(ctx, pod, &c.name, message));
    };
    let mut wanted = Wanted {
        ctx,
        pod,
        container: &c.name,
        image,
        own: format!("{registry}/{repository}@"),
        credentials: credentials(pod, objects, &registry, &repository),
        keys: None,
    };
    wanted.keys = signers(pod, objects).map_err(|failure| wanted.failed(failure))?;
    let policy = policy(c);
    if policy != Policy::Always {
        if let Some(present) = wanted.present(policy).await? {
            let message = format!("Container image {image:?} already present on machine");
            ctx.recorder.normal(container_reference(pod, &c.name), "Pulled", message);
            return Ok(present);
        }
        if policy == Policy::Never {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            ctx.recorder.warn(container_reference(pod, &c.name), "ErrImageNeverPull", message.clone());
            return Err(Failure::new("ErrImageNeverPull", message));
        }
    }
    ctx.recorder.normal(container_reference(pod, &c.name), "Pulling", format!("Pulling image {image:?}"));
    let began = Instant::now();
    let present = wanted.pull().await.map_err(|failure| wanted.failed(failure))?;
    let took = began.elapsed().as_millis();
    let message = format!("Successfully pulled image {image:?} in {took}ms. Image size: {} bytes.", present.size_bytes);
    ctx.recorder.normal(container_reference(pod, &c.name), "Pulled", message);
    Ok(present)
}

fn invalid(ctx: &Context, pod: &Pod, container: &str, message: String) -> Failure {
    ctx.recorder.event(container_reference(pod, container), Level::Warning, "InspectFailed", message.clone());
    Failure::new("InvalidImageName", message)
}

impl Wanted<'_> {
    /// The image, if it is on the node and, where it must be, known there by a digest that is signed.
    async fn present(&self, policy: Policy) -> Result<Option<Present>, Failure> {
        let found = match self.ctx.puller.images().get(self.image).await {
            Ok(found) => found,
            Err(ImageFailure::Pull(message)) => return Err(Failure::new("ImageInspectError", message)),
            Err(failure) => return Err(self.failed(failure)),
        };
        let (Some(present), Some(keys)) = (&found, &self.keys) else { return Ok(found) };
        if !present.image_id.starts_with(&self.own) {
            // Loaded, built or named here: it is not known what its registry has under that name.
            return Ok(None);
        }
        match self.ctx.puller.verify_digest(&present.image_id, keys, &self.credentials).await {
            Ok(()) => Ok(found),
            // By now the registry may have one that is.
            Err(ImageFailure::Signature(_)) if policy == Policy::IfNotPresent => Ok(None),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    async fn pull(&self) -> Result<Present, ImageFailure> {
        let puller = &self.ctx.puller;
        let digest = match &self.keys {
            Some(keys) => Some(puller.verify(self.image, keys, &self.credentials).await?),
            None => None,
        };
        // What was verified, whatever the tag means by now.
        puller.pull(self.image, digest, self.credentials.clone()).await
    }

    fn failed(&self, failure: ImageFailure) -> Failure {
        let (image, recorder) = (self.image, &self.ctx.recorder);
        let about = || container_reference(self.pod, self.container);
        let (reason, said, message) = match failure {
            ImageFailure::InvalidName(message) => return invalid(self.ctx, self.pod, self.container, message),
            ImageFailure::Pull(said) => {
                let message = format!("failed to pull image {image:?}: {said}");
                ("ErrImagePull", said, message)
            }
            // The kubelet's words for what a container runtime may answer.
            ImageFailure::Signature(said) => {
                let message = format!("image pull failed for {image} because the signature validation failed: {said}");
                ("SignatureValidationFailed", said, message)
            }
        };
        recorder.warn(about(), "Failed", format!("Failed to pull image {image:?}: {said}"));
        recorder.warn(about(), "Failed", format!("Error: {reason}"));
        Failure::new(reason, message)
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
    fn a_demand_without_keys_is_met_by_nothing() {
        let of = |annotations: serde_json::Value| -> Pod {
            let pod = json!({"metadata": {"namespace": "ns", "annotations": annotations}, "spec": {"containers": []}});
            serde_json::from_value(pod).expect("a pod")
        };
        let demanding = of(json!({"windlass.dev/require-signature": "team"}));
        let key = refs::signers(&demanding).expect("a demand");
        assert_eq!((key.kind, key.namespace.as_str(), key.name.as_str()), (Kind::ConfigMap, "kube-system", "team"));
        assert!(refs::keys(&demanding).contains(&key));
        let with = |data: Vec<(String, Vec<u8>)>| {
            Lookup::from([(key.clone(), Some(Arc::new(Content::Data(data.into_iter().collect()))))])
        };
        assert_eq!(signers(&of(json!({})), &Lookup::new()), Ok(None));
        for objects in [Lookup::new(), with(Vec::new()), with(vec![("a".into(), b"no key".to_vec())])] {
            assert!(matches!(signers(&demanding, &objects), Err(ImageFailure::Signature(_))));
        }
        let text = "-----BEGIN PUBLIC KEY-----".to_owned();
        let objects =
            with(vec![("a".into(), text.clone().into_bytes()), ("README".into(), b"keys of the team".to_vec())]);
        assert_eq!(signers(&demanding, &objects), Ok(Some(vec![text])));
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
