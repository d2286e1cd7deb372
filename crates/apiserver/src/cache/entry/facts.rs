//! What is known of an object without parsing it. Every object of the cluster has this in memory, so it is packed: some 400
//! bytes for a pod, where maps and strings of their own take two thousand.

use api::kinds::KindInfo;
use api::labels::Labels;
use serde_json::Value;

/// See the module.
#[derive(Debug, Default)]
pub struct Facts {
    /// `metadata.labels`.
    pub labels: Labels,
    /// Values of the fields that field selectors match on, one after the other: those that are set, and without name and
    /// namespace, which are in the key.
    values: Box<str>,
    /// The names of those fields, and where the value of each ends.
    ends: Box<[(&'static str, u32)]>,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// Whether its deletion has been asked for.
    pub deleting: bool,
    /// What a Service occupies; `None` for other kinds.
    claims: Option<Box<Claims>>,
}

impl Facts {
    /// Reads them from an object.
    pub fn of(kind: &KindInfo, object: &Value) -> Self {
        let (mut values, mut ends) = (String::new(), Vec::new());
        for (field, value) in kind.selectable(object) {
            if !value.is_empty() && !matches!(field, "metadata.name" | "metadata.namespace") {
                values.push_str(&value);
                // A request is smaller than 4 GiB.
                ends.push((field, values.len() as u32));
            }
        }
        let is_service = kind.kind == "Service" && kind.group.is_empty();
        Facts {
            labels: Labels::of(api::meta::labels(object)),
            values: values.into(),
            ends: ends.into(),
            uid: api::meta::uid(object).into(),
            deleting: api::meta::is_deleting(object),
            claims: is_service.then(|| Box::new(Claims::of(object))),
        }
    }

    /// The value of a selectable field other than name and namespace; empty when it is not set.
    pub fn field(&self, field: &str) -> &str {
        let Some(at) = self.ends.iter().position(|(name, _)| *name == field) else { return "" };
        let start = if at == 0 { 0 } else { self.ends[at - 1].1 };
        &self.values[start as usize..self.ends[at].1 as usize]
    }

    /// What the object occupies, if it is a Service.
    pub fn claims(&self) -> Option<&Claims> {
        self.claims.as_deref()
    }
}

/// Addresses and node ports of a Service.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Cluster addresses.
    pub ips: Vec<std::net::Ipv4Addr>,
    /// Node ports, that of the health check included.
    pub ports: Vec<u16>,
}

impl Claims {
    /// Reads them from a Service.
    pub fn of(service: &Value) -> Self {
        let spec = &service["spec"];
        let mut ips: Vec<std::net::Ipv4Addr> = spec["clusterIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .chain(std::iter::once(&spec["clusterIP"]))
            .filter_map(|ip| ip.as_str()?.parse().ok())
            .collect();
        ips.sort_unstable();
        ips.dedup();
        let mut ports: Vec<u16> = spec["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| &p["nodePort"])
            .chain(std::iter::once(&spec["healthCheckNodePort"]))
            .filter_map(|p| u16::try_from(p.as_u64()?).ok().filter(|&p| p != 0))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Claims { ips, ports }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_read_as_they_were() {
        let kind = api::kinds::registry().by_resource("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"a": "1"}},
            "spec": {"nodeName": "n1", "restartPolicy": "Always", "hostNetwork": true}, "status": {"phase": "Running"}});
        let facts = Facts::of(kind, &pod);
        for (field, value) in kind.selectable(&pod) {
            let packed = !field.starts_with("metadata.");
            assert_eq!(facts.field(field), if packed { value.as_str() } else { "" }, "{field}");
        }
        assert_eq!(
            (facts.field("spec.nodeName"), facts.field("status.phase"), facts.field("x")),
            ("n1", "Running", "")
        );
        assert_eq!((&*facts.uid, facts.deleting, facts.claims().is_none()), ("u", false, true));
        assert_eq!(Facts::of(kind, &json!({"metadata": {}})).field("spec.hostNetwork"), "false");
    }
}
