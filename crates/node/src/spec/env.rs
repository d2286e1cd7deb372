//! The environment of a container: services, `envFrom`, `env`, in that order of precedence.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, FileKeySelector, Pod, Service};

use super::downward::Facts;
use super::expand::expand;
use super::{ConfigError, Lookup, env_file};
use crate::objects::{Key, Kind};
use crate::volumes::env_files::EnvFiles;

/// Variables that name services, as Docker links did: for those of the pod's namespace if it wants them, and always for
/// the API server's.
pub(crate) fn of_services<'a>(pod: &Pod, services: impl Iterator<Item = &'a Service>) -> BTreeMap<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
    let mut vars = BTreeMap::new();
    for service in services {
        let (ns, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref().unwrap_or_default());
        let master = ns == Some("default") && name == "kubernetes";
        if master && !vars.contains_key("KUBERNETES_SERVICE_HOST") || links && ns == Some(namespace) {
            of_service(service, name, &mut vars);
        }
    }
    vars
}

fn of_service(service: &Service, name: &str, vars: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let upper = |s: &str| s.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    vars.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    vars.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let url = |port: i32, protocol: &str| format!("{}://{host}:{port}", protocol.to_lowercase());
    vars.insert(format!("{prefix}_PORT"), url(first.port, first.protocol.as_deref().unwrap_or("TCP")));
    for p in ports {
        if let Some(port_name) = p.name.as_deref().filter(|n| !n.is_empty()) {
            vars.insert(format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), p.port.to_string());
        }
        let protocol = p.protocol.as_deref().unwrap_or("TCP");
        let key = format!("{prefix}_PORT_{}_{}", p.port, protocol.to_uppercase());
        vars.insert(key.clone(), url(p.port, protocol));
        vars.insert(format!("{key}_PROTO"), protocol.to_lowercase());
        vars.insert(format!("{key}_PORT"), p.port.to_string());
        vars.insert(format!("{key}_ADDR"), ip.to_owned());
    }
}

/// Names the API allows: printable ASCII without `=`.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

struct Builder<'a> {
    facts: &'a Facts<'a>,
    objects: &'a Lookup,
    container: &'a Container,
    files: &'a EnvFiles,
    vars: Vec<(String, String)>,
}

impl Builder<'_> {
    fn set(&mut self, name: &str, value: String) {
        match self.vars.iter_mut().find(|(n, _)| n == name) {
            Some((_, v)) => *v = value,
            None => self.vars.push((name.to_owned(), value)),
        }
    }

    fn object(&self, kind: Kind, name: &str) -> Option<&crate::objects::Content> {
        let namespace = self.facts.pod.metadata.namespace.clone().unwrap_or_default();
        self.objects.get(&Key { kind, namespace, name: name.to_owned() })?.as_deref()
    }

    fn all_of(&mut self, kind: Kind, name: &str, optional: bool, prefix: &str) -> Result<(), ConfigError> {
        let Some(content) = self.object(kind, name) else {
            return if optional {
                Ok(())
            } else {
                Err(ConfigError::new(format!("{} {name:?} not found", kind.noun())))
            };
        };
        let all: Vec<(String, String)> = content
            .data()
            .iter()
            .map(|(k, v)| (format!("{prefix}{k}"), String::from_utf8_lossy(v).into_owned()))
            .filter(|(k, _)| is_name(k))
            .collect();
        for (k, v) in all {
            self.set(&k, v);
        }
        Ok(())
    }

    fn key_of(&self, kind: Kind, name: &str, key: &str, optional: bool) -> Result<Option<String>, ConfigError> {
        match self.object(kind, name) {
            None if optional => Ok(None),
            None => Err(ConfigError::new(format!("{} {name:?} not found", kind.noun()))),
            Some(content) => match content.data().get(key) {
                Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
                None if optional => Ok(None),
                None => {
                    let ns = self.facts.pod.metadata.namespace.as_deref().unwrap_or_default();
                    Err(ConfigError::new(format!("couldn't find key {key} in {} {ns}/{name}", kind.noun())))
                }
            },
        }
    }

    fn from(&self, source: &EnvVarSource) -> Result<Option<String>, ConfigError> {
        if let Some(f) = &source.field_ref {
            return self.facts.field(&f.field_path).map(Some);
        }
        if let Some(r) = &source.resource_field_ref {
            let spec = self.facts.pod.spec.as_ref();
            let named = r.container_name.as_deref().filter(|n| !n.is_empty());
            let other = named.and_then(|n| reconcile::pod::find(spec?, n)).map(|(_, c)| c);
            return self.facts.resource(other.unwrap_or(self.container), r).map(Some);
        }
        if let Some(r) = &source.config_map_key_ref {
            return self.key_of(Kind::ConfigMap, &r.name, &r.key, r.optional == Some(true));
        }
        if let Some(r) = &source.secret_key_ref {
            return self.key_of(Kind::Secret, &r.name, &r.key, r.optional == Some(true));
        }
        if let Some(r) = &source.file_key_ref {
            return self.in_file(r);
        }
        Err(ConfigError::new("env.valueFrom names no supported source"))
    }

    /// A variable of a file in a volume; an empty one counts as missing.
    fn in_file(&self, r: &FileKeySelector) -> Result<Option<String>, ConfigError> {
        let (volume, path, key) = (&r.volume_name, &r.path, &r.key);
        let text = self.files.get(&(volume.clone(), path.clone())).cloned().flatten();
        let found = text
            .as_deref()
            .map(|text| env_file::value_of(text, key))
            .transpose()
            .map_err(|e| ConfigError::new(format!("couldn't parse env file {path:?} of volume {volume:?}: {e}")))?;
        match found.flatten().filter(|v| !v.is_empty()) {
            None if r.optional != Some(true) => {
                let what = if text.is_some() { "" } else { ", which does not exist" };
                Err(ConfigError::new(format!(
                    "environment variable key {key:?} not found in file {path:?} of volume {volume:?}{what}"
                )))
            }
            found => Ok(found),
        }
    }
}

/// The environment of a container, in order, each name once.
pub(crate) fn of_container(
    c: &Container,
    facts: &Facts<'_>,
    objects: &Lookup,
    services: &BTreeMap<String, String>,
    files: &EnvFiles,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut b = Builder { facts, objects, container: c, files, vars: Vec::new() };
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            b.all_of(Kind::ConfigMap, &r.name, r.optional == Some(true), prefix)?;
        }
        if let Some(r) = &from.secret_ref {
            b.all_of(Kind::Secret, &r.name, r.optional == Some(true), prefix)?;
        }
    }
    for EnvVar { name, value, value_from } in c.env.iter().flatten() {
        let value = match value_from {
            Some(source) => b.from(source)?,
            None => {
                let known = |n: &str| {
                    let own = b.vars.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone());
                    own.or_else(|| services.get(n).cloned())
                };
                Some(expand(value.as_deref().unwrap_or_default(), known))
            }
        };
        if let Some(value) = value {
            b.set(name, value);
        }
    }
    for (name, value) in services {
        if !b.vars.iter().any(|(n, _)| n == name) {
            b.vars.push((name.clone(), value.clone()));
        }
    }
    Ok(b.vars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Content;
    use serde_json::json;
    use std::sync::Arc;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": []}}))
            .expect("a pod")
    }

    fn build(c: serde_json::Value, services: &[(&str, &str)]) -> Result<Vec<(String, String)>, ConfigError> {
        let pod = pod();
        let facts = Facts {
            pod: &pod,
            pod_ips: &[],
            host_ips: &[],
            node_name: "n",
            node_cpus: 1,
            node_memory: 1,
            node_disk: 1,
        };
        let key = |kind, name: &str| Key { kind, namespace: "ns".into(), name: name.into() };
        let data = |pairs: &[(&str, &str)]| {
            let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
            Some(Arc::new(Content::Data(map)))
        };
        let objects = Lookup::from([
            (key(Kind::ConfigMap, "cm"), data(&[("A", "1"), ("bad=name", "x")])),
            (key(Kind::Secret, "s"), data(&[("B", "2")])),
            (key(Kind::Secret, "none"), None),
        ]);
        let c: Container = serde_json::from_value(c).expect("a container");
        let services = services.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let place = |path: &str| ("v".to_owned(), path.to_owned());
        let files = EnvFiles::from([
            (place("e"), Some("K='from a file'\nEMPTY=''\n".to_owned())),
            (place("broken"), Some("K=1".to_owned())),
            (place("none"), None),
        ]);
        of_container(&c, &facts, &objects, &services, &files)
    }

    fn flat(v: Vec<(String, String)>) -> String {
        v.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn later_sources_win_and_references_are_expanded() {
        let c = json!({"name": "c",
        "envFrom": [{"configMapRef": {"name": "cm"}, "prefix": "P_"}, {"secretRef": {"name": "s"}}],
        "env": [
            {"name": "B", "value": "$(P_A)-$(SVC)"},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "D", "value": "$(C)$(E)"},
            {"name": "O", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}},
        ]});
        let vars = build(c, &[("SVC", "svc"), ("C", "hidden")]).expect("an environment");
        assert_eq!(flat(vars), "P_A=1 B=1-svc C=p D=p$(E) SVC=svc");
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = |source: serde_json::Value| {
            build(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]}), &[]).expect_err("an error").0
        };
        assert_eq!(missing(json!({"secretKeyRef": {"name": "none", "key": "k"}})), "secret \"none\" not found");
        assert_eq!(
            missing(json!({"configMapKeyRef": {"name": "cm", "key": "k"}})),
            "couldn't find key k in configmap ns/cm"
        );
    }

    #[test]
    fn a_variable_may_come_from_a_file() {
        let from = |path: &str, key: &str, optional: bool| {
            let source = json!({"fileKeyRef": {"volumeName": "v", "path": path, "key": key, "optional": optional}});
            build(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]}), &[]).map(flat).map_err(|e| e.0)
        };
        assert_eq!(from("e", "K", false).as_deref(), Ok("X=from a file"));
        assert_eq!(from("e", "OTHER", true).as_deref(), Ok(""));
        assert_eq!(from("none", "K", true).as_deref(), Ok(""));
        let missing = "environment variable key \"EMPTY\" not found in file \"e\" of volume \"v\"";
        assert_eq!(from("e", "EMPTY", false).expect_err("an error"), missing);
        assert!(from("none", "K", false).expect_err("an error").ends_with("which does not exist"));
        assert!(from("broken", "K", true).expect_err("an error").contains("line 1"));
    }

    #[test]
    fn services_are_named_like_docker_links() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "my-db", "namespace": "ns"},
            "spec": {"clusterIP": "10.0.0.5", "ports": [{"name": "pg", "port": 5432}]},
        }))
        .expect("a service");
        let vars = of_services(&pod(), std::iter::once(&service));
        assert_eq!(vars["MY_DB_SERVICE_HOST"], "10.0.0.5");
        assert_eq!(vars["MY_DB_SERVICE_PORT_PG"], "5432");
        assert_eq!(vars["MY_DB_PORT_5432_TCP"], "tcp://10.0.0.5:5432");
    }
}
