//! Running other programs with a limit on their time, and saying what they printed when they did not do what was wanted.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a program may run when nothing else is said.
pub const LIMIT: Duration = Duration::from_secs(90);

/// What a program did.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output, if the program succeeded.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("`{}` ended with {}\n{}{}", self.line, self.status, self.stdout, self.stderr)
    }

    /// Standard error, if the program failed.
    pub fn failed(self) -> Result<String> {
        if self.status.success() {
            bail!("`{}` succeeded and should not have\n{}{}", self.line, self.stdout, self.stderr);
        }
        Ok(self.stderr)
    }

    /// The exit code; a signal counts as 128 and its number, as in a shell.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

/// Runs a program to its end. One that is still running after `limit` is killed and is an error.
pub fn run(command: &mut Command, stdin: Option<&[u8]>, limit: Duration) -> Result<Output> {
    let line = line(command);
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start `{line}`"))?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        let text = text.to_vec();
        // A program that ends early closes its input: what it prints tells more than the broken pipe.
        std::thread::spawn(move || drop(pipe.write_all(&text)));
    }
    collect(child, line, Instant::now() + crate::patient(limit))
}

fn collect(mut child: Child, line: String, deadline: Instant) -> Result<Output> {
    let (sender, receiver) = mpsc::channel();
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
        child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
    ];
    for (index, pipe) in pipes.into_iter().enumerate() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            let _ = sender.send((index, String::from_utf8_lossy(&bytes).into_owned()));
        });
    }
    let mut texts = [String::new(), String::new()];
    for _ in 0..2 {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((index, text)) => texts[index] = text,
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                let [stdout, stderr] = &texts;
                bail!("`{line}` did not end in time and was killed\n{stdout}{stderr}");
            }
        }
    }
    let status = child.wait().with_context(|| format!("wait for `{line}`"))?;
    let [stdout, stderr] = texts;
    Ok(Output { line, status, stdout, stderr })
}

/// The command line as a person would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words
        .map(|w| w.to_string_lossy().into_owned())
        .map(|w| if w.contains(' ') || w.is_empty() { format!("'{w}'") } else { w })
        .collect();
    words.join(" ")
}
