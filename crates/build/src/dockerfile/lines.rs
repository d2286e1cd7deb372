//! From text to logical lines: directives, comments, continuation, heredocs.

use super::{Heredoc, ParseError, Span};

/// Most bytes of a Dockerfile (BuildKit reads no more either).
pub const SIZE_MAX: usize = 2 << 20;

/// The comments at the top that change how the rest is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: which frontend the author had in mind.
    pub syntax: Option<String>,
    /// `# escape=`: what continues a line and takes a character's meaning away.
    pub escape: char,
    /// `# check=`: which warnings count.
    pub check: Option<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Directives { syntax: None, escape: '\\', check: None }
    }
}

/// An instruction as it was written: one line after continuation, with its heredocs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logical {
    pub span: Span,
    pub text: String,
    pub heredocs: Vec<Heredoc>,
}

/// Splits the text.
pub fn split(text: &str) -> Result<(Directives, Vec<Logical>), ParseError> {
    if text.len() > SIZE_MAX {
        let message = format!("the file is larger than {SIZE_MAX} bytes");
        return Err(ParseError { span: Span { first: 1, last: 1 }, message });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let raw: Vec<&str> = text.lines().collect();
    let directives = directives(&raw)?;
    let mut reader = Reader { raw: &raw, next: 0, escape: directives.escape };
    let mut found = Vec::new();
    while let Some(line) = reader.logical()? {
        found.push(line);
    }
    Ok((directives, found))
}

fn directives(raw: &[&str]) -> Result<Directives, ParseError> {
    let mut found = Directives::default();
    let mut escape = None;
    for (n, line) in raw.iter().enumerate() {
        let Some((key, value)) = directive(line) else { break };
        let span = Span { first: n + 1, last: n + 1 };
        let twice = |key: &str| ParseError { span, message: format!("only one {key} parser directive can be used") };
        match key.as_str() {
            "syntax" if found.syntax.is_some() => return Err(twice("syntax")),
            "syntax" => found.syntax = Some(value.to_owned()),
            "check" if found.check.is_some() => return Err(twice("check")),
            "check" => found.check = Some(value.to_owned()),
            "escape" if escape.is_some() => return Err(twice("escape")),
            "escape" => match value {
                "\\" | "`" => escape = value.chars().next(),
                _ => {
                    let message = format!("invalid escape token '{value}' does not match ` or \\");
                    return Err(ParseError { span, message });
                }
            },
            // A comment like any other: directives end here.
            _ => break,
        }
    }
    found.escape = escape.unwrap_or('\\');
    Ok(found)
}

/// `# key = value`
fn directive(line: &str) -> Option<(String, &str)> {
    let (key, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric());
    (plain && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

struct Reader<'a> {
    raw: &'a [&'a str],
    next: usize,
    escape: char,
}

impl Reader<'_> {
    /// The next instruction.
    fn logical(&mut self) -> Result<Option<Logical>, ParseError> {
        while let Some(first) = self.raw.get(self.next) {
            self.next += 1;
            if is_comment(first) || first.trim().is_empty() {
                continue;
            }
            let start = self.next;
            let (mut text, mut open) = self.continued(first.trim_start());
            while open && let Some(more) = self.raw.get(self.next) {
                self.next += 1;
                // Neither ends a continued line (an empty one is deprecated, and works).
                if is_comment(more) || more.trim().is_empty() {
                    continue;
                }
                let (part, on) = self.continued(more);
                text.push_str(&part);
                open = on;
            }
            if text.trim().is_empty() {
                continue;
            }
            let heredocs = self.heredocs(&text, start)?;
            let span = Span { first: start, last: self.next };
            return Ok(Some(Logical { span, text: text.trim().to_owned(), heredocs }));
        }
        Ok(None)
    }

    /// The line without the character that continues it, and whether there was one.
    fn continued(&self, line: &str) -> (String, bool) {
        let trimmed = line.trim_end_matches([' ', '\t', '\r']);
        match trimmed.strip_suffix(self.escape) {
            // Two of them are one that means itself.
            Some(rest) if !rest.ends_with(self.escape) => (rest.to_owned(), true),
            _ => (line.trim_end_matches('\r').to_owned(), false),
        }
    }

    fn heredocs(&mut self, line: &str, start: usize) -> Result<Vec<Heredoc>, ParseError> {
        let mut found = Vec::new();
        if !line.contains("<<") || !may_have_heredocs(line) {
            return Ok(found);
        }
        for word in raw_words(line, self.escape) {
            let Some(mut heredoc) = heredoc_of(&word) else { continue };
            let mut ended = false;
            while let Some(content) = self.raw.get(self.next) {
                self.next += 1;
                let content = content.trim_end_matches('\r');
                let end = if heredoc.chomp { content.trim_start_matches('\t') } else { content };
                if end == heredoc.name {
                    ended = true;
                    break;
                }
                heredoc.content.push_str(content);
                heredoc.content.push('\n');
            }
            if !ended {
                let span = Span { first: start, last: self.next };
                return Err(ParseError { span, message: "unterminated heredoc".to_owned() });
            }
            found.push(heredoc);
        }
        Ok(found)
    }
}

/// Only what takes text or files can have heredocs, and not in the JSON form.
fn may_have_heredocs(line: &str) -> bool {
    let mut rest = line;
    loop {
        let (name, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        match name.to_ascii_uppercase().as_str() {
            "ONBUILD" => rest = after.trim_start(),
            "RUN" | "COPY" | "ADD" => {
                let mut words = after.split_whitespace().skip_while(|w| w.starts_with("--"));
                return !words.next().is_some_and(|w| w.starts_with('['));
            }
            _ => return false,
        }
    }
}

/// `<<EOF`, `<<-EOF`, `<<"EOF"`, `3<<EOF`.
pub fn heredoc_of(word: &str) -> Option<Heredoc> {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = word.strip_prefix("<<")?;
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |r| (true, r));
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let name: String = rest.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).collect();
    let expand = name == rest;
    (!name.is_empty()).then(|| Heredoc { name, expand, chomp, content: String::new() })
}

/// Words as a shell sees them, quotes and escapes left in.
pub fn raw_words(line: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if q == c => quote = None,
            _ => {}
        }
        word.push(c);
        if c == escape
            && quote != Some('\'')
            && let Some(next) = chars.next()
        {
            word.push(next);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
