//! Files of variables: `.env` and those of `env_file` (compose-spec, "Env_file format").

use std::collections::BTreeMap;

use crate::interpolate;

/// The variables of a file in its order; a name without `=` has none and takes its value from elsewhere.
///
/// `lookup` knows what the file does not say; variables of earlier lines count too, and less.
///
/// # Errors
/// The line and what is wrong with it.
pub fn parse(
    text: &str,
    lookup: &interpolate::Lookup<'_>,
) -> std::result::Result<Vec<(String, Option<String>)>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = first.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            (rest, line) = (after, line + 1);
            continue;
        }
        let begin = first.len() - first.trim_start().len();
        let statement = &rest[begin..];
        let statement = statement.strip_prefix("export ").map_or(statement, str::trim_start);
        let end = statement.find(['=', ':', '\n']).unwrap_or(statement.len());
        let name = statement[..end].trim();
        let valid = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'');
        if !valid {
            return Err(format!("line {line}: {:?} is no name of a variable", name));
        }
        if statement[end..].is_empty() || statement[end..].starts_with('\n') {
            found.push((name.to_owned(), None));
            (rest, line) = (after, line + 1);
            continue;
        }
        let (value, literal, left) = value(&statement[end + 1..]).map_err(|m| format!("line {line}: {m}"))?;
        let get = |n: &str| lookup(n).or_else(|| known.get(n).cloned());
        let value = match literal {
            true => value,
            false => {
                interpolate::text(&value, &get, &mut Default::default()).map_err(|m| format!("line {line}: {m}"))?
            }
        };
        line += statement[..statement.len() - left.len()].matches('\n').count();
        known.insert(name.to_owned(), value.clone());
        found.push((name.to_owned(), Some(value)));
        rest = left;
    }
    Ok(found)
}

/// A value, whether it is taken as it stands, and what comes after its line.
fn value(text: &str) -> std::result::Result<(String, bool, &str), String> {
    let text = text.trim_start_matches([' ', '\t', '\r']);
    let Some(quote) = text.chars().next().filter(|c| *c == '"' || *c == '\'') else {
        let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
        // A comment begins behind white space.
        let mut end = line.len();
        let mut before = ' ';
        for (i, c) in line.char_indices() {
            if c == '#' && before.is_whitespace() {
                end = i;
                break;
            }
            before = c;
        }
        return Ok((line[..end].trim().to_owned(), false, rest));
    };
    let mut out = String::new();
    let mut chars = text[1..].char_indices();
    while let Some((i, c)) = chars.next() {
        if c == quote {
            let (tail, rest) = text[i + 2..].split_once('\n').unwrap_or((&text[i + 2..], ""));
            let tail = tail.trim();
            if !tail.is_empty() && !tail.starts_with('#') {
                return Err(format!("{tail:?} stands behind a quoted value"));
            }
            return Ok((out, quote == '\'', rest));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        match (chars.next().map(|(_, c)| c), quote) {
            (Some('\''), '\'') => out.push('\''),
            (Some('n'), '"') => out.push('\n'),
            (Some('r'), '"') => out.push('\r'),
            (Some('t'), '"') => out.push('\t'),
            (Some(c @ ('"' | '\\')), '"') => out.push(c),
            // A dollar that is meant.
            (Some('$'), '"') => out.push_str("$$"),
            (Some(c), _) => out.extend(['\\', c]),
            (None, _) => break,
        }
    }
    Err("a quote is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> std::result::Result<Vec<(String, Option<String>)>, String> {
        parse(text, &|n| (n == "HOME").then(|| "/root".to_owned()))
    }

    fn values(text: &str) -> Vec<String> {
        of(text).unwrap().into_iter().map(|(n, v)| format!("{n}={}", v.unwrap_or_else(|| "?".into()))).collect()
    }

    #[test]
    fn lines_comments_quotes_and_variables() {
        let text = "# c\nA=1\n  export B = two words # c\nC='a $HOME # \\n'\r\nD=\"x\\ty $HOME\"\nE=a#b\nF: yaml\nG\n\nH=\nI=$A-${HOME}\n";
        let wanted =
            ["A=1", "B=two words", "C=a $HOME # \\n", "D=x\ty /root", "E=a#b", "F=yaml", "G=?", "H=", "I=1-/root"];
        assert_eq!(values(text), wanted);
    }

    #[test]
    fn quoted_values_may_have_several_lines() {
        assert_eq!(values("A=\"1\n2\"\nB='x\ny' # c\nC=3"), ["A=1\n2", "B=x\ny", "C=3"]);
        assert!(of("A='1\n2'\nB=\"\nx").unwrap_err().starts_with("line 3: "));
    }

    #[test]
    fn what_is_wrong_names_its_line() {
        assert!(of("A=1\nB C=2\n").unwrap_err().starts_with("line 2: "));
        assert!(of("A=\"1\" x\n").is_err());
        assert!(of("A=${").is_err());
    }

    proptest! {
        #[test]
        fn single_quotes_keep_everything(s in "[ -&(-\\[\\]-~\n]{0,30}") {
            let read = of(&format!("A='{s}'")).unwrap();
            prop_assert_eq!(read, vec![("A".to_owned(), Some(s))]);
        }

        #[test]
        fn no_text_makes_it_panic(s in "[A='\"\\\\$#\n\r :x{}é]{0,40}") {
            let _ = of(&s);
        }
    }
}
