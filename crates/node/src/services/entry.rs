//! Ingress: routes follow the objects, the objects' status follows the routes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::rt::{Drain, Tasks};
use ingress::{CertificatePem, Input, Problem, RouteTable, Server};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::Store;
use serde_json::json;
use tokio::sync::Notify;

use super::follow;
use super::table::text;
use crate::context::Context;
use crate::objects::{Handle, Key, Kind};

const TOGETHER: Duration = Duration::from_millis(5);

struct Routes {
    ctx: Arc<Context>,
    server: Arc<Server>,
    ingresses: Store<Ingress>,
    classes: Store<IngressClass>,
    slices: Store<EndpointSlice>,
    certificates: BTreeMap<Key, Handle>,
    told: BTreeSet<Problem>,
    mark: Arc<Notify>,
}

/// Serves Ingresses until drained.
pub(crate) async fn route(
    ctx: Arc<Context>,
    server: Arc<Server>,
    slices: Store<EndpointSlice>,
    mark: Arc<Notify>,
    tasks: Tasks,
) {
    let drain = tasks.drain();
    let client = ctx.client();
    let mut routes = Routes {
        ingresses: follow(&client, &tasks, "ingresses", vec![mark.clone()]),
        classes: follow(&client, &tasks, "ingress classes", vec![mark.clone()]),
        certificates: BTreeMap::new(),
        told: BTreeSet::new(),
        mark: mark.clone(),
        ctx,
        server,
        slices,
    };
    if !routes.ready(&drain).await {
        return;
    }
    routes.apply().await;
    let (server, until) = (routes.server.clone(), drain.clone());
    tasks.spawn("ingress", async move { server.serve(until).await });
    loop {
        tokio::select! {
            () = mark.notified() => tokio::time::sleep(TOGETHER).await,
            () = drain.cancelled() => return,
        }
        routes.apply().await;
    }
}

impl Routes {
    /// Waits until all objects are known; false when drained before.
    async fn ready(&self, drain: &Drain) -> bool {
        let known = async {
            super::known(&self.ctx.services).await;
            super::known(&self.slices).await;
            super::known(&self.ingresses).await;
            super::known(&self.classes).await;
        };
        tokio::select! {
            () = known => true,
            () = drain.cancelled() => false,
        }
    }

    async fn apply(&mut self) {
        let (ingresses, classes) = (self.ingresses.state(), self.classes.state());
        let ours: Vec<_> =
            ingresses.iter().filter(|i| ingress::is_ours(i, classes.iter().map(AsRef::as_ref))).cloned().collect();
        let certificates = self.certificates(&ours).await;
        let (services, slices) = (self.ctx.services.state(), self.slices.state());
        let table = RouteTable::build(&Input {
            ingresses: ingresses.iter().map(AsRef::as_ref).collect(),
            classes: classes.iter().map(AsRef::as_ref).collect(),
            services: services.iter().map(AsRef::as_ref).collect(),
            endpoint_slices: slices.iter().map(AsRef::as_ref).collect(),
            certificates,
        });
        self.tell(&ours, table.problems());
        self.server.set_routes(Arc::new(table));
        for ingress in &ours {
            self.report(ingress).await;
        }
    }

    /// The certificates the Ingresses name, each followed from its first mention to its last.
    async fn certificates(&mut self, ours: &[Arc<Ingress>]) -> BTreeMap<(String, String), CertificatePem> {
        let wanted: BTreeSet<Key> = ours
            .iter()
            .flat_map(|i| {
                let namespace = text(&i.metadata.namespace).to_owned();
                let tls = i.spec.iter().flat_map(|s| s.tls.iter().flatten());
                tls.filter_map(|t| t.secret_name.clone()).map(move |name| (namespace.clone(), name))
            })
            .map(|(namespace, name)| Key { kind: Kind::Secret, namespace, name })
            .collect();
        self.certificates.retain(|key, _| wanted.contains(key));
        for key in wanted {
            if self.certificates.contains_key(&key) {
                continue;
            }
            let handle = self.ctx.objects.handle(key.clone());
            let (mut changes, mark) = (handle.changes(), self.mark.clone());
            // Ends with the handle: the sender goes away when nobody follows the object.
            tokio::spawn(async move {
                while changes.changed().await.is_ok() {
                    mark.notify_one();
                }
            });
            self.certificates.insert(key, handle);
        }
        let mut found = BTreeMap::new();
        for (key, handle) in &self.certificates {
            let Ok(Some(content)) = handle.get().await else { continue };
            let part = |name: &str| content.data().get(name).map(|d| Arc::<[u8]>::from(d.as_slice()));
            if let (Some(chain), Some(secret)) = (part("tls.crt"), part("tls.key")) {
                found.insert((key.namespace.clone(), key.name.clone()), CertificatePem { chain, key: secret });
            }
        }
        found
    }

    /// An event for each new problem.
    fn tell(&mut self, ours: &[Arc<Ingress>], problems: &[Problem]) {
        for problem in problems.iter().filter(|p| !self.told.contains(*p)) {
            let same = |i: &&Arc<Ingress>| {
                text(&i.metadata.namespace) == problem.namespace && text(&i.metadata.name) == problem.name
            };
            if let Some(ingress) = ours.iter().find(same) {
                self.ctx.recorder.warn(reference(ingress), "Unserved", problem.message.clone());
            }
        }
        self.told = problems.iter().cloned().collect();
    }

    /// Adds this node's address to the status of an Ingress.
    async fn report(&self, ingress: &Ingress) {
        let address = self.ctx.config.node_ip.to_string();
        let status = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
        if status.into_iter().flatten().any(|i| i.ip.as_deref() == Some(&address)) {
            return;
        }
        let mut all: Vec<_> = status.into_iter().flatten().map(|i| json!(i)).collect();
        all.push(json!({"ip": address}));
        let patch = json!({"status": {"loadBalancer": {"ingress": all}}});
        let api: Api<Ingress> = Api::namespaced(self.ctx.client(), text(&ingress.metadata.namespace));
        let name = text(&ingress.metadata.name);
        if let Err(error) = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            tracing::debug!(%error, name, "status of an ingress not written");
        }
    }
}

fn reference(ingress: &Ingress) -> ObjectReference {
    let m = &ingress.metadata;
    ObjectReference {
        api_version: Some("networking.k8s.io/v1".to_owned()),
        kind: Some("Ingress".to_owned()),
        namespace: m.namespace.clone(),
        name: m.name.clone(),
        uid: m.uid.clone(),
        resource_version: m.resource_version.clone(),
        field_path: None,
    }
}
