//! Patterns of paths: those of `.dockerignore` and `--exclude`, and the wildcards of `COPY`.

/// A pattern could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern {0:?}")]
pub struct PatternError(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Is(char),
    /// `?`: one character, no slash.
    One,
    /// `*`: any number of them.
    Star,
    /// `**` at the end: anything.
    All,
    /// `**/`: any number of folders, none included.
    Folders,
    /// `[a-z]`, `[^a-z]`.
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A pattern that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    /// Reads a pattern; `**` means folders, as in `.dockerignore`.
    ///
    /// # Errors
    /// When a class is not closed or an escape ends it.
    pub fn read(text: &str) -> Result<Self, PatternError> {
        let mut tokens = Vec::new();
        let bad = || PatternError(text.to_owned());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if chars.peek() == Some(&'*') => {
                    while chars.peek() == Some(&'*') {
                        chars.next();
                    }
                    if chars.peek() == Some(&'/') {
                        chars.next();
                    }
                    if chars.peek().is_none() { Token::All } else { Token::Folders }
                }
                '*' => Token::Star,
                '?' => Token::One,
                '\\' => Token::Is(chars.next().ok_or_else(bad)?),
                '[' => class(&mut chars).ok_or_else(bad)?,
                c => Token::Is(c),
            });
        }
        Ok(Pattern { tokens })
    }

    /// Whether the whole path fits. In time of path by pattern.
    pub fn matches(&self, path: &str) -> bool {
        let text: Vec<char> = path.chars().collect();
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        for token in &self.tokens {
            let mut next = vec![false; text.len() + 1];
            // Whether a place before this one was reached: folders may begin there.
            let mut begun = false;
            for at in 0..=text.len() {
                let before = at.checked_sub(1).map(|n| (text[n], reached[n]));
                begun |= before.is_some_and(|(_, was)| was);
                next[at] = match token {
                    Token::Is(c) => before.is_some_and(|(b, was)| was && b == *c),
                    Token::One => before.is_some_and(|(b, was)| was && b != '/'),
                    Token::Star => reached[at] || (at > 0 && next[at - 1] && text[at - 1] != '/'),
                    Token::All => reached[at] || (at > 0 && next[at - 1]),
                    Token::Folders => reached[at] || (begun && before.is_some_and(|(b, _)| b == '/')),
                    Token::Class { not, ranges } => before.is_some_and(|(b, was)| {
                        was && b != '/' && ranges.iter().any(|(from, to)| (*from..=*to).contains(&b)) != *not
                    }),
                };
            }
            reached = next;
        }
        reached[text.len()]
    }

    /// Whether the text has anything but itself.
    pub fn is_wild(text: &str) -> bool {
        text.contains(['*', '?', '[', '\\'])
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let not = chars.next_if(|c| *c == '^').is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
        '\\' => chars.next(),
        c => Some(c),
    };
    loop {
        if chars.peek() == Some(&']') && !ranges.is_empty() {
            chars.next();
            return Some(Token::Class { not, ranges });
        }
        let from = one(chars)?;
        let to = match chars.next_if(|c| *c == '-') {
            Some(_) => one(chars)?,
            None => from,
        };
        ranges.push((from, to));
    }
}

/// The patterns of a `.dockerignore`: its lines without comments, blanks and the mark of UTF-8.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().filter(|line| !line.starts_with('#')).map(str::trim).filter(|line| !line.is_empty())
}

/// A list of patterns, each of which takes out or (with `!`) puts back; the last that fits counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    rules: Vec<(bool, Pattern)>,
}

impl Ignore {
    /// Reads a `.dockerignore`.
    ///
    /// # Errors
    /// A pattern that cannot be read.
    pub fn read(text: &str) -> Result<Self, PatternError> {
        Self::of(lines(text))
    }

    /// The same from patterns one by one.
    ///
    /// # Errors
    /// A pattern that cannot be read.
    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let mut rules = Vec::new();
        for line in patterns {
            let (keep, text) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if text.is_empty() {
                if keep {
                    return Err(PatternError(line.to_owned()));
                }
                continue;
            }
            let clean = clean(text);
            if clean.is_empty() {
                // The root of the context cannot be left out.
                continue;
            }
            rules.push((keep, Pattern::read(&clean)?));
        }
        Ok(Ignore { rules })
    }

    /// Nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether something below a folder that is left out may still be put back.
    pub fn puts_back(&self) -> bool {
        self.rules.iter().any(|(keep, _)| *keep)
    }

    /// Whether a path, relative and clean, is left out: a pattern fits it or a folder it is in.
    pub fn leaves_out(&self, path: &str) -> bool {
        let mut out = false;
        for (keep, pattern) in &self.rules {
            // Only what would change the answer is looked at.
            if *keep == out && (pattern.matches(path) || parents(path).any(|p| pattern.matches(p))) {
                out = !keep;
            }
        }
        out
    }
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// A path without `.`, `..` (as far as it goes), double and outer slashes.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_dockers_fit() {
        for (pattern, fits, not) in [
            ("*.go", &["a.go", ".go"][..], &["d/a.go", "a.goo"][..]),
            ("**/*.go", &["a.go", "d/a.go", "d/e/a.go"], &["a.goo", "a.go/b"]),
            ("d/**", &["d/a", "d/e/f"], &["d", "e"]),
            ("d/**/f", &["d/f", "d/a/f", "d/a/b/f"], &["df", "d/af", "d/a/bf"]),
            ("**", &["a", "a/b"], &[]),
            ("a?c", &["abc"], &["ac", "a/c", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x", "/x"]),
            ("[^a-c]x", &["dx"], &["ax", "/x"]),
            (r"a\*b", &["a*b"], &["axb"]),
            ("*/tmp*", &["a/tmp", "b/tmpx"], &["tmp", "a/b/tmp"]),
        ] {
            let read = Pattern::read(pattern).unwrap();
            for path in fits {
                assert!(read.matches(path), "{pattern} must fit {path}");
            }
            for path in not {
                assert!(!read.matches(path), "{pattern} must not fit {path}");
            }
        }
        for bad in ["[a", "a\\", "[", "[a-"] {
            assert!(Pattern::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_rule_counts_and_folders_take_their_content() {
        let text =
            "# all but the readme\n*.md\n!README.md\nnode_modules\n/build/\n**/*.log\n!keep/**/x.log\n\n .git \n";
        let ignore = Ignore::read(text).unwrap();
        for out in ["a.md", "node_modules", "node_modules/a/b", "build/x", "d/e.log", ".git/HEAD"] {
            assert!(ignore.leaves_out(out), "{out}");
        }
        for stays in ["README.md", "d/a.md", "src/node_modules", "keep/d/x.log", "#x"] {
            assert!(!ignore.leaves_out(stays), "{stays}");
        }
        assert!(Ignore::read("!").is_err());
        assert!(!Ignore::read(".\n/\n").unwrap().leaves_out("a"));
    }

    proptest::proptest! {
        #[test]
        fn a_plain_path_fits_itself_only(a in "[a-z.]{1,8}(/[a-z.]{1,8}){0,3}", b in "[a-z./]{1,12}") {
            let pattern = Pattern::read(&a).unwrap();
            assert!(pattern.matches(&a));
            assert_eq!(pattern.matches(&b), a == b);
        }

        #[test]
        fn any_depth_is_any_depth(dirs in "([a-z]{1,3}/){0,4}", name in "[a-z]{1,5}") {
            assert!(Pattern::read(&format!("**/{name}")).unwrap().matches(&format!("{dirs}{name}")));
        }
    }
}
