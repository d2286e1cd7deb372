//! Tasks that belong together: started by name, told to drain together, waited for with a limit. A task that panics or
//! fails brings the others down in order, instead of leaving half a server behind.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What tells tasks to finish: `drain.cancelled().await`.
pub type Drain = CancellationToken;

/// A group of tasks.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    drain: Drain,
    tracker: TaskTracker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    running: Vec<Running>,
    failure: Option<TaskFailure>,
}

struct Running {
    id: u64,
    name: Arc<str>,
    abort: AbortHandle,
}

/// A task that ended as it should not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskFailure {
    /// It returned an error.
    #[error("task {name} failed: {error}")]
    Failed {
        /// The task.
        name: String,
        /// The chain of its error.
        error: String,
    },
    /// It panicked.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// The task.
        name: String,
        /// What it said.
        message: String,
    },
    /// These were still running at the end of the time given, and were dropped where they stood.
    #[error("tasks did not finish in time: {}", names.join(", "))]
    Late {
        /// The tasks.
        names: Vec<String>,
    },
}

impl Tasks {
    /// An empty group that drains when the token is cancelled.
    pub fn new(drain: Drain) -> Self {
        let inner = Inner { drain, tracker: TaskTracker::new(), state: Mutex::default() };
        Tasks { inner: Arc::new(inner) }
    }

    /// The token of the group.
    pub fn drain(&self) -> Drain {
        self.inner.drain.clone()
    }

    /// Runs a task that may end when it likes. A panic drains the whole group.
    pub fn spawn<F>(&self, name: &str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_fallible(name, async move {
            future.await;
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Runs a task whose error, like a panic, drains the whole group and is what [`Tasks::shutdown`] reports.
    pub fn spawn_fallible<F, E>(&self, name: &str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + 'static,
    {
        let name: Arc<str> = Arc::from(name);
        // The error is turned into text where it arises, so that it need not be `Send`.
        let task = tokio::spawn(async move { future.await.map_err(|error| crate::chain(&error)) });
        let id = {
            let mut state = self.inner.lock();
            let id = state.next_id;
            state.next_id += 1;
            state.running.push(Running { id, name: name.clone(), abort: task.abort_handle() });
            id
        };
        let inner = self.inner.clone();
        self.inner.tracker.spawn(async move {
            let failure = match task.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(TaskFailure::Failed { name: name.to_string(), error }),
                Err(join) if join.is_panic() => {
                    let message = panic_message(join.into_panic().as_ref());
                    Some(TaskFailure::Panicked { name: name.to_string(), message })
                }
                Err(_aborted) => None,
            };
            inner.finished(id, failure);
        });
    }

    /// Waits until the group is told to drain, by its owner or by a failed task.
    pub async fn draining(&self) {
        self.inner.drain.cancelled().await;
    }

    /// Tells all tasks to finish, and waits for them at most so long; what still runs then is dropped. The first failure
    /// of the group is the error. Tasks spawned from now on are waited for too.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), TaskFailure> {
        self.inner.drain.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(limit, self.inner.tracker.wait()).await.is_err() {
            let late: Vec<String> = {
                let state = self.inner.lock();
                state.running.iter().for_each(|task| task.abort.abort());
                state.running.iter().map(|task| task.name.to_string()).collect()
            };
            if !late.is_empty() {
                self.inner.lock().failure.get_or_insert(TaskFailure::Late { names: late });
            }
        }
        self.inner.lock().failure.take().map_or(Ok(()), Err)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if something did, the list is still right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finished(&self, id: u64, failure: Option<TaskFailure>) {
        let mut state = self.lock();
        state.running.retain(|task| task.id != id);
        if let Some(failure) = failure {
            tracing::error!(error = %failure, "draining");
            state.failure.get_or_insert(failure);
            drop(state);
            self.drain.cancel();
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(s), _) => (*s).to_owned(),
        (None, Some(s)) => s.clone(),
        (None, None) => "without a message".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn tasks_finish_when_told_to_drain() {
        let tasks = Tasks::new(Drain::new());
        let drain = tasks.drain();
        tasks.spawn("waits", async move { drain.cancelled().await });
        assert_eq!(tasks.shutdown(LIMIT).await, Ok(()));
    }

    #[tokio::test]
    async fn an_error_drains_the_others_and_is_reported() {
        let tasks = Tasks::new(Drain::new());
        let drain = tasks.drain();
        tasks.spawn("other", async move { drain.cancelled().await });
        tasks.spawn_fallible("bad", async { Err(std::io::Error::other("disk full")) });
        tasks.draining().await;
        let failure = TaskFailure::Failed { name: "bad".into(), error: "disk full".into() };
        assert_eq!(tasks.shutdown(LIMIT).await, Err(failure));
    }

    #[tokio::test]
    async fn a_panic_drains_the_others_and_is_reported() {
        let tasks = Tasks::new(Drain::new());
        tasks.spawn("bad", async { panic!("out of cheese") });
        tasks.draining().await;
        let failure = TaskFailure::Panicked { name: "bad".into(), message: "out of cheese".into() };
        assert_eq!(tasks.shutdown(LIMIT).await, Err(failure));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_finish_is_named_and_dropped() {
        let tasks = Tasks::new(Drain::new());
        tasks.spawn("stuck", std::future::pending());
        let failure = TaskFailure::Late { names: vec!["stuck".into()] };
        assert_eq!(tasks.shutdown(LIMIT).await, Err(failure));
        tasks.inner.tracker.wait().await;
    }
}
