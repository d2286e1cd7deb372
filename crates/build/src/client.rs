//! Whoever wants a build, as far as it is asked while the build goes on.

use std::any::Any;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use image::{Auth, Reference};

/// Answers what a build asks. All of it blocks, and is never called on a thread of an async runtime.
pub trait Client: Send + Sync {
    /// A secret that the options do not have; `None` when there is none of that id.
    ///
    /// # Errors
    /// Why it cannot be said, in one line.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, String> {
        let _ = id;
        Ok(None)
    }

    /// Who it is for the registry of an image.
    ///
    /// # Errors
    /// Why it cannot be said, in one line.
    fn credentials(&self, reference: &Reference) -> Result<Option<Auth>, String> {
        let _ = reference;
        Ok(None)
    }

    /// Lets the agent of SSH keys of that id answer on a socket, as long as what is returned lives; `None` when there is none.
    ///
    /// # Errors
    /// Why it cannot be said, in one line.
    fn agent(&self, id: &str, socket: UnixListener) -> Result<Option<Box<dyn Any + Send>>, String> {
        let _ = (id, socket);
        Ok(None)
    }
}

/// Nobody.
impl Client for () {}

/// The Dockerfile of a client that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// What it is called in messages.
    pub name: String,
    /// Itself.
    pub text: String,
    /// The patterns that belong to it alone.
    pub ignore: Option<String>,
}

/// What of a context a build copies from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Used {
    /// These paths at most, without wildcards; none when it is empty.
    Paths(Vec<String>),
    /// Nobody knows.
    All,
}

/// A client that keeps its files until they are needed. All of it blocks.
pub trait Remote: Send {
    /// What the Dockerfile is called.
    fn name(&self) -> &str;

    /// The Dockerfile.
    ///
    /// # Errors
    /// Why there is none, in one line.
    fn definition(&mut self) -> Result<Definition, String>;

    /// The context's `.dockerignore`.
    ///
    /// # Errors
    /// Why it cannot be said, in one line.
    fn ignore(&mut self) -> Result<Option<String>, String>;

    /// A folder that has of the context what is used and no pattern leaves out. It stays as it is for the rest of the build,
    /// but for what a later call adds.
    ///
    /// # Errors
    /// Why there is none, in one line.
    fn folder(&mut self, used: &Used, ignore: &str, say: &dyn Fn(&str)) -> Result<PathBuf, String>;
}
