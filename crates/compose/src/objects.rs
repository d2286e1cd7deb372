//! A project as Kubernetes objects.

use serde_json::{Value, json};

use crate::model::{Project, Service};
use crate::project::{MANAGED_BY, waves};

impl Project {
    /// The namespace, and what services need before they start: claims, ConfigMaps, Secrets.
    pub fn base(&self) -> Vec<Value> {
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1, convert::PROJECT: convert::label_value(&self.name)});
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": labels},
        });
        let claims = self.claims.iter().map(convert::claim);
        std::iter::once(namespace).chain(claims).chain(self.data.iter().map(convert::data)).collect()
    }

    /// The names of the services, in waves that wait for the ones before.
    pub fn waves(&self) -> Vec<Vec<String>> {
        waves(&self.services)
    }

    /// All objects, in the order in which they are best applied.
    pub fn objects(&self) -> Vec<Value> {
        let services = self.waves().into_iter().flatten().flat_map(|name| self.services[&name].objects());
        self.base().into_iter().chain(services).collect()
    }
}

impl Service {
    /// Its objects: Services first, the workload last.
    pub fn objects(&self) -> Vec<Value> {
        let mut made = convert::objects(&self.workload);
        let Some(service) = made.iter().find(|o| o["kind"] == "Service").cloned() else { return made };
        let aliases = self.aliases.iter().map(|alias| {
            let mut other = service.clone();
            other["metadata"]["name"] = alias.clone().into();
            other
        });
        let at = made.len() - 1;
        made.splice(at..at, aliases);
        made
    }
}
