//! `windlass encryption`: the keys with which Secrets are sealed on disk.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use base::instance::Instance;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use store::Keyring;

use super::server::sealing::{Report, key_file};
use crate::cli::EncryptionVerb;
use crate::exit::Unfit;
use crate::instance_file::InstanceFile;

/// How long sealing everything anew may take before the verb stops waiting for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Shows the keys, or adds one and waits until everything is sealed with it.
pub fn run(instance: &Instance, verb: EncryptionVerb) -> anyhow::Result<ExitCode> {
    let path = key_file(instance);
    if !path.exists() {
        return Err(Unfit::error(
            format!("instance {:?} has no keys at {}", instance.name(), path.display()),
            "start it once with: windlass server --detach",
        ));
    }
    let mut keys = Keyring::open(&path)?;
    match verb {
        EncryptionVerb::Status => status(instance, &keys),
        EncryptionVerb::Rotate => {
            keys.rotate()?;
            let newest = keys.names().first().map(|n| (*n).to_owned()).context("a key was just added")?;
            println!("key {newest} added to {}", path.display());
            rotate(instance, &newest)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status(instance: &Instance, keys: &Keyring) {
    println!("Secrets are sealed with AES-256-GCM; keys in {}", key_file(instance).display());
    println!("{:<10} USE", "KEY");
    for (at, name) in keys.names().iter().enumerate() {
        println!("{name:<10} {}", if at == 0 { "seals and opens" } else { "opens" });
    }
    match Report::read(instance) {
        Some(report) if keys.names().first() == Some(&report.key.as_str()) => {
            println!("every Secret is sealed with {}", report.key);
        }
        _ => println!("Secrets sealed with an older key are sealed anew when the server starts"),
    }
}

fn rotate(instance: &Instance, newest: &str) -> anyhow::Result<()> {
    let Some(server) = InstanceFile::read(instance)?.filter(InstanceFile::alive) else {
        println!("the server does not run; it seals every Secret anew when it starts");
        return Ok(());
    };
    kill(Pid::from_raw(server.pid), Signal::SIGHUP).context("tell the server")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(report) = Report::read(instance).filter(|r| r.key == newest) {
            let noun = if report.rewritten == 1 { "Secret" } else { "Secrets" };
            println!("{} {noun} sealed anew with {newest}", report.rewritten);
            println!("older keys stay in the file: backups from before need them");
            return Ok(());
        }
        anyhow::ensure!(server.alive(), "the server ended; it goes on when it is started again");
        anyhow::ensure!(Instant::now() < deadline, "not finished within {PATIENCE:?}: see the server's log");
        std::thread::sleep(Duration::from_millis(20));
    }
}
