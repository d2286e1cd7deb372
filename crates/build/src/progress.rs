//! How a build goes: events, and a printer of them in the plain style of BuildKit.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::run::Stream;

/// Longest line that is kept until its end comes, bytes.
const LINE_MAX: usize = 64 << 10;

/// Something happened. Steps have numbers from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A step begins.
    Started {
        /// Its number.
        step: usize,
        /// `[stage 2/5] RUN make`.
        name: String,
    },
    /// Its result was there.
    Cached {
        /// Its number.
        step: usize,
    },
    /// It, or its command, said something.
    Output {
        /// Its number.
        step: usize,
        /// Where it said it.
        stream: Stream,
        /// What; not always whole lines.
        bytes: Vec<u8>,
    },
    /// It is done.
    Done {
        /// Its number.
        step: usize,
        /// How long it took.
        took: Duration,
    },
    /// It failed, or was ended because another did.
    Failed {
        /// Its number.
        step: usize,
        /// Why.
        message: String,
    },
    /// Something is not as it should be, and the build goes on.
    Warning(String),
}

/// Receives events, from several threads; must not block for long.
pub trait Progress: Send + Sync {
    /// One happened.
    fn event(&self, event: Event);
}

/// Tells nobody.
impl Progress for () {
    fn event(&self, _: Event) {}
}

/// Numbers steps.
pub(crate) struct Steps<'a> {
    sink: &'a dyn Progress,
    last: AtomicUsize,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(sink: &'a dyn Progress) -> Self {
        Steps { sink, last: AtomicUsize::new(0) }
    }

    pub(crate) fn warn(&self, message: String) {
        self.sink.event(Event::Warning(message));
    }

    pub(crate) fn start(&self, name: String) -> Step<'a> {
        let step = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.sink.event(Event::Started { step, name });
        Step { sink: self.sink, step, begun: Instant::now() }
    }

    /// A step around some work.
    pub(crate) fn within<T>(
        &self,
        name: String,
        work: impl FnOnce(&Step<'a>) -> crate::error::Result<T>,
    ) -> crate::error::Result<T> {
        let step = self.start(name);
        let result = work(&step);
        match &result {
            Ok(_) => step.done(),
            Err(error) => step.failed(&error.message),
        }
        result
    }
}

/// A step under way.
pub(crate) struct Step<'a> {
    sink: &'a dyn Progress,
    step: usize,
    begun: Instant,
}

impl Step<'_> {
    pub(crate) fn say(&self, text: &str) {
        self.output(Stream::Out, format!("{text}\n").as_bytes());
    }

    pub(crate) fn output(&self, stream: Stream, bytes: &[u8]) {
        self.sink.event(Event::Output { step: self.step, stream, bytes: bytes.to_vec() });
    }

    pub(crate) fn cached(&self) {
        self.sink.event(Event::Cached { step: self.step });
    }

    pub(crate) fn done(&self) {
        self.sink.event(Event::Done { step: self.step, took: self.begun.elapsed() });
    }

    pub(crate) fn failed(&self, message: &str) {
        self.sink.event(Event::Failed { step: self.step, message: message.to_owned() });
    }
}

/// Prints events as `buildx --progress plain` does.
pub struct Plain<W> {
    state: Mutex<Printer<W>>,
}

struct Printer<W> {
    out: W,
    /// By step: when it began, and a line whose end has not come.
    open: BTreeMap<usize, (Instant, Vec<u8>)>,
    /// The step that printed last.
    last: usize,
    /// Steps that were cached: their end says nothing.
    quiet: Vec<usize>,
}

impl<W: Write + Send> Plain<W> {
    /// Prints to `out`; what it refuses is lost.
    pub fn new(out: W) -> Self {
        Plain { state: Mutex::new(Printer { out, open: BTreeMap::new(), last: 0, quiet: Vec::new() }) }
    }

    /// The output.
    pub fn into_inner(self) -> W {
        self.state.into_inner().out
    }
}

impl<W: Write> Printer<W> {
    fn line(&mut self, step: usize, text: &str) {
        if self.last != 0 && self.last != step {
            let _ = writeln!(self.out);
        }
        self.last = step;
        let _ = writeln!(self.out, "#{step} {text}");
    }

    fn output(&mut self, step: usize, bytes: &[u8]) {
        let Some((begun, mut kept)) = self.open.remove(&step) else { return };
        kept.extend_from_slice(bytes);
        let seconds = begun.elapsed().as_secs_f64();
        while let Some(end) = kept.iter().position(|b| *b == b'\n').or((kept.len() > LINE_MAX).then_some(LINE_MAX)) {
            let line: Vec<u8> = kept.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            self.line(step, &format!("{seconds:.3} {}", text.trim_end_matches(['\n', '\r'])));
        }
        self.open.insert(step, (begun, kept));
    }

    fn flush(&mut self, step: usize) {
        if self.open.get(&step).is_some_and(|(_, kept)| !kept.is_empty()) {
            self.output(step, b"\n");
        }
        self.open.remove(&step);
    }
}

impl<W: Write + Send> Progress for Plain<W> {
    fn event(&self, event: Event) {
        let mut state = self.state.lock();
        match event {
            Event::Started { step, name } => {
                state.open.insert(step, (Instant::now(), Vec::new()));
                state.line(step, &name);
            }
            Event::Cached { step } => {
                state.quiet.push(step);
                state.line(step, "CACHED");
            }
            Event::Output { step, bytes, .. } => state.output(step, &bytes),
            Event::Done { step, took } => {
                state.flush(step);
                match state.quiet.iter().position(|s| *s == step) {
                    Some(at) => drop(state.quiet.remove(at)),
                    None => state.line(step, &format!("DONE {:.1}s", took.as_secs_f64())),
                }
            }
            Event::Failed { step, message } => {
                state.flush(step);
                let text = if message == "canceled" { "CANCELED".to_owned() } else { format!("ERROR: {message}") };
                state.line(step, &text);
            }
            Event::Warning(message) => {
                let _ = writeln!(state.out, "WARN: {message}");
            }
        }
        let _ = state.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_as_with_buildkit() {
        let plain = Plain::new(Vec::new());
        let steps = Steps::new(&plain);
        let (one, two) = (steps.start("[1/2] RUN a".into()), steps.start("[2/2] RUN b".into()));
        one.output(Stream::Out, b"par");
        two.cached();
        two.done();
        one.output(Stream::Err, b"tial\nlast");
        one.failed("exit code: 1");
        let text = String::from_utf8(plain.into_inner()).unwrap();
        let text =
            text.lines().map(|l| l.split(' ').filter(|w| w.parse::<f64>().is_err()).collect::<Vec<_>>().join(" "));
        let lines: Vec<String> = text.collect();
        let want =
            ["#1 [1/2] RUN a", "", "#2 [2/2] RUN b", "#2 CACHED", "", "#1 partial", "#1 last", "#1 ERROR: exit code:"];
        assert_eq!(lines, want);
    }
}
