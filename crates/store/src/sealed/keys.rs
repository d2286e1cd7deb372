//! The keys with which values are sealed, and the file that holds them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// Keys of one file at most: the newest seals, the others only open.
pub const KEYS_MAX: usize = 32;
/// Bytes of a key (AES-256).
const KEY_BYTES: usize = 32;
/// Begins every sealed value; JSON, which is what is stored otherwise, begins with `{`.
const MAGIC: &[u8] = b"\0wl-sealed:1:";
/// Characters of a key's name.
const NAME_CHARS: usize = 8;

/// What is wrong with keys or a sealed value.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file cannot be read or written.
    #[error("cannot use the key file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not one of keys.
    #[error("{} line {line}: {what}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The value was sealed with a key that is not there.
    #[error("the value was sealed with key {0:?}, which is not in the key file")]
    UnknownKey(String),
    /// The value was changed, or belongs to another key of the store.
    #[error("the value does not open: it was changed, or moved from elsewhere")]
    Broken,
    /// No random bytes from the kernel, or a limit of the cipher.
    #[error("the cipher failed")]
    Cipher,
    /// [`KEYS_MAX`].
    #[error("the key file holds {KEYS_MAX} keys already; remove old ones that no backup needs")]
    Full,
}

struct Key {
    name: String,
    secret: [u8; KEY_BYTES],
    cipher: LessSafeKey,
}

impl Key {
    fn new(name: String, secret: [u8; KEY_BYTES]) -> Result<Self, SealError> {
        let unbound = UnboundKey::new(&AES_256_GCM, &secret).map_err(|_| SealError::Cipher)?;
        Ok(Key { name, secret, cipher: LessSafeKey::new(unbound) })
    }

    fn generate() -> Result<Self, SealError> {
        let random = SystemRandom::new();
        let mut secret = [0u8; KEY_BYTES];
        let mut name = [0u8; NAME_CHARS / 2];
        random.fill(&mut secret).map_err(|_| SealError::Cipher)?;
        random.fill(&mut name).map_err(|_| SealError::Cipher)?;
        Key::new(hex::encode(name), secret)
    }
}

/// The keys, the newest first. AES-256-GCM with a random nonce for each value: rotate well before 2^32 writes with one
/// key (NIST SP 800-38D, section 8.3).
pub struct Keyring {
    path: PathBuf,
    keys: Vec<Key>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("path", &self.path).field("keys", &self.names()).finish()
    }
}

impl Keyring {
    /// Reads the file, or makes it with one new key, readable by its owner alone.
    ///
    /// # Errors
    /// When it cannot be read or written, or holds something else.
    pub fn open(path: &Path) -> Result<Self, SealError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Keyring::parse(path, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let ring = Keyring { path: path.to_path_buf(), keys: vec![Key::generate()?] };
                ring.write()?;
                Ok(ring)
            }
            Err(source) => Err(SealError::File { path: path.to_path_buf(), source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SealError> {
        let mut keys = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
            let bad = |what| SealError::Malformed { path: path.to_path_buf(), line: at + 1, what };
            let (name, secret) = line.split_once(' ').ok_or_else(|| bad("expected NAME and KEY"))?;
            if name.len() != NAME_CHARS || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad("the name of a key is 8 hexadecimal digits"));
            }
            let mut bytes = [0u8; KEY_BYTES];
            hex::decode_to_slice(secret.trim(), &mut bytes).map_err(|_| bad("a key is 64 hexadecimal digits"))?;
            keys.push(Key::new(name.to_owned(), bytes)?);
        }
        match keys.len() {
            0 => Err(SealError::Malformed { path: path.to_path_buf(), line: 1, what: "the file holds no key" }),
            n if n > KEYS_MAX => Err(SealError::Full),
            _ => Ok(Keyring { path: path.to_path_buf(), keys }),
        }
    }

    /// Puts a new key before the others and writes the file. What was sealed before can still be opened.
    ///
    /// # Errors
    /// When the file cannot be written or is full.
    pub fn rotate(&mut self) -> Result<(), SealError> {
        if self.keys.len() >= KEYS_MAX {
            return Err(SealError::Full);
        }
        self.keys.insert(0, Key::generate()?);
        self.write()
    }

    /// Replaced in one step and synced: a crash leaves the old file or the new one.
    fn write(&self) -> Result<(), SealError> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let at = |source| SealError::File { path: self.path.clone(), source };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
        let temporary = self.path.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(at)?;
        let mut text =
            String::from("# Keys that seal Secrets in the store, the newest first. Without them Secrets are lost.\n");
        for key in &self.keys {
            text.push_str(&format!("{} {}\n", key.name, hex::encode(key.secret)));
        }
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at)?;
        std::fs::rename(&temporary, &self.path).map_err(at)?;
        std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(at)
    }

    /// Names of the keys, the one that seals first.
    pub fn names(&self) -> Vec<&str> {
        self.keys.iter().map(|k| k.name.as_str()).collect()
    }

    /// Whether the value is sealed with the newest key.
    pub fn is_current(&self, value: &[u8]) -> bool {
        sealed_with(value).is_some_and(|name| self.keys.first().is_some_and(|k| k.name.as_bytes() == name))
    }

    /// Seals the value of the store's key `place`: it opens nowhere else.
    ///
    /// # Errors
    /// [`SealError::Cipher`].
    pub fn seal(&self, place: &[u8], value: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.keys.first().ok_or(SealError::Cipher)?;
        let mut nonce = [0u8; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::Cipher)?;
        let mut out = Vec::with_capacity(MAGIC.len() + NAME_CHARS + NONCE_LEN + value.len() + AES_256_GCM.tag_len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(key.name.as_bytes());
        out.extend_from_slice(&nonce);
        let at = out.len();
        out.extend_from_slice(value);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.cipher.seal_in_place_separate_tag(nonce, Aad::from(place), &mut out[at..]);
        out.extend_from_slice(tag.map_err(|_| SealError::Cipher)?.as_ref());
        Ok(out)
    }

    /// Opens a value; `None` when it was never sealed.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`], [`SealError::Broken`].
    pub fn open_value(&self, place: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, SealError> {
        let Some(name) = sealed_with(value) else { return Ok(None) };
        let key = self.keys.iter().find(|k| k.name.as_bytes() == name);
        let key = key.ok_or_else(|| SealError::UnknownKey(String::from_utf8_lossy(name).into_owned()))?;
        let (nonce, sealed) = value[MAGIC.len() + NAME_CHARS..].split_at_checked(NONCE_LEN).ok_or(SealError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken)?;
        let mut buffer = sealed.to_vec();
        let opened = key.cipher.open_in_place(nonce, Aad::from(place), &mut buffer).map_err(|_| SealError::Broken)?;
        let length = opened.len();
        buffer.truncate(length);
        Ok(Some(buffer))
    }
}

/// The name of the key that sealed it.
fn sealed_with(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(MAGIC)?.get(..NAME_CHARS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn ring() -> (tempfile::TempDir, Keyring) {
        let dir = tempfile::tempdir().unwrap();
        let ring = Keyring::open(&dir.path().join("keys")).unwrap();
        (dir, ring)
    }

    #[test]
    fn what_is_sealed_opens_only_in_its_place_and_unchanged() {
        let (_dir, ring) = ring();
        let sealed = ring.seal(b"/a", b"{\"password\":1}").unwrap();
        assert!(!sealed.windows(8).any(|w| w == b"password"));
        assert_eq!(ring.open_value(b"/a", &sealed).unwrap().unwrap(), b"{\"password\":1}");
        assert!(matches!(ring.open_value(b"/b", &sealed), Err(SealError::Broken)));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(!matches!(ring.open_value(b"/a", &changed), Ok(Some(_))), "byte {at}");
        }
        assert!(matches!(ring.open_value(b"/a", &sealed[..30]), Err(SealError::Broken)));
        assert_ne!(sealed, ring.seal(b"/a", b"{\"password\":1}").unwrap(), "a nonce of its own each time");
        assert_eq!(ring.open_value(b"/a", b"{}").unwrap(), None, "never sealed");
    }

    #[test]
    fn an_older_key_opens_what_it_sealed_and_the_newest_seals() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, mut ring) = ring();
        let before = ring.seal(b"/a", b"x").unwrap();
        assert!(ring.is_current(&before));
        ring.rotate().unwrap();
        assert!(!ring.is_current(&before));
        let again = Keyring::open(&ring.path).unwrap();
        assert_eq!(again.names(), ring.names());
        assert_eq!(again.open_value(b"/a", &before).unwrap().unwrap(), b"x");
        assert_eq!(std::fs::metadata(&ring.path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = Keyring { path: ring.path.clone(), keys: vec![Key::generate().unwrap()] };
        assert!(matches!(other.open_value(b"/a", &before), Err(SealError::UnknownKey(_))));
    }

    #[test]
    fn a_file_of_something_else_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        for (text, line) in
            [("", 1), ("# only words\n", 1), ("# a\nabc def\n", 2), ("0011aabb 12\n", 1), ("nokey\n", 1)]
        {
            std::fs::write(&path, text).unwrap();
            match Keyring::open(&path) {
                Err(SealError::Malformed { line: at, .. }) => assert_eq!(at, line, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }
}
