//! Updates that fail go back by themselves where their service says so (`FailureAction: rollback`).

use std::time::Duration;

use dockerapi::swarm::{Asked, Query};
use futures::StreamExt;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{Config, Event};
use serde_json::json;

use crate::cluster::{LABEL, NAMESPACE};
use crate::{Swarm, tasks};

/// How long after a watch that broke the next begins: nothing would tell that it can.
const PAUSE: Duration = Duration::from_secs(5);

impl Swarm {
    /// Watches over updates until dropped.
    pub async fn watch_over_updates(&self) {
        let config = Config::default().labels(&format!("{LABEL}=service"));
        let mut events = follow::watch::<Pod>(self.cluster.client().clone(), Some(NAMESPACE), config);
        loop {
            match events.next().await {
                None => return,
                Some(Ok(Event::Apply(pod))) => {
                    // What has not failed cannot be a reason.
                    let pod = serde_json::to_value(pod).unwrap_or_default();
                    if tasks::failure(&pod).is_some() {
                        self.look_after().await;
                    }
                }
                Some(Ok(Event::InitDone)) => self.look_after().await,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "the swarm's tasks are not watched");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes back every update that has failed and wants to be taken back.
    async fn look_after(&self) {
        let Ok((services, pods)) = futures::try_join!(self.services(), self.pods()) else { return };
        for service in &services {
            let wanted = service.record.spec["UpdateConfig"]["FailureAction"] == "rollback";
            let under_way = service.record.update.as_ref().is_some_and(|u| !u.rollback) && !service.is_settled();
            if !wanted || !under_way {
                continue;
            }
            let Some(task) = service.failed(pods.iter()) else { continue };
            let asked = Asked {
                method: Method::POST,
                path: Vec::new(),
                query: Query::default(),
                body: json!({}),
                auth: None,
                local: Vec::new(),
            };
            let _one = self.making.lock().await;
            // Not if somebody has changed it meanwhile.
            let done = self.change(&service.id(), Some(service.record.version), None, &asked, &task).await;
            match done {
                Ok(_) => tracing::info!(service = service.name(), task, "an update failed and is taken back"),
                Err(error) => {
                    tracing::warn!(service = service.name(), %error, "an update failed and is not taken back")
                }
            }
        }
    }
}
