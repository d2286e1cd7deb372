//! The builder's progress, as BuildKit's clients are told of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use buildkit::messages::{StatusResponse, Timestamp, Vertex, VertexLog, VertexWarning};
use engine::build::{Event, Progress, Stream};
use image::Digest;
use parking_lot::Mutex;

use super::jobs::Job;

/// Most bytes that a step may say; the rest is cut off (BuildKit's default).
const LOG_MAX: usize = 2 << 20;
/// What each piece costs beside its bytes.
const PIECE: usize = 64;

struct Step {
    vertex: Vertex,
    said: usize,
}

/// Turns events into news of a job.
pub struct Tracker {
    job: Arc<Job>,
    /// Goes into the digests of steps, which are the build's own.
    id: String,
    steps: Mutex<BTreeMap<usize, Step>>,
}

impl Tracker {
    /// Of a job.
    pub fn new(id: &str, job: Arc<Job>) -> Self {
        Tracker { job, id: id.to_owned(), steps: Mutex::default() }
    }

    fn news(&self, vertex: &Vertex) {
        self.job.log.add(&StatusResponse { vertexes: vec![vertex.clone()], ..StatusResponse::default() });
    }

    fn digest(&self, step: usize) -> String {
        Digest::of(format!("{} {step}", self.id).as_bytes()).to_string()
    }

    fn change(&self, step: usize, change: impl FnOnce(&mut Vertex)) {
        let mut steps = self.steps.lock();
        let Some(known) = steps.get_mut(&step) else { return };
        change(&mut known.vertex);
        self.news(&known.vertex);
        if known.vertex.completed.is_some() {
            steps.remove(&step);
        }
    }

    fn say(&self, step: usize, stream: Stream, mut bytes: Vec<u8>) {
        let mut steps = self.steps.lock();
        let Some(known) = steps.get_mut(&step) else { return };
        if known.said > LOG_MAX {
            return;
        }
        known.said += bytes.len() + PIECE;
        if known.said > LOG_MAX {
            bytes = b"\n[output clipped, log limit 2MiB reached]\n".to_vec();
        }
        let log = VertexLog {
            vertex: known.vertex.digest.clone(),
            timestamp: Some(Timestamp::now()),
            stream: if stream == Stream::Out { 1 } else { 2 },
            msg: bytes,
        };
        self.job.log.add(&StatusResponse { logs: vec![log], ..StatusResponse::default() });
    }
}

impl Progress for Tracker {
    fn event(&self, event: Event) {
        match event {
            Event::Started { step, name } => {
                let digest = self.digest(step);
                let vertex = Vertex { digest, name, started: Some(Timestamp::now()), ..Vertex::default() };
                self.news(&vertex);
                self.steps.lock().insert(step, Step { vertex, said: 0 });
            }
            Event::Cached { step } => self.change(step, |vertex| vertex.cached = true),
            Event::Output { step, stream, bytes } => self.say(step, stream, bytes),
            Event::Done { step, .. } => self.change(step, |vertex| vertex.completed = Some(Timestamp::now())),
            Event::Failed { step, message } => self.change(step, |vertex| {
                vertex.completed = Some(Timestamp::now());
                // The client tells by these words who was only ended.
                vertex.error = if message == "canceled" { "context canceled".to_owned() } else { message };
            }),
            Event::Warning(message) => {
                let warning = VertexWarning { vertex: self.digest(1), level: 1, short: message.into_bytes() };
                self.job.log.add(&StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
            }
            _ => {}
        }
    }
}
