//! What literals stand for (langdef.md, "String and Bytes Values"). The lexer has looked at their form.

use cel::common::ast::LiteralValue;

/// A whole number, with its sign.
pub(super) fn int(text: &str, negative: bool) -> Result<LiteralValue, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let sign = if negative { "-" } else { "" };
    let value = i64::from_str_radix(&format!("{sign}{digits}"), radix);
    value.map(|value| LiteralValue::Int(value.into())).map_err(|_| "invalid int literal".to_owned())
}

/// An unsigned number with its `u`.
pub(super) fn uint(text: &str) -> Result<LiteralValue, String> {
    let text = text.trim_end_matches(['u', 'U']);
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let value = u64::from_str_radix(digits, radix);
    value.map(|value| LiteralValue::UInt(value.into())).map_err(|_| "invalid uint literal".to_owned())
}

/// A number with a fraction or an exponent.
pub(super) fn float(text: &str, negative: bool) -> Result<LiteralValue, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite());
    let value = value.ok_or_else(|| "invalid double literal".to_owned())?;
    Ok(LiteralValue::Double(if negative { -value } else { value }.into()))
}

/// A text with its quotes.
pub(super) fn text(literal: &str) -> Result<LiteralValue, String> {
    let text = String::from_utf8(unescaped(literal, false)?).map_err(|_| INVALID.to_owned())?;
    Ok(LiteralValue::String(text.into()))
}

/// Bytes with their `b` and quotes.
pub(super) fn bytes(literal: &str) -> Result<LiteralValue, String> {
    Ok(LiteralValue::Bytes(unescaped(literal.trim_start_matches(['b', 'B']), true)?.into()))
}

const INVALID: &str = "invalid unicode code point";

fn unescaped(literal: &str, bytes: bool) -> Result<Vec<u8>, String> {
    let quoted = literal.trim_start_matches(['r', 'R']);
    let raw = quoted.len() < literal.len();
    let quotes = if quoted.len() >= 6 && (quoted.starts_with("\"\"\"") || quoted.starts_with("'''")) { 3 } else { 1 };
    let inner = quoted.get(quotes..quoted.len() - quotes).unwrap_or_default();
    let inner = inner.replace("\r\n", "\n").replace('\r', "\n");
    if raw {
        return Ok(inner.into_bytes());
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner.as_str();
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let (value, length) = match escape.as_bytes().first().copied().unwrap_or(b'\\') {
            b'a' => (7, 1),
            b'b' => (8, 1),
            b'f' => (12, 1),
            b'n' => (10, 1),
            b'r' => (13, 1),
            b't' => (9, 1),
            b'v' => (11, 1),
            b'x' | b'X' => digits(escape, 1, 3, 16)?,
            b'u' | b'U' if bytes => return Err("unable to unescape string".to_owned()),
            b'u' => digits(escape, 1, 5, 16)?,
            b'U' => digits(escape, 1, 9, 16)?,
            b'0'..=b'3' => digits(escape, 0, 3, 8)?,
            itself => (u32::from(itself), 1),
        };
        match u8::try_from(value) {
            Ok(byte) if bytes => out.push(byte),
            _ => {
                let character = char::from_u32(value).ok_or_else(|| INVALID.to_owned())?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        rest = escape.get(length..).unwrap_or_default();
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// The number that is written there, and where its digits end.
fn digits(escape: &str, from: usize, to: usize, radix: u32) -> Result<(u32, usize), String> {
    let digits = escape.get(from..to).and_then(|digits| u32::from_str_radix(digits, radix).ok());
    digits.map(|value| (value, to)).ok_or_else(|| INVALID.to_owned())
}
