//! The node agent as a child of the server: started, restarted when it ends, and ended with the server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Settings;

/// First and longest wait before an agent that ended is started again.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(10);
/// An agent that ran this long starts with the first wait again.
const STEADY: Duration = Duration::from_secs(30);
/// How long it may take to end.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Where the agent's certificate, key and the CA are.
pub fn serving_dir(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join("agent")
}

/// Writes what the agent serves TLS with.
pub fn write_serving(s: &Settings, ca_pem: &str, serving: &apiserver::pki::KeyCert) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let dir = serving_dir(s.instance.data_dir());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    for (name, text) in [("ca.crt", ca_pem), ("tls.crt", &serving.cert_pem), ("tls.key", &serving.key_pem)] {
        let tmp = dir.join(format!(".{name}"));
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        std::fs::rename(&tmp, dir.join(name)).with_context(|| format!("write {}", dir.join(name).display()))?;
    }
    Ok(())
}

/// The command line of the agent.
pub fn command(s: &Settings) -> Vec<String> {
    let text = |p: &std::path::Path| p.display().to_string();
    let mut words = vec![
        "agent".into(),
        "--name".into(),
        s.instance.name().to_owned(),
        "--data-dir".into(),
        text(s.instance.data_dir()),
        "--node-name".into(),
        s.node_name.clone(),
        "--http-listen".into(),
        s.http.to_string(),
        "--pod-cidr".into(),
        s.instance.pod_cidr().to_string(),
        "--service-cidr".into(),
        s.instance.service_cidr().to_string(),
        "--log-format".into(),
        s.log_format.to_owned(),
        "--log-level".into(),
        s.log_level.clone(),
    ];
    words.extend(s.tracing.flags());
    words.extend(s.node.words());
    words
}

/// Keeps an agent running until `drain`, then ends it.
pub async fn keep_agent(arguments: Vec<String>, drain: CancellationToken) {
    // A test that kills the agent at every step has no time for longer and longer waits.
    let longest = if std::env::var_os("WINDLASS_FAULT_FILE").is_some() { RESTART_FIRST } else { RESTART_MAX };
    let mut wait = RESTART_FIRST;
    while !drain.is_cancelled() {
        let started = Instant::now();
        // The file itself, also when it was replaced by an upgrade meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("windlass").args(&arguments);
        if let Some(limit) = shim::limits::of_containers() {
            command.env(shim::limits::VARIABLE, limit);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(%error, "the node agent could not be started");
                pause(wait, &drain).await;
                wait = (wait * 2).min(longest);
                continue;
            }
        };
        tokio::select! {
            status = child.wait() => {
                let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                tracing::error!(%status, "the node agent ended and is started again; containers go on running");
            }
            () = drain.cancelled() => {
                stop(&mut child).await;
                return;
            }
        }
        if started.elapsed() >= STEADY {
            wait = RESTART_FIRST;
        }
        pause(wait, &drain).await;
        wait = (wait * 2).min(longest);
    }
}

async fn pause(wait: Duration, drain: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = drain.cancelled() => {}
    }
}

async fn stop(child: &mut tokio::process::Child) {
    if let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP_MAX, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
