//! Which stages there are, what each needs, and what a build of the target needs at all. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::Used;
use crate::dockerfile::{Dockerfile, MountKind, Op, Stage, parse_mount};
use crate::error::{BuildError, Result};
use crate::expand;
use crate::pattern::{Pattern, clean};

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, or a context that was given that name.
    Image(String),
}

/// Stages and arguments, names resolved.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What each stage begins with.
    pub bases: Vec<Base>,
    /// The stage wanted.
    pub target: usize,
    /// It and all that it needs, in order.
    pub needed: BTreeSet<usize>,
    /// Arguments from before the first `FROM` and automatic ones, by name.
    pub global: BTreeMap<String, String>,
    /// Arguments of the command line that some `ARG` takes.
    pub consumed: BTreeSet<String>,
}

/// Arguments that need no `ARG` (Dockerfile reference, predefined ARGs); they are no part of what a result is made from.
pub const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// `linux/amd64`, with the variant that nobody writes taken away.
pub fn platform_name(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let lower = if lower.contains('/') { lower } else { format!("linux/{lower}") };
    let lower = lower.replace("/x86_64", "/amd64").replace("/x86-64", "/amd64").replace("/aarch64", "/arm64");
    match lower.as_str() {
        "linux/arm64/v8" => "linux/arm64".to_owned(),
        "linux/amd64/v1" => "linux/amd64".to_owned(),
        _ => lower,
    }
}

/// `TARGETPLATFORM` and the like.
fn automatic(host: &str) -> BTreeMap<String, String> {
    let (os, rest) = host.split_once('/').unwrap_or(("linux", host));
    let (arch, variant) = rest.split_once('/').unwrap_or((rest, ""));
    let mut found = BTreeMap::new();
    for side in ["TARGET", "BUILD"] {
        for (name, value) in [("PLATFORM", host), ("OS", os), ("ARCH", arch), ("VARIANT", variant)] {
            found.insert(format!("{side}{name}"), value.to_owned());
        }
    }
    found
}

/// Refuses what cannot run here.
pub fn runs_here(asked: &str, host: &str) -> std::result::Result<(), String> {
    if platform_name(asked) == host {
        return Ok(());
    }
    Err(format!("platform {asked} cannot be built here: this host is {host}, and programs of others are not emulated"))
}

/// A Dockerfile with what was asked of it.
pub struct Asked<'a> {
    pub file: &'a Dockerfile,
    /// Its name and text, for messages.
    pub name: &'a str,
    pub text: &'a str,
    pub args: &'a BTreeMap<String, String>,
    pub target: Option<&'a str>,
    /// Names of other contexts.
    pub contexts: &'a BTreeSet<String>,
    /// This host, `linux/amd64`.
    pub host: &'a str,
}

impl Asked<'_> {
    /// Resolves it.
    ///
    /// # Errors
    /// A target that is not there, a platform of another kind of machine, a variable that must be set.
    pub fn plan(&self) -> Result<Plan> {
        let mut plan = Plan {
            bases: Vec::new(),
            target: 0,
            needed: BTreeSet::new(),
            global: automatic(self.host),
            consumed: BTreeSet::new(),
        };
        self.globals(&mut plan)?;
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (n, stage) in self.file.stages.iter().enumerate() {
            let at = |message: String| BuildError::new(message).at(self.name, self.text, stage.span);
            let base = self.expand(&stage.base, &plan.global).map_err(at)?;
            if base.is_empty() {
                return Err(at(format!("base name ({}) should not be blank", stage.base)));
            }
            if let Some(platform) = &stage.platform {
                let platform = self.expand(platform, &plan.global).map_err(at)?;
                if !platform.is_empty() {
                    runs_here(&platform, self.host).map_err(at)?;
                }
            }
            let lower = base.to_ascii_lowercase();
            plan.bases.push(match names.get(lower.as_str()) {
                Some(earlier) => Base::Stage(*earlier),
                None if base == "scratch" && !self.contexts.contains("scratch") => Base::Scratch,
                None => Base::Image(base),
            });
            if let Some(name) = &stage.name {
                names.insert(name, n);
            }
            let args = stage.instructions.iter().filter_map(|i| match &i.op {
                Op::Arg(args) => Some(args),
                _ => None,
            });
            plan.consumed.extend(args.flatten().map(|(name, _)| name.clone()));
        }
        plan.target = self.find_target()?;
        self.need(plan.target, &mut plan);
        Ok(plan)
    }

    fn globals(&self, plan: &mut Plan) -> Result<()> {
        for instruction in &self.file.global {
            let Op::Arg(args) = &instruction.op else { continue };
            for (name, default) in args {
                plan.consumed.insert(name.clone());
                let at = |message| BuildError::new(message).at(self.name, self.text, instruction.span);
                let value = match (self.args.get(name), default) {
                    (Some(given), _) => Some(given.clone()),
                    (None, Some(text)) => Some(self.expand(text, &plan.global).map_err(at)?),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    plan.global.insert(name.clone(), value);
                }
            }
        }
        Ok(())
    }

    fn expand(&self, text: &str, known: &BTreeMap<String, String>) -> std::result::Result<String, String> {
        expand::word(text, self.file.directives.escape, &|name| known.get(name).cloned())
    }

    fn find_target(&self) -> Result<usize> {
        let last = self.file.stages.len() - 1;
        let Some(wanted) = self.target.filter(|t| !t.is_empty()) else { return Ok(last) };
        let lower = wanted.to_ascii_lowercase();
        let named = self.file.stages.iter().rposition(|s| s.name.as_deref() == Some(&lower));
        let numbered = || wanted.parse::<usize>().ok().filter(|n| *n <= last);
        let missing = || BuildError::new(format!("target stage \"{wanted}\" could not be found"));
        named.or_else(numbered).ok_or_else(missing)
    }

    fn need(&self, stage: usize, plan: &mut Plan) {
        if !plan.needed.insert(stage) {
            return;
        }
        if let Base::Stage(earlier) = plan.bases[stage] {
            self.need(earlier, plan);
        }
        for from in sources(&self.file.stages[stage]) {
            if let Some(earlier) = stage_named(self.file, &from, stage, self.contexts) {
                self.need(earlier, plan);
            }
        }
    }
}

/// The earlier stage that a `--from` names, by name or number; contexts win over names of images, stages over both.
pub fn stage_named(file: &Dockerfile, from: &str, before: usize, contexts: &BTreeSet<String>) -> Option<usize> {
    let lower = from.to_ascii_lowercase();
    let named = file.stages[..before].iter().rposition(|s| s.name.as_deref() == Some(&lower));
    named.or_else(|| from.parse::<usize>().ok().filter(|n| *n < before && !contexts.contains(from)))
}

/// What a stage copies from or mounts, as written.
fn sources(stage: &Stage) -> Vec<String> {
    let mut found = Vec::new();
    for instruction in &stage.instructions {
        match &instruction.op {
            Op::Copy(copy) => found.extend(copy.from.clone()),
            // What has variables is read when their values are known; then the stage is made if it was not.
            Op::Run(run) => found.extend(run.mounts.iter().filter_map(|m| match parse_mount(m).ok()?.kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => from,
                _ => None,
            })),
            _ => {}
        }
    }
    found
}

/// What the stages that are needed copy or mount of the context, as far as the Dockerfile says.
pub fn used(file: &Dockerfile, plan: &Plan) -> Used {
    let mut paths = BTreeSet::new();
    for stage in plan.needed.iter().map(|n| &file.stages[*n]) {
        for instruction in &stage.instructions {
            if !uses(&instruction.op, &mut paths) {
                return Used::All;
            }
        }
    }
    Used::Paths(paths.into_iter().collect())
}

/// Adds what an instruction takes from the context; `false` when that may be anything.
fn uses(op: &Op, paths: &mut BTreeSet<String>) -> bool {
    let mut add = |source: &str| {
        let plain = !source.contains('$');
        // What is below the first wildcard is looked for here.
        let fixed = source.split('/').take_while(|part| !Pattern::is_wild(part)).collect::<Vec<_>>().join("/");
        let path = clean(&fixed);
        let known = plain && !path.is_empty();
        if known {
            paths.insert(path);
        }
        known
    };
    match op {
        Op::Copy(copy) if copy.from.is_none() => {
            let remote = |s: &str| copy.add && (s.contains("://") || s.starts_with("git@"));
            copy.sources.iter().filter(|s| !s.starts_with("<<") && !remote(s)).all(|s| add(s))
        }
        Op::Run(run) => run.mounts.iter().all(|text| match parse_mount(text) {
            Ok(mount) => match &mount.kind {
                MountKind::Bind { from: None, source, .. } => add(source),
                _ => true,
            },
            // With variables it may become anything.
            Err(_) => false,
        }),
        _ => true,
    }
}

/// Whether an instruction takes something from the context.
pub fn takes_context(op: &Op) -> bool {
    let mut paths = BTreeSet::new();
    !uses(op, &mut paths) || !paths.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, target: Option<&str>, args: &[(&str, &str)]) -> Result<Plan> {
        let file = crate::dockerfile::parse(text).unwrap();
        let args = args.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let asked = Asked {
            file: &file,
            name: "Dockerfile",
            text,
            args: &args,
            target,
            contexts: &BTreeSet::new(),
            host: "linux/amd64",
        };
        asked.plan()
    }

    const TEXT: &str = "ARG BASE=busybox\nARG TAG=${BASE}-1\nFROM $BASE:$TAG AS one\nFROM scratch AS two\nCOPY --from=one a b\n\
                        FROM one AS three\nRUN --mount=from=two,target=/x y\nFROM other AS four\nCOPY --from=0 a b\n";

    #[test]
    fn only_what_the_target_needs_is_made() {
        let needed = |target| plan(TEXT, target, &[]).unwrap().needed.into_iter().collect::<Vec<_>>();
        assert_eq!(needed(None), [0, 3]);
        assert_eq!(needed(Some("Three")), [0, 1, 2]);
        assert_eq!(needed(Some("one")), [0]);
        assert_eq!(needed(Some("1")), [0, 1]);
        let error = plan(TEXT, Some("five"), &[]).unwrap_err();
        assert_eq!(error.message, "target stage \"five\" could not be found");
    }

    #[test]
    fn arguments_choose_the_base() {
        let bases = |args: &[(&str, &str)]| plan(TEXT, None, args).unwrap().bases;
        assert_eq!(bases(&[])[0], Base::Image("busybox:busybox-1".into()));
        assert_eq!(bases(&[("BASE", "alpine")])[0], Base::Image("alpine:alpine-1".into()));
        assert_eq!(bases(&[])[1..3], [Base::Scratch, Base::Stage(0)]);
        let blank = plan("FROM $NONE\n", None, &[]).unwrap_err();
        assert_eq!(
            (blank.message.as_str(), blank.place.unwrap().span.first),
            ("base name ($NONE) should not be blank", 1)
        );
    }

    #[test]
    fn only_what_is_copied_is_asked_for() {
        let of = |text: &str| {
            let text = format!("ARG X\nFROM a AS other\nCOPY far /\nFROM b\n{text}");
            used(&crate::dockerfile::parse(&text).unwrap(), &plan(&text, None, &[]).unwrap())
        };
        let paths = |all: &[&str]| Used::Paths(all.iter().map(|p| (*p).to_owned()).collect());
        assert_eq!(of("RUN x\n"), paths(&[]));
        assert_eq!(of("COPY b ./a/../c/ /\nCOPY src/*.go lib/**/x /\n"), paths(&["b", "c", "lib", "src"]));
        assert_eq!(of("ADD https://example.com/x git@example.com:a/b.git one /\n"), paths(&["one"]));
        assert_eq!(of("COPY <<E /x\ntext\nE\nCOPY --from=other far /\n"), paths(&["far"]));
        assert_eq!(of("RUN --mount=target=/x,source=in y\nRUN --mount=type=cache,target=/c z\n"), paths(&["in"]));
        for all in ["COPY . /\n", "COPY a $X /\n", "COPY *.go /\n", "RUN --mount=target=/x y\n"] {
            assert_eq!(of(all), Used::All, "{all}");
        }
    }

    #[test]
    fn other_machines_are_refused() {
        for fine in ["$BUILDPLATFORM", "linux/amd64", "linux/x86_64", "amd64", "linux/amd64/v1", "$NONE"] {
            assert!(plan(&format!("FROM --platform={fine} x\n"), None, &[]).is_ok(), "{fine}");
        }
        let error = plan("FROM --platform=linux/arm64 x\n", None, &[]).unwrap_err();
        assert!(error.message.contains("platform linux/arm64 cannot be built here"), "{}", error.message);
    }
}
