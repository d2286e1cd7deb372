//! What others in the same process are told of the containers and have done to them: those who show them elsewhere.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::containers::{inspect, life};
use crate::face::Face;
use crate::fault::Result;
use crate::{API_MAX, Docker};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Docker {
    /// All containers but those of pods, each as `GET /containers/{id}/json` answers.
    pub async fn containers(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for container in self.0.all() {
            if !container.seen.borrow().removed {
                all.push(inspect::document(&self.0, &container, API_MAX).await);
            }
        }
        all
    }

    /// Changes whenever something about a container did that [`Docker::containers`] says.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.events.changes()
    }

    /// Ends a container, which has so many seconds to do so itself, and removes it. One that is not there is no error.
    ///
    /// # Errors
    /// When it does not end, or the disk refuses.
    pub async fn remove(&self, id: &str, seconds: i64) -> std::result::Result<(), Refused> {
        remove(&self.0, id, seconds).await.map_err(|fault| Refused(fault.message))
    }
}

async fn remove(face: &Arc<Face>, id: &str, seconds: i64) -> Result<()> {
    let Some(container) = face.containers.lock().get(id).cloned() else { return Ok(()) };
    life::stop(face, &container, Some(seconds), None).await?;
    life::remove(face, &container, true, false).await
}
