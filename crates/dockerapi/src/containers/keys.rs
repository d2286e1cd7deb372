//! The keys by which a person leaves a container's terminal and lets it run: ctrl-p ctrl-q unless others are chosen.

use bytes::Bytes;

use crate::fault::{Fault, Result};

/// Watches for the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detach {
    keys: Vec<u8>,
    seen: usize,
}

impl Detach {
    /// From `ctrl-a,b` and such; the default when nothing is given.
    ///
    /// # Errors
    /// 400 for what is no key.
    pub fn parse(text: Option<&str>) -> Result<Option<Self>> {
        let text = text.unwrap_or("ctrl-p,ctrl-q");
        let invalid = || Fault::bad(format!("Invalid detach keys ({text}) provided"));
        let key = |word: &str| match (word.strip_prefix("ctrl-").map(str::as_bytes), word.as_bytes()) {
            (Some([c]), _) if c.is_ascii_lowercase() || b"@[\\]^_".contains(c) => Ok(c.to_ascii_uppercase() & 0x1f),
            (None, [c]) => Ok(*c),
            _ => Err(invalid()),
        };
        let keys = text.split(',').map(key).collect::<Result<Vec<u8>>>()?;
        Ok(Some(Detach { keys, seen: 0 }))
    }

    /// How many bytes at most are kept back, because they may be the beginning of the keys.
    pub fn held(&self) -> usize {
        self.seen
    }

    /// What of the input goes through, and whether the keys were typed.
    pub fn pass(&mut self, input: &[u8]) -> (Bytes, bool) {
        let mut through = Vec::with_capacity(input.len());
        for &byte in input {
            if byte == self.keys[self.seen] {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (through.into(), true);
                }
                continue;
            }
            // What looked like the keys was none of them.
            through.extend_from_slice(&self.keys[..self.seen]);
            self.seen = usize::from(byte == self.keys[0] && self.keys.len() > 1);
            if self.seen == 0 {
                through.push(byte);
            }
        }
        (through.into(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_taken_and_everything_else_goes_through() {
        let mut keys = Detach::parse(None).unwrap().unwrap();
        assert_eq!(keys.pass(b"ab\x10"), (Bytes::from_static(b"ab"), false));
        assert_eq!(keys.pass(b"c"), (Bytes::from_static(b"\x10c"), false));
        assert_eq!(keys.pass(b"\x10\x10\x11z"), (Bytes::from_static(b"\x10"), true));
        assert_eq!(Detach::parse(Some("a,ctrl-[")).unwrap().unwrap().keys, [b'a', 0x1b]);
        assert!(Detach::parse(Some("ctrl-ab")).is_err());
        assert!(Detach::parse(Some("")).is_err());
    }
}
