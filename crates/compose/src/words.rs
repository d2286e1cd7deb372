//! Small texts with a meaning: commands, sizes, durations, numbers.

use std::time::Duration;

/// A command line as a shell splits it into words: quotes and backslashes, no variables.
///
/// # Errors
/// When a quote is not closed.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err(format!("a quote of {text:?} is not closed")),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some('\n') => {}
                            Some(c) => word.extend(['\\', c]),
                            None => return Err(format!("a quote of {text:?} is not closed")),
                        },
                        Some(c) => word.push(c),
                        None => return Err(format!("a quote of {text:?} is not closed")),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err(format!("{text:?} ends with a backslash")),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Bytes from `512m`, `1.5gb`, `64k`, `100b`, `100`; units are powers of 1024 (compose-spec, "Specifying byte values").
pub fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let value = number.parse::<f64>().ok()? * (1u64 << shift) as f64;
    (value.is_finite() && value < 9e18).then_some(value as u64)
}

/// A duration as `1h5m30s20ms` (compose-spec, "Specifying durations").
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (total < 1e9).then(|| Duration::from_secs_f64(total))
}

/// A truth value as YAML and Compose write it.
pub fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Thousandths of a CPU from `0.5`.
pub fn millis(text: &str) -> Option<u64> {
    let value: f64 = text.trim().parse().ok()?;
    (value.is_finite() && (0.0..1e6).contains(&value)).then(|| (value * 1000.0).round() as u64)
}

/// `80` or `8000-8010`: the first and the last.
pub fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_split_as_a_shell_does() {
        for (text, words) in [
            ("a b  c", vec!["a", "b", "c"]),
            ("sh -c 'echo \"$X\" y'", vec!["sh", "-c", "echo \"$X\" y"]),
            ("a\"b c\"d '' \\ e", vec!["ab cd", "", " e"]),
            ("\"a\\\"b\\x\"", vec!["a\"b\\x"]),
            ("", vec![]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        assert!(split("'a").is_err() && split("\"a\\").is_err() && split("a\\").is_err());
    }

    #[test]
    fn sizes_durations_and_numbers() {
        assert_eq!(bytes("1.5k"), Some(1536));
        assert_eq!((bytes("2gb"), bytes("64KB"), bytes("100")), (Some(2 << 30), Some(65_536), Some(100)));
        assert!(bytes("x").is_none() && bytes("1x").is_none() && bytes("").is_none() && bytes("99999999t").is_none());
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1h5m30s20ms"), Some(Duration::from_millis(3_930_020)));
        assert!(duration("5").is_none() && duration("").is_none() && duration("5x").is_none());
        assert_eq!((millis("0.5"), millis("-1"), millis("x")), (Some(500), None, None));
        assert_eq!(
            (range("80"), range("80-82"), range("82-80"), range("0")),
            (Some((80, 80)), Some((80, 82)), None, None)
        );
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in proptest::collection::vec("[ -&(-~]{0,8}", 0..5)) {
            let line: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
            prop_assert_eq!(split(&line.join(" ")).unwrap(), words);
        }

        #[test]
        fn no_text_makes_them_panic(s in "[0-9.kmgsuµ'\"\\\\ -]{0,20}") {
            let _ = (split(&s), bytes(&s), duration(&s), millis(&s), range(&s));
        }
    }
}
