//! Dockerfiles: the whole of Docker's reference (Dockerfile frontend 1.x) as data. Pure; nothing is expanded here, since
//! values of variables are known only while a build runs.

mod flags;
mod instruction;
mod lines;
mod mount;

pub use flags::parse_duration_ns;
pub use instruction::{Command, Copy, Exposed, Health, Op, Run, parse_one};
pub use lines::{Directives, heredoc_of};
pub use mount::{CacheSharing, Mount, MountKind, Network, Security, parse as parse_mount};

/// Lines of the file, counted from 1, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Where it begins.
    pub first: usize,
    /// Where it ends.
    pub last: usize,
}

/// A Dockerfile that cannot be used, worded as Docker words it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dockerfile parse error on line {}: {message}", span.first)]
pub struct ParseError {
    /// Where.
    pub span: Span,
    /// What is wrong.
    pub message: String,
}

/// A document within the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it; the file's name for `COPY`.
    pub name: String,
    /// Variables in it are replaced: its word was not quoted.
    pub expand: bool,
    /// Tabs at the beginning of lines are taken away (`<<-`).
    pub chomp: bool,
    /// Its lines.
    pub content: String,
}

impl Heredoc {
    /// What it is when its tabs are gone.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Where it stands.
    pub span: Span,
    /// As it was written, on one line.
    pub text: String,
    /// What it says.
    pub op: Op,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Where the `FROM` stands.
    pub span: Span,
    /// The `FROM` as it was written.
    pub text: String,
    /// `AS`, in lower case.
    pub name: Option<String>,
    /// The image, an earlier stage, or `scratch`; variables not yet replaced.
    pub base: String,
    /// `--platform`.
    pub platform: Option<String>,
    /// The rest.
    pub instructions: Vec<Instruction>,
}

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What its first comments say.
    pub directives: Directives,
    /// `ARG`s before the first `FROM`.
    pub global: Vec<Instruction>,
    /// At least one.
    pub stages: Vec<Stage>,
}

/// Reads a Dockerfile.
///
/// # Errors
/// The first thing wrong with it.
pub fn parse(text: &str) -> Result<Dockerfile, ParseError> {
    let (directives, lines) = lines::split(text)?;
    let whole = Span { first: 1, last: text.lines().count().max(1) };
    if lines.is_empty() {
        return Err(ParseError { span: whole, message: "file with no instructions".to_owned() });
    }
    let mut global = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for line in lines {
        let span = line.span;
        let at = |message: String| ParseError { span, message };
        match instruction::parse(&line.text, &line.heredocs, directives.escape).map_err(at)? {
            instruction::Parsed::From { platform, base, name } => {
                stages.push(Stage { span, text: line.text, name, base, platform, instructions: Vec::new() });
            }
            instruction::Parsed::Op(op) => {
                let instruction = Instruction { span, text: line.text, op };
                match (stages.last_mut(), &instruction.op) {
                    (Some(stage), _) => stage.instructions.push(instruction),
                    (None, Op::Arg(_)) => global.push(instruction),
                    (None, _) => return Err(at("no build stage in current context".to_owned())),
                }
            }
        }
    }
    if stages.is_empty() {
        return Err(ParseError { span: whole, message: "no build stage in current context".to_owned() });
    }
    Ok(Dockerfile { directives, global, stages })
}

#[cfg(test)]
mod tests;
