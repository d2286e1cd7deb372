//! One instruction and its arguments.

use super::Heredoc;
use super::flags::{Flags, parse_duration_ns};
use super::lines::{heredoc_of, raw_words};
use super::mount::{Network, Security};

/// What a container runs: words, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `["a", "b"]`.
    Exec(Vec<String>),
    /// `a b`.
    Shell(String),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What.
    pub command: Command,
    /// Documents named in a shell line.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, variables not yet replaced; [`super::parse_mount`] reads them.
    pub mounts: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
}

/// `COPY` and `ADD`. Sources, target and flags have variables not yet replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    /// It is `ADD`.
    pub add: bool,
    /// What; a heredoc is named by its place in `heredocs` with `<<` before it.
    pub sources: Vec<String>,
    /// Where to.
    pub target: String,
    /// Files written in place.
    pub heredocs: Vec<Heredoc>,
    /// Stage, image or context.
    pub from: Option<String>,
    /// `user[:group]`.
    pub chown: Option<String>,
    /// Octal, or symbolic as chmod(1) has it.
    pub chmod: Option<String>,
    /// A layer that does not depend on those below.
    pub link: bool,
    /// Folders of the source are kept.
    pub parents: bool,
    /// Patterns of what stays behind.
    pub exclude: Vec<String>,
    /// `.git` stays in what is fetched.
    pub keep_git_dir: bool,
    /// What a download must be.
    pub checksum: Option<String>,
    /// Archives are taken apart: `None` as Docker always did (local ones only).
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`; times in nanoseconds, 0 for the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is run.
    pub command: Command,
    /// Between two.
    pub interval: i64,
    /// One takes at most.
    pub timeout: i64,
    /// Failures do not count yet.
    pub start_period: i64,
    /// Between two meanwhile.
    pub start_interval: i64,
    /// Failures in a row that count.
    pub retries: i64,
}

/// A port as written: `80`, `80/udp`, `8000-8010`.
pub type Exposed = String;

/// What an instruction says. Texts that Docker expands have their variables and quotes still in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Names, and defaults where given.
    Arg(Vec<(String, Option<String>)>),
    /// Names and values.
    Env(Vec<(String, String)>),
    /// A command in a container.
    Run(Box<Run>),
    /// `COPY` or `ADD`.
    Copy(Box<Copy>),
    /// Default arguments.
    Cmd(Command),
    /// The program.
    Entrypoint(Command),
    /// Names and values.
    Label(Vec<(String, String)>),
    /// Ports.
    Expose(Vec<Exposed>),
    /// Who.
    User(String),
    /// Where.
    Workdir(String),
    /// Folders.
    Volume(Vec<String>),
    /// How it is asked to end.
    StopSignal(String),
    /// `None` is `NONE`.
    Healthcheck(Option<Health>),
    /// An instruction for who builds on the image.
    Onbuild(String),
    /// What shell lines are given to.
    Shell(Vec<String>),
    /// Who made it (deprecated).
    Maintainer(String),
}

/// An instruction, or the start of a stage.
#[derive(Debug)]
pub enum Parsed {
    From { platform: Option<String>, base: String, name: Option<String> },
    Op(Op),
}

/// Reads a single instruction, as an image keeps them for who builds on it.
///
/// # Errors
/// What is wrong with it, in Docker's words.
pub fn parse_one(line: &str) -> Result<Op, String> {
    match parse(line, &[], '\\')? {
        Parsed::Op(op) => Ok(op),
        Parsed::From { .. } => Err("FROM isn't allowed as an ONBUILD trigger".to_owned()),
    }
}

/// Reads an instruction.
pub fn parse(line: &str, heredocs: &[Heredoc], escape: char) -> Result<Parsed, String> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let name = word.to_ascii_uppercase();
    let rest = rest.trim();
    let (mut flags, rest) = Flags::split(rest, escape)?;
    if rest.is_empty() && !matches!(name.as_str(), "CMD" | "ENTRYPOINT" | "RUN") && KNOWN.contains(&name.as_str()) {
        return Err(nothing(&name));
    }
    let op = match name.as_str() {
        "FROM" => return from(rest, flags, escape),
        "ARG" => args(rest, escape)?,
        "ENV" => Op::Env(pairs("ENV", rest, escape)?),
        "LABEL" => Op::Label(pairs("LABEL", rest, escape)?),
        "RUN" => run(rest, &mut flags, heredocs)?,
        "COPY" | "ADD" => copy(&name, rest, &mut flags, heredocs, escape)?,
        "CMD" => Op::Cmd(command(rest)?),
        "ENTRYPOINT" => Op::Entrypoint(command(rest)?),
        "EXPOSE" => Op::Expose(raw_words(rest, escape)),
        "USER" => Op::User(one("USER", rest)?),
        "WORKDIR" => Op::Workdir(one("WORKDIR", rest)?),
        "STOPSIGNAL" => Op::StopSignal(one("STOPSIGNAL", rest)?),
        "MAINTAINER" => Op::Maintainer(one("MAINTAINER", rest)?),
        "VOLUME" => volume(rest, escape)?,
        "HEALTHCHECK" => healthcheck(rest, &mut flags)?,
        "ONBUILD" => onbuild(rest, heredocs, escape)?,
        "SHELL" => match json(rest)? {
            Some(words) if !words.is_empty() => Op::Shell(words),
            _ => return Err("SHELL requires the arguments to be in JSON form".to_owned()),
        },
        _ => return Err(format!("unknown instruction: {word}")),
    };
    flags.end()?;
    Ok(Parsed::Op(op))
}

const KNOWN: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

fn nothing(name: &str) -> String {
    match name {
        "FROM" => "FROM requires either one or three arguments".to_owned(),
        "USER" | "WORKDIR" | "STOPSIGNAL" | "MAINTAINER" => format!("{name} requires exactly one argument"),
        "COPY" | "ADD" => format!(
            "{name} requires at least two arguments, but no arguments were provided. Destination could not be determined."
        ),
        _ => format!("{name} requires at least one argument"),
    }
}

fn from(rest: &str, mut flags: Flags, escape: char) -> Result<Parsed, String> {
    let platform = flags.one("platform")?;
    flags.end()?;
    let words = raw_words(rest, escape);
    let name = match words.as_slice() {
        [_] => None,
        [_, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
            let lower = name.to_ascii_lowercase();
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
            if !lower.starts_with(|c: char| c.is_ascii_lowercase()) || !lower.chars().all(plain) {
                return Err(format!(
                    "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
                ));
            }
            Some(lower)
        }
        _ => return Err(nothing("FROM")),
    };
    Ok(Parsed::From { platform, base: words[0].clone(), name })
}

fn args(rest: &str, escape: char) -> Result<Op, String> {
    let mut found = Vec::new();
    for word in raw_words(rest, escape) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        if name.is_empty() {
            return Err("ARG names can not be blank".to_owned());
        }
        found.push((name, value));
    }
    Ok(Op::Arg(found))
}

/// `a=b c="d e"`, or the old `a b c`.
fn pairs(what: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let words = raw_words(rest, escape);
    let first = words.first().ok_or_else(|| nothing(what))?;
    if !first.contains('=') {
        let (name, value) = rest.split_once(char::is_whitespace).ok_or(format!("{what} must have two arguments"))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let mut found = Vec::new();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"));
        };
        if name.is_empty() {
            return Err(format!("{what} names can not be blank"));
        }
        found.push((name.to_owned(), value.to_owned()));
    }
    Ok(found)
}

fn one(what: &str, rest: &str) -> Result<String, String> {
    let rest = rest.trim();
    if rest.is_empty() { Err(format!("{what} requires exactly one argument")) } else { Ok(rest.to_owned()) }
}

/// A JSON array of texts; `None` for what is not JSON, which then is a line for the shell.
fn json(rest: &str) -> Result<Option<Vec<String>>, String> {
    if !rest.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(rest) else { return Ok(None) };
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err("only string type is allowed in JSON structures of arrays".to_owned()),
    };
    list.into_iter().map(text).collect::<Result<Vec<_>, _>>().map(Some)
}

fn command(rest: &str) -> Result<Command, String> {
    Ok(match json(rest)? {
        Some(words) => Command::Exec(words),
        None if rest.is_empty() => Command::Exec(Vec::new()),
        None => Command::Shell(rest.to_owned()),
    })
}

fn run(rest: &str, flags: &mut Flags, heredocs: &[Heredoc]) -> Result<Op, String> {
    let network = match flags.one("network")?.as_deref() {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => return Err(format!("network {other:?} is not supported: it is default, none or host")),
    };
    let security = match flags.one("security")?.as_deref() {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => return Err(format!("security {other:?} is not valid: it is sandbox or insecure")),
    };
    let mounts = flags.many("mount")?;
    let command = command(rest)?;
    if matches!(&command, Command::Exec(words) if words.is_empty()) {
        return Err(nothing("RUN"));
    }
    Ok(Op::Run(Box::new(Run { command, heredocs: heredocs.to_vec(), mounts, network, security })))
}

fn copy(name: &str, rest: &str, flags: &mut Flags, heredocs: &[Heredoc], escape: char) -> Result<Op, String> {
    let add = name == "ADD";
    let mut found = Copy { add, heredocs: heredocs.to_vec(), ..Copy::default() };
    found.chown = flags.one("chown")?;
    found.chmod = flags.one("chmod")?;
    found.link = flags.switch("link")?.unwrap_or(false);
    found.exclude = flags.many("exclude")?;
    if add {
        found.keep_git_dir = flags.switch("keep-git-dir")?.unwrap_or(false);
        found.checksum = flags.one("checksum")?;
        found.unpack = flags.switch("unpack")?;
    } else {
        found.from = flags.one("from")?;
        found.parents = flags.switch("parents")?.unwrap_or(false);
    }
    let mut words = match json(rest)? {
        Some(words) => words,
        None => raw_words(rest, escape),
    };
    if words.len() < 2 {
        return Err(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined."
        ));
    }
    found.target = words.pop().unwrap_or_default();
    let mut nth = 0;
    for word in words {
        match heredoc_of(&word).filter(|_| !heredocs.is_empty()) {
            Some(_) => {
                found.sources.push(format!("<<{nth}"));
                nth += 1;
            }
            None => found.sources.push(word),
        }
    }
    Ok(Op::Copy(Box::new(found)))
}

fn volume(rest: &str, escape: char) -> Result<Op, String> {
    let list = match json(rest)? {
        Some(words) => words,
        None => raw_words(rest, escape),
    };
    if list.is_empty() {
        return Err(nothing("VOLUME"));
    }
    if list.iter().any(|v| v.trim().is_empty()) {
        return Err("VOLUME specified can not be an empty string".to_owned());
    }
    Ok(Op::Volume(list))
}

fn healthcheck(rest: &str, flags: &mut Flags) -> Result<Op, String> {
    let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if rest.trim().is_empty() => return Ok(Op::Healthcheck(None)),
        "NONE" => return Err("HEALTHCHECK NONE takes no arguments".to_owned()),
        "CMD" => {}
        other => return Err(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
    }
    let command = command(rest.trim())?;
    if matches!(&command, Command::Exec(words) if words.is_empty()) {
        return Err("Missing command after HEALTHCHECK CMD".to_owned());
    }
    let mut time = |name: &str| match flags.one(name)? {
        None => Ok(0),
        Some(text) => match parse_duration_ns(&text)? {
            0 => Ok(0),
            ns if ns < 1_000_000 => Err(format!("Interval {name:?} cannot be less than 1ms")),
            ns => Ok(ns),
        },
    };
    let (interval, timeout) = (time("interval")?, time("timeout")?);
    let (start_period, start_interval) = (time("start-period")?, time("start-interval")?);
    let retries = match flags.one("retries")? {
        None => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(n) if n >= 0 => n,
            Ok(n) => return Err(format!("--retries cannot be negative ({n})")),
            Err(_) => return Err(format!("--retries must be a number, not {text:?}")),
        },
    };
    Ok(Op::Healthcheck(Some(Health { command, interval, timeout, start_period, start_interval, retries })))
}

fn onbuild(rest: &str, heredocs: &[Heredoc], escape: char) -> Result<Op, String> {
    let word = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match word.as_str() {
        "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        "MAINTAINER" | "FROM" => return Err(format!("{word} isn't allowed as an ONBUILD trigger")),
        _ => {}
    }
    if !heredocs.is_empty() {
        // An image keeps a trigger as one line of text.
        return Err("a heredoc cannot be kept in an ONBUILD trigger".to_owned());
    }
    parse(rest, heredocs, escape)?;
    Ok(Op::Onbuild(rest.to_owned()))
}
