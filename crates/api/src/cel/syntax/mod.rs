//! The text of an expression becomes its tree here: the grammar of cel-go, in one pass that takes time and memory in proportion
//! to the text, and ends at the first thing that is wrong.
//!
//! The engine brings a parser of its own, which is not used: its recovery from errors takes a gibibyte for two kilobytes of
//! nonsense. Tests hold the two against each other.

mod lexer;
mod literal;
mod macros;
mod nodes;
mod pairs;
mod parser;
#[cfg(test)]
mod tests;

use cel::common::ast::IdedExpr;

use super::{Error, stack};

/// An expression may be this long, in characters (cel-go's `ExpressionSizeCodePointLimit`).
const LENGTH: usize = 100_000;
/// Deepest expression, in nodes (cel-go's parser has the same limit for each kind of node by itself).
const DEPTH: usize = 250;
/// Brackets in brackets that the parser takes on whatever stack there is.
const PLAIN: usize = 8;

/// What became of a text.
#[derive(Debug)]
pub(super) struct Parsed {
    pub expr: IdedExpr,
    /// How deep it goes.
    pub depth: usize,
    pub source: Source,
}

/// A text, and where its nodes are.
#[derive(Debug)]
pub(super) struct Source {
    text: String,
    places: Vec<usize>,
}

impl Source {
    /// What is wrong with a node, in the form that cel-go shows.
    pub fn mistake(&self, node: u64, what: &str) -> String {
        located(&self.text, self.places.get(node as usize).copied().unwrap_or(0), what)
    }
}

/// The tree of an expression.
///
/// # Errors
/// [`Error::Compile`]: what is wrong and where, too long, or too deep.
pub(super) fn parse(text: &str) -> Result<Parsed, Error> {
    let length = text.chars().count();
    if length > LENGTH {
        let what = format!("expression code point size exceeds limit: size: {length}, limit {LENGTH}");
        return Err(Error::Compile(located("", 0, &what)));
    }
    let tokens = lexer::tokens(text);
    let brackets = deepest(&tokens);
    let parsed = stack::with_room(brackets > PLAIN, || parser::parse(text, tokens));
    let parsed = parsed.map_err(|e| Error::Compile(format!("expression cannot be compiled: {e}")))?;
    #[cfg(test)]
    tests::alike(text, parsed.as_ref().map(|(expr, _)| expr).map_err(|fault| fault.what.as_str()));
    let (expr, nodes) = parsed.map_err(|fault| Error::Compile(located(text, fault.at, &fault.what)))?;
    let (depth, places) = (nodes.deepest, nodes.into_places());
    Ok(Parsed { expr, depth, source: Source { text: text.to_owned(), places } })
}

/// How many brackets are open at most.
fn deepest(tokens: &[lexer::Token]) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for token in tokens {
        match token.kind {
            lexer::Kind::Symbol("(" | "[" | "{") => open += 1,
            lexer::Kind::Symbol(")" | "]" | "}") => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// `ERROR: <input>:1:5: what` with the line and a pointer below it.
fn located(text: &str, at: usize, what: &str) -> String {
    let before = text.get(..at).unwrap_or(text);
    let (row, start) = (before.matches('\n').count(), before.rfind('\n').map_or(0, |at| at + 1));
    let column = before[start..].chars().count();
    let line = text[start..].lines().next().unwrap_or("");
    format!("ERROR: <input>:{}:{}: {what}\n | {line}\n | {}^", row + 1, column + 1, ".".repeat(column))
}
