//! The one thread that writes. It takes everything that waits, does it in order in one transaction of the file, makes
//! that durable with one sync, then tells the watches and answers everybody. While it syncs, the next group gathers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::room::Handle;
use super::tables::{self, failed};
use crate::StoreError;
use crate::keeper::{Answer, Command, execute, is_fatal};
use crate::mvcc::{self, Edit, View};
use crate::watch::Hub;

/// Most commands in one group.
const GROUP_COMMANDS: usize = 512;
/// Bytes after which a group takes no more.
const GROUP_BYTES: usize = 8 << 20;
/// Most records of old history removed along with one group.
const CLEAN_BUDGET: usize = 512;
/// While the disk has no room, a put is tried so often; the others are refused unseen. Nothing tells when there is room.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// A command on its way.
pub(super) struct Job {
    pub command: Command,
    pub now_ms: u64,
    pub reply: oneshot::Sender<Result<Answer, StoreError>>,
}

pub(super) enum Message {
    Job(Job),
    /// Wakes the writer to see that the store is closing.
    Close,
}

/// Why the store is at its end, once it is.
#[derive(Clone, Default)]
pub(super) struct Stopped(Arc<End>);

#[derive(Default)]
struct End {
    reason: OnceLock<Arc<str>>,
    told: Notify,
}

impl Stopped {
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.0.reason.get().map_or(Ok(()), |reason| Err(StoreError::Stopped(reason.clone())))
    }

    pub(super) fn error(&self) -> StoreError {
        StoreError::Stopped(self.0.reason.get().cloned().unwrap_or_else(|| Arc::from("closed")))
    }

    /// Waits for the end, and says why.
    pub(super) async fn wait(&self) -> StoreError {
        let mut told = std::pin::pin!(self.0.told.notified());
        // Counted as waiting before the look, so that no end falls between the two.
        told.as_mut().enable();
        if let Err(error) = self.check() {
            return error;
        }
        told.await;
        self.error()
    }

    fn tell(&self, reason: Arc<str>) -> Arc<str> {
        let reason = self.0.reason.get_or_init(|| reason).clone();
        self.0.told.notify_waiters();
        reason
    }
}

pub(super) struct Writer {
    pub db: Arc<Handle>,
    pub queue: mpsc::Receiver<Message>,
    pub hub: Arc<Hub>,
    pub stopped: Stopped,
    pub closing: Arc<AtomicBool>,
    pub expiry: watch::Sender<Option<u64>>,
    /// Compacted history is still on disk.
    pub cleaning: bool,
    /// When a group last failed because the disk was full, until one does not.
    pub full: Option<Instant>,
}

impl Writer {
    /// Runs until the store is closed or cannot write any more.
    pub(super) fn run(mut self) {
        while let Some(group) = self.gather() {
            let (commands, replies): (Vec<_>, Vec<_>) =
                group.into_iter().map(|job| ((job.command, job.now_ms), job.reply)).unzip();
            match self.attempt(commands) {
                Ok(answers) => {
                    for (reply, answer) in replies.into_iter().zip(answers) {
                        // A caller that has gone away does not want to know.
                        let _gone = reply.send(answer);
                    }
                }
                Err(StoreError::NoSpace) => {
                    for reply in replies {
                        let _gone = reply.send(Err(StoreError::NoSpace));
                    }
                }
                Err(error) => {
                    let reason = base::chain(&error);
                    tracing::error!(error = %reason, "the store stops: its state on disk is not known to be right");
                    let error = self.stop(Arc::from(reason));
                    for reply in replies {
                        let _gone = reply.send(Err(error.clone()));
                    }
                    return;
                }
            }
        }
    }

    /// Waits for work, unless old history can be removed meanwhile; `None` when closed and nothing is left.
    fn gather(&mut self) -> Option<Vec<Job>> {
        let mut group = Vec::new();
        let mut bytes = 0;
        // A full disk is asked again when somebody wants something.
        let idle = !self.cleaning || self.full.is_some();
        if idle && !self.closing.load(Ordering::Acquire) {
            match self.queue.blocking_recv()? {
                Message::Job(job) => {
                    bytes += job.command.weight();
                    group.push(job);
                }
                Message::Close => {}
            }
        }
        // While the disk is full each stands for itself: what needs no room need not fail along with what does.
        let most = if self.full.is_some() { 1 } else { GROUP_COMMANDS };
        while group.len() < most && bytes < GROUP_BYTES {
            match self.queue.try_recv() {
                Ok(Message::Job(job)) => {
                    bytes += job.command.weight();
                    group.push(job);
                }
                Ok(Message::Close) => {}
                Err(_) => break,
            }
        }
        (!group.is_empty() || !self.closing.load(Ordering::Acquire)).then_some(group)
    }

    /// Does a group. [`StoreError::NoSpace`] means that nothing of it was done, any other error that nobody can know what is on
    /// disk.
    fn attempt(&mut self, commands: Vec<(Command, u64)>) -> Result<Vec<Result<Answer, StoreError>>, StoreError> {
        if commands.is_empty() && !self.cleaning {
            return Ok(Vec::new());
        }
        // A deletion may need no room, and may make some.
        let needs_room = commands.iter().any(|(command, _)| command.puts());
        if needs_room && self.full.is_some_and(|since| since.elapsed() < FULL_RETRY) {
            return Err(StoreError::NoSpace);
        }
        if !self.db.is_open() {
            self.reopen()?;
        }
        let handle = self.db.clone();
        match handle.with(|db| self.commit(db, commands)) {
            Ok(answers) => {
                if self.full.take().is_some() {
                    tracing::info!("the disk of the store has room again");
                }
                Ok(answers)
            }
            Err(error) if handle.was_full() => {
                if self.full.is_none() {
                    tracing::warn!(error = %base::chain(&error), "the disk of the store is full: changes are refused");
                }
                self.reopen()?;
                Err(StoreError::NoSpace)
            }
            Err(error) => Err(error),
        }
    }

    /// Goes back to what is on disk, which is what was acknowledged: a group is answered after its sync.
    fn reopen(&mut self) -> Result<(), StoreError> {
        self.full = Some(Instant::now());
        self.db.reopen()?;
        let (marks, first_lease) = self.db.with(tables::prepare)?;
        if marks.revision != self.hub.revision() {
            return Err(StoreError::Corrupt { what: "a change that was not acknowledged", revision: marks.revision });
        }
        self.cleaning = marks.cleaned < marks.compacted;
        self.expiry.send_if_modified(|due| std::mem::replace(due, first_lease) != first_lease);
        Ok(())
    }

    fn commit(
        &mut self,
        db: &Database,
        commands: Vec<(Command, u64)>,
    ) -> Result<Vec<Result<Answer, StoreError>>, StoreError> {
        let txn = db.begin_write().map_err(failed("beginning a transaction failed"))?;
        let mut tables = tables::open(&txn)?;
        let before = tables.marks();
        let mut events = Vec::new();
        let mut answers = Vec::with_capacity(commands.len());
        for (command, now_ms) in commands {
            match execute(&mut tables, command, now_ms, &mut events) {
                Err(error) if is_fatal(&error) => return Err(error),
                answer => answers.push(answer),
            }
        }
        let mut cleaning = self.cleaning || tables.marks().compacted != before.compacted;
        if cleaning {
            cleaning = !mvcc::clean(&mut tables, CLEAN_BUDGET)?;
        }
        let marks = tables.marks();
        let first_lease = tables.first_lease()?.map(|(ms, _)| ms);
        drop(tables);
        if marks == before {
            txn.abort().map_err(failed("giving up a transaction without changes failed"))?;
        } else {
            tables::save_marks(&txn, marks)?;
            txn.commit().map_err(failed("committing to disk failed"))?;
        }
        self.cleaning = cleaning;
        if marks.revision != before.revision {
            self.hub.publish(marks.revision, &events);
        }
        self.expiry.send_if_modified(|due| std::mem::replace(due, first_lease) != first_lease);
        Ok(answers)
    }

    fn stop(&self, reason: Arc<str>) -> StoreError {
        let reason = self.stopped.tell(reason);
        self.hub.stop(&reason);
        StoreError::Stopped(reason)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let why = if std::thread::panicking() { "the writer panicked" } else { "closed" };
        self.stop(Arc::from(why));
    }
}
