//! One of several servers runs the controllers: whoever holds a Lease (`coordination.k8s.io`). A server that only watches
//! takes it when its holder gives it up or has not renewed it in time; a holder that cannot renew it stops its controllers
//! before another may begin. Times are those of Kubernetes' own leader election.
//!
//! Nobody compares clocks of different hosts: a lease has run out when it has not changed for its whole duration as seen
//! from here.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, Request};
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The namespace of the Lease.
const NAMESPACE: &str = "kube-system";
/// How long a holder that is silent keeps the Lease.
pub const LEASE: Duration = Duration::from_secs(15);
/// How long a holder tries to renew it before it stops.
const DEADLINE: Duration = Duration::from_secs(10);
/// Wait between renewals, and between attempts.
const RETRY: Duration = Duration::from_secs(2);
/// How long giving it up may take.
const RELEASE: Duration = Duration::from_secs(5);

/// Who is to lead what.
#[derive(Debug, Clone)]
pub struct Election {
    /// Name of the Lease in `kube-system`.
    pub name: String,
    /// Tells this server from the others; another one each time a process starts.
    pub identity: String,
}

/// A Lease as it was last seen here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// Empty when nobody holds it.
    holder: String,
    /// How long it is kept without being renewed.
    duration: Duration,
    /// `leaseTransitions`.
    transitions: i64,
    /// Empty when there is none.
    resource_version: String,
    /// `acquireTime`, which stays while it is renewed.
    acquired: Value,
}

impl Seen {
    fn of(lease: &Value) -> Self {
        let spec = &lease["spec"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        Seen {
            holder: text(&spec["holderIdentity"]),
            duration: Duration::from_secs(spec["leaseDurationSeconds"].as_u64().unwrap_or(LEASE.as_secs())),
            transitions: spec["leaseTransitions"].as_i64().unwrap_or(0),
            resource_version: text(&lease["metadata"]["resourceVersion"]),
            acquired: spec["acquireTime"].clone(),
        }
    }

    /// When the Lease may be taken if it stays as it was seen at `since`; `None`: at once.
    fn free_at(&self, since: Instant, identity: &str) -> Option<Instant> {
        let held = !self.holder.is_empty() && self.holder != identity;
        held.then(|| since + self.duration)
    }

    /// The Lease as this server writes it: taken or renewed, or given up.
    fn written(&self, election: &Election, holds: bool, now: &str) -> Value {
        let mine = self.holder == election.identity;
        let transitions = self.transitions + i64::from(holds && !mine && !self.resource_version.is_empty());
        let acquired = if mine && !self.acquired.is_null() { self.acquired.clone() } else { now.into() };
        let mut metadata = json!({"name": election.name, "namespace": NAMESPACE});
        if !self.resource_version.is_empty() {
            metadata["resourceVersion"] = self.resource_version.as_str().into();
        }
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": holds.then_some(election.identity.as_str()),
                // A Lease that is given up needs no waiting for.
                "leaseDurationSeconds": if holds { LEASE.as_secs() } else { 1 },
                "leaseTransitions": transitions,
                "acquireTime": acquired,
                "renewTime": now,
            },
        })
    }
}

struct Candidate {
    client: kube::Client,
    election: Election,
    seen: Seen,
}

impl Candidate {
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, kube::Error> {
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json").body(body);
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }

    /// Writes the Lease if it is as it was last seen.
    async fn write(&mut self, holds: bool) -> Result<(), kube::Error> {
        let now = api::meta::format_micro_time(jiff::Timestamp::now());
        let lease = self.seen.written(&self.election, holds, &now);
        let all = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
        let written = match self.seen.resource_version.is_empty() {
            true => self.call(Method::POST, &all, Some(&lease)).await?,
            false => self.call(Method::PUT, &format!("{all}/{}", self.election.name), Some(&lease)).await?,
        };
        self.seen = Seen::of(&written);
        Ok(())
    }

    /// Looks at the Lease.
    async fn look(&mut self) -> Result<(), kube::Error> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{}", self.election.name);
        self.seen = match self.call(Method::GET, &path, None).await {
            Ok(lease) => Seen::of(&lease),
            Err(kube::Error::Api(status)) if status.code == 404 => Seen::default(),
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Returns when this server holds the Lease, with the time at which it asked for it.
    async fn acquire(&mut self) -> Instant {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.election.name));
        let mut changes = follow::watch::<Lease>(self.client.clone(), Some(NAMESPACE), config);
        let (mut since, mut listed) = (Instant::now(), false);
        loop {
            let free = self.seen.free_at(since, &self.election.identity).unwrap_or_else(Instant::now);
            if listed && free <= Instant::now() {
                let begun = Instant::now();
                match self.write(true).await {
                    Ok(()) => return begun,
                    Err(error) => {
                        tracing::debug!(error = %base::chain(&error), "the lease was not taken");
                        tokio::time::sleep(RETRY).await;
                    }
                }
                // Somebody else was faster, or the answer did not come: what is there now counts.
                let before = self.seen.clone();
                if self.look().await.is_ok() && self.seen != before {
                    since = Instant::now();
                }
                continue;
            }
            let wake = if listed { free } else { Instant::now() + LEASE };
            let now = match timeout_at(wake, changes.next()).await {
                Ok(Some(Ok(Event::Apply(lease) | Event::InitApply(lease)))) => {
                    serde_json::to_value(&lease).map(|lease| Seen::of(&lease)).unwrap_or_default()
                }
                Ok(Some(Ok(Event::Delete(_)))) => Seen::default(),
                Ok(Some(Ok(Event::InitDone))) => {
                    listed = true;
                    continue;
                }
                Ok(Some(Ok(Event::Init))) | Err(_) => continue,
                Ok(Some(Err(error))) => {
                    tracing::debug!(error = %base::chain(&error), "the watch of the lease broke");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Ok(None) => return std::future::pending().await,
            };
            if now != self.seen {
                (self.seen, since) = (now, Instant::now());
            }
        }
    }

    /// Renews the Lease; returns when that has not succeeded in time, or somebody else holds it.
    async fn hold(&mut self, taken: Instant) {
        let mut deadline = taken + DEADLINE;
        loop {
            tokio::time::sleep(RETRY).await;
            // Others count from when they see it, which is not before this.
            let begun = Instant::now();
            let error = match timeout_at(deadline, self.write(true)).await {
                Ok(Ok(())) => {
                    deadline = begun + DEADLINE;
                    continue;
                }
                Ok(Err(error)) => base::chain(&error).to_string(),
                Err(_) => "no answer".to_owned(),
            };
            tracing::warn!(%error, "the lease of the controllers was not renewed");
            let looked = timeout_at(deadline, self.look()).await;
            let lost = matches!(looked, Ok(Ok(()))) && self.seen.holder != self.election.identity;
            if lost || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Gives the Lease up, if it is still this server's.
    async fn release(&mut self) {
        let outcome = match self.look().await {
            Ok(()) if self.seen.holder == self.election.identity => self.write(false).await,
            other => other,
        };
        if let Err(error) = outcome {
            tracing::debug!(error = %base::chain(&error), "the lease was not given up");
        }
    }
}

/// Runs `work` whenever this server leads, until `drain`. The token given to `work` is cancelled when it leads no more; the
/// Lease is given up, so that another server need not wait for it, when `work` has ended.
pub async fn lead<W, F>(client: kube::Client, election: Election, drain: CancellationToken, work: W)
where
    W: Fn(CancellationToken) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut candidate = Candidate { client, election, seen: Seen::default() };
    while !drain.is_cancelled() {
        let taken = tokio::select! {
            () = drain.cancelled() => return,
            taken = candidate.acquire() => taken,
        };
        tracing::info!(identity = candidate.election.identity, "this server runs the controllers");
        let term = drain.child_token();
        let mut working = tokio::spawn(work(term.clone()));
        tokio::select! {
            // The work ends with it.
            biased;
            () = drain.cancelled() => {}
            _ = &mut working => tracing::error!("the controllers ended by themselves"),
            () = candidate.hold(taken) => tracing::warn!("this server runs the controllers no more"),
        }
        term.cancel();
        if !working.is_finished()
            && let Err(error) = working.await
        {
            tracing::error!(%error, "the controllers ended in a panic");
        }
        if timeout_at(Instant::now() + RELEASE, candidate.release()).await.is_err() {
            tracing::debug!("the lease was not given up in time");
        }
        candidate.seen = Seen::default();
        tokio::select! {
            () = drain.cancelled() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn election(identity: &str) -> Election {
        Election { name: "controllers".into(), identity: identity.into() }
    }

    fn stored(mut lease: Value, revision: &str) -> Seen {
        lease["metadata"]["resourceVersion"] = revision.into();
        Seen::of(&lease)
    }

    #[test]
    fn a_lease_is_free_when_nobody_holds_it_or_its_holder_has_been_silent_for_its_duration() {
        let now = Instant::now();
        let first = stored(Seen::default().written(&election("a"), true, "t0"), "5");
        assert_eq!((first.holder.as_str(), first.duration, first.transitions), ("a", LEASE, 0));
        assert_eq!(Seen::default().free_at(now, "b"), None);
        assert_eq!(first.free_at(now, "b"), Some(now + LEASE));
        // Its own, from before it lost sight of it.
        assert_eq!(first.free_at(now, "a"), None);
        let released = stored(first.written(&election("a"), false, "t1"), "6");
        assert_eq!(released.free_at(now, "b"), None);
    }

    #[test]
    fn renewing_keeps_the_time_of_taking_and_taking_counts_a_transition() {
        let first = stored(Seen::default().written(&election("a"), true, "t0"), "5");
        let renewed = first.written(&election("a"), true, "t1");
        assert_eq!((&renewed["spec"]["acquireTime"], &renewed["spec"]["renewTime"]), (&json!("t0"), &json!("t1")));
        assert_eq!(renewed["metadata"]["resourceVersion"], "5");
        let taken = stored(renewed, "6").written(&election("b"), true, "t2");
        assert_eq!((&taken["spec"]["acquireTime"], &taken["spec"]["leaseTransitions"]), (&json!("t2"), &json!(1)));
        assert!(Seen::default().written(&election("b"), true, "t2")["metadata"].get("resourceVersion").is_none());
    }

    #[test]
    fn a_holder_stops_before_another_may_begin() {
        assert!(DEADLINE + RETRY < LEASE);
    }
}
