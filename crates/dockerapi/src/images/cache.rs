//! The steps that builds may use again: listed, and pruned.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use image::CachedStep;
use serde_json::{Value, json};

use crate::containers::list::until;
use crate::face::{Face, stamp};
use crate::fault::{Fault, Result, blocking};
use crate::http::{Answer, Call, json};
use crate::query::Query;

fn ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// A line of `docker system df -v` for each step.
///
/// # Errors
/// When the store cannot be read.
pub async fn rows(face: &Arc<Face>) -> Result<Vec<Value>> {
    let of = face.clone();
    let steps = blocking(move || of.engine.images().cached_steps()).await?;
    let row = |step: &CachedStep| {
        json!({
            "ID": step.id, "Parents": null, "Type": "regular", "Description": "", "InUse": false, "Shared": step.shared,
            "Size": step.bytes, "CreatedAt": step.note, "LastUsedAt": stamp(ms(step.used)), "UsageCount": 1,
        })
    };
    Ok(steps.iter().map(row).collect())
}

/// What is to be forgotten.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// Not used since, milliseconds since the epoch.
    unused_since: Option<i64>,
    /// Beginnings of ids.
    ids: Vec<String>,
    /// Bytes that may stay: what was used last.
    keep: u64,
}

impl Wanted {
    /// `all` is taken and changes nothing: every step here is one that a user's build left.
    fn read(query: &Query) -> Result<Wanted> {
        let filters = query.filters(&["id", "until", "unused-for"])?;
        let since = filters.of("until").first().or(filters.of("unused-for").first());
        let mut keep = 0;
        for name in ["reserved-space", "keep-storage", "max-used-space"] {
            keep = keep.max(query.number::<u64>(name)?.unwrap_or(0));
        }
        if query.number::<u64>("min-free-space")?.is_some_and(|n| n > 0) {
            return Err(Fault::refused("min-free-space"));
        }
        Ok(Wanted { unused_since: since.map(|t| until(t)).transpose()?, ids: filters.of("id").to_vec(), keep })
    }

    /// Of all steps, the last used first.
    fn choose(&self, steps: &[CachedStep]) -> BTreeSet<String> {
        let mut kept = 0u64;
        let mut chosen = BTreeSet::new();
        for step in steps {
            let old = self.unused_since.is_none_or(|s| ms(step.used) < s);
            let named = self.ids.is_empty() || self.ids.iter().any(|id| step.id.starts_with(id.as_str()));
            let room = kept.saturating_add(step.bytes) <= self.keep && self.keep > 0;
            if old && named && !room {
                chosen.insert(step.id.clone());
            } else {
                kept = kept.saturating_add(step.bytes);
            }
        }
        chosen
    }
}

/// `POST /build/prune`.
///
/// # Errors
/// 400 for filters that are none.
pub async fn prune(call: Call) -> Result<Answer> {
    let wanted = Wanted::read(&call.query)?;
    let face = call.face.clone();
    let (forgotten, freed) = blocking(move || {
        let images = face.engine.images();
        images.forget_steps(&wanted.choose(&images.cached_steps()?))
    })
    .await?;
    Ok(json(&json!({ "CachesDeleted": forgotten, "SpaceReclaimed": freed })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_kept_first() {
        let step = |id: &str, age: u64, bytes| CachedStep {
            id: id.into(),
            bytes,
            shared: false,
            used: UNIX_EPOCH + std::time::Duration::from_secs(1000 - age),
            note: String::new(),
        };
        let steps = [step("aa", 1, 10), step("bb", 2, 10), step("cc", 3, 10)];
        let of = |text: &str| {
            let chosen = Wanted::read(&Query::parse(text)).unwrap().choose(&steps);
            chosen.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("all=1"), "aa bb cc");
        assert_eq!(of("keep-storage=20"), "cc");
        assert_eq!(of("filters=%7B%22until%22%3A%5B%22998.5%22%5D%7D"), "bb cc");
        assert_eq!(of("filters=%7B%22id%22%3A%5B%22b%22%5D%7D"), "bb");
        assert!(Wanted::read(&Query::parse("filters=%7B%22shared%22%3A%5B%221%22%5D%7D")).is_err());
    }
}
