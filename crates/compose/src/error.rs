//! What is wrong with a Compose file, and where.

use crate::yaml::Place;

/// The result of reading.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong, with the file, the place in it and the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}{key}{message}")]
pub struct Error {
    at: String,
    key: String,
    message: String,
}

impl Error {
    /// Something at a place of a file; `key` is the path to it, as `services.web.ports[0]`, or empty.
    pub fn new(place: &Place, key: &str, message: impl Into<String>) -> Error {
        let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
        Error { at: format!("{place}: "), key, message: message.into() }
    }

    /// Something that has no place.
    pub fn plain(message: impl Into<String>) -> Error {
        Error { at: String::new(), key: String::new(), message: message.into() }
    }
}
