//! Who may use the registry: a file of users as `htpasswd -B` writes it, or anybody.

use std::path::Path;

use base64::Engine as _;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

/// Users of one file.
const USERS: usize = 10_000;
/// Passwords that were found right and need not be hashed again: bcrypt takes a tenth of a second by intention.
const KNOWN: usize = 1024;

/// Why a file of users cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It cannot be read.
    #[error("read the users in {path}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A line is none of `htpasswd -B`.
    #[error("{path}:{line}: want NAME:HASH with a bcrypt hash, as `htpasswd -nB NAME` prints it")]
    Line {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// There are too many.
    #[error("{path} has more than {USERS} users")]
    TooMany {
        /// The file.
        path: String,
    },
}

/// What a request may do.
#[derive(Debug, Default)]
pub struct Access {
    /// Name and hash; `None` lets everybody do everything.
    users: Option<Vec<(String, String)>>,
    /// Whether reading needs no user.
    pub anonymous_pull: bool,
    known: Mutex<Vec<[u8; 32]>>,
}

impl Access {
    /// Everybody may do everything.
    pub fn open() -> Self {
        Access::default()
    }

    /// The users of a file.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, AccessError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| AccessError::Read { path: shown(), source })?;
        let mut users = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(':') {
                Some((name, hash)) if !name.is_empty() && hash.starts_with("$2") => {
                    users.push((name.to_owned(), hash.to_owned()));
                }
                _ => return Err(AccessError::Line { path: shown(), line: at + 1 }),
            }
        }
        if users.len() > USERS {
            return Err(AccessError::TooMany { path: shown() });
        }
        Ok(Access { users: Some(users), ..Access::default() })
    }

    /// Whether a file of users is asked.
    pub fn is_guarded(&self) -> bool {
        self.users.is_some()
    }

    /// Whether the request may be answered. May hash a password, which takes its time.
    pub(crate) fn allows(&self, headers: &HeaderMap, writes: bool) -> bool {
        let Some(users) = &self.users else { return true };
        let header = headers.get(AUTHORIZATION).and_then(|h| h.to_str().ok());
        let Some(header) = header else { return self.anonymous_pull && !writes };
        let seal: [u8; 32] = Sha256::digest(header.as_bytes()).into();
        if self.known.lock().contains(&seal) {
            return true;
        }
        let Some((name, password)) = credentials(header) else { return false };
        let good = users.iter().any(|(user, hash)| *user == name && bcrypt::verify(&password, hash).unwrap_or(false));
        if good {
            let mut known = self.known.lock();
            if known.len() >= KNOWN {
                known.remove(0);
            }
            known.push(seal);
        }
        good
    }
}

/// Name and password of `Basic` (RFC 7617).
fn credentials(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(pair: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn only_users_with_their_password_get_in_and_pulls_may_be_open() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        let hash = bcrypt::hash("s3cret", 4).unwrap();
        std::fs::write(&file, format!("# people\n\nana:{hash}\n")).unwrap();
        let mut access = Access::read(&file).unwrap();
        for _ in 0..2 {
            assert!(access.allows(&basic("ana:s3cret"), true));
        }
        for wrong in ["ana:other", "bob:s3cret", "ana", ""] {
            assert!(!access.allows(&basic(wrong), false), "{wrong}");
        }
        assert!(!access.allows(&HeaderMap::new(), false));
        access.anonymous_pull = true;
        assert!(access.allows(&HeaderMap::new(), false) && !access.allows(&HeaderMap::new(), true));
        assert!(!access.allows(&basic("ana:other"), false), "who says who he is must be right");
        assert!(Access::open().allows(&HeaderMap::new(), true));
        std::fs::write(&file, "ana:{SHA}x\n").unwrap();
        let error = Access::read(&file).unwrap_err().to_string();
        assert!(error.contains("users:1: want NAME:HASH"), "{error}");
    }
}
