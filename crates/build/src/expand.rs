//! Variables and quotes in what an instruction says. `RUN`, `CMD` and `ENTRYPOINT` never come here: their shell does it.

/// Deepest `${a:-${b:-…}}` that is followed.
const DEPTH_MAX: usize = 32;
/// Longest text, bytes: a variable can be made of itself twice, again and again.
const LENGTH_MAX: usize = 1 << 20;

/// Replaces variables and takes quotes away.
///
/// # Errors
/// A substitution that is malformed, or one that says a variable must be set.
pub fn word(text: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut reader = Reader { chars: text.chars().collect(), at: 0, escape, lookup, depth: 0, cuts: None };
    reader.run(None)
}

/// The same, splitting at blanks that are not in quotes, those of values included.
///
/// # Errors
/// As [`word`].
pub fn words(text: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let cuts = Some((Vec::new(), false));
    let mut reader = Reader { chars: text.chars().collect(), at: 0, escape, lookup, depth: 0, cuts };
    let last = reader.run(None)?;
    let (mut found, quoted) = reader.cuts.unwrap_or_default();
    if !last.is_empty() || quoted {
        found.push(last);
    }
    Ok(found)
}

struct Reader<'a> {
    chars: Vec<char>,
    at: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
    /// Words so far, and whether the current one had quotes; `None` when nothing is split.
    cuts: Option<(Vec<String>, bool)>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Reads up to `end`, which is taken.
    fn run(&mut self, end: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.next() {
            bounded(&out)?;
            match c {
                c if Some(c) == end => return Ok(out),
                '\'' => {
                    self.quoted();
                    self.single(&mut out)?;
                }
                '"' => {
                    self.quoted();
                    self.double(&mut out)?;
                }
                '$' => {
                    let value = self.dollar()?;
                    self.add_value(&mut out, &value, end.is_none());
                }
                c if c == self.escape => match self.next() {
                    Some(next) => out.push(next),
                    None => out.push(c),
                },
                c if c.is_whitespace() && end.is_none() && self.cuts.is_some() => self.cut(&mut out),
                c => out.push(c),
            }
        }
        match end {
            None => Ok(out),
            Some(end) => Err(format!("syntax error: missing {end:?} in substitution")),
        }
    }

    fn quoted(&mut self) {
        if let Some((_, quoted)) = &mut self.cuts {
            *quoted = true;
        }
    }

    fn cut(&mut self, out: &mut String) {
        if let Some((found, quoted)) = &mut self.cuts
            && (!out.is_empty() || *quoted)
        {
            found.push(std::mem::take(out));
            *quoted = false;
        }
    }

    fn add_value(&mut self, out: &mut String, value: &str, splits: bool) {
        if self.cuts.is_none() || !splits {
            return out.push_str(value);
        }
        for c in value.chars() {
            if c.is_whitespace() { self.cut(out) } else { out.push(c) }
        }
    }

    fn single(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.next() {
                None => return Err("unexpected end of statement while looking for matching single-quote".to_owned()),
                Some('\'') => return Ok(()),
                Some(c) => out.push(c),
            }
        }
    }

    fn double(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            bounded(out)?;
            match self.next() {
                None => return Err("unexpected end of statement while looking for matching double-quote".to_owned()),
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) if c == self.escape => match self.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => out.push(next),
                    Some(next) => out.extend([c, next]),
                    None => out.push(c),
                },
                Some(c) => out.push(c),
            }
        }
    }

    /// After a `$`.
    fn dollar(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { (self.lookup)(&name).unwrap_or_default() });
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err("bad substitution: syntax error: no variable name".to_owned());
        }
        let value = (self.lookup)(&name);
        match self.next() {
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => {
                let modifier = self.next().ok_or("syntax error: missing '}'")?;
                let value = value.filter(|v| !v.is_empty());
                self.choice(modifier, &name, value)
            }
            Some(c @ ('-' | '+' | '?')) => self.choice(c, &name, value),
            Some(c @ ('#' | '%')) => {
                let longest = self.peek() == Some(c);
                self.at += usize::from(longest);
                let pattern = self.rest('}')?;
                Ok(strip(&value.unwrap_or_default(), &glob(&pattern, self.escape), c == '#', longest))
            }
            Some('/') => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let (pattern, with) = self.replacement()?;
                Ok(replace(&value.unwrap_or_default(), &glob(&pattern, self.escape), &with, all))
            }
            Some(c) => Err(format!("unsupported modifier ({c}) in substitution")),
            None => Err("syntax error: missing '}'".to_owned()),
        }
    }

    fn choice(&mut self, modifier: char, name: &str, value: Option<String>) -> Result<String, String> {
        let word = self.rest('}')?;
        match modifier {
            '-' => Ok(value.unwrap_or(word)),
            '+' => Ok(value.map(|_| word).unwrap_or_default()),
            '?' => value.ok_or_else(|| match word.is_empty() {
                true => format!("{name}: is not allowed to be unset"),
                false => format!("{name}: {word}"),
            }),
            other => Err(format!("unsupported modifier ({other}) in substitution")),
        }
    }

    fn rest(&mut self, end: char) -> Result<String, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("substitutions are nested too deeply".to_owned());
        }
        let found = self.run(Some(end));
        self.depth -= 1;
        found
    }

    /// `pattern/with}` or `pattern}`; a slash in the pattern is escaped.
    fn replacement(&mut self) -> Result<(String, String), String> {
        let mut pattern = String::new();
        loop {
            match self.next() {
                None => return Err("syntax error: missing '}'".to_owned()),
                Some('}') => return Ok((pattern, String::new())),
                Some('/') => return Ok((pattern, self.rest('}')?)),
                Some(c) if c == self.escape => match self.next() {
                    Some('/') => pattern.push('/'),
                    Some(next) => pattern.extend([c, next]),
                    None => pattern.push(c),
                },
                Some('$') => pattern.push_str(&self.dollar()?),
                Some(c) => pattern.push(c),
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            // A special parameter of a shell, or a digit: one character, and unknown to a build.
            Some(c) if "@*#?-$!".contains(c) && self.chars.get(self.at + 1).is_none_or(|n| *n == '}') => {
                self.at += 1;
                name.push(c);
            }
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.peek().filter(char::is_ascii_digit) {
                    name.push(c);
                    self.at += 1;
                }
            }
            _ => {
                while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                    self.at += 1;
                }
            }
        }
        name
    }
}

fn bounded(out: &str) -> Result<(), String> {
    match out.len() {
        0..=LENGTH_MAX => Ok(()),
        _ => Err(format!("the text is longer than {LENGTH_MAX} bytes when its variables are replaced")),
    }
}

/// A piece of a pattern.
#[derive(Debug, PartialEq)]
enum Piece {
    Any,
    One,
    Is(char),
}

fn glob(pattern: &str, escape: char) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        found.push(match c {
            '*' => Piece::Any,
            '?' => Piece::One,
            c if c == escape => Piece::Is(chars.next().unwrap_or(c)),
            c => Piece::Is(c),
        });
    }
    found
}

/// Ends of all matches that begin at the start of the text, shortest first. In time of text by pattern.
fn ends(text: &[char], pattern: &[Piece]) -> Vec<usize> {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for piece in pattern {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            match piece {
                Piece::Any => next[at] = reached[at] || (at > 0 && next[at - 1]),
                Piece::One => next[at] = at > 0 && reached[at - 1],
                Piece::Is(c) => next[at] = at > 0 && reached[at - 1] && text[at - 1] == *c,
            }
        }
        reached = next;
    }
    reached.iter().enumerate().filter(|(_, yes)| **yes).map(|(at, _)| at).collect()
}

fn strip(text: &str, pattern: &[Piece], front: bool, longest: bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    if front {
        let ends = ends(&chars, pattern);
        let end = if longest { ends.last() } else { ends.first() };
        return chars[end.copied().unwrap_or(0)..].iter().collect();
    }
    let starts = 0..=chars.len();
    let fits = |from: &usize| ends(&chars[*from..], pattern).last() == Some(&(chars.len() - from));
    let start = if longest { starts.into_iter().find(fits) } else { starts.rev().find(fits) };
    chars[..start.unwrap_or(chars.len())].iter().collect()
}

fn replace(text: &str, pattern: &[Piece], with: &str, all: bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    while at < chars.len() {
        match ends(&chars[at..], pattern).last() {
            Some(&len) if len > 0 => {
                out.push_str(with);
                at += len;
                if !all {
                    break;
                }
            }
            _ => {
                out.push(chars[at]);
                at += 1;
            }
        }
    }
    out.extend(&chars[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(name: &str) -> Option<String> {
        match name {
            "a" => Some("one".to_owned()),
            "empty" => Some(String::new()),
            "path" => Some("/usr/local/lib/x.tar.gz".to_owned()),
            "two" => Some("x y".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn substitutions_are_those_of_the_reference() {
        for (text, want) in [
            ("$a-${a}", "one-one"),
            ("$none|${none}", "|"),
            ("${none:-w}${empty:-w}${empty-w}${a:-w}", "wwone"),
            ("${none:+w}${empty:+w}${empty+w}${a:+w}", "ww"),
            ("${none:-${a}}", "one"),
            ("${a:?must}", "one"),
            ("${path#*/}|${path##*/}", "usr/local/lib/x.tar.gz|x.tar.gz"),
            ("${path%.*}|${path%%.*}", "/usr/local/lib/x.tar|/usr/local/lib/x"),
            ("${path/l/L}|${path//l/L}", "/usr/Local/lib/x.tar.gz|/usr/LocaL/Lib/x.tar.gz"),
            ("${path//\\//.}", ".usr.local.lib.x.tar.gz"),
            ("${a#?}", "ne"),
            (r"\$a '$a' \${a}", "$a $a ${a}"),
            (r#""$a \"q\" \x""#, r#"one "q" \x"#),
            (r#"a\ b"c d"'e f'"#, "a bc de f"),
            ("$", "$"),
            ("a$ b", "a$ b"),
        ] {
            assert_eq!(word(text, '\\', &vars).as_deref(), Ok(want), "{text}");
        }
        assert_eq!(word("`$a", '`', &vars).as_deref(), Ok("$a"));
    }

    #[test]
    fn what_is_malformed_or_missing_is_said() {
        for (text, say) in [
            ("${none:?is needed}", "none: is needed"),
            ("${none?}", "none: is not allowed to be unset"),
            ("${empty:?}", "empty: is not allowed to be unset"),
            ("${a", "missing"),
            ("${a!}", "unsupported modifier (!)"),
            ("'a", "single-quote"),
            ("\"a", "double-quote"),
            ("${}", "no variable name"),
        ] {
            let error = word(text, '\\', &vars).unwrap_err();
            assert!(error.contains(say), "{text}: {error}");
        }
    }

    #[test]
    fn words_split_values_but_not_quotes() {
        assert_eq!(words("$two 'x y' z", '\\', &vars).unwrap(), ["x", "y", "x y", "z"]);
        assert_eq!(words("\"$two\" '' ", '\\', &vars).unwrap(), ["x y", ""]);
    }

    proptest::proptest! {
        #[test]
        fn plain_text_stays_what_it_is(text in "[a-zA-Z0-9./_:=, -]{0,40}") {
            assert_eq!(word(&text, '\\', &vars).unwrap(), text);
        }

        #[test]
        fn nothing_panics(text in "[$a{}:#%/?*'\"\\\\+-]{0,30}") {
            let _ = word(&text, '\\', &vars);
            let _ = words(&text, '`', &vars);
        }
    }
}
