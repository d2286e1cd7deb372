//! Overlay networks: names by which services find each other. A network is a ConfigMap; who is in it is found under its key. Addresses
//! are those of pods, so there is nothing that keeps networks apart.

use std::collections::BTreeMap;

use convert::Data;
use dockerapi::swarm::{Asked, Fault, Rest, Result, Said, only_empty, without_nulls};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{self, CONFIG_MAPS, LABEL, NAMESPACE, RECORD, text};
use crate::model::ServiceSpec;
use crate::record::pick;
use crate::workload::Joined;
use crate::{Swarm, created, now, ok};

/// Before the names of their objects; no config's object is called so.
const PREFIX: &str = "network.";

/// What `networks/create` is sent.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Wanted {
    name: String,
    driver: String,
    scope: String,
    attachable: bool,
    // Nothing leads out of a network here but what leads out of every pod, and nothing is kept in.
    internal: bool,
    #[serde(rename = "EnableIPv4")]
    ipv4: Option<bool>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    #[serde(rename = "CheckDuplicate")]
    _check: bool,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: String,
    #[serde(flatten)]
    rest: Rest,
}

fn record(object: &Value) -> Value {
    serde_json::from_str(text(&object["metadata"]["annotations"][RECORD])).unwrap_or_default()
}

fn name(object: &Value) -> String {
    text(&record(object)["name"]).to_owned()
}

fn object(document: &Value) -> Result<Value> {
    let wanted: Wanted = serde_json::from_value(without_nulls(document.clone()))
        .map_err(|e| Fault::bad(format!("invalid JSON: {e}")))?;
    only_empty("", &wanted.rest)?;
    only_empty("IPAM.", &wanted.ipam.rest)?;
    crate::check::name(&wanted.name, "name must be valid as a DNS name component")?;
    if !matches!(wanted.driver.as_str(), "" | "overlay") || !matches!(wanted.scope.as_str(), "" | "swarm") {
        return Err(Fault::refused(&format!("a network of the swarm with the driver {:?}", wanted.driver)));
    }
    if wanted.internal || wanted.attachable || wanted.ipv4 == Some(false) {
        let which = if wanted.internal { "internal" } else { "attachable" };
        return Err(Fault::refused(&format!("an overlay network that is {which}")));
    }
    if !matches!(wanted.ipam.driver.as_str(), "" | "default") {
        return Err(Fault::refused("IPAM.Driver"));
    }
    if let Some((option, value)) = wanted.options.iter().next() {
        return Err(Fault::refused(&format!("the network option {option}={value:?}")));
    }
    let record = json!({"name": wanted.name, "labels": wanted.labels, "created": now()});
    Ok(convert::data(&Data {
        name: format!("{PREFIX}{}", convert::name(&wanted.name)),
        namespace: Some(NAMESPACE.to_owned()),
        labels: BTreeMap::from([(LABEL.to_owned(), "network".to_owned())]),
        annotations: BTreeMap::from([(RECORD.to_owned(), record.to_string())]),
        ..Data::default()
    }))
}

fn document(object: &Value) -> Value {
    let record = record(object);
    json!({
        "Name": record["name"], "Id": cluster::id(object), "Created": record["created"], "Scope": "swarm", "Driver": "overlay",
        "EnableIPv4": true, "EnableIPv6": false, "IPAM": {"Driver": "default", "Options": null, "Config": []},
        "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
        "Containers": null, "Options": {}, "Labels": record["labels"],
    })
}

impl Swarm {
    pub(crate) async fn of_networks(&self, asked: &Asked, path: &[&str]) -> Result<Said> {
        match (asked.method.as_str(), path) {
            ("GET", []) => {
                let known = ["dangling", "driver", "id", "label", "label!", "name", "scope", "type"];
                let filters = asked.query.filters(&known)?;
                let fits = |object: &&Value| {
                    let (id, name) = (cluster::id(object), name(object));
                    let labels = serde_json::from_value(record(object)["labels"].clone()).unwrap_or_default();
                    filters.any("id", |v| id.contains(v))
                        && filters.any("name", |v| name.contains(v))
                        && filters.any("driver", |v| v == "overlay")
                        && filters.any("scope", |v| v == "swarm")
                        && filters.any("type", |v| v == "custom")
                        // Whether anybody is in it, nobody looks here.
                        && !filters.has("dangling")
                        && filters.labels(&labels)
                };
                ok(self.networks().await?.iter().filter(fits).map(document).collect::<Vec<_>>())
            }
            ("POST", ["create"]) => {
                let object = object(&asked.body)?;
                let made = self.cluster.create(CONFIG_MAPS, &object).await;
                match made {
                    Err(refused) if refused.is_taken() => {
                        let name = text(&asked.body["Name"]);
                        Err(Fault::conflict(format!("network with name {name} already exists")))
                    }
                    made => created(json!({"Id": cluster::id(&made?), "Warning": ""})),
                }
            }
            ("GET", [wanted]) => ok(document(&self.network(wanted).await?)),
            ("DELETE", [wanted]) => self.remove_network(wanted).await,
            _ => Err(Fault::missing("page not found")),
        }
    }

    async fn networks(&self) -> Result<Vec<Value>> {
        Ok(self.cluster.list(CONFIG_MAPS, &format!("{LABEL}=network")).await?)
    }

    async fn network(&self, wanted: &str) -> Result<Value> {
        let all = self.networks().await?;
        pick(&all, "network", wanted, cluster::id, name).cloned()
    }

    async fn remove_network(&self, wanted: &str) -> Result<Said> {
        let _one = self.making.lock().await;
        let object = self.network(wanted).await?;
        let (id, name) = (cluster::id(&object), name(&object));
        for service in self.services().await? {
            let spec = ServiceSpec::read(&service.record.spec)?;
            if spec.attachments().iter().any(|a| a.target == id || a.target == name) {
                let why = format!("network {id} is in use by service {}", service.id());
                return Err(Fault::bad(format!("rpc error: code = FailedPrecondition desc = {why}")));
            }
        }
        self.cluster.delete(CONFIG_MAPS, text(&object["metadata"]["name"])).await?;
        Ok(Said::Nothing(StatusCode::NO_CONTENT))
    }

    /// The networks that a service is in, and whether it is in the host's.
    pub(crate) async fn join(
        &self,
        spec: &ServiceSpec,
        local: &[(String, String, String)],
    ) -> Result<(Vec<Joined>, bool)> {
        let attachments = spec.attachments();
        if attachments.is_empty() {
            return Ok((Vec::new(), false));
        }
        let all = self.networks().await?;
        let (mut joined, mut host) = (Vec::new(), false);
        for attachment in attachments {
            let target = &attachment.target;
            if let Some((_, name, driver)) = local.iter().find(|(id, name, _)| id == target || name == target) {
                if driver == "host" {
                    host = true;
                    continue;
                }
                let why = format!(
                    "The network {name} cannot be used with services. Only networks scoped to the swarm can be used, such as those \
                     created with the overlay driver."
                );
                return Err(Fault::new(StatusCode::FORBIDDEN, why));
            }
            let object = pick(&all, "network", target, cluster::id, name)?;
            let key = text(&object["metadata"]["name"]).trim_start_matches(PREFIX).to_owned();
            joined.push(Joined { key, aliases: attachment.aliases.clone() });
        }
        if host && !joined.is_empty() {
            return Err(Fault::refused("the host's network beside others"));
        }
        Ok((joined, host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_kept_and_shown_and_what_it_cannot_be_is_refused() {
        let asked = json!({"Name": "shop_default", "Driver": "overlay", "Scope": "swarm", "Labels": {"a": "b"}, "IPAM": {"Config": null}});
        let made = object(&asked).unwrap();
        assert_eq!(made["metadata"]["name"], "network.shop-default");
        let shown = document(&made);
        assert_eq!((&shown["Name"], &shown["Labels"]["a"]), (&json!("shop_default"), &json!("b")));
        for (field, value) in [
            ("Internal", json!(true)),
            ("Attachable", json!(true)),
            ("EnableIPv6", json!(true)),
            ("Ingress", json!(true)),
            ("Options", json!({"encrypted": ""})),
            ("IPAM", json!({"Config": [{"Subnet": "10.0.0.0/24"}]})),
        ] {
            let mut asked = asked.clone();
            asked[field] = value;
            assert_eq!(object(&asked).unwrap_err().status.as_u16(), 400, "{field}");
        }
    }
}
