//! `fieldRef` and `resourceFieldRef`: what a pod may know of itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::ConfigError;

/// What the fields are read from.
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) node_name: &'a str,
    pub(crate) node_cpus: u64,
    pub(crate) node_memory: u64,
    pub(crate) node_disk: u64,
}

fn joined(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `name['key']` as name and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (name, rest) = path.split_once("['")?;
    Some((name, rest.strip_suffix("']")?))
}

fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    // Values are quoted as Go's %q; for the characters allowed in labels and usual in annotations that is JSON's form.
    let line = |(k, v): (&String, &String)| format!("{k}={}", serde_json::Value::String(v.clone()));
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

impl Facts<'_> {
    /// The value of a `fieldRef`.
    pub(crate) fn field(&self, path: &str) -> Result<String, ConfigError> {
        let meta = &self.pod.metadata;
        if let Some((name, key)) = subscript(path) {
            let map = match name {
                "metadata.labels" => meta.labels.as_ref(),
                "metadata.annotations" => meta.annotations.as_ref(),
                _ => return Err(ConfigError::new(format!("fieldPath {path:?} is not supported"))),
            };
            return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
        }
        let text = |v: &Option<String>| v.clone().unwrap_or_default();
        Ok(match path {
            "metadata.name" => text(&meta.name),
            "metadata.namespace" => text(&meta.namespace),
            "metadata.uid" => text(&meta.uid),
            "metadata.labels" => pairs(meta.labels.as_ref()),
            "metadata.annotations" => pairs(meta.annotations.as_ref()),
            "spec.nodeName" => self.node_name.to_owned(),
            "spec.serviceAccountName" => {
                self.pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default()
            }
            "status.hostIP" => self.host_ips.first().map(ToString::to_string).unwrap_or_default(),
            "status.hostIPs" => joined(self.host_ips),
            "status.podIP" => self.pod_ips.first().map(ToString::to_string).unwrap_or_default(),
            "status.podIPs" => joined(self.pod_ips),
            _ => return Err(ConfigError::new(format!("fieldPath {path:?} is not supported"))),
        })
    }

    /// The value of a `resourceFieldRef` about a container, rounded up to whole divisors. A limit that is not set is what
    /// the node has.
    pub(crate) fn resource(&self, c: &Container, selector: &ResourceFieldSelector) -> Result<String, ConfigError> {
        let bad = |what: &str| ConfigError::new(format!("resource {:?}: {what}", selector.resource));
        let (kind, resource) = selector.resource.split_once('.').ok_or_else(|| bad("is not limits.* or requests.*"))?;
        let list = |of: &str| {
            let r = c.resources.as_ref()?;
            let list = if of == "limits" { r.limits.as_ref() } else { r.requests.as_ref() };
            list?.get(resource).and_then(|q| Quantity::parse(&q.0).ok()).map(|q| i128::from(q.milli_value()))
        };
        // A container without a limit has that of the pod (KEP-2837).
        let of_pod = || {
            let limits = self.pod.spec.as_ref()?.resources.as_ref()?.limits.as_ref()?;
            Quantity::parse(&limits.get(resource)?.0).ok().map(|q| i128::from(q.milli_value()))
        };
        let milli = match kind {
            "limits" => list("limits").or_else(of_pod).or_else(|| self.node_has(resource)),
            "requests" => list("requests").or_else(|| list("limits")).or(Some(0)),
            _ => None,
        };
        let milli = milli.ok_or_else(|| bad("is not supported"))?;
        let divisor = match selector.divisor.as_ref().map(|d| d.0.as_str()) {
            None | Some("" | "0") => 1000,
            Some(text) => Quantity::parse(text).map_or(0, |q| i128::from(q.milli_value())),
        };
        if divisor <= 0 {
            return Err(bad("has a divisor that is not positive"));
        }
        Ok(((milli + divisor - 1) / divisor).to_string())
    }

    fn node_has(&self, resource: &str) -> Option<i128> {
        let amount = match resource {
            "cpu" => self.node_cpus,
            "memory" => self.node_memory,
            "ephemeral-storage" => self.node_disk,
            // Nothing of what is not asked for.
            _ if resource.starts_with(crate::huge_pages::PREFIX) => 0,
            _ => return None,
        };
        Some(i128::from(amount) * 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
    use serde_json::json;

    fn facts<'a>(pod: &'a Pod, ips: &'a [IpAddr]) -> Facts<'a> {
        Facts { pod, pod_ips: ips, host_ips: ips, node_name: "n", node_cpus: 4, node_memory: 1 << 30, node_disk: 1 }
    }

    #[test]
    fn fields_are_read_from_the_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"b": "x \"y\"", "a": "1"}},
            "spec": {"containers": [], "serviceAccountName": "sa"},
        }))
        .expect("a pod");
        let ips = ["10.0.0.1".parse().expect("ip")];
        let f = facts(&pod, &ips);
        assert_eq!(f.field("metadata.name").as_deref(), Ok("p"));
        assert_eq!(f.field("metadata.labels['a']").as_deref(), Ok("1"));
        assert_eq!(f.field("metadata.labels").as_deref(), Ok("a=\"1\"\nb=\"x \\\"y\\\"\""));
        assert_eq!(f.field("status.podIP").as_deref(), Ok("10.0.0.1"));
        assert!(f.field("spec.containers").is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let pod = Pod::default();
        let f = facts(&pod, &[]);
        let c: Container = serde_json::from_value(json!({
            "name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"}}
        }))
        .expect("a container");
        let get = |resource: &str, divisor: &str| {
            let s = ResourceFieldSelector {
                resource: resource.into(),
                divisor: Some(Text(divisor.into())),
                ..ResourceFieldSelector::default()
            };
            f.resource(&c, &s)
        };
        assert_eq!(get("limits.cpu", "0").as_deref(), Ok("2"));
        assert_eq!(get("limits.cpu", "1m").as_deref(), Ok("1500"));
        assert_eq!(get("requests.memory", "1Mi").as_deref(), Ok("64"));
        assert_eq!(get("limits.ephemeral-storage", "1").as_deref(), Ok("1"));
        assert_eq!(get("limits.hugepages-2Mi", "1Mi").as_deref(), Ok("4"));
        assert_eq!(get("requests.hugepages-1Gi", "1").as_deref(), Ok("0"));
        assert_eq!(get("limits.hugepages-1Gi", "1").as_deref(), Ok("0"));
        assert!(get("limits.gpu", "1").is_err());
    }
}
