//! The harness of a suite: runs its tests side by side on one shared instance, bounds each in time, counts and explains skips,
//! and ends with taking the instance down and looking for leaks, which is a test as well.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::{Ctx, Instance, InstanceBuilder, windlass};

/// What a test is given.
#[derive(Clone, Copy)]
pub enum Run {
    /// The shared instance and a namespace.
    Shared(fn(&Ctx) -> Result<()>),
    /// Nothing: it starts its own.
    Alone(fn() -> Result<()>),
}

impl From<fn(&Ctx) -> Result<()>> for Run {
    fn from(f: fn(&Ctx) -> Result<()>) -> Self {
        Run::Shared(f)
    }
}

impl From<fn() -> Result<()>> for Run {
    fn from(f: fn() -> Result<()>) -> Self {
        Run::Alone(f)
    }
}

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    name: &'static str,
    run: Run,
    limit: Duration,
}

impl Test {
    /// Of that name and content; see [`crate::tests`].
    pub fn new(name: &'static str, run: Run) -> Test {
        Test { name: name.rsplit("::").next().unwrap_or(name).trim(), run, limit: Duration::from_secs(150) }
    }
}

/// The tests of a suite by their functions' paths: `shared` ones take a `&Ctx`, `alone` ones nothing.
#[macro_export]
macro_rules! tests {
    (shared: $($path:path),* $(,)?) => {
        vec![$($crate::Test::new(stringify!($path), ($path as fn(&$crate::Ctx) -> ::anyhow::Result<()>).into())),*]
    };
    (alone: $($path:path),* $(,)?) => {
        vec![$($crate::Test::new(stringify!($path), ($path as fn() -> ::anyhow::Result<()>).into())),*]
    };
}

/// A reason not to run a test, found while it runs.
#[derive(Debug)]
struct Skip(String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends a test as skipped.
pub fn skip(reason: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Skip(reason.into()))
}

/// Why nothing can run here, if so.
pub fn needs_root() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if windlass().is_none() {
        return Some("no windlass binary: cargo build --release, or set WINDLASS_BIN");
    }
    let on_path = |name: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|d| d.join(name).is_file())
    };
    if !on_path("kubectl") {
        return Some("kubectl is not on the PATH");
    }
    None
}

/// A set of tests with one instance.
pub struct Suite {
    name: &'static str,
    tests: Vec<Test>,
    threads: usize,
    instance: Option<InstanceBuilder>,
}

enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

impl Suite {
    /// A suite whose tests run four at a time: they mostly wait.
    pub fn new(name: &'static str) -> Suite {
        Suite { name, tests: Vec::new(), threads: 4, instance: None }
    }

    /// With further tests.
    pub fn with(mut self, tests: Vec<Test>) -> Self {
        self.tests.extend(tests);
        self
    }

    /// With that many tests at a time.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// With further time for each test.
    pub fn limit(mut self, limit: Duration) -> Self {
        for test in &mut self.tests {
            test.limit = limit;
        }
        self
    }

    /// With a shared instance started that way.
    pub fn instance(mut self, builder: InstanceBuilder) -> Self {
        self.instance = Some(builder);
        self
    }

    /// Runs what the command line asks for, as `cargo test` programs do: words are parts of names.
    pub fn main(mut self) -> ExitCode {
        let args = Args::parse();
        self.tests.retain(|t| args.wants(t.name));
        if args.list {
            self.tests.iter().for_each(|t| println!("{}: test", t.name));
            return ExitCode::SUCCESS;
        }
        let (name, threads) = (self.name, args.threads.unwrap_or(self.threads).max(1));
        println!("\nrunning {} tests of {name}", self.tests.len());
        let started = Instant::now();
        let verdicts = match needs_root() {
            Some(reason) => {
                let skipped = |t: &Test| (t.name, report(t.name, started, Verdict::Skipped(reason.into())));
                self.tests.iter().map(skipped).collect()
            }
            None if self.tests.is_empty() => Vec::new(),
            None => self.execute(threads),
        };
        summary(name, &verdicts, started)
    }

    fn execute(self, threads: usize) -> Vec<(&'static str, Verdict)> {
        let shared = self.tests.iter().any(|t| matches!(t.run, Run::Shared(_)));
        let started = Instant::now();
        let instance = match self.instance.filter(|_| shared).map(InstanceBuilder::start).transpose() {
            Ok(instance) => instance.map(Arc::new),
            Err(error) => {
                let verdict = Verdict::Failed(format!("{error:#}"));
                return vec![("the_instance_starts", report("the_instance_starts", started, verdict))];
            }
        };
        let queue = Arc::new(Mutex::new(VecDeque::from(self.tests)));
        let (sender, receiver) = mpsc::channel();
        for _ in 0..threads {
            let (queue, sender, instance) = (queue.clone(), sender.clone(), instance.clone());
            std::thread::spawn(move || {
                while let Some(test) = pop(&queue) {
                    let started = Instant::now();
                    let verdict = run_one(test, instance.clone());
                    let _ = sender.send((test.name, report(test.name, started, verdict)));
                }
            });
        }
        drop(sender);
        let mut verdicts: Vec<_> = receiver.iter().collect();
        if let Some(instance) = instance {
            let started = Instant::now();
            let name = "the_instance_is_taken_down_and_leaves_nothing";
            let verdict = instance.down().map_or_else(|e| Verdict::Failed(format!("{e:#}")), |()| Verdict::Passed);
            if verdicts.iter().any(|(_, v)| matches!(v, Verdict::Failed(_))) {
                println!("{}", instance.log_tail());
            }
            verdicts.push((name, report(name, started, verdict)));
        }
        verdicts
    }
}

fn pop(queue: &Mutex<VecDeque<Test>>) -> Option<Test> {
    queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front()
}

/// Runs a test in a thread of its own, so that one that hangs is given up on.
fn run_one(test: Test, instance: Option<Arc<Instance>>) -> Verdict {
    let (sender, receiver) = mpsc::channel();
    let for_diagnosis = instance.clone();
    std::thread::spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| attempt(test, instance)));
        let _ = sender.send(outcome.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_text(&*panic)))));
    });
    let error = match receiver.recv_timeout(crate::patient(test.limit)) {
        Ok(Ok(())) => return Verdict::Passed,
        Ok(Err(error)) => error,
        Err(RecvTimeoutError::Timeout) => anyhow!("did not end within {} s", crate::patient(test.limit).as_secs()),
        Err(RecvTimeoutError::Disconnected) => anyhow!("its thread ended without a word"),
    };
    if let Some(skip) = error.downcast_ref::<Skip>() {
        return Verdict::Skipped(skip.0.clone());
    }
    let mut text = format!("{error:#}");
    if let (Run::Shared(_), Some(instance)) = (test.run, for_diagnosis) {
        text = format!("{text}\n{}", Ctx::existing(instance, test.name).diagnosis());
    }
    Verdict::Failed(text)
}

fn attempt(test: Test, instance: Option<Arc<Instance>>) -> Result<()> {
    match test.run {
        Run::Alone(run) => run(),
        Run::Shared(run) => {
            let instance = instance.ok_or_else(|| anyhow!("the suite has no instance"))?;
            let ctx = Ctx::new(instance, test.name)?;
            run(&ctx)?;
            // Its pods end while the next test runs; that the namespace goes away is a test of its own.
            ctx.ok(&["delete", "namespace", &ctx.ns, "--wait=false"])?;
            Ok(())
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_else(|| "?".into())
}

/// Prints one line as soon as the verdict is known, so that a long run shows how it goes.
fn report(name: &str, started: Instant, verdict: Verdict) -> Verdict {
    let seconds = started.elapsed().as_secs_f64();
    match &verdict {
        Verdict::Passed => println!("test {name} ({seconds:.1} s) ... ok"),
        Verdict::Failed(why) => println!("test {name} ({seconds:.1} s) ... FAILED\n{}\n", indent(why)),
        // As tests under cargo's own harness do, which knows no skip: `./test` counts these lines and takes as many passes off.
        Verdict::Skipped(why) => println!("skipped: {why}\ntest {name} ... ok"),
    }
    verdict
}

fn indent(text: &str) -> String {
    text.lines().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n")
}

fn summary(suite: &str, verdicts: &[(&'static str, Verdict)], started: Instant) -> ExitCode {
    let count = |f: fn(&Verdict) -> bool| verdicts.iter().filter(|(_, v)| f(v)).count();
    let failed: Vec<&str> =
        verdicts.iter().filter(|(_, v)| matches!(v, Verdict::Failed(_))).map(|(name, _)| *name).collect();
    println!(
        "\ntest result: {}. {} passed; {} failed; {} skipped; {suite} finished in {:.1} s",
        if failed.is_empty() { "ok" } else { "FAILED" },
        count(|v| matches!(v, Verdict::Passed)),
        failed.len(),
        count(|v| matches!(v, Verdict::Skipped(_))),
        started.elapsed().as_secs_f64()
    );
    failed.iter().for_each(|name| println!("    failed: {name}"));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The part of libtest's command line that people and `cargo test` use.
#[derive(Default)]
struct Args {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    threads: Option<usize>,
}

impl Args {
    fn parse() -> Args {
        let mut args = Args::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--exact" => args.exact = true,
                "--list" => args.list = true,
                "--skip" => args.skips.extend(words.next()),
                "--test-threads" => args.threads = words.next().and_then(|n| n.parse().ok()),
                "--format" | "--color" | "--logfile" => drop(words.next()),
                flag if flag.starts_with('-') => {}
                filter => args.filters.push(filter.to_owned()),
            }
        }
        args
    }

    fn wants(&self, name: &str) -> bool {
        let hit = |f: &String| if self.exact { name == f } else { name.contains(f.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(hit)) && !self.skips.iter().any(hit)
    }
}
