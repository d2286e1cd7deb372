//! An operator as people write them with kube-rs: a derived definition, server-side apply, a reflector, a controller that
//! owns what it makes, and a finalizer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::Ctx;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, CustomResource, CustomResourceExt, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
const MANAGER: &str = "report-operator";
const FINALIZER: &str = "reports.clients.example.com/clean-up";

/// What is to be reported.
#[derive(CustomResource, Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[kube(group = "clients.example.com", version = "v1", kind = "Report", namespaced, status = "ReportStatus")]
#[kube(printcolumn = r#"{"name": "Title", "type": "string", "jsonPath": ".spec.title"}"#)]
pub struct ReportSpec {
    title: String,
    #[serde(default)]
    copies: u32,
}

/// What came of it.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
pub struct ReportStatus {
    printed: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum OperatorError {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error("{0}")]
    Finalizer(String),
}

/// Makes a ConfigMap for a Report and says so in its status; the finalizer deletes it again.
async fn reconcile(report: Arc<Report>, client: Arc<Client>) -> Result<Action, OperatorError> {
    let namespace = report.namespace().unwrap_or_default();
    let reports: Api<Report> = Api::namespaced((*client).clone(), &namespace);
    let event = |event: Event<Report>| async {
        let printed: Api<ConfigMap> = Api::namespaced((*client).clone(), &namespace);
        match event {
            Event::Apply(report) => {
                let name = format!("{}-printed", report.name_any());
                let body = json!({
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": name, "ownerReferences": [report.controller_owner_ref(&())]},
                    "data": {"title": report.spec.title, "copies": report.spec.copies.to_string()},
                });
                printed.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await?;
                let status = json!({"status": {"printed": name}});
                reports.patch_status(&report.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await?;
            }
            Event::Cleanup(report) => {
                printed.delete(&format!("{}-printed", report.name_any()), &DeleteParams::default()).await?;
            }
        }
        Ok::<_, kube::Error>(Action::await_change())
    };
    finalizer(&reports, FINALIZER, report, event).await.map_err(|e| OperatorError::Finalizer(e.to_string()))
}

pub fn an_operator_of_kube_rs_defines_reflects_reconciles_and_finalizes(ctx: &Ctx) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let kubeconfig = ctx.instance.names().data_dir().join("admin.kubeconfig");
    runtime.block_on(async { tokio::time::timeout(3 * LIMIT, operate(&kubeconfig, &ctx.ns)).await? })
}

async fn operate(kubeconfig: &std::path::Path, namespace: &str) -> Result<()> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    define(&client).await?;

    let reports: Api<Report> = Api::namespaced(client.clone(), namespace);
    let printed: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let (store, writer) = reflector::store();
    let follow = watcher(reports.clone(), watcher::Config::default()).default_backoff().reflect(writer);
    let reflecting = tokio::spawn(follow.for_each(|_| async {}));
    let controller = Controller::new(reports.clone(), watcher::Config::default())
        .owns(printed.clone(), watcher::Config::default())
        .run(
            reconcile,
            |_, _: &OperatorError, _| Action::requeue(Duration::from_millis(200)),
            Arc::new(client.clone()),
        );
    let operating = tokio::spawn(controller.for_each(|_| async {}));

    let spec = ReportSpec { title: "orders".into(), copies: 2 };
    reports.create(&PostParams::default(), &Report::new("daily", spec)).await?;
    let is_printed = |r: Option<&Report>| {
        r.and_then(|r| r.status.as_ref()).is_some_and(|s| s.printed.as_deref() == Some("daily-printed"))
    };
    await_condition(reports.clone(), "daily", is_printed).await.context("the status says that it was printed")?;
    let made = printed.get("daily-printed").await?;
    ensure!(made.data.as_ref().is_some_and(|d| d["copies"] == "2"), "{made:?}");
    ensure!(made.owner_references().iter().any(|o| o.kind == "Report" && o.controller == Some(true)), "{made:?}");

    // What somebody else changes or takes away is put right, since the controller watches what it owns.
    printed.delete("daily-printed", &DeleteParams::default()).await?;
    let back = |c: Option<&ConfigMap>| c.is_some_and(|c| c.uid() != made.uid());
    await_condition(printed.clone(), "daily-printed", back).await.context("it is made again")?;
    store.wait_until_ready().await?;
    let known = store.get(&reflector::ObjectRef::new("daily").within(namespace)).context("the reflector knows it")?;
    ensure!(known.spec.title == "orders" && known.finalizers().iter().any(|f| f == FINALIZER), "{known:?}");

    reports.delete("daily", &DeleteParams::default()).await?;
    await_condition(reports.clone(), "daily", |r: Option<&Report>| r.is_none()).await.context("it goes")?;
    ensure!(printed.get_opt("daily-printed").await?.is_none(), "the finalizer ran before it went");
    operating.abort();
    reflecting.abort();
    Ok(())
}

/// Applies the derived definition, twice, and waits until it is served.
async fn define(client: &Client) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "reports.clients.example.com";
    let apply = PatchParams::apply(MANAGER).force();
    let first = definitions.patch(name, &apply, &Patch::Apply(Report::crd())).await?;
    await_condition(definitions.clone(), name, conditions::is_crd_established()).await?;
    let second = definitions.patch(name, &apply, &Patch::Apply(Report::crd())).await?;
    ensure!(first.meta().generation == second.meta().generation, "applied again, nothing changes");
    Ok(())
}
