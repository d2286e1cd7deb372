//! `windlass up`: builds, applies, waits, rolls back what does not become healthy, and shows what runs where.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use base::instance::Instance;
use kube::Client;
use serde_json::Value;

use super::rollout::Rollout;
use super::source::{self, Source};
use super::{history, images, logs, ps, rollout};
use crate::cli::UpArgs;
use crate::exit::FAILED;
use crate::{kubeapi, verbs};

/// Exit code of a verb that was interrupted.
const INTERRUPTED: u8 = 130;
/// How long the release before may take to be healthy again.
const BACK: Duration = Duration::from_secs(180);

/// Runs the verb.
pub fn run(instance: &Instance, args: UpArgs) -> anyhow::Result<ExitCode> {
    let mut source = source::read(&args.project, &args.services)?;
    source.notes.iter().for_each(|note| eprintln!("warning: {note}"));
    select(&mut source, &args.services)?;
    // Before the builds, which would be for nothing.
    verbs::short_lived(async { rollout::ports_free(&kubeapi::admin(instance).await?, &source).await })?;
    if let Some(project) = &mut source.compose {
        if args.no_build {
            images::name(instance, project)?;
        } else if let Some(code) = images::build(instance, project)? {
            return Ok(ExitCode::from(code));
        }
        source.refresh();
    }
    verbs::short_lived(bring_up(instance, source, &args))
}

/// Leaves the named services and those that they wait for.
fn select(source: &mut Source, services: &[String]) -> anyhow::Result<()> {
    if services.is_empty() {
        return Ok(());
    }
    let Some(project) = &mut source.compose else { bail!("only a Compose file has services to name") };
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut more: Vec<String> = services.to_vec();
    while let Some(name) = more.pop() {
        let Some(service) = project.services.get(&name) else { bail!("no such service: {name}") };
        if wanted.insert(name) {
            more.extend(service.depends_on.keys().cloned());
        }
    }
    project.services.retain(|name, _| wanted.contains(name));
    source.refresh();
    Ok(())
}

async fn bring_up(instance: &Instance, source: Source, args: &UpArgs) -> anyhow::Result<ExitCode> {
    let client = kubeapi::admin(instance).await?;
    let before = history::all(&client, &source).await?;
    let mut rollout = Rollout::default();
    rollout.base(&client, &source).await?;
    let rolled = tokio::select! {
        rolled = rollout.units(&client, &source.units, Duration::from_secs(args.timeout)) => rolled,
        // A build asked for the signal, so it no longer ends the process by itself.
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted: what was applied stays, and goes on");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    if let Err(error) = rolled {
        eprintln!("windlass: the release failed: {error:#}");
        return failed(&client, &source, &before, &rollout, args).await;
    }
    // Services that were not named stay as they were.
    let mut units: Vec<(String, Vec<Value>)> =
        source.units.iter().map(|u| (u.name.clone(), u.objects.clone())).collect();
    if !args.services.is_empty() {
        let others = before.last().into_iter().flat_map(|r| r.units.clone());
        units.extend(others.filter(|(name, _)| source.units.iter().all(|u| u.name != *name)));
    }
    if args.services.is_empty() {
        rollout::prune(&client, &source, &units, &before).await?;
    }
    let number = history::keep(&client, &source, &before, units).await?;
    println!("\n{} is up, release {number}\n", source.project);
    ps::show(&client, &source).await?;
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("\nfollowing the logs; ctrl-c ends that, and everything goes on running (windlass rm removes it)\n");
    logs::follow(&client, &source, &[], Some(0)).await
}

/// What was changed goes back to the release before, if there was one.
async fn failed(
    client: &Client,
    source: &Source,
    before: &[history::Release],
    rollout: &Rollout,
    args: &UpArgs,
) -> anyhow::Result<ExitCode> {
    let Some(last) = before.last() else {
        eprintln!("there is no release to go back to: what was started stays, see windlass ps and windlass logs");
        return Ok(ExitCode::from(FAILED));
    };
    let known: BTreeSet<String> = rollout.changed.iter().filter(|n| last.unit(n).is_some()).cloned().collect();
    if args.no_rollback || known.is_empty() {
        return Ok(ExitCode::from(FAILED));
    }
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    eprintln!("rolling back to release {}: {}", last.number, names.join(", "));
    match rollout::back(client, last, &known, BACK).await {
        Ok(()) => eprintln!("release {} of {} is in force again", last.number, source.project),
        Err(error) => eprintln!("windlass: the rollback failed, too: {error:#}"),
    }
    Ok(ExitCode::from(FAILED))
}
