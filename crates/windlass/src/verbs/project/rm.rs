//! `windlass rm`: what `up` made goes; volumes stay unless they are named.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use base::instance::Instance;
use serde_json::{Value, json};

use super::source::{self, Source};
use super::{history, things};
use crate::cli::RmArgs;
use crate::kubeapi;
use crate::verbs::apply::wait;

/// How long pods may take to end.
const ENDED: Duration = Duration::from_secs(180);

/// Runs the verb.
pub async fn run(instance: &Instance, args: RmArgs) -> anyhow::Result<ExitCode> {
    let source = source::read_or_named(&args.project)?;
    let client = kubeapi::admin(instance).await?;
    let labelled = things::list(&client, &source).await?;
    let remembered: Vec<Value> = history::all(&client, &source)
        .await?
        .iter()
        .flat_map(|r| r.units.iter().flat_map(|(_, objects)| objects.clone()))
        .collect();
    let (claims, others): (Vec<Value>, Vec<Value>) =
        labelled.into_iter().chain(remembered).partition(|o| o["kind"] == "PersistentVolumeClaim");
    let others: Vec<Value> = others.into_iter().filter(|o| !things::is_kept(o)).collect();
    if others.is_empty() && (claims.is_empty() || !args.volumes) {
        println!("nothing of {} is here", source.project);
    }
    let (releases, others): (Vec<Value>, Vec<Value>) = others.into_iter().partition(history::is_release);
    things::remove(&client, &others).await?;
    let keys: BTreeSet<wait::Key> = others.iter().filter_map(wait::workload_key).collect();
    wait::until_gone(&client, &keys, ENDED).await?;
    for release in &releases {
        kubeapi::delete(&client, &kubeapi::object_path(release)?).await?;
    }
    if args.volumes {
        things::remove(&client, &claims).await?;
    }
    if args.volumes || claims.is_empty() {
        remove_namespace(&client, &source).await?;
    } else {
        println!("volumes stay: remove them with --volumes");
    }
    Ok(ExitCode::SUCCESS)
}

/// The namespace that `up` made for the project.
async fn remove_namespace(client: &kube::Client, source: &Source) -> anyhow::Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": source.namespace}});
    let path = kubeapi::object_path(&object)?;
    let Some(namespace) = kubeapi::get(client, &path).await? else { return Ok(()) };
    if source.labels.iter().all(|(k, v)| namespace["metadata"]["labels"][k] == *v) {
        things::remove(client, &[object]).await?;
    }
    Ok(())
}
