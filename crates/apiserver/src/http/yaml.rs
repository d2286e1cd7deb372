//! Answers in YAML: JSON values in block style, keys in order. Text that YAML 1.1 or 1.2 could take for something else is
//! quoted, and so is what does not fit on a line.

use std::fmt::Write as _;

use serde_json::Value;

/// Words of YAML 1.1 that are no text, in lower case (<https://yaml.org/type/bool.html> and its neighbours).
const WORDS: [&str; 12] = ["y", "yes", "n", "no", "true", "false", "on", "off", "null", "nan", "inf", "infinity"];

/// The document of a value.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_value(&mut out, value, 0, true),
        Value::Array(list) if !list.is_empty() => write_value(&mut out, value, 0, true),
        scalar => write_scalar(&mut out, scalar),
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Writes what is not empty, each line after so many spaces but for the first one where something stands before it.
fn write_value(out: &mut String, value: &Value, indent: usize, mut begun: bool) {
    let mut margin = |out: &mut String| {
        if !std::mem::take(&mut begun) {
            out.extend(std::iter::repeat_n(' ', indent));
        }
    };
    match value {
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            for (key, field) in fields {
                margin(out);
                write_text(out, key);
                out.push(':');
                match field {
                    Value::Object(map) if !map.is_empty() => {
                        out.push('\n');
                        write_value(out, field, indent + 2, false);
                    }
                    Value::Array(list) if !list.is_empty() => {
                        out.push('\n');
                        write_value(out, field, indent, false);
                    }
                    scalar => {
                        out.push(' ');
                        write_scalar(out, scalar);
                        out.push('\n');
                    }
                }
            }
        }
        Value::Array(list) => {
            for item in list {
                margin(out);
                out.push_str("- ");
                match item {
                    Value::Object(map) if !map.is_empty() => write_value(out, item, indent + 2, true),
                    Value::Array(list) if !list.is_empty() => write_value(out, item, indent + 2, true),
                    scalar => {
                        write_scalar(out, scalar);
                        out.push('\n');
                    }
                }
            }
        }
        scalar => write_scalar(out, scalar),
    }
}

fn write_scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => write_text(out, text),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// Whether the text means itself without quotes, whoever reads it.
fn is_plain(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'/' | b'_'));
    let all = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'.' | b'-' | b'+' | b'='));
    first && all && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn write_text(out: &mut String, text: &str) {
    if is_plain(text) {
        return out.push_str(text);
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            // What YAML does not take for printable, and what it takes for the end of a line.
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::decode;

    #[test]
    fn objects_are_written_as_kubectl_shows_them() {
        let value = json!({
            "kind": "Pod", "apiVersion": "v1", "empty": {}, "none": [], "nothing": null, "n": 1.5,
            "spec": {"on": true, "args": ["-c", "yes", "a b", "1", "x\ny"], "lists": [[1, [2]], [{"b": 1, "a": []}]]},
        });
        let want = "apiVersion: v1\nempty: {}\nkind: Pod\n\"n\": 1.5\nnone: []\nnothing: null\nspec:\n  args:\n  - \"-c\"\n  \
                    - \"yes\"\n  - \"a b\"\n  - \"1\"\n  - \"x\\ny\"\n  lists:\n  - - 1\n    - - 2\n  - - a: []\n      b: 1\n  \"on\": true\n";
        assert_eq!(document(&value), want);
        assert_eq!((document(&json!({})), document(&json!("a: b"))), ("{}\n".into(), "\"a: b\"\n".into()));
    }

    fn anything() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            any::<String>(),
            "[-~+.0-9a-fxoeEyYnN:_#&*!|>'\"%@ \\[\\]{},\t\n]{0,6}",
            proptest::sample::select(&WORDS[..]).prop_map(str::to_uppercase),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e12..1e12f64).prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_it_was(value in anything()) {
            let text = document(&value);
            let read = decode::yaml(text.as_bytes()).map(|d| d.value);
            prop_assert_eq!(read.ok(), Some(value), "{}", text);
        }
    }
}
