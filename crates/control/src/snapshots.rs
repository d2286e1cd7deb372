//! The kinds of snapshots. They are custom kinds, as everywhere: a cluster begins with definitions of its own, and uses
//! whichever are there. Snapshots are followed while all three are served.

use std::sync::Arc;

use api::crd::Place;
use parking_lot::Mutex;
use reconcile::plan::{Resource, SNAPSHOT_CLASSES, SNAPSHOT_CONTENTS, SNAPSHOTS};
use tokio_util::sync::CancellationToken;

use crate::bootstrap;
use crate::controllers::{Context, storage};

mod definitions;

pub use definitions::definitions;

const KINDS: [Resource; 3] = [SNAPSHOTS, SNAPSHOT_CONTENTS, SNAPSHOT_CLASSES];

/// Ends the following of snapshots, while they are followed.
#[derive(Default)]
pub struct Snapshots(Mutex<Option<CancellationToken>>);

/// Definitions came, changed or went: `place` says where the objects of one are served, by its name.
pub fn definitions_changed(context: &Arc<Context>, place: impl Fn(&str) -> Option<Place>) {
    let served = KINDS.iter().all(|kind| {
        let place = place(&format!("{}.{}", kind.plural, kind.group));
        place.is_some_and(|p| p.version == kind.version && p.kind == kind.kind)
    });
    let mut following = context.snapshots.0.lock();
    match (served, following.as_ref()) {
        (true, None) => {
            let end = context.drain.child_token();
            *following = Some(end.clone());
            let context = context.clone();
            tokio::spawn(async move {
                if let Err(error) = bootstrap::ensure_snapshot_class(&context.actuator).await {
                    tracing::warn!(error = %base::chain(&error), "default class of snapshots not made");
                }
                storage::follow_snapshots(context, end).await;
            });
        }
        (false, Some(end)) => {
            end.cancel();
            *following = None;
        }
        _ => {}
    }
}
