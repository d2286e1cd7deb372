//! Feeds parsers of outside bytes with spoiled input until one panics, takes too long or takes too much memory.
//!
//! `cargo run -p fuzz -- TARGET --seconds 60`; `list` names the targets, `all` runs each for that long, `--jobs N` so many at
//! the same time. Inputs are made by
//! mutation of a corpus, which grows by what had an outcome that none before had. The same `--seed` makes the same inputs.
//! A failure is printed with its input, which `--replay FILE` runs again.
//!
//! The targets run in a child process, which notes each input before it tries it: whatever becomes of the child, the input
//! that did it is known.

mod child;
mod corpus;
mod mutate;
mod targets;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use targets::{TARGETS, Target};

/// How long one input may take; builds without optimisation are slow.
const LIMIT_S: u64 = if cfg!(debug_assertions) { 30 } else { 5 };
/// Memory that the child may have, bytes. Inputs have at most [`mutate::LONGEST`].
const MEMORY: u64 = 1 << 30;
/// How often the child is looked at. Nothing tells of a program that is stuck.
const LOOK: Duration = Duration::from_millis(100);
const PAGE: u64 = 4096;
/// So many lines are shown of what a target said before it ended.
const SAID: usize = 20;

const USAGE: &str = "usage: fuzz TARGET|all|list [--seconds N] [--jobs N] [--seed N] [--limit SECONDS] [--replay FILE]";

type Error = Box<dyn std::error::Error>;

struct Args {
    target: String,
    seconds: u64,
    jobs: usize,
    seed: u64,
    limit: Duration,
    replay: Option<PathBuf>,
    child: Option<PathBuf>,
}

fn args() -> Result<Args, Error> {
    let mut words = std::env::args().skip(1);
    let mut args = Args {
        target: words.next().ok_or(USAGE)?,
        seconds: 60,
        jobs: 1,
        seed: 1,
        limit: Duration::from_secs(LIMIT_S),
        replay: None,
        child: None,
    };
    while let Some(word) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        match word.as_str() {
            "--seconds" => args.seconds = value.parse()?,
            "--jobs" => args.jobs = value.parse::<usize>()?.max(1),
            "--seed" => args.seed = value.parse()?,
            "--limit" => args.limit = Duration::from_secs(value.parse()?),
            "--replay" => args.replay = Some(value.into()),
            "--child" => args.child = Some(value.into()),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, Error> {
    let args = args()?;
    if args.target == "list" {
        TARGETS.iter().for_each(|t| println!("{:<18} {}", t.name, t.about));
        return Ok(true);
    }
    let chosen: Vec<&Target> = TARGETS.iter().filter(|t| args.target == "all" || t.name == args.target).collect();
    if chosen.is_empty() {
        return Err(format!("there is no target {:?}; `list` names them", args.target).into());
    }
    if let (Some(state), [target]) = (&args.child, &chosen[..]) {
        child::run(target, args.seed, Duration::from_secs(args.seconds), state)?;
        return Ok(true);
    }
    if let Some(path) = &args.replay {
        let input = std::fs::read(path)?;
        for target in chosen {
            println!("{}: {}", target.name, (target.run)(&input));
        }
        return Ok(true);
    }
    supervise_all(&chosen, &args)
}

/// Runs targets, as many at a time as there are jobs; whether nothing was found. What a target has to say comes when it has
/// ended, in one piece.
fn supervise_all(targets: &[&Target], args: &Args) -> Result<bool, Error> {
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let found: Mutex<Vec<&str>> = Mutex::default();
    let work = || -> Result<(), String> {
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (well, words) = supervise(target, args).map_err(|error| format!("{}: {error}", target.name))?;
            let mut found = found.lock().map_err(|_| "another job panicked".to_owned())?;
            print!("{words}");
            if !well {
                found.push(target.name);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..args.jobs.min(targets.len())).map(|_| scope.spawn(work)).collect();
        jobs.into_iter().try_for_each(|job| job.join().unwrap_or_else(|_| Err("a job panicked".to_owned())))
    })?;
    let found = found.into_inner().unwrap_or_default();
    let (count, seconds) = (targets.len(), begun.elapsed().as_secs());
    match found.as_slice() {
        [] => println!("{count} targets in {seconds} s, nothing found"),
        found => println!("{count} targets in {seconds} s, found something in {}: {}", found.len(), found.join(", ")),
    }
    Ok(found.is_empty())
}

/// Runs a target in a child process; whether nothing was found, and what to tell of it.
fn supervise(target: &Target, args: &Args) -> Result<(bool, String), Error> {
    let state = std::env::temp_dir().join(format!("windlass-fuzz-{}-{}", target.name, std::process::id()));
    // What a panic says belongs to the finding.
    let said = state.with_extension("log");
    let mut child = Command::new(std::env::current_exe()?)
        .arg(target.name)
        .args(["--seconds", &args.seconds.to_string(), "--seed", &args.seed.to_string(), "--child"])
        .arg(&state)
        .stderr(std::fs::File::create(&said)?)
        .spawn()?;
    let (mut last, mut since) = (0, Instant::now());
    let finding = loop {
        if let Some(status) = child.try_wait()? {
            break (!status.success()).then(|| ended(status));
        }
        let count = child::count(&state);
        if count != last {
            (last, since) = (count, Instant::now());
        }
        let memory = memory_of(child.id());
        let finding = if memory > MEMORY {
            format!("took {} MiB of memory", memory >> 20)
        } else if since.elapsed() > args.limit {
            format!("took more than {} s", args.limit.as_secs())
        } else {
            std::thread::sleep(LOOK);
            continue;
        };
        child.kill()?;
        child.wait()?;
        break Some(finding);
    };
    let words = match &finding {
        None => format!("{}: {} inputs, nothing found\n", target.name, child::count(&state)),
        Some(finding) => report(target, finding, &state, &said, args.seed)?,
    };
    std::fs::remove_file(&state)?;
    std::fs::remove_file(&said)?;
    Ok((finding.is_none(), words))
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(child::PANICKED) => "panicked".to_owned(),
        _ => format!("ended the process: {status}"),
    }
}

fn report(target: &Target, finding: &str, state: &Path, said: &Path, seed: u64) -> Result<String, Error> {
    use std::fmt::Write as _;

    let input = child::input(state);
    let kept = std::env::temp_dir().join(format!("windlass-fuzz-{}-{}.input", target.name, child::count(state)));
    std::fs::write(&kept, &input)?;
    let mut out = String::new();
    writeln!(out, "{}: FOUND: {finding}, with input {} of seed {seed}", target.name, child::count(state))?;
    for line in String::from_utf8_lossy(&std::fs::read(said)?).lines().take(SAID) {
        writeln!(out, "  said: {line}")?;
    }
    writeln!(out, "  text: {}", input.escape_ascii().to_string().chars().take(4000).collect::<String>())?;
    writeln!(out, "  again: cargo run -p fuzz -- {} --replay {}", target.name, kept.display())?;
    Ok(out)
}

/// Resident memory of a process, bytes.
fn memory_of(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE
}
