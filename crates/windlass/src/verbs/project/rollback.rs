//! `windlass rollback`: an earlier release is applied again, as a release of its own.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use base::instance::Instance;

use super::source::{self, Unit};
use super::{history, ps, rollout};
use crate::cli::RollbackArgs;
use crate::kubeapi;

/// Runs the verb.
pub async fn run(instance: &Instance, args: RollbackArgs) -> anyhow::Result<ExitCode> {
    let source = source::read_or_named(&args.project)?;
    let client = kubeapi::admin(instance).await?;
    let all = history::all(&client, &source).await?;
    let Some(last) = all.last() else { bail!("{} has no releases here", source.project) };
    let numbers = || all.iter().map(|r| r.number.to_string()).collect::<Vec<_>>().join(", ");
    let target = match args.to {
        Some(number) => all
            .iter()
            .find(|r| r.number == number)
            .with_context(|| format!("release {number} is not remembered; there are: {}", numbers()))?,
        None if all.len() > 1 => &all[all.len() - 2],
        None => bail!("there is no release before {}", last.number),
    };
    println!("going back from release {} to {}", last.number, target.number);
    let changed = target.units.iter().filter(|(name, objects)| last.unit(name) != Some(objects));
    let changed = changed.map(|(name, _)| name.clone()).collect();
    rollout::back(&client, target, &changed, Duration::from_secs(args.timeout)).await?;
    // The release that is in force says what is wanted; the files may say something else by now.
    let mut then = source.clone();
    then.units =
        target.units.iter().map(|(n, o)| Unit { name: n.clone(), objects: o.clone(), needs: Vec::new() }).collect();
    rollout::prune(&client, &then, &target.units, &all).await?;
    let number = history::keep(&client, &source, &all, target.units.clone()).await?;
    println!("\n{} is up, release {number}, which is release {} again\n", source.project, target.number);
    ps::show(&client, &source).await?;
    Ok(ExitCode::SUCCESS)
}
