//! Leases for keys that end. A lease serves many keys: each grant is a round through the cluster's log, and Events come in
//! crowds.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::channel::{Channel, Repeat, failed};
use super::proto::{LeaseGrantRequest, LeaseGrantResponse, signed};
use crate::StoreError;

/// Keys of one lease at most: all of them are deleted in one transaction of etcd's.
const KEYS: u32 = 1000;
/// Leases of different lengths remembered at most.
const LENGTHS: usize = 64;
/// A key may outlive its time by a twentieth of it, at most so long; less than [`SHORTEST`] has a lease of its own.
const SLACK_MAX: u64 = 60;
const SHORTEST: u64 = 20;

/// Leases that more keys can be put under.
#[derive(Default)]
pub struct Leases {
    open: Mutex<HashMap<u64, Open>>,
}

struct Open {
    id: i64,
    until: Instant,
    keys: u32,
}

impl Leases {
    /// A lease that ends at the earliest after so many seconds.
    pub async fn lease(&self, channel: &Channel, seconds: u64) -> Result<i64, StoreError> {
        let slack = if seconds < SHORTEST { 0 } else { (seconds / 20).min(SLACK_MAX) };
        if let Some(id) = self.reuse(seconds) {
            return Ok(id);
        }
        let asked = Instant::now();
        let request = LeaseGrantRequest { ttl: signed(seconds.max(1).saturating_add(slack)) };
        // A lease that nobody heard of ends by itself.
        let granted: LeaseGrantResponse = channel
            .unary("/etcdserverpb.Lease/LeaseGrant", &request, Repeat::Safe)
            .await
            .map_err(failed("asking etcd for a lease failed"))?;
        if slack > 0 {
            let mut open = self.open.lock();
            if open.len() >= LENGTHS {
                open.clear();
            }
            open.insert(seconds, Open { id: granted.id, until: asked + Duration::from_secs(slack), keys: 1 });
        }
        Ok(granted.id)
    }

    fn reuse(&self, seconds: u64) -> Option<i64> {
        let mut open = self.open.lock();
        let lease = open.get_mut(&seconds)?;
        if lease.keys >= KEYS || Instant::now() >= lease.until {
            open.remove(&seconds);
            return None;
        }
        lease.keys += 1;
        Some(lease.id)
    }

    /// Forgets a lease that etcd says it does not have.
    pub fn forget(&self, ids: &[i64]) {
        self.open.lock().retain(|_, lease| !ids.contains(&lease.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_shared_until_its_slack_or_its_keys_are_used_up() {
        let leases = Leases::default();
        let open = |keys| Open { id: 7, until: Instant::now() + Duration::from_secs(60), keys };
        leases.open.lock().insert(3600, open(KEYS - 1));
        assert_eq!((leases.reuse(60), leases.reuse(3600), leases.reuse(3600)), (None, Some(7), None));
        leases.open.lock().insert(3600, open(1));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(leases.reuse(3600), Some(7));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(leases.reuse(3600), None);
        leases.open.lock().insert(3600, open(1));
        leases.forget(&[7]);
        assert_eq!(leases.reuse(3600), None);
    }
}
