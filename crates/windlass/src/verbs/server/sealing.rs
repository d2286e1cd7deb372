//! Secrets are sealed before they reach the disk. SIGHUP reads the keys anew and seals everything with the newest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use base::instance::Instance;
use serde::{Deserialize, Serialize};
use store::{Keyring, SealedStore, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Settings;
use crate::instance_file::InstanceFile;

/// What is sealed: the keys of Secrets in the store.
const SEALED: [&str; 1] = ["/registry/core/secrets/"];

/// Name of the file of keys, beside the cluster's other keys.
const FILE: &str = "encryption.keys";

/// Where the keys are: in the folder that the server was last given.
pub fn key_file(instance: &Instance) -> PathBuf {
    let last = InstanceFile::read(instance).ok().flatten().and_then(|file| file.pki_dir);
    last.unwrap_or_else(|| instance.data_dir().join("pki")).join(FILE)
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
pub fn open(inner: Arc<dyn Store>, s: &Settings, drain: CancellationToken) -> anyhow::Result<Arc<dyn Store>> {
    let file = s.pki_dir.join(FILE);
    let sealed = SealedStore::open(inner, &file, &SEALED).context("open the keys of Secrets")?;
    let sealed = Arc::new(sealed);
    let mut hangup = signal(SignalKind::hangup())?;
    let (task, report) = (sealed.clone(), Report::path(&s.instance));
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

/// Names of the keys, the one that seals first; the file is made when it is not there.
pub fn key_names(pki_dir: &Path) -> anyhow::Result<Vec<String>> {
    let keys = Keyring::open(&pki_dir.join(FILE)).context("open the keys of Secrets")?;
    Ok(keys.names().into_iter().map(str::to_owned).collect())
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
