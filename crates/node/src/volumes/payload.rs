//! The files of configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod, SecretProjection, ServiceAccountTokenProjection, Volume,
};

use super::atomic::{File, Payload};
use crate::objects::{Key, Kind};
use crate::spec::downward::Facts;
use crate::spec::{ConfigError, Lookup};

/// A token a volume wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenWish {
    /// `None` is the API server's own audience.
    pub(crate) audience: Option<String>,
    pub(crate) expiration_s: i64,
}

impl TokenWish {
    pub(crate) fn of(p: &ServiceAccountTokenProjection) -> Self {
        TokenWish {
            audience: p.audience.clone().filter(|a| !a.is_empty()),
            expiration_s: p.expiration_seconds.unwrap_or(3600).max(600),
        }
    }
}

/// The tokens a volume wants.
pub(crate) fn wishes(v: &Volume) -> Vec<TokenWish> {
    let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
    sources.filter_map(|s| s.service_account_token.as_ref()).map(TokenWish::of).collect()
}

/// Whether the volume is made of files we write.
pub(crate) fn is_payload(v: &Volume) -> bool {
    v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some()
}

struct Builder<'a> {
    facts: &'a Facts<'a>,
    objects: &'a Lookup,
    tokens: &'a BTreeMap<TokenWish, String>,
    mode: u32,
    files: Payload,
}

fn mode(given: Option<i32>, default: u32) -> u32 {
    given.map_or(default, |m| m.unsigned_abs() & 0o777)
}

impl Builder<'_> {
    fn put(&mut self, path: &str, data: Vec<u8>, mode: u32, user: Option<u32>) {
        self.files.insert(path.to_owned(), File { data, mode, user });
    }

    fn object(
        &mut self,
        kind: Kind,
        name: &str,
        items: Option<&Vec<KeyToPath>>,
        optional: bool,
    ) -> Result<(), ConfigError> {
        let namespace = self.facts.pod.metadata.namespace.clone().unwrap_or_default();
        let key = Key { kind, namespace, name: name.to_owned() };
        let Some(content) = self.objects.get(&key).cloned().flatten() else {
            return if optional {
                Ok(())
            } else {
                Err(ConfigError::new(format!("{} {name:?} not found", kind.noun())))
            };
        };
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            for (k, v) in content.data() {
                self.put(k, v.clone(), self.mode, None);
            }
            return Ok(());
        };
        for item in items {
            match content.data().get(&item.key) {
                Some(v) => self.put(&item.path, v.clone(), mode(item.mode, self.mode), None),
                None if optional => {}
                None => {
                    let message = format!("references non-existent {} key: {}", kind.noun(), item.key);
                    return Err(ConfigError::new(message));
                }
            }
        }
        Ok(())
    }

    fn config_map(&mut self, c: &ConfigMapProjection) -> Result<(), ConfigError> {
        self.object(Kind::ConfigMap, &c.name, c.items.as_ref(), c.optional == Some(true))
    }

    fn secret(&mut self, s: &SecretProjection) -> Result<(), ConfigError> {
        self.object(Kind::Secret, &s.name, s.items.as_ref(), s.optional == Some(true))
    }

    fn downward(&mut self, item: &DownwardAPIVolumeFile) -> Result<(), ConfigError> {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(f), _) => self.facts.field(&f.field_path)?,
            (None, Some(r)) => {
                let name = r.container_name.as_deref().unwrap_or_default();
                let spec = self.facts.pod.spec.as_ref();
                let c = spec.and_then(|s| reconcile::pod::find(s, name)).map(|(_, c)| c);
                self.facts.resource(c.ok_or_else(|| ConfigError::new(format!("no container {name:?}")))?, r)?
            }
            (None, None) => return Err(ConfigError::new(format!("{:?} has no fieldRef", item.path))),
        };
        self.put(&item.path, value.into_bytes(), mode(item.mode, self.mode), None);
        Ok(())
    }

    fn token(&mut self, p: &ServiceAccountTokenProjection) -> Result<(), ConfigError> {
        let token = self.tokens.get(&TokenWish::of(p));
        let token = token.ok_or_else(|| ConfigError::new("the service account token was not issued"))?;
        let user = common_user(self.facts.pod);
        let group = self.facts.pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
        // A token that its readers own or share a group with need not be readable by everybody.
        let mode = if user.is_some() || group.is_some() { 0o600 } else { self.mode };
        self.put(&p.path, token.clone().into_bytes(), mode, user);
        Ok(())
    }
}

/// The user all containers of the pod run as, when the pod says so and it is the same.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let mut users = reconcile::pod::each(spec).map(|(_, c)| crate::spec::security::run_as_user(pod, c));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok())?
}

/// The files of a volume.
pub(crate) fn of_volume(
    v: &Volume,
    facts: &Facts<'_>,
    objects: &Lookup,
    tokens: &BTreeMap<TokenWish, String>,
) -> Result<Payload, ConfigError> {
    let mut b = Builder { facts, objects, tokens, mode: 0o644, files: Payload::new() };
    if let Some(c) = &v.config_map {
        b.mode = mode(c.default_mode, 0o644);
        b.object(Kind::ConfigMap, &c.name, c.items.as_ref(), c.optional == Some(true))?;
    }
    if let Some(s) = &v.secret {
        b.mode = mode(s.default_mode, 0o644);
        let name = s.secret_name.as_deref().unwrap_or_default();
        b.object(Kind::Secret, name, s.items.as_ref(), s.optional == Some(true))?;
    }
    if let Some(d) = &v.downward_api {
        b.mode = mode(d.default_mode, 0o644);
        for item in d.items.iter().flatten() {
            b.downward(item)?;
        }
    }
    if let Some(p) = &v.projected {
        b.mode = mode(p.default_mode, 0o644);
        for source in p.sources.iter().flatten() {
            if let Some(c) = &source.config_map {
                b.config_map(c)?;
            }
            if let Some(s) = &source.secret {
                b.secret(s)?;
            }
            for item in source.downward_api.iter().flat_map(|d| d.items.iter().flatten()) {
                b.downward(item)?;
            }
            if let Some(t) = &source.service_account_token {
                b.token(t)?;
            }
        }
    }
    Ok(b.files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Content;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn build(volume: Value) -> Result<Payload, ConfigError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "securityContext": {"runAsUser": 7}}]},
        }))
        .expect("a pod");
        let facts = Facts {
            pod: &pod,
            pod_ips: &[],
            host_ips: &[],
            node_name: "n",
            node_cpus: 2,
            node_memory: 1,
            node_disk: 1,
        };
        let key = |kind, name: &str| Key { kind, namespace: "ns".into(), name: name.into() };
        let data = Content::Data([("k".to_owned(), b"v".to_vec()), ("l".to_owned(), b"w".to_vec())].into());
        let objects =
            Lookup::from([(key(Kind::ConfigMap, "cm"), Some(Arc::new(data))), (key(Kind::Secret, "no"), None)]);
        let wish = TokenWish { audience: None, expiration_s: 3600 };
        let v: Volume = serde_json::from_value(volume).expect("a volume");
        of_volume(&v, &facts, &objects, &BTreeMap::from([(wish, "token".to_owned())]))
    }

    fn flat(p: Payload) -> Vec<(String, String, u32)> {
        p.into_iter().map(|(k, f)| (k, String::from_utf8_lossy(&f.data).into_owned(), f.mode)).collect()
    }

    #[test]
    fn items_choose_keys_paths_and_modes() {
        let v = json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 0o640,
            "items": [{"key": "k", "path": "x/y"}, {"key": "l", "path": "z", "mode": 0o400}]}});
        let expected = [("x/y".to_owned(), "v".to_owned(), 0o640), ("z".to_owned(), "w".to_owned(), 0o400)];
        assert_eq!(flat(build(v).expect("files")), expected);
    }

    #[test]
    fn missing_objects_and_keys_fail_unless_optional() {
        let secret = |optional: bool| json!({"name": "v", "secret": {"secretName": "no", "optional": optional}});
        assert_eq!(build(secret(false)).expect_err("an error").0, "secret \"no\" not found");
        assert!(build(secret(true)).expect("files").is_empty());
        let key = json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "no", "path": "x"}]}});
        assert_eq!(build(key).expect_err("an error").0, "references non-existent configmap key: no");
    }

    #[test]
    fn projected_sources_meet_in_one_folder() {
        let v = json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "cm", "items": [{"key": "k", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}});
        let files = build(v).expect("files");
        assert_eq!(files["token"].user, Some(7));
        assert_eq!(files["token"].mode, 0o600);
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["ca.crt", "namespace", "token"]);
    }
}
