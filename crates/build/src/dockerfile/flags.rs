//! `--name=value` between an instruction and its arguments.

/// What stands before the arguments.
#[derive(Debug, Default)]
pub struct Flags {
    list: Vec<(String, Option<String>)>,
}

impl Flags {
    /// Takes the flags off the front of an instruction's arguments.
    pub fn split(rest: &str, escape: char) -> Result<(Flags, &str), String> {
        let mut flags = Flags::default();
        let mut rest = rest.trim_start();
        while rest.starts_with("--") {
            let (word, after) = word(rest, escape);
            rest = after.trim_start();
            if word == "--" {
                break;
            }
            let body = word.trim_start_matches("--");
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            flags.list.push((name.to_owned(), value));
        }
        Ok((flags, rest))
    }

    /// The value of a flag that may be given once.
    pub fn one(&mut self, name: &str) -> Result<Option<String>, String> {
        let mut all = self.many(name)?;
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(format!("duplicate flag specified: {name}")),
        }
    }

    /// The values of a flag that may be repeated.
    pub fn many(&mut self, name: &str) -> Result<Vec<String>, String> {
        let taken: Vec<_> = self.list.extract_if(.., |(n, _)| n == name).collect();
        taken.into_iter().map(|(_, v)| v.ok_or_else(|| format!("missing a value on flag: {name}"))).collect()
    }

    /// A flag that is there, or `=true`, or `=false`.
    pub fn switch(&mut self, name: &str) -> Result<Option<bool>, String> {
        let taken: Vec<_> = self.list.extract_if(.., |(n, _)| n == name).collect();
        match taken.as_slice() {
            [] => Ok(None),
            [(_, value)] => truth(value.as_deref().unwrap_or("true")).map(Some).ok_or_else(|| {
                format!("expecting boolean value for flag {name}, not: {}", value.as_deref().unwrap_or(""))
            }),
            _ => Err(format!("duplicate flag specified: {name}")),
        }
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), String> {
        match self.list.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("unknown flag: --{name}")),
        }
    }
}

/// `true`, `1`, `false`, … as Go reads them.
pub fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The first word, its quotes gone (a flag's value may have blanks in quotes), and what follows.
fn word(text: &str, escape: char) -> (String, &str) {
    let mut found = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (found, &text[at..]),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if q == c => quote = None,
            _ if c == escape => match chars.next() {
                Some((_, next)) => found.push(next),
                None => found.push(c),
            },
            _ => found.push(c),
        }
    }
    (found, "")
}

/// Go's durations (`1m30s`, `500ms`) in nanoseconds.
///
/// # Errors
/// What is none, in words.
pub fn parse_duration_ns(text: &str) -> Result<i64, String> {
    let bad = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() || rest.starts_with('-') {
        return Err(bad());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
        let (unit, scale) = units.into_iter().find(|(u, _)| rest.starts_with(u)).ok_or_else(bad)?;
        total += number * scale;
        rest = &rest[unit.len()..];
    }
    // Beyond Go's range is as wrong as no number.
    if total < 9.2e18 { Ok(total as i64) } else { Err(bad()) }
}
