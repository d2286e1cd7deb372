//! The client in its session, as the builder asks it.

use std::any::Any;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use buildkit::{ReceiveLimits, Session, SessionError, Wanted};
use engine::build::{Client, Definition, Remote, Used, pattern};
use image::{Auth, DEFAULT_REGISTRY, Reference};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::asked::Asked;
use super::synced::Synced;

/// Files and folders of a context at most.
const ENTRIES_MAX: u32 = 1 << 20;
/// Bytes of a Dockerfile and its patterns at most.
const TEXT_MAX: u64 = 32 << 20;
/// What Docker's clients call the registry of Docker Hub.
const HUB: &str = "registry-1.docker.io";

/// What asks a session for files.
pub struct Files {
    /// The client.
    pub session: Arc<Session>,
    /// Where its calls run.
    pub runtime: Handle,
    /// Ends a transfer.
    pub cancel: watch::Receiver<bool>,
    /// Folders that are kept.
    pub all: PathBuf,
    /// A folder of this build's own.
    pub work: PathBuf,
    /// Bytes of a folder at most.
    pub bytes: u64,
}

impl Files {
    fn receive(
        &self,
        wanted: Wanted<'_>,
        into: &Path,
        aside: &Path,
        bytes: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<buildkit::Received, String> {
        let limits = ReceiveLimits { bytes, entries: ENTRIES_MAX };
        let received = async {
            tokio::select! {
                received = self.session.receive(wanted, into, aside, limits, progress) => received,
                () = engine::build::canceled(self.cancel.clone()) => Err(SessionError::Wrong("canceled".to_owned())),
            }
        };
        self.runtime.block_on(received).map_err(|e| e.to_string())
    }

    /// Some small files of a folder, by name; what is not there is `None`.
    fn texts(&self, dir: &str, names: &[String]) -> Result<Vec<Option<String>>, String> {
        let place = Synced::take(&self.all, None, &self.work, "texts").map_err(|e| e.to_string())?;
        let wanted = Wanted { dir, follow: names, ..Wanted::default() };
        self.receive(wanted, &place.tree(), &place.aside(), TEXT_MAX, &|_| {})?;
        let tree = place.tree();
        let read = |name: &String| engine::build::text_in(&tree, Path::new(name)).map_err(|e| e.to_string());
        names.iter().map(read).collect()
    }

    /// The Dockerfile.
    ///
    /// # Errors
    /// When there is none.
    pub fn definition(&self, dir: &str, filename: &str) -> Result<Definition, String> {
        let mut names = vec![filename.to_owned(), format!("{filename}.dockerignore")];
        let path = Path::new(filename);
        if path.file_name().is_some_and(|n| n == "Dockerfile") {
            names.push(path.with_file_name("dockerfile").display().to_string());
        }
        let mut found = self.texts(dir, &names)?.into_iter();
        let (own, ignore, lower) = (found.next().flatten(), found.next().flatten(), found.next().flatten());
        let missing = || format!("failed to read dockerfile: open {filename}: no such file or directory");
        Ok(Definition { name: filename.to_owned(), text: own.or(lower).ok_or_else(missing)?, ignore })
    }

    /// The patterns of a folder's `.dockerignore`.
    ///
    /// # Errors
    /// When it cannot be said.
    pub fn patterns(&self, dir: &str) -> Result<Vec<String>, String> {
        let text = self.texts(dir, &[".dockerignore".to_owned()])?.into_iter().next().flatten().unwrap_or_default();
        Ok(patterns(&text))
    }

    /// A folder with all that is wanted of one of the client's.
    ///
    /// # Errors
    /// When it does not come.
    pub fn folder(
        &self,
        place: &Synced,
        dir: &str,
        follow: &[String],
        exclude: &[String],
        say: &dyn Fn(&str),
    ) -> Result<PathBuf, String> {
        let wanted = Wanted { dir, follow, exclude };
        let received = self.receive(wanted, &place.tree(), &place.aside(), self.bytes, &|_| {})?;
        place.measured(received);
        say(&format!("transferring context: {}B in {} files", received.bytes, received.files));
        place.tree().canonicalize().map_err(|e| e.to_string())
    }
}

/// The patterns of a `.dockerignore` as clients take them: clean, without slashes before them.
fn patterns(text: &str) -> Vec<String> {
    let clean = |line: &str| {
        let (keep, rest) = line.strip_prefix('!').map_or(("", line), |rest| ("!", rest.trim()));
        let clean = pattern::clean(rest);
        (!clean.is_empty()).then(|| format!("{keep}{clean}"))
    };
    pattern::lines(text).filter_map(clean).collect()
}

/// The main context and the Dockerfile.
pub struct Main {
    /// Asks.
    pub files: Files,
    /// The Dockerfile's folder.
    pub dockerfile: String,
    /// Its name there.
    pub filename: String,
    /// The context's folder.
    pub context: String,
    /// Where it is held, once it is.
    pub place: Arc<parking_lot::Mutex<Option<Synced>>>,
}

impl Remote for Main {
    fn name(&self) -> &str {
        &self.filename
    }

    fn definition(&mut self) -> Result<Definition, String> {
        self.files.definition(&self.dockerfile, &self.filename)
    }

    fn ignore(&mut self) -> Result<Option<String>, String> {
        Ok(self.files.texts(&self.context, &[".dockerignore".to_owned()])?.into_iter().next().flatten())
    }

    fn folder(&mut self, used: &Used, ignore: &str, say: &dyn Fn(&str)) -> Result<PathBuf, String> {
        let exclude = patterns(ignore);
        let follow = match used {
            Used::Paths(paths) => paths.clone(),
            Used::All => Vec::new(),
        };
        let mut held = self.place.lock();
        let place = match held.take() {
            Some(place) => place,
            None => {
                let key = Asked::key(&self.files.session.shared_key, &self.context, &follow, &exclude);
                Synced::take(&self.files.all, key, &self.files.work, "context").map_err(|e| e.to_string())?
            }
        };
        let tree = match used {
            // Nothing is wanted, which the client would take for everything.
            Used::Paths(paths) if paths.is_empty() => {
                std::fs::create_dir_all(place.tree()).map_err(|e| e.to_string()).map(|()| place.tree())
            }
            _ => self.files.folder(&place, &self.context, &follow, &exclude, say),
        };
        *held = Some(place);
        tree
    }
}

/// The client, for secrets, credentials and agents.
pub struct Asking {
    /// It.
    pub session: Arc<Session>,
    /// Where its calls run.
    pub runtime: Handle,
}

impl Client for Asking {
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, String> {
        self.runtime.block_on(self.session.secret(id)).map_err(|e| e.to_string())
    }

    fn credentials(&self, reference: &Reference) -> Result<Option<Auth>, String> {
        let host = if reference.registry() == DEFAULT_REGISTRY { HUB } else { reference.registry() };
        let found = self.runtime.block_on(self.session.credentials(host)).map_err(|e| e.to_string())?;
        Ok(found.map(|known| match known.username.is_empty() {
            true => Auth::IdentityToken(known.secret),
            false => Auth::Basic { username: known.username, password: known.secret },
        }))
    }

    fn agent(&self, id: &str, socket: UnixListener) -> Result<Option<Box<dyn Any + Send>>, String> {
        struct Abort(tokio::task::JoinHandle<()>);
        impl Drop for Abort {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        if !self.runtime.block_on(self.session.has_agent(id)).map_err(|e| e.to_string())? {
            return Ok(None);
        }
        socket.set_nonblocking(true).map_err(|e| e.to_string())?;
        let _inside = self.runtime.enter();
        let listener = tokio::net::UnixListener::from_std(socket).map_err(|e| e.to_string())?;
        // Ends when what mounts it is dropped.
        let answering = self.runtime.spawn(self.session.clone().forward_agent(id.to_owned(), listener));
        Ok(Some(Box::new(Abort(answering))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_clean() {
        assert_eq!(patterns("# a\n/build/\n!  ./keep//x \n.\n\n**/*.log\n"), ["build", "!keep/x", "**/*.log"]);
    }
}
