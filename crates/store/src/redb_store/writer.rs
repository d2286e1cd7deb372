//! The one thread that writes. It takes everything that waits, does it in order in one transaction of the file, makes
//! that durable with one sync, then tells the watches and answers everybody. While it syncs, the next group gathers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use redb::Database;
use tokio::sync::{mpsc, oneshot, watch};

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
pub(super) struct Stopped(Arc<OnceLock<Arc<str>>>);

impl Stopped {
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.0.get().map_or(Ok(()), |reason| Err(StoreError::Stopped(reason.clone())))
    }

    pub(super) fn error(&self) -> StoreError {
        StoreError::Stopped(self.0.get().cloned().unwrap_or_else(|| Arc::from("closed")))
    }
}

pub(super) struct Writer {
    pub db: Arc<Database>,
    pub queue: mpsc::Receiver<Message>,
    pub hub: Arc<Hub>,
    pub stopped: Stopped,
    pub closing: Arc<AtomicBool>,
    pub expiry: watch::Sender<Option<u64>>,
    /// Compacted history is still on disk.
    pub cleaning: bool,
}

impl Writer {
    /// Runs until the store is closed or cannot write any more.
    pub(super) fn run(mut self) {
        while let Some(group) = self.gather() {
            let (commands, replies): (Vec<_>, Vec<_>) =
                group.into_iter().map(|job| ((job.command, job.now_ms), job.reply)).unzip();
            match self.commit(commands) {
                Ok(answers) => {
                    for (reply, answer) in replies.into_iter().zip(answers) {
                        // A caller that has gone away does not want to know.
                        let _gone = reply.send(answer);
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
        if !self.cleaning && !self.closing.load(Ordering::Acquire) {
            match self.queue.blocking_recv()? {
                Message::Job(job) => {
                    bytes += job.command.weight();
                    group.push(job);
                }
                Message::Close => {}
            }
        }
        while group.len() < GROUP_COMMANDS && bytes < GROUP_BYTES {
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

    /// Does a group; an error means that nobody can know what is on disk.
    fn commit(&mut self, commands: Vec<(Command, u64)>) -> Result<Vec<Result<Answer, StoreError>>, StoreError> {
        if commands.is_empty() && !self.cleaning {
            return Ok(Vec::new());
        }
        let txn = self.db.begin_write().map_err(failed("beginning a transaction failed"))?;
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
        let reason = self.stopped.0.get_or_init(|| reason).clone();
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
