//! One stage: its instructions, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use image::BuiltLayer;

use crate::configure::Scope;
use crate::dockerfile::{Instruction, Op, Span, parse_one};
use crate::error::{BuildError, Result};
use crate::expand;
use crate::options::Named;
use crate::pattern::clean;
use crate::plan::{Base, takes_context};
use crate::solve::{EPOCH, Finished, Solver};
use crate::state::State;
use crate::step::{Outcome, key};

/// A stage on its way.
pub struct Building<'a> {
    pub solver: &'a Solver<'a>,
    pub stage: usize,
    pub layers: Vec<BuiltLayer>,
    pub state: State,
    pub key: String,
    /// Arguments in reach, in the order they were declared; `None` has no value.
    pub args: Vec<(String, Option<String>)>,
    /// Steps so far, and in all.
    nth: usize,
    total: usize,
}

/// Whether an instruction is a step that shows.
fn is_step(op: &Op) -> bool {
    matches!(op, Op::Run(_) | Op::Copy(_) | Op::Workdir(_))
}

impl<'a> Building<'a> {
    /// Makes a stage.
    pub fn make(solver: &'a Solver<'a>, n: usize) -> Result<Finished> {
        let stage = &solver.file.stages[n];
        let at = |e: BuildError| e.at(&solver.name, &solver.text, stage.span);
        let mut building = Building {
            solver,
            stage: n,
            layers: Vec::new(),
            state: State::default(),
            key: "scratch".to_owned(),
            args: Vec::new(),
            nth: 1,
            total: 1 + stage.instructions.iter().filter(|i| is_step(&i.op)).count(),
        };
        building.begin(&solver.plan.bases[n]).map_err(at)?;
        building.triggers(stage.span).map_err(at)?;
        for instruction in &stage.instructions {
            let at = |e: BuildError| e.at(&solver.name, &solver.text, instruction.span);
            building.instruction(&instruction.op, &instruction.text).map_err(at)?;
        }
        Ok(Finished { layers: building.layers, state: building.state, key: building.key })
    }

    fn begin(&mut self, base: &Base) -> Result<()> {
        self.solver.check_canceled()?;
        let from = match base {
            Base::Scratch => return Ok(()),
            Base::Stage(earlier) => (*self.solver.stage(*earlier)?).clone(),
            Base::Image(name) => match self.solver.named(name) {
                Some(Named::Dir(path)) => {
                    let path = path.display();
                    return Err(BuildError::new(format!(
                        "context {name} is the folder {path}, and a stage begins with an image"
                    )));
                }
                Some(Named::Image(reference)) => self.base_image(reference, name)?,
                None => self.base_image(name, name)?,
            },
        };
        (self.layers, self.state, self.key) = (from.layers, from.state, from.key);
        self.state.cmd_is_own = false;
        Ok(())
    }

    fn base_image(&mut self, reference: &str, shown: &str) -> Result<Finished> {
        let finished = self.solver.finished_image(reference)?;
        let step = self.solver.steps.start(self.title(&format!("FROM {shown}")));
        step.cached();
        step.done();
        Ok(finished)
    }

    /// Instructions that the base left for who builds on it.
    fn triggers(&mut self, span: Span) -> Result<()> {
        let triggers = std::mem::take(&mut self.state.onbuild);
        let mut parsed = Vec::new();
        for text in triggers {
            let op =
                parse_one(&text).map_err(|e| BuildError::new(format!("ONBUILD trigger {text:?} of the base: {e}")))?;
            parsed.push(Instruction { span, text, op });
        }
        if parsed.iter().any(|i| takes_context(&i.op)) {
            self.solver.whole_context()?;
        }
        self.total += parsed.iter().filter(|i| is_step(&i.op)).count();
        for instruction in parsed {
            self.instruction(&instruction.op, &instruction.text)?;
        }
        Ok(())
    }

    /// `[name 2/5] RUN x`
    pub fn title(&self, text: &str) -> String {
        let stage = &self.solver.file.stages[self.stage];
        let several = self.solver.file.stages.len() > 1;
        let name = match &stage.name {
            Some(name) => format!("{name} "),
            None if several => format!("stage-{} ", self.stage),
            None => String::new(),
        };
        format!("[{name}{}/{}] {text}", self.nth, self.total)
    }

    /// The value of a variable: `ENV` wins over `ARG`.
    fn lookup(&self, name: &str) -> Option<String> {
        let arg = || self.args.iter().rev().find(|(n, _)| n == name).and_then(|(_, value)| value.clone());
        self.state.env(name).map(str::to_owned).or_else(arg)
    }

    /// Replaces variables.
    pub fn expand(&self, text: &str) -> Result<String> {
        let escape = self.solver.file.directives.escape;
        expand::word(text, escape, &|name| self.lookup(name))
            .map_err(|e| BuildError::new(format!("failed to process {text:?}: {e}")))
    }

    /// What an instruction sees: all of one see what was before it.
    fn scope(&self) -> Scope {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &self.args {
            match value {
                Some(value) => drop(values.insert(name.clone(), value.clone())),
                None => drop(values.remove(name)),
            }
        }
        values.extend(self.state.env.iter().cloned());
        Scope { values, escape: self.solver.file.directives.escape }
    }

    /// What a command finds in its environment, arguments included, `ENV` last.
    pub fn run_env(&self) -> Vec<(String, String)> {
        let mut env: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, value) in &self.args {
            if let Some(value) = value {
                env.insert(name, value);
            }
        }
        let declared: BTreeSet<&str> = self.state.env.iter().map(|(n, _)| n.as_str()).collect();
        let args = env.into_iter().filter(|(name, _)| !declared.contains(name));
        let mut all: Vec<(String, String)> = args.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        all.extend(self.state.env.iter().cloned());
        all
    }

    /// A path as this stage sees it.
    pub fn absolute(&self, path: &str) -> String {
        let joined = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{}/{path}", self.state.workdir),
        };
        // `.` and a slash at the end say that it is a folder.
        let folder =
            path.ends_with('/') || path == "." || path.ends_with("/.") || path == ".." || path.ends_with("/..");
        let clean = clean(&joined);
        if folder && !clean.is_empty() { format!("/{clean}/") } else { format!("/{clean}") }
    }

    /// Takes what a step gave.
    pub fn take(&mut self, outcome: Outcome, key: String, said: &str) {
        self.key = key;
        self.state.created = Some(outcome.created);
        self.state.log(said, outcome.layer.is_some());
        self.layers.extend(outcome.layer);
    }

    fn instruction(&mut self, op: &Op, text: &str) -> Result<()> {
        self.solver.check_canceled()?;
        if is_step(op) {
            self.nth += 1;
        }
        match op {
            Op::Run(run) => return self.run(run, text),
            Op::Copy(copy) => return self.copy(copy, text),
            Op::Workdir(path) => return self.workdir(path),
            Op::Arg(args) => self.declare(args)?,
            op => {
                let scope = self.scope();
                self.state.configure(op, &scope)?;
            }
        }
        self.state.log(text, false);
        Ok(())
    }

    fn declare(&mut self, args: &[(String, Option<String>)]) -> Result<()> {
        for (name, default) in args {
            let value = match (self.solver.options.args.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(text)) => Some(self.expand(text)?),
                (None, None) if name == EPOCH => self.solver.options.epoch.map(|s| s.to_string()),
                (None, None) => self.solver.plan.global.get(name).cloned(),
            };
            self.args.push((name.clone(), value));
        }
        Ok(())
    }

    fn workdir(&mut self, path: &str) -> Result<()> {
        let path = self.expand(path)?;
        let path = self.absolute(&path);
        let path = if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path };
        self.state.workdir.clone_from(&path);
        let title = self.title(&format!("WORKDIR {path}"));
        let key = key([self.key.as_str(), "workdir", &path]);
        let outcome = self.solver.step(title, &key, &self.layers, |mounted, _| {
            let made = mounted.root()?.make_dirs(path.as_ref(), (0, 0), 0o755);
            made.map(drop).map_err(|e| BuildError::new(format!("cannot make the working directory {path}: {e}")))
        })?;
        self.take(outcome, key, &format!("WORKDIR {path}"));
        Ok(())
    }
}
