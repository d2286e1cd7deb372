//! Durations as the field writes them: Go's notation, `1h30m`, `-1.5s`, `0` (https://pkg.go.dev/time#ParseDuration).

use jiff::SignedDuration;

/// Reads a duration. Below a nanosecond is cut off; beyond what Go holds (292 years) is refused.
///
/// # Errors
/// Go's sentence about what cannot be read.
pub fn parse(text: &str) -> Result<SignedDuration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        nanos += number
            * match &rest[..end] {
                "h" => 3600e9,
                "m" => 60e9,
                "s" => 1e9,
                "ms" => 1e6,
                "us" | "µs" | "μs" => 1e3,
                "ns" => 1.0,
                "" => return Err(format!("time: missing unit in duration {text:?}")),
                other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
            };
        rest = &rest[end..];
    }
    if nanos >= i64::MAX as f64 {
        return Err(invalid());
    }
    let length = SignedDuration::from_nanos(nanos as i64);
    Ok(if text.starts_with('-') { -length } else { length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_read_and_the_rest_is_explained() {
        for (text, millis) in
            [("0", 0), ("1h30m", 5_400_000), ("-1.5s", -1500), ("+2ms", 2), ("1.5h", 5_400_000), ("3us", 0)]
        {
            assert_eq!(parse(text).unwrap().as_millis(), millis, "{text}");
        }
        for (text, why) in [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("x", "time: invalid duration \"x\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
        ] {
            assert_eq!(parse(text).unwrap_err(), why, "{text}");
        }
    }
}
