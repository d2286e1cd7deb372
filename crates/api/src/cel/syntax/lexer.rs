//! Words, literals and symbols of an expression, as the grammar of cel-go has them: of what could begin at a place the longest
//! counts.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing comes after it.
    End,
    /// No token begins so; the text goes up to what cannot go on.
    Broken,
    Word,
    /// A word in back quotes.
    Quoted,
    Int,
    Uint,
    Float,
    Text,
    Bytes,
    /// A symbol, or a word that is never a name.
    Symbol(&'static str),
}

/// A token with its place in the text, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn is(&self, symbol: &str) -> bool {
        matches!(self.kind, Kind::Symbol(own) if own == symbol)
    }
}

/// The longer ones first.
const SYMBOLS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%",
    "<", ">",
];
const WORDS: [&str; 4] = ["in", "true", "false", "null"];

/// The tokens of a text, the last of which is [`Kind::End`]. What comes after a broken one is not looked at.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let lexer = Lexer { text, bytes: text.as_bytes() };
    let (mut out, mut at) = (Vec::new(), 0);
    loop {
        at = lexer.blank(at);
        let start = at;
        let kind;
        (kind, at) = lexer.token(at);
        out.push(Token { kind, start, end: at });
        match kind {
            Kind::End => return out,
            Kind::Broken => at = text.len(),
            _ => {}
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    bytes: &'t [u8],
}

impl Lexer<'_> {
    fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Where the run of such bytes ends.
    fn run(&self, at: usize, of: impl Fn(u8) -> bool) -> usize {
        let rest = self.bytes.get(at..).unwrap_or_default();
        at + rest.iter().position(|b| !of(*b)).unwrap_or(rest.len())
    }

    /// Where blanks and comments end.
    fn blank(&self, mut at: usize) -> usize {
        loop {
            at = self.run(at, |b| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'\x0c'));
            if !self.bytes[at..].starts_with(b"//") {
                return at;
            }
            at = self.run(at, |b| b != b'\n');
        }
    }

    /// The token that begins there, and where it ends.
    fn token(&self, at: usize) -> (Kind, usize) {
        let (byte, next) = (self.byte(at), self.byte(at + 1));
        match byte {
            _ if at == self.bytes.len() => (Kind::End, at),
            b'0'..=b'9' => self.number(at),
            b'.' if next.is_ascii_digit() => self.number(at),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.literal(at).unwrap_or_else(|| self.word(at)),
            b'"' | b'\'' => match self.quoted(at, false) {
                Ok(end) => (Kind::Text, end),
                Err(failed) => self.broken(failed),
            },
            b'`' => {
                let end = self.run(at + 1, |b| b.is_ascii_alphanumeric() || b"_.-/ ".contains(&b));
                if end > at + 1 && self.byte(end) == b'`' { (Kind::Quoted, end + 1) } else { self.broken(end) }
            }
            _ => match SYMBOLS.iter().find(|symbol| self.bytes[at..].starts_with(symbol.as_bytes())) {
                Some(symbol) => (Kind::Symbol(symbol), at + symbol.len()),
                None if matches!(byte, b'=' | b'&' | b'|') => self.broken(at + 1),
                None => self.broken(at),
            },
        }
    }

    /// A token that cannot go on with the character there, which belongs to what is told.
    fn broken(&self, failed: usize) -> (Kind, usize) {
        (Kind::Broken, failed + self.text[failed..].chars().next().map_or(0, char::len_utf8))
    }

    fn word(&self, at: usize) -> (Kind, usize) {
        let end = self.run(at, |b| b.is_ascii_alphanumeric() || b == b'_');
        let kind = WORDS.iter().find(|word| **word == &self.text[at..end]).map(|word| Kind::Symbol(word));
        (kind.unwrap_or(Kind::Word), end)
    }

    fn number(&self, at: usize) -> (Kind, usize) {
        if self.bytes[at..].starts_with(b"0x") && self.byte(at + 2).is_ascii_hexdigit() {
            return self.unsigned(self.run(at + 2, |b| b.is_ascii_hexdigit()));
        }
        let digits = |at: usize| self.run(at, |b| b.is_ascii_digit());
        let whole = digits(at);
        let fraction = self.byte(whole) == b'.' && self.byte(whole + 1).is_ascii_digit();
        let end = if fraction { digits(whole + 1) } else { whole };
        let power = match (self.byte(end), self.byte(end + 1)) {
            (b'e' | b'E', b'+' | b'-') => end + 2,
            (b'e' | b'E', _) => end + 1,
            _ => end,
        };
        match (power > end && self.byte(power).is_ascii_digit(), fraction) {
            (true, _) => (Kind::Float, digits(power)),
            (false, true) => (Kind::Float, end),
            (false, false) => self.unsigned(end),
        }
    }

    /// Whether the digits that end there are of an unsigned number.
    fn unsigned(&self, end: usize) -> (Kind, usize) {
        if matches!(self.byte(end), b'u' | b'U') { (Kind::Uint, end + 1) } else { (Kind::Int, end) }
    }

    /// A literal that begins with letters. One that does not end is a word before something broken.
    fn literal(&self, at: usize) -> Option<(Kind, usize)> {
        let bytes = matches!(self.byte(at), b'b' | b'B');
        let letters = at + usize::from(bytes);
        let raw = matches!(self.byte(letters), b'r' | b'R');
        let quote = letters + usize::from(raw);
        let kind = if bytes { Kind::Bytes } else { Kind::Text };
        let end = matches!(self.byte(quote), b'"' | b'\'').then(|| self.quoted(quote, raw))?;
        end.ok().map(|end| (kind, end))
    }

    /// Where the literal ends whose quote is there, or where it fails.
    fn quoted(&self, start: usize, raw: bool) -> Result<usize, usize> {
        let quote = self.byte(start);
        if self.bytes[start..].starts_with(&[quote; 3]) {
            // One that fails begins with an empty literal.
            return Ok(self.closed(start + 3, raw, &[quote; 3]).unwrap_or(start + 2));
        }
        self.closed(start + 1, raw, &[quote])
    }

    fn closed(&self, mut at: usize, raw: bool, end: &[u8]) -> Result<usize, usize> {
        loop {
            let rest = self.bytes.get(at..).unwrap_or_default();
            if rest.starts_with(end) {
                return Ok(at + end.len());
            }
            at = match rest {
                [] => return Err(at),
                [b'\n' | b'\r', ..] if end.len() == 1 => return Err(at),
                [b'\\', ..] if !raw => self.escape(at + 1)?,
                _ => at + 1,
            };
        }
    }

    /// Where an escape ends of which that is the first byte after the backslash.
    fn escape(&self, at: usize) -> Result<usize, usize> {
        let octal = |b: u8| matches!(b, b'0'..=b'7');
        let hex = |b: u8| b.is_ascii_hexdigit();
        let (first, digits, of): (_, _, fn(u8) -> bool) = match self.byte(at) {
            b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'\\' | b'\'' | b'"' | b'`' | b'?' => return Ok(at + 1),
            b'x' | b'X' => (at + 1, 2, hex),
            b'u' => (at + 1, 4, hex),
            b'U' => (at + 1, 8, hex),
            b'0'..=b'3' => (at + 1, 2, octal),
            _ => return Err(at),
        };
        let wrong = (first..first + digits).find(|at| !of(self.byte(*at)));
        wrong.map_or(Ok(first + digits), Err)
    }
}
