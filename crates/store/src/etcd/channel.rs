//! The way to the members: one connection at a time, to the first that answers; the next when it fails.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::time::{Instant, timeout, timeout_at};

use super::config::{Endpoint, EtcdConfig, Tls};
use super::grpc::{CallError, Connection, Messages, REQUIRE_LEADER, UNAVAILABLE, dial};
use crate::StoreError;

/// Most attempts of one call.
const ATTEMPTS: u32 = 5;
/// Wait before the second attempt; twice as long before each further one.
const PAUSE: Duration = Duration::from_millis(50);
/// After no member answered, callers that come so soon get the same answer instead of asking all of them again.
const REMEMBERED: Duration = Duration::from_millis(200);

/// Whether a call may be made again when nobody knows whether it was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing, or the same to the same.
    Safe,
    /// It is made again only when it certainly did not leave this process.
    UnsentOnly,
}

/// Calls to whichever member answers.
pub struct Channel {
    endpoints: Vec<Endpoint>,
    tls: Option<Tls>,
    dial_timeout: Duration,
    call_timeout: Duration,
    state: Mutex<State>,
    /// One caller connects, the others wait for what it gets.
    dialing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Counts connections, so that only the one that failed is given up.
    generation: u64,
    /// Which endpoint is tried first.
    first: usize,
    failed: Option<(Instant, Arc<str>)>,
}

impl Channel {
    /// Connects to nobody yet.
    pub fn new(config: &EtcdConfig, endpoints: Vec<Endpoint>, tls: Option<Tls>) -> Self {
        Channel {
            endpoints,
            tls,
            dial_timeout: config.dial_timeout,
            call_timeout: config.call_timeout,
            state: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
        }
    }

    /// One request, one answer.
    ///
    /// # Errors
    /// [`CallError::Status`] is etcd's own refusal. [`CallError::Lost`] says that the call may have been carried out.
    pub async fn unary<A: Message + Default>(
        &self,
        path: &str,
        request: &impl Message,
        repeat: Repeat,
    ) -> Result<A, CallError> {
        let deadline = Instant::now() + self.call_timeout;
        let mut pause = PAUSE;
        for attempt in 1.. {
            let error = match self.attempt(path, request, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = match &error {
                CallError::NotSent(_) => true,
                CallError::Lost(_) => repeat == Repeat::Safe,
                CallError::Status { code, .. } => *code == UNAVAILABLE && repeat == Repeat::Safe,
            };
            if !again || attempt >= ATTEMPTS || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the last attempt returns")
    }

    async fn attempt<A: Message + Default>(
        &self,
        path: &str,
        request: &impl Message,
        deadline: Instant,
    ) -> Result<A, CallError> {
        let (connection, generation) = match timeout_at(deadline, self.connection()).await {
            Ok(found) => found?,
            Err(_) => return Err(CallError::NotSent(self.late())),
        };
        let outcome = match timeout_at(deadline, connection.unary(path, request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::Lost(self.late())),
        };
        if let Err(error) = &outcome {
            self.judge(error, generation);
        }
        outcome
    }

    fn late(&self) -> Arc<str> {
        Arc::from(format!("no answer within {:?}", self.call_timeout))
    }

    /// A stream of answers to one request, and what to tell [`Channel::judge`] when it breaks.
    pub async fn stream(&self, path: &str, request: &impl Message) -> Result<(Messages, u64), CallError> {
        let open = async {
            let (connection, generation) = self.connection().await?;
            let opened = connection.stream(path, request, &REQUIRE_LEADER).await;
            if let Err(error) = &opened {
                self.judge(error, generation);
            }
            Ok((opened?, generation))
        };
        timeout(self.call_timeout, open).await.unwrap_or_else(|_| Err(CallError::NotSent(self.late())))
    }

    /// Gives up a connection whose member is gone or has lost the others.
    pub fn judge(&self, error: &CallError, generation: u64) {
        if matches!(error, CallError::Status { code, .. } if *code != UNAVAILABLE) {
            return;
        }
        let mut state = self.state.lock();
        if state.generation == generation && state.connection.take().is_some() {
            state.first = (state.first + 1) % self.endpoints.len();
        }
    }

    fn open(&self) -> Option<(Connection, u64)> {
        let state = self.state.lock();
        let connection = state.connection.as_ref().filter(|c| !c.is_closed())?;
        Some((connection.clone(), state.generation))
    }

    async fn connection(&self) -> Result<(Connection, u64), CallError> {
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let _turn = self.dialing.lock().await;
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let first = {
            let state = self.state.lock();
            if let Some((_, why)) = state.failed.as_ref().filter(|(when, _)| when.elapsed() < REMEMBERED) {
                return Err(CallError::NotSent(why.clone()));
            }
            state.first
        };
        let mut findings = Vec::new();
        for turn in 0..self.endpoints.len() {
            let at = (first + turn) % self.endpoints.len();
            let endpoint = &self.endpoints[at];
            let dialing = dial(endpoint, self.tls.as_ref());
            let finding = match timeout(self.dial_timeout, dialing).await {
                Ok(Ok(connection)) => {
                    let mut state = self.state.lock();
                    state.generation += 1;
                    (state.first, state.failed) = (at, None);
                    state.connection = Some(connection.clone());
                    return Ok((connection, state.generation));
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no connection within {:?}", self.dial_timeout),
            };
            findings.push(format!("{}: {finding}", endpoint.url));
            // Callers may give up before all have been asked: the next one goes on here.
            self.state.lock().first = (at + 1) % self.endpoints.len();
        }
        let why: Arc<str> = Arc::from(findings.join("; "));
        self.state.lock().failed = Some((Instant::now(), why.clone()));
        Err(CallError::NotSent(why))
    }
}

/// What a failed call means to the store's users, unless etcd's words say more.
pub fn failed(doing: &'static str) -> impl FnOnce(CallError) -> StoreError {
    move |error| match error {
        CallError::Status { code, .. } if code != UNAVAILABLE => StoreError::Backend { doing, source: Arc::new(error) },
        other => StoreError::Unavailable(Arc::from(other.to_string())),
    }
}
