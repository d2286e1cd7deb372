//! `--chmod`: octal, or symbolic as chmod(1) has it.

/// A change of mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Modes {
    /// This mode.
    Octal(u32),
    /// One after the other.
    Symbolic(Vec<Change>),
}

/// `u+rX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    who: u32,
    how: char,
    what: String,
}

impl Modes {
    /// Reads the value of the flag.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| bad())?;
            return if mode <= 0o7777 { Ok(Modes::Octal(mode)) } else { Err(bad()) };
        }
        let mut changes = Vec::new();
        for part in text.split(',') {
            let at = part.find(['+', '-', '=']).ok_or_else(bad)?;
            let mut who = 0;
            for c in part[..at].chars() {
                who |= match c {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return Err(bad()),
                };
            }
            let mut rest = &part[at..];
            while let Some(how) = rest.chars().next() {
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |n| n + 1);
                let what = &rest[1..end];
                if !what.chars().all(|c| "rwxXstugo".contains(c)) {
                    return Err(bad());
                }
                changes.push(Change { who: if who == 0 { 0o7777 } else { who }, how, what: what.to_owned() });
                rest = &rest[end..];
            }
        }
        Ok(Modes::Symbolic(changes))
    }

    /// The mode that a file or folder of this mode gets.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let changes = match self {
            Modes::Octal(mode) => return *mode,
            Modes::Symbolic(changes) => changes,
        };
        let mut mode = mode & 0o7777;
        for change in changes {
            let mut bits = 0;
            for c in change.what.chars() {
                bits |= match c {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if is_dir || mode & 0o111 != 0 => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    'u' => (mode >> 6 & 7) * 0o111,
                    'g' => (mode >> 3 & 7) * 0o111,
                    'o' => (mode & 7) * 0o111,
                    _ => 0,
                };
            }
            bits &= change.who;
            mode = match change.how {
                '+' => mode | bits,
                '-' => mode & !bits,
                _ => (mode & !(change.who & 0o777)) | bits,
            };
        }
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_with_chmod() {
        for (text, mode, is_dir, want) in [
            ("755", 0o600, false, 0o755),
            ("4755", 0o600, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("go-rwx", 0o755, false, 0o700),
            ("a=rX", 0o600, false, 0o444),
            ("a=rX", 0o700, false, 0o555),
            ("u=rwX,go=rX", 0o640, true, 0o755),
            ("+t", 0o755, true, 0o1755),
            ("u+s", 0o755, false, 0o4755),
            ("g=u", 0o750, false, 0o770),
            ("u=rw+x", 0o000, false, 0o700),
        ] {
            assert_eq!(Modes::read(text).unwrap().apply(mode, is_dir), want, "{text}");
        }
        for bad in ["", "8", "99999", "z+x", "u+q", "u", "rwx"] {
            assert!(Modes::read(bad).is_err(), "{bad}");
        }
    }
}
