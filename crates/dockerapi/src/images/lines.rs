//! How a build goes, as a stream of JSON that Docker's clients print.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use engine::build::{BuildError, Event, Progress};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Longest line kept until its end comes, bytes.
const LINE_MAX: usize = 16 << 10;
/// What a quiet build keeps of its output for when it fails, lines.
const TAIL_MAX: usize = 200;

/// One JSON document of a stream.
pub fn message(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

/// Text for the user.
pub fn stream(text: &str) -> Bytes {
    message(&json!({ "stream": text }))
}

/// Turns events into messages. Steps go on side by side: where another one speaks, it says its name first.
pub struct Lines {
    out: SyncSender<Bytes>,
    quiet: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By number: how it is called, and a line whose end has not come.
    open: BTreeMap<usize, (String, Vec<u8>)>,
    /// The step that spoke last.
    last: usize,
    tail: VecDeque<String>,
    /// Something was said, or kept.
    said: bool,
}

/// `Step 2/5 : RUN make` of `[2/5] RUN make`, with the stage's name if it has one; `None` for what is no instruction.
fn title(name: &str) -> Option<String> {
    let (head, text) = name.strip_prefix('[')?.split_once("] ")?;
    let (stage, count) = head.rsplit_once(' ').unwrap_or(("", head));
    let (nth, of) = count.split_once('/')?;
    let number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !number(nth) || !number(of) {
        return None;
    }
    let stage = if stage.is_empty() { String::new() } else { format!(" ({stage})") };
    Some(format!("Step {count}{stage} : {text}\n"))
}

impl Lines {
    /// Into a queue, whose end waits while it is full; what it refuses is lost, since nobody listens.
    pub fn new(out: SyncSender<Bytes>, quiet: bool) -> Self {
        Lines { out, quiet, state: Mutex::default() }
    }

    /// Says something.
    pub fn say(&self, text: &str) {
        self.print(&mut self.state.lock(), text);
    }

    /// Whether anything was said, if only to itself.
    pub fn said(&self) -> bool {
        self.state.lock().said
    }

    fn print(&self, state: &mut State, text: &str) {
        state.said = true;
        if !self.quiet {
            let _ = self.out.send(stream(text));
            return;
        }
        if state.tail.len() >= TAIL_MAX {
            state.tail.pop_front();
        }
        state.tail.push_back(text.to_owned());
    }

    /// Sends a message as it is.
    pub fn send(&self, value: &Value) {
        let _ = self.out.send(message(value));
    }

    /// What a quiet build kept to itself.
    pub fn confess(&self) {
        for text in std::mem::take(&mut self.state.lock().tail) {
            let _ = self.out.send(stream(&text));
        }
    }

    fn speak(&self, state: &mut State, step: usize, text: &str) {
        if state.last != step {
            let name = state.open.get(&step).and_then(|(name, _)| title(name));
            if let Some(name) = name {
                self.print(state, &format!(" ---> {name}"));
            }
            state.last = step;
        }
        self.print(state, text);
    }

    fn output(&self, state: &mut State, step: usize, bytes: &[u8]) {
        let Some((_, rest)) = state.open.get_mut(&step) else { return };
        let mut rest = std::mem::take(rest);
        rest.extend_from_slice(bytes);
        while let Some(end) = rest.iter().position(|b| *b == b'\n').or((rest.len() > LINE_MAX).then_some(LINE_MAX)) {
            let line: Vec<u8> = rest.drain(..=end).collect();
            self.speak(state, step, &String::from_utf8_lossy(&line));
        }
        if let Some(slot) = state.open.get_mut(&step) {
            slot.1 = rest;
        }
    }

    fn close(&self, state: &mut State, step: usize) {
        if state.open.get(&step).is_some_and(|(_, rest)| !rest.is_empty()) {
            self.output(state, step, b"\n");
        }
        state.open.remove(&step);
    }
}

impl Progress for Lines {
    fn event(&self, event: Event) {
        let mut state = self.state.lock();
        let state = &mut *state;
        match event {
            Event::Started { step, name } => {
                // What comes before the first instruction says nothing: a failure there is the answer's status.
                let hidden = name.starts_with("[internal] load build") || name.starts_with("exporting");
                if let Some(shown) = title(&name) {
                    state.last = step;
                    self.print(state, &shown);
                }
                if !hidden {
                    state.open.insert(step, (name, Vec::new()));
                }
            }
            Event::Cached { step } => {
                // The first step is the image below, which is always there.
                let first = state.open.get(&step).is_some_and(|(name, _)| name.contains("] FROM "));
                if !first {
                    self.speak(state, step, " ---> Using cache\n");
                }
            }
            Event::Output { step, bytes, .. } => self.output(state, step, &bytes),
            Event::Done { step, .. } | Event::Failed { step, .. } => self.close(state, step),
            Event::Warning(text) => self.print(state, &format!("[Warning] {text}\n")),
            _ => {}
        }
    }
}

/// What a build failed with, in the words of Docker's builder.
pub fn failure(error: &BuildError) -> (i64, String) {
    let code = error.exit_code.map_or(1, i64::from);
    let command = error.message.strip_prefix("process \"").and_then(|m| m.split_once("\" did not complete"));
    match (error.exit_code, command) {
        (Some(code), Some((command, _))) => {
            (i64::from(code), format!("The command '{command}' returned a non-zero code: {code}"))
        }
        _ => (code, error.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::build::Stream;

    fn told(quiet: bool, events: Vec<Event>) -> Vec<String> {
        let (tx, rx) = std::sync::mpsc::sync_channel(100);
        let lines = Lines::new(tx, quiet);
        events.into_iter().for_each(|e| lines.event(e));
        lines.confess();
        drop(lines);
        let text =
            |bytes: Bytes| serde_json::from_slice::<Value>(&bytes).unwrap()["stream"].as_str().unwrap().to_owned();
        rx.into_iter().map(text).collect()
    }

    fn events() -> Vec<Event> {
        let started = |step, name: &str| Event::Started { step, name: name.to_owned() };
        let output = |step, text: &str| Event::Output { step, stream: Stream::Out, bytes: text.into() };
        let took = std::time::Duration::ZERO;
        vec![
            started(1, "[internal] load build definition from Dockerfile"),
            output(1, "transferring dockerfile: 3B\n"),
            started(2, "[make 1/2] FROM busybox"),
            Event::Cached { step: 2 },
            started(3, "[make 2/2] RUN a"),
            started(4, "[stage-1 2/2] RUN b"),
            output(3, "hal"),
            output(4, "b\n"),
            output(3, "f\n"),
            Event::Cached { step: 4 },
            output(3, "end"),
            Event::Done { step: 3, took },
        ]
    }

    #[test]
    fn steps_side_by_side_say_who_speaks() {
        let want = [
            "Step 1/2 (make) : FROM busybox\n",
            "Step 2/2 (make) : RUN a\n",
            "Step 2/2 (stage-1) : RUN b\n",
            "b\n",
            " ---> Step 2/2 (make) : RUN a\n",
            "half\n",
            " ---> Step 2/2 (stage-1) : RUN b\n",
            " ---> Using cache\n",
            " ---> Step 2/2 (make) : RUN a\n",
            "end\n",
        ];
        assert_eq!(told(false, events()), want);
        // A quiet build says the same when it fails, and nothing before.
        assert_eq!(told(true, events()), want);
        assert_eq!(title("[internal] load metadata for x"), None);
    }

    #[test]
    fn failures_are_told_in_dockers_words() {
        let mut error = BuildError::new("process \"/bin/sh -c false\" did not complete successfully: exit code: 3");
        error.exit_code = Some(3);
        assert_eq!(failure(&error), (3, "The command '/bin/sh -c false' returned a non-zero code: 3".to_owned()));
        assert_eq!(failure(&BuildError::new("other")), (1, "other".to_owned()));
    }
}
