//! A swarm's manager: Docker's services, tasks, secrets, configs, networks and nodes on Kubernetes kinds. It schedules nothing and
//! keeps nothing: it says Docker's words over the cluster's API.
//!
//! ```text
//! docker service, stack, secret, config, node ── dockerapi ── Swarm ─┬─ check, placement, workload (pure: spec → objects, by `convert`)
//!                                                                    ├─ record, tasks (pure: objects → Docker's documents)
//!                                                                    └─ cluster: the Kubernetes API
//! ```
//! Everything is in the namespace `docker-swarm`. A service is a Deployment, DaemonSet or Job; what Docker knows of it besides is an
//! annotation. Ids are the objects' UIDs, written as swarmkit writes them.

mod check;
mod cluster;
mod data;
mod guard;
mod logs;
mod model;
mod networks;
mod nodes;
mod placement;
mod record;
mod services;
mod tasks;
mod whole;
mod workload;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use dockerapi::swarm::{Asked, Fault, Manager, Result, Said};
use futures::future::BoxFuture;
use http::StatusCode;
use kube::Client;
use serde_json::Value;

use cluster::Cluster;

/// The manager of a host.
pub struct Swarm {
    cluster: Cluster,
    /// The name of this host's node.
    node: String,
    /// Where pods ask for names.
    dns: Ipv4Addr,
    /// One service, secret, config or network is made or changed at a time.
    making: tokio::sync::Mutex<()>,
    /// Numbers of tasks, by UID of their pods: those that were seen last.
    slots: Mutex<BTreeMap<String, u64>>,
}

impl std::fmt::Debug for Swarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swarm").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Swarm {
    /// Over a client with the swarm's rights, on the host of node `node`, whose pods ask `dns` for names.
    pub fn new(client: Client, node: &str, dns: Ipv4Addr) -> Self {
        Swarm {
            cluster: Cluster::new(client),
            node: node.to_owned(),
            dns,
            making: tokio::sync::Mutex::default(),
            slots: Mutex::default(),
        }
    }

    async fn respond(&self, asked: Asked) -> Result<Said> {
        let path: Vec<&str> = asked.path.iter().map(String::as_str).collect();
        match (asked.method.as_str(), &path[..]) {
            ("GET", ["services"]) => self.list_services(&asked.query).await,
            ("POST", ["services", "create"]) => self.create_service(&asked).await,
            ("GET", ["services", id]) => self.show_service(id).await,
            ("POST", ["services", id, "update"]) => self.update_service(id, &asked).await,
            ("DELETE", ["services", id]) => self.remove_service(id).await,
            ("GET", ["services", id, "logs"]) => self.service_logs(id, &asked.query).await,
            ("GET", ["tasks"]) => self.list_tasks(&asked.query).await,
            ("GET", ["tasks", id]) => self.show_task(id).await,
            ("GET", ["tasks", id, "logs"]) => self.task_logs(id, &asked.query).await,
            ("GET", ["nodes"]) => self.list_nodes(&asked.query).await,
            ("GET", ["nodes", id]) => self.show_node(id).await,
            ("POST", ["nodes", id, "update"]) => self.update_node(id, &asked).await,
            ("DELETE", ["nodes", _]) => Err(Fault::unsupported("removing a node (kubectl delete node does it)")),
            (_, ["secrets", ..]) => self.of_data(data::SECRET, &asked, &path[1..]).await,
            (_, ["configs", ..]) => self.of_data(data::CONFIG, &asked, &path[1..]).await,
            (_, ["networks", ..]) => self.of_networks(&asked, &path[1..]).await,
            (_, ["swarm", ..]) => self.of_whole(&asked, &path[1..]).await,
            _ => Err(Fault::missing("page not found")),
        }
    }
}

impl Manager for Swarm {
    fn answer(&self, asked: Asked) -> BoxFuture<'_, Result<Said>> {
        Box::pin(self.respond(asked))
    }

    fn standing(&self) -> BoxFuture<'_, Value> {
        Box::pin(self.said_of_it())
    }
}

/// A document that is there.
fn ok(document: impl Into<Value>) -> Result<Said> {
    Ok(Said::Document(StatusCode::OK, document.into()))
}

/// The same of what was made.
fn created(document: Value) -> Result<Said> {
    Ok(Said::Document(StatusCode::CREATED, document))
}

/// Now, as Kubernetes and Docker write it.
fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
