//! Following the cache of a kind by its events, for indexes that are brought up to date when they are asked.

use std::sync::Arc;

use crate::cache::kind::{Change, Event};
use crate::cache::{Entry, KindCache};

/// Changes taken in at once.
const BATCH: usize = 1024;

/// How far a cache has been read: the revision, and the position in its ring.
#[derive(Debug, Default, Clone, Copy)]
pub struct Feed(Option<(u64, u64)>);

/// What to take in.
pub enum Step<'e> {
    /// All that was known is void; what is there follows.
    Forget,
    /// The object is there, new or changed.
    There(&'e Entry),
    /// The object is gone.
    Gone(&'e Entry),
}

impl Feed {
    /// Whether everything in the cache has been read.
    pub fn is_current(&self, cache: &KindCache) -> bool {
        self.0.is_some_and(|(revision, _)| revision == cache.newest())
    }

    /// Shows everything that has not been read yet.
    pub fn catch_up(&mut self, cache: &KindCache, mut take: impl FnMut(Step<'_>)) {
        let mut events: Vec<Arc<Event>> = Vec::new();
        while let Some((revision, position)) = self.0 {
            events.clear();
            match cache.read_from(position, BATCH, &mut events) {
                Ok(_) if events.is_empty() => return,
                Ok(position) => {
                    for event in &events {
                        match event.change {
                            Change::Deleted => take(Step::Gone(&event.entry)),
                            Change::Added | Change::Modified => take(Step::There(&event.entry)),
                        }
                    }
                    let newest = events.iter().map(|e| e.entry.revision).fold(revision, u64::max);
                    self.0 = Some((newest, position));
                }
                // The ring has moved past: begin anew.
                Err(_) => break,
            }
        }
        take(Step::Forget);
        let all = cache.snapshot("", None, 0, false, |_| true);
        all.entries.iter().for_each(|entry| take(Step::There(entry)));
        self.0 = Some((all.newest, all.position));
    }
}
