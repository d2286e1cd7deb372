//! Why a build failed, with the place in the Dockerfile.

use std::fmt::Write as _;
use std::path::Path;

use image::ImageError;

use crate::dockerfile::{ParseError, Span};

/// Lines shown before and after the one that failed.
const AROUND: usize = 2;

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// What went wrong, in one line.
    pub message: String,
    /// Where, when an instruction is to blame.
    pub place: Option<Box<Place>>,
    /// The exit code of the command that failed, when one did.
    pub exit_code: Option<i32>,
    /// What the kernel, the disk or a registry said.
    #[source]
    pub cause: Option<Box<ImageError>>,
}

/// A place in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the file.
    pub file: String,
    /// Lines of the instruction.
    pub span: Span,
    /// The file's text.
    pub text: String,
}

impl Place {
    /// The lines around it, those to blame marked, as buildx shows them.
    pub fn render(&self) -> String {
        let rule = "-".repeat(20);
        let mut out = format!("{}:{}\n{rule}\n", self.file, self.span.first);
        let (from, to) = (self.span.first.saturating_sub(AROUND), self.span.last + AROUND);
        for (n, line) in
            self.text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(n, _)| (from..=to).contains(n))
        {
            let mark = if (self.span.first..=self.span.last).contains(&n) { ">>>" } else { "   " };
            let _ = writeln!(out, "{}", format!("{n:4} | {mark} {line}").trim_end());
        }
        out + &rule + "\n"
    }
}

impl BuildError {
    /// An error that no instruction is to blame for.
    pub fn new(message: impl Into<String>) -> Self {
        BuildError { message: message.into(), place: None, exit_code: None, cause: None }
    }

    /// The same with what the disk said.
    pub(crate) fn io(what: &str, path: &Path, error: &std::io::Error) -> Self {
        BuildError::new(format!("{what} {}: {error}", path.display()))
    }

    pub(crate) fn at(mut self, file: &str, text: &str, span: Span) -> Self {
        let place = || Box::new(Place { file: file.to_owned(), span, text: text.to_owned() });
        self.place.get_or_insert_with(place);
        self
    }

    pub(crate) fn parse(error: &ParseError, file: &str, text: &str) -> Self {
        BuildError::new(error.to_string()).at(file, text, error.span)
    }

    /// Somebody else's failure, or the user's wish, ended it.
    pub(crate) fn canceled() -> Self {
        BuildError::new("canceled")
    }
}

impl From<ImageError> for BuildError {
    fn from(error: ImageError) -> Self {
        BuildError { message: base::chain(&error), place: None, exit_code: None, cause: Some(Box::new(error)) }
    }
}

impl From<String> for BuildError {
    fn from(message: String) -> Self {
        BuildError::new(message)
    }
}

impl From<std::io::Error> for BuildError {
    fn from(error: std::io::Error) -> Self {
        BuildError::new(error.to_string())
    }
}

/// Result of the crate.
pub type Result<T, E = BuildError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_shown_in_its_place() {
        let text = "FROM x\n\nRUN a\nRUN false\n\nRUN b\n";
        let place = Place { file: "Dockerfile".into(), span: Span { first: 4, last: 4 }, text: text.into() };
        let want = "Dockerfile:4\n--------------------\n   2 |\n   3 |     RUN a\n   4 | >>> RUN false\n   5 |\n   6 |     RUN b\n\
                    --------------------\n";
        assert_eq!(place.render(), want);
    }
}
