//! Which objects a pod refers to.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use reconcile::ephemeralvolume;
use reconcile::pod::{each, ephemeral};

use crate::objects::{Key, Kind};

struct Refs<'a> {
    namespace: &'a str,
    keys: BTreeSet<Key>,
}

impl Refs<'_> {
    fn add(&mut self, kind: Kind, name: &str) {
        if !name.is_empty() {
            self.keys.insert(Key { kind, namespace: self.namespace.to_owned(), name: name.to_owned() });
        }
    }

    fn container(&mut self, c: &Container) {
        for from in c.env_from.iter().flatten() {
            if let Some(r) = &from.config_map_ref {
                self.add(Kind::ConfigMap, &r.name);
            }
            if let Some(r) = &from.secret_ref {
                self.add(Kind::Secret, &r.name);
            }
        }
        for from in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            if let Some(r) = &from.config_map_key_ref {
                self.add(Kind::ConfigMap, &r.name);
            }
            if let Some(r) = &from.secret_key_ref {
                self.add(Kind::Secret, &r.name);
            }
        }
    }

    fn volume(&mut self, v: &Volume) {
        if let Some(name) = v.config_map.as_ref().map(|c| &c.name) {
            self.add(Kind::ConfigMap, name);
        }
        if let Some(name) = v.secret.as_ref().and_then(|s| s.secret_name.as_deref()) {
            self.add(Kind::Secret, name);
        }
        for source in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(c) = &source.config_map {
                self.add(Kind::ConfigMap, &c.name);
            }
            if let Some(s) = &source.secret {
                self.add(Kind::Secret, &s.name);
            }
        }
    }
}

/// Whether a driver may have to do with the pod's volumes: they are tried again when one registers.
pub(crate) fn has_driver(pod: &Pod) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.any(|v| v.csi.is_some() || v.persistent_volume_claim.is_some() || v.ephemeral.is_some())
}

/// The keys of who must have signed the pod's images, if anybody must.
pub(crate) fn signers(pod: &Pod) -> Option<Key> {
    let name = pod.metadata.annotations.as_ref()?.get(api::meta::REQUIRE_SIGNATURE).filter(|name| !name.is_empty())?;
    Some(Key { kind: Kind::ConfigMap, namespace: api::meta::SIGNERS_NAMESPACE.to_owned(), name: name.clone() })
}

/// All of them.
pub(crate) fn keys(pod: &Pod) -> BTreeSet<Key> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut refs = Refs { namespace, keys: BTreeSet::new() };
    let Some(spec) = &pod.spec else { return refs.keys };
    for (_, c) in each(spec) {
        refs.container(c);
    }
    for c in ephemeral(spec) {
        refs.container(&c);
    }
    for v in spec.volumes.iter().flatten() {
        refs.volume(v);
    }
    for (_, claim) in ephemeralvolume::claims(pod) {
        refs.add(Kind::Claim, &claim);
    }
    refs.keys.extend(signers(pod));
    for secret in spec.image_pull_secrets.iter().flatten() {
        refs.add(Kind::Secret, &secret.name);
    }
    refs.keys
}
