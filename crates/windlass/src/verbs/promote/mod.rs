//! `windlass promote`: running Docker containers become workloads of the cluster, over the same volumes and at the same ports.

mod docker;
mod hand_over;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use base::instance::Instance;
use convert::{Inspect, InspectConfig, Place, Promoted};
use kube::Client;
use serde_json::{Value, json};

use self::docker::Docker;
use self::hand_over::HandOver;
use crate::cli::PromoteArgs;
use crate::exit::Unfit;
use crate::kubeapi;

/// By this label the containers of pods are known.
const OF_POD: &str = "io.kubernetes.pod.name";
/// By this one those that Compose runs once.
const ONE_OFF: &str = "com.docker.compose.oneoff";

/// Promotes what is named.
pub async fn run(instance: &Instance, args: PromoteArgs) -> anyhow::Result<ExitCode> {
    let client = kubeapi::admin(instance).await?;
    let docker = Docker::of(instance)?;
    let names = match &args.project {
        Some(project) => of_project(&docker, project).await?,
        None => args.containers.clone(),
    };
    let mut containers: Vec<(Inspect, InspectConfig)> = Vec::new();
    for name in &names {
        let one = look(&docker, name).await?;
        if containers.iter().any(|(c, _)| c.id == one.0.id) {
            bail!("container {name} is named twice");
        }
        containers.push(one);
    }
    let node = node_of(&client, &containers[0].0).await?;
    let place = Place { namespace: &args.namespace, node: &node };
    let made = convert::promote(&containers, place, &|path| bytes_in(Path::new(path))).map_err(anyhow::Error::msg)?;
    for what in &made.lost {
        eprintln!("lost: {what}");
    }
    if args.dry_run {
        print!("{}", printed(&made, &args.output)?);
        return Ok(ExitCode::SUCCESS);
    }
    free(&client, &made, &args.namespace).await?;
    let containers: Vec<Inspect> = containers.into_iter().map(|(c, _)| c).collect();
    let timeout = Duration::from_secs(args.timeout);
    HandOver::new(instance, &client, &docker, &made, &containers).run(timeout).await?;
    for container in &containers {
        let name = container.plain_name();
        if args.rm {
            docker.delete(&format!("/containers/{}", container.id)).await?;
            println!("container {name} removed; its volumes stay");
        } else {
            println!("container {name} is stopped and kept; remove it with: docker rm {name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The running containers of a Compose project.
async fn of_project(docker: &Docker, project: &str) -> anyhow::Result<Vec<String>> {
    let all = docker.get("/containers/json").await?;
    let ids = all.as_array().into_iter().flatten().filter(|c| {
        let label = |key: &str| c["Labels"][key].as_str().unwrap_or_default();
        label("com.docker.compose.project") == project && label(ONE_OFF) != "True"
    });
    let ids: Vec<String> = ids.filter_map(|c| c["Id"].as_str().map(str::to_owned)).collect();
    if ids.is_empty() {
        bail!("no container of the project {project:?} runs");
    }
    Ok(ids)
}

async fn look(docker: &Docker, name: &str) -> anyhow::Result<(Inspect, InspectConfig)> {
    let container = Inspect::read(docker.get(&format!("/containers/{name}/json")).await?)?;
    if container.config.labels.contains_key(OF_POD) {
        bail!("container {name} is of a pod already");
    }
    if container.state.status != "running" {
        bail!("container {name} does not run: it is {}", container.state.status);
    }
    let image = docker.get(&format!("/images/{}/json", container.image)).await.context("look at its image")?;
    Ok((container, InspectConfig::of_image(&image)?))
}

/// The node of a container: the one that the pod which stands for it is on.
async fn node_of(client: &Client, container: &Inspect) -> anyhow::Result<String> {
    let short = container.id.get(..12).unwrap_or(&container.id);
    let pods = format!("/api/v1/namespaces/docker/pods?labelSelector=windlass.dev%2Fdocker-container%3D{short}");
    let pods = kubeapi::get(client, &pods).await?.unwrap_or_default();
    let node = pods["items"][0]["spec"]["nodeName"].as_str().map(str::to_owned);
    node.ok_or_else(|| {
        Unfit::error(
            format!("no pod stands for container {} yet, so its node is not known", container.plain_name()),
            "try again when it is listed by: kubectl -n docker get pods",
        )
    })
}

/// Nothing is taken over that is there already.
async fn free(client: &Client, made: &Promoted, namespace: &str) -> anyhow::Result<()> {
    if kubeapi::get(client, &format!("/api/v1/namespaces/{namespace}")).await?.is_none() {
        return Err(Unfit::error(
            format!("there is no namespace {namespace:?}"),
            format!("make it: kubectl create namespace {namespace}"),
        ));
    }
    for object in made.before.iter().chain(&made.controllers) {
        if kubeapi::get(client, &kubeapi::object_path(object)?).await?.is_some() {
            bail!("{} {} is there already", object["kind"].as_str().unwrap_or("?"), object["metadata"]["name"]);
        }
    }
    Ok(())
}

fn printed(made: &Promoted, format: &str) -> anyhow::Result<String> {
    let all: Vec<&Value> = made.before.iter().chain(&made.controllers).collect();
    if format == "json" {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": all});
        return Ok(serde_json::to_string_pretty(&list)? + "\n");
    }
    let mut text = String::new();
    for object in all {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(object)?);
    }
    Ok(text)
}

/// Bytes of a folder's files.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
