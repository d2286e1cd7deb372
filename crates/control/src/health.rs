//! How the controllers are, for whoever asks: whether their workers live and get on.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A pass that takes longer does not get on: its requests have given up long before.
const STUCK: Duration = Duration::from_secs(300);

/// The name of the scheduler's worker.
pub(crate) const SCHEDULER: &str = "scheduler";

/// A part of the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Places pods.
    Scheduler,
    /// Everything else.
    Controllers,
}

/// What the workers of the controllers say of themselves. Shared by those who ask and [`crate::run`].
#[derive(Debug, Default)]
pub struct Health {
    term: Mutex<Option<Term>>,
}

/// One time of running: the workers that began in it, which may outlive it for a moment.
type Term = Vec<Arc<State>>;

#[derive(Debug)]
struct State {
    controller: &'static str,
    doing: Mutex<Doing>,
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    /// The caches are not filled yet.
    Starting,
    Waiting,
    /// A pass, since then.
    Passing(Instant),
    Ended,
}

impl Health {
    /// The controllers begin to run; they end when what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        *self.term.lock() = Some(Term::default());
        Running(self.clone())
    }

    /// A worker of a controller begins.
    pub(crate) fn worker(&self, controller: &'static str) -> Worker {
        let state = Arc::new(State { controller, doing: Mutex::new(Doing::Starting) });
        self.term.lock().get_or_insert_default().push(state.clone());
        Worker(state)
    }

    /// How a part is. `None`: the controllers do not run here.
    pub fn check(&self, component: Component) -> Option<Result<(), String>> {
        let term = self.term.lock();
        let is_mine = |w: &&Arc<State>| (w.controller == SCHEDULER) == (component == Component::Scheduler);
        let mut mine = term.as_ref()?.iter().filter(is_mine).peekable();
        if mine.peek().is_none() {
            return Some(Err("it has not started yet".to_owned()));
        }
        Some(mine.try_for_each(|worker| worker.check()))
    }
}

impl State {
    fn check(&self) -> Result<(), String> {
        let name = self.controller;
        match *self.doing.lock() {
            Doing::Starting => Err(format!("{name}: its caches are not filled yet")),
            Doing::Ended => Err(format!("{name}: a worker ended by itself")),
            Doing::Passing(since) if since.elapsed() > STUCK => {
                Err(format!("{name}: a pass has taken {} s so far", since.elapsed().as_secs()))
            }
            Doing::Waiting | Doing::Passing(_) => Ok(()),
        }
    }
}

/// The controllers run as long as this lives.
pub(crate) struct Running(Arc<Health>);

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.term.lock() = None;
    }
}

/// A worker, which tells what it does. It has ended when this is dropped.
pub(crate) struct Worker(Arc<State>);

impl Worker {
    /// It waits for something to do.
    pub fn waits(&self) {
        *self.0.doing.lock() = Doing::Waiting;
    }

    /// It begins a pass.
    pub fn passes(&self) {
        *self.0.doing.lock() = Doing::Passing(Instant::now());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        *self.0.doing.lock() = Doing::Ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn workers_that_end_or_get_stuck_are_told_of() {
        let health = Arc::new(Health::default());
        let of = |component| health.check(component);
        assert_eq!(of(Component::Scheduler), None);
        let running = health.begin();
        assert_eq!(of(Component::Scheduler), Some(Err("it has not started yet".into())));
        let (scheduler, job) = (health.worker(SCHEDULER), health.worker("job"));
        assert_eq!(of(Component::Scheduler), Some(Err("scheduler: its caches are not filled yet".into())));
        scheduler.waits();
        job.waits();
        assert_eq!((of(Component::Scheduler), of(Component::Controllers)), (Some(Ok(())), Some(Ok(()))));
        scheduler.passes();
        tokio::time::advance(STUCK).await;
        assert_eq!(of(Component::Scheduler), Some(Ok(())));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(of(Component::Scheduler), Some(Err("scheduler: a pass has taken 302 s so far".into())));
        scheduler.waits();
        assert_eq!(of(Component::Scheduler), Some(Ok(())));
        drop(job);
        assert_eq!(of(Component::Controllers), Some(Err("job: a worker ended by itself".into())));
        assert_eq!(of(Component::Scheduler), Some(Ok(())));
        drop(running);
        assert_eq!(of(Component::Controllers), None);
    }
}
