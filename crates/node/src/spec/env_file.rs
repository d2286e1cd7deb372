//! Variables from a file that a container wrote (KEP-3721): lines of `NAME='value'`, the strict part of a shell's syntax
//! that the kubelet takes.

/// Why a file of variables cannot be read: the line, counted from 1, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct EnvFileError {
    line: usize,
    what: &'static str,
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// The value of a variable, `None` when no line sets it. Lines after the one that does are not looked at. A value stands in
/// single quotes and may go over several lines; a name without a value directly after its `=` is empty.
pub(crate) fn value_of(text: &str, key: &str) -> Result<Option<String>, EnvFileError> {
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let wrong = |what| EnvFileError { line: number + 1, what };
        let line = line.trim_start_matches(is_blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("there is no '='"))?;
        if name.is_empty() {
            return Err(wrong("there is no name before '='"));
        }
        if name.ends_with(is_blank) {
            return Err(wrong("there may be no white space before '='"));
        }
        if value.starts_with(is_blank) {
            if name == key {
                return Ok(Some(String::new()));
            }
            continue;
        }
        let mut rest = value.strip_prefix('\'').ok_or_else(|| wrong("the value must be in single quotes"))?;
        let mut whole = String::new();
        let after = loop {
            match rest.split_once('\'') {
                Some((part, after)) => {
                    whole.push_str(part);
                    break after;
                }
                None => {
                    whole.push_str(rest);
                    whole.push('\n');
                    rest = lines.next().ok_or_else(|| wrong("the single quote is not closed"))?.1;
                }
            }
        };
        let after = after.trim_start_matches(is_blank);
        if !after.is_empty() && !after.starts_with('#') {
            return Err(wrong("there is something after the closing quote"));
        }
        if name == key {
            return Ok(Some(whole));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_single_quotes() {
        let text = "# a comment\n\n  A='one'\nB='two words' # said\nC='a\nb\n'\nD= 'x'\nA='later'\nE='$A \\n'\n";
        let get = |key| value_of(text, key).expect("a file");
        assert_eq!(get("A").as_deref(), Some("one"), "the first counts");
        assert_eq!(get("B").as_deref(), Some("two words"));
        assert_eq!(get("C").as_deref(), Some("a\nb\n"));
        assert_eq!(get("D").as_deref(), Some(""));
        assert_eq!(get("E").as_deref(), Some("$A \\n"), "nothing is expanded");
        assert_eq!(get("F"), None);
    }

    #[test]
    fn anything_else_is_named_by_its_line() {
        for (text, error) in [
            ("A", "line 1: there is no '='"),
            ("\n='x'", "line 2: there is no name before '='"),
            ("A ='x'", "line 1: there may be no white space before '='"),
            ("A=x", "line 1: the value must be in single quotes"),
            ("A='x", "line 1: the single quote is not closed"),
            ("A='x'y", "line 1: there is something after the closing quote"),
        ] {
            assert_eq!(value_of(text, "B").map_err(|e| e.to_string()), Err(error.to_owned()), "{text}");
        }
        assert_eq!(value_of("A='x'\nB=y", "A"), Ok(Some("x".to_owned())), "what comes later does not matter");
    }
}
