//! Secrets are sealed before they reach the disk. SIGHUP reads the keys anew and seals everything with the newest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use base::instance::Instance;
use serde::{Deserialize, Serialize};
use store::{SealedStore, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What is sealed: the keys of Secrets in the store.
const SEALED: [&str; 1] = ["/registry/core/secrets/"];

/// Where the keys are.
pub fn key_file(instance: &Instance) -> PathBuf {
    instance.data_dir().join("pki/encryption.keys")
}

/// What the server last did about it, for `windlass encryption`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The key with which everything is sealed.
    pub key: String,
    /// How many values were sealed anew to get there.
    pub rewritten: usize,
}

impl Report {
    fn path(instance: &Instance) -> PathBuf {
        instance.run_dir().join("encryption.json")
    }

    /// The last report since boot.
    pub fn read(instance: &Instance) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(instance)).ok()?).ok()
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        Ok(std::fs::rename(new, path)?)
    }
}

/// The store with Secrets sealed, and a task that seals anew what is not sealed with the newest key.
pub fn open(inner: Arc<dyn Store>, instance: &Instance, drain: CancellationToken) -> anyhow::Result<Arc<dyn Store>> {
    let file = key_file(instance);
    let sealed = SealedStore::open(inner, &file, &SEALED).context("open the keys of Secrets")?;
    let sealed = Arc::new(sealed);
    let mut hangup = signal(SignalKind::hangup())?;
    let (task, report) = (sealed.clone(), Report::path(instance));
    tokio::spawn(async move {
        loop {
            seal_all(&task, &report).await;
            tokio::select! {
                _ = hangup.recv() => {}
                () = drain.cancelled() => return,
            }
            match task.reload(&file) {
                Ok(()) => tracing::info!(keys = ?task.key_names(), "keys of Secrets read anew"),
                Err(error) => tracing::error!(error = %base::chain(&error), "the keys in use stay"),
            }
        }
    });
    Ok(sealed)
}

async fn seal_all(store: &SealedStore, report: &Path) {
    let Some(key) = store.key_names().into_iter().next() else { return };
    match store.rewrite().await {
        Ok(rewritten) => {
            if rewritten > 0 {
                tracing::info!(rewritten, key, "Secrets sealed anew");
            }
            if let Err(error) = (Report { key, rewritten }).write(report) {
                tracing::warn!(%error, "the report on sealing could not be written");
            }
        }
        Err(error) => tracing::error!(error = %base::chain(&error), "Secrets could not be sealed anew"),
    }
}
