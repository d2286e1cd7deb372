//! Enough of Rust's lexing to look at code without its comments and literals.

use std::ops::Range;

/// The text with comments and the insides of literals blanked; every byte that stays keeps its place, and so do lines.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (keep, end) = token(bytes, at);
        let blank = at + keep..end.min(bytes.len());
        out.extend_from_slice(&bytes[at..blank.start]);
        out.extend(bytes[blank.clone()].iter().map(|&b| if b == b'\n' { b } else { b' ' }));
        at = blank.end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What begins here: how many bytes of it stay, and where it ends.
fn token(bytes: &[u8], at: usize) -> (usize, usize) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return (0, at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return (0, block_comment(bytes, at));
    }
    match rest[0] {
        b'"' => (1, string(bytes, at + 1)),
        b'\'' => character(bytes, at).map_or((1, at + 1), |end| (1, end)),
        b if is_word(b) => word(bytes, at),
        _ => (1, at + 1),
    }
}

/// A word as a whole, or a raw string with its prefix.
fn word(bytes: &[u8], at: usize) -> (usize, usize) {
    let len = bytes[at..].iter().take_while(|&&b| is_word(b)).count();
    let hashes = bytes[at + len..].iter().take_while(|&&b| b == b'#').count();
    let raw = matches!(&bytes[at..at + len], b"r" | b"br" | b"cr") && bytes.get(at + len + hashes) == Some(&b'"');
    if !raw {
        return (len, at + len);
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = at + len + hashes + 1;
    let end = bytes[body..].windows(close.len()).position(|w| w == close).map_or(bytes.len(), |n| body + n);
    (len + hashes + 1, end + close.len())
}

fn block_comment(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// The end of a string whose inside begins here.
fn string(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of a character literal, or `None` for a lifetime.
fn character(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let end = bytes[at + 3..].iter().position(|&b| b == b'\'')?;
        return Some(at + 3 + end + 1);
    }
    let width = match bytes.get(at + 1)? {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    (bytes.get(at + 1 + width) == Some(&b'\'')).then_some(at + 2 + width)
}

fn is_word(b: u8) -> bool {
    b == b'_' || b.is_ascii_alphanumeric() || b >= 0x80
}

/// Where the words stand that are found, not as part of longer words.
pub fn words<'a>(code: &'a str, wanted: &'a str) -> impl Iterator<Item = usize> + 'a {
    let edge = |b: Option<&u8>| b.is_none_or(|&b| !is_word(b));
    code.match_indices(wanted).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).and_then(|n| code.as_bytes().get(n));
        let starts_with_word = wanted.as_bytes().first().is_some_and(|&b| is_word(b));
        let ends_with_word = wanted.as_bytes().last().is_some_and(|&b| is_word(b));
        (!starts_with_word || edge(before)) && (!ends_with_word || edge(code.as_bytes().get(at + wanted.len())))
    })
}

/// The rest of an item from here to the end of its block, or to its semicolon. Gives the block, empty without one.
pub fn block(code: &str, from: usize) -> Range<usize> {
    let bytes = code.as_bytes();
    let mut nested = 0i32;
    for at in from..bytes.len() {
        match bytes[at] {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested -= 1,
            b';' if nested == 0 => return at..at,
            b'}' if nested == 0 => return at..at,
            b'{' if nested == 0 => return at..close(bytes, at),
            _ => {}
        }
    }
    bytes.len()..bytes.len()
}

/// One past the brace that closes the one here.
fn close(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0i32;
    for (at, &b) in bytes.iter().enumerate().skip(open) {
        depth += i32::from(b == b'{') - i32::from(b == b'}');
        if depth == 0 {
            return at + 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_in_place() {
        let text =
            "a /* x /* y */ z */ b // c\nd \"e \\\" f\" 'g' '\\'' r#\"h \" i\"# j::<'k>() b\"l\" 'é' '\\u{1f}' m";
        let code = code(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(
            code.split_whitespace().collect::<Vec<_>>(),
            ["a", "b", "d", "\"", "'", "'", "r#\"", "j::<'k>()", "b\"", "'", "'", "m"]
        );
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn words_stand_alone() {
        let code = "unsafe_code; unsafe { }; not_unsafe; unsafe";
        assert_eq!(words(code, "unsafe").collect::<Vec<_>>(), [13, 37]);
        assert_eq!(words("a.unwrap() b.unwrap_or()", ".unwrap()").count(), 1);
    }

    #[test]
    fn blocks_end_where_their_brace_closes() {
        let code = "fn a(x: [u8; 3]) -> Vec<u8> { if b { c } } fn d();";
        assert_eq!(&code[block(code, 0)], "{ if b { c } }");
        assert_eq!(&code[block(code, 44)], "");
    }
}
