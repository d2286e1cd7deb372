//! Builds that are asked for, by the name that their client gave them, and what happens in them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use buildkit::messages::{FrontendRequest, ReturnRequest, StatusResponse};
use bytes::Bytes;
use grpc::server::{Refusal, code};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// How long a call may come before the build it is of.
const PATIENCE: Duration = Duration::from_secs(5);
/// Builds that have ended and whose news nobody has read yet: who fails at once may be asked later.
const ENDED_MAX: usize = 16;
/// Builds at once, waiting ones included.
const JOBS_MAX: usize = 256;
/// Requests to the frontend in one build.
const RESULTS_MAX: usize = 64;

/// What happens in a build, for who asks from its beginning.
#[derive(Default)]
pub struct Log {
    state: Mutex<(Vec<Bytes>, bool)>,
    news: watch::Sender<()>,
}

impl Log {
    /// Something happened.
    pub fn add(&self, what: &StatusResponse) {
        self.state.lock().0.push(grpc::frame(what));
        self.news.send_replace(());
    }

    /// Nothing more will.
    pub fn end(&self) {
        self.state.lock().1 = true;
        self.news.send_replace(());
    }

    /// What came after the first `n`; waits for it. `None` when nothing more comes.
    pub async fn after(&self, n: usize) -> Option<Vec<Bytes>> {
        let mut news = self.news.subscribe();
        loop {
            {
                let state = self.state.lock();
                match state.0.get(n..).filter(|more| !more.is_empty()) {
                    Some(more) => return Some(more.to_vec()),
                    None if state.1 => return None,
                    None => {}
                }
            }
            news.changed().await.ok()?;
        }
    }
}

/// What a client said through `LLBBridge`.
#[derive(Default)]
struct Bridge {
    /// Asked of the frontend; a result's name is its place here.
    results: Vec<FrontendRequest>,
    /// What it returned, until somebody takes it.
    returned: Option<ReturnRequest>,
    is_over: bool,
}

/// A build.
#[derive(Default)]
pub struct Job {
    /// What happens in it.
    pub log: Log,
    bridge: Mutex<Bridge>,
    over: Notify,
}

impl Job {
    /// Waits for what the client returns through `LLBBridge`.
    pub async fn returned(&self) -> ReturnRequest {
        loop {
            if let Some(returned) = self.bridge.lock().returned.take() {
                return returned;
            }
            self.over.notified().await;
        }
    }

    /// Takes what the client returns; it may be here before anybody waits for it.
    ///
    /// # Errors
    /// When it returned something before.
    pub fn hand_over(&self, returned: ReturnRequest) -> Result<(), Refusal> {
        let mut bridge = self.bridge.lock();
        if std::mem::replace(&mut bridge.is_over, true) {
            return Err(Refusal::new(code::ALREADY_EXISTS, "this build has returned its result already"));
        }
        bridge.returned = Some(returned);
        self.over.notify_one();
        Ok(())
    }

    /// Keeps what is asked of the frontend, and names it.
    pub fn keep(&self, request: FrontendRequest) -> Result<String, Refusal> {
        let mut bridge = self.bridge.lock();
        if bridge.results.len() >= RESULTS_MAX {
            let message = format!("a build asks for {RESULTS_MAX} results at most");
            return Err(Refusal::new(code::RESOURCE_EXHAUSTED, message));
        }
        bridge.results.push(request);
        Ok(format!("result-{}", bridge.results.len()))
    }

    /// What was asked of the frontend under a name.
    pub fn kept(&self, name: &str) -> Option<FrontendRequest> {
        let n: usize = name.strip_prefix("result-")?.parse().ok()?;
        self.bridge.lock().results.get(n.checked_sub(1)?).cloned()
    }
}

#[derive(Default)]
struct All {
    by_id: BTreeMap<String, Arc<Job>>,
    ended: VecDeque<String>,
}

/// All builds.
#[derive(Default)]
pub struct Jobs {
    all: Mutex<All>,
    changed: watch::Sender<()>,
}

/// A build under way; it has ended when this is dropped.
pub struct Running<'a> {
    jobs: &'a Jobs,
    id: String,
    /// It.
    pub job: Arc<Job>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.job.log.end();
        let mut all = self.jobs.all.lock();
        all.ended.push_back(self.id.clone());
        while all.ended.len() > ENDED_MAX {
            if let Some(oldest) = all.ended.pop_front() {
                all.by_id.remove(&oldest);
            }
        }
    }
}

impl Jobs {
    /// A new build.
    pub fn start(&self, id: &str) -> Result<Running<'_>, Refusal> {
        let mut all = self.all.lock();
        if id.is_empty() {
            return Err(Refusal::new(code::INVALID_ARGUMENT, "a build has a name"));
        }
        if all.by_id.contains_key(id) {
            return Err(Refusal::new(code::ALREADY_EXISTS, format!("job ID {id} exists")));
        }
        if all.by_id.len() >= JOBS_MAX {
            return Err(Refusal::new(code::RESOURCE_EXHAUSTED, format!("{JOBS_MAX} builds are under way already")));
        }
        let job = Arc::new(Job::default());
        all.by_id.insert(id.to_owned(), job.clone());
        drop(all);
        self.changed.send_replace(());
        Ok(Running { jobs: self, id: id.to_owned(), job })
    }

    /// A build; waits a while for one that is still on its way.
    pub async fn get(&self, id: &str) -> Result<Arc<Job>, Refusal> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                if let Some(job) = self.all.lock().by_id.get(id) {
                    return job.clone();
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let missing = |_| Refusal::new(code::NOT_FOUND, format!("no such job {id}"));
        tokio::time::timeout(PATIENCE, found).await.map_err(missing)
    }

    /// Forgets a build that has ended: its news were read.
    pub fn read(&self, id: &str) {
        let mut all = self.all.lock();
        if let Some(at) = all.ended.iter().position(|ended| ended == id) {
            all.ended.remove(at);
            all.by_id.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildkit::messages::Vertex;

    fn news(name: &str) -> StatusResponse {
        let vertex = Vertex { name: name.to_owned(), ..Vertex::default() };
        StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }
    }

    #[tokio::test]
    async fn news_are_read_from_the_beginning_also_after_the_end() {
        let jobs = Jobs::default();
        let running = jobs.start("a").unwrap();
        assert_eq!(jobs.start("a").err().unwrap().code, code::ALREADY_EXISTS);
        running.job.log.add(&news("one"));
        let job = jobs.get("a").await.unwrap();
        assert_eq!(job.log.after(0).await.unwrap().len(), 1);
        running.job.log.add(&news("two"));
        assert_eq!(job.log.after(1).await.unwrap(), [grpc::frame(&news("two"))]);
        drop(running);
        let late = jobs.get("a").await.unwrap();
        assert_eq!((late.log.after(0).await.unwrap().len(), late.log.after(2).await), (2, None));
        jobs.read("a");
        assert!(jobs.start("a").is_ok());
    }

    #[tokio::test]
    async fn what_a_client_returns_is_heard_once() {
        let jobs = Jobs::default();
        let running = jobs.start("a").unwrap();
        let name = running.job.keep(FrontendRequest { frontend: "f".into(), ..FrontendRequest::default() }).unwrap();
        assert_eq!(running.job.kept(&name).unwrap().frontend, "f");
        assert!(running.job.kept("result-0").is_none() && running.job.kept("result-2").is_none());
        running.job.hand_over(ReturnRequest::default()).unwrap();
        assert_eq!(running.job.returned().await, ReturnRequest::default());
        assert!(running.job.hand_over(ReturnRequest::default()).is_err());
    }

    #[test]
    fn builds_that_nobody_reads_are_forgotten() {
        let jobs = Jobs::default();
        for n in 0..ENDED_MAX + 5 {
            drop(jobs.start(&n.to_string()).unwrap());
        }
        assert_eq!(jobs.all.lock().by_id.len(), ENDED_MAX);
    }
}
