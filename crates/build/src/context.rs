//! The context of a build: a folder, whatever it came as.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use image::is_archive;

use crate::client::{Definition, Remote};
use crate::error::{BuildError, Result};
use crate::files::root::Root;
use crate::options::{Context, Environment, Options, Source};
use crate::pattern::Ignore;
use crate::progress::Steps;
use crate::run::canceled;

/// A context that can be copied from.
pub struct Prepared {
    pub root: Arc<Root>,
}

/// The Dockerfile's text and what is left out of the context.
pub struct Loaded {
    pub name: String,
    pub text: String,
    pub ignore: Ignore,
}

/// Makes a folder of a context; what has to be unpacked or fetched goes below `work`.
pub fn prepare(context: Context, options: &Options, env: &Environment<'_>, work: &Path) -> Result<Prepared> {
    let store = &env.store;
    let path = match context {
        Context::Remote(_) => return Err(BuildError::new("the client gives its files itself")),
        Context::Dir(path) => {
            let real = path.canonicalize().map_err(|e| BuildError::io("unable to prepare context: path", &path, &e))?;
            if !real.is_dir() {
                return Err(BuildError::new(format!(
                    "unable to prepare context: path {} is not a folder",
                    path.display()
                )));
            }
            real
        }
        Context::Tar(source) => {
            let dir = work.join("context");
            std::fs::create_dir(&dir).map_err(|e| BuildError::io("make", &dir, &e))?;
            store.extract("build context", source, &dir, options.context_max_bytes)?;
            dir
        }
        Context::Url(url) => {
            let (dir, part) = (work.join("context"), work.join("download"));
            std::fs::create_dir(&dir).map_err(|e| BuildError::io("make", &dir, &e))?;
            env.runtime.block_on(async {
                tokio::select! {
                    got = store.download(&url, &part) => Ok(got.map(drop)?),
                    () = canceled(env.cancel.clone()) => Err(BuildError::canceled()),
                }
            })?;
            let open = || File::open(&part).map_err(|e| BuildError::io("open", &part, &e));
            if is_archive(open()?) {
                store.extract(&url, open()?, &dir, options.context_max_bytes)?;
            } else {
                // What is no archive is a Dockerfile.
                let alone = dir.join("Dockerfile");
                std::fs::rename(&part, &alone).map_err(|e| BuildError::io("rename to", &alone, &e))?;
            }
            dir
        }
        Context::Git(url) => {
            let dir = work.join("context");
            clone(&url, &dir, false)?
        }
    };
    Prepared::of(&path)
}

impl Prepared {
    /// Of a folder.
    pub fn of(path: &Path) -> Result<Prepared> {
        let root = Root::open(path).map_err(|e| BuildError::io("open", path, &e))?;
        Ok(Prepared { root: Arc::new(root) })
    }
}

/// Asks a client for the Dockerfile and its patterns, whose text comes with it.
pub fn ask(remote: &mut dyn Remote, steps: &Steps<'_>) -> Result<(Loaded, String)> {
    let title = format!("[internal] load build definition from {}", remote.name());
    let Definition { name, text, ignore } = steps.within(title, |step| {
        let definition = remote.definition()?;
        step.say(&format!("transferring dockerfile: {}B", definition.text.len()));
        Ok(definition)
    })?;
    let patterns = steps.within("[internal] load .dockerignore".to_owned(), |_| match ignore {
        Some(own) => Ok(own),
        None => Ok(remote.ignore()?.unwrap_or_default()),
    })?;
    let ignore = read_ignore(&patterns)?;
    Ok((Loaded { name, text, ignore }, patterns))
}

fn read_ignore(patterns: &str) -> Result<Ignore> {
    Ignore::read(patterns).map_err(|e| BuildError::new(format!("failed to parse .dockerignore: {e}")))
}

/// Reads the Dockerfile and its patterns.
pub fn load(source: &Source, context: &Prepared) -> Result<Loaded> {
    let read = |path: &str| {
        context
            .root
            .text(Path::new(path))
            .map_err(|e| BuildError::io("failed to read dockerfile: open", Path::new(path), &e))
    };
    let (name, text, own) = match source {
        Source::Text { name, text, ignore } => (name.clone(), text.clone(), ignore.clone()),
        Source::InContext(path) => {
            let missing =
                || BuildError::new(format!("failed to read dockerfile: open {path}: no such file or directory"));
            (path.clone(), read(path)?.ok_or_else(missing)?, read(&format!("{path}.dockerignore"))?)
        }
    };
    let patterns = match own {
        Some(own) => Some(own),
        None => read(".dockerignore")?,
    };
    let ignore = read_ignore(&patterns.unwrap_or_default())?;
    Ok(Loaded { name, text, ignore })
}

/// A small file in a folder that nothing leads out of; `None` when it is not there.
///
/// # Errors
/// When it cannot be read.
pub fn text_in(folder: &Path, name: &Path) -> std::io::Result<Option<String>> {
    Root::open(folder)?.text(name)
}

/// Whether a text is the address of a repository, as Docker tells it from a file's.
pub fn is_git(text: &str) -> bool {
    let (address, _) = text.split_once('#').unwrap_or((text, ""));
    text.starts_with("git@")
        || text.starts_with("git://")
        || text.starts_with("ssh://")
        || ((text.starts_with("https://") || text.starts_with("http://")) && address.ends_with(".git"))
}

/// Fetches one state of a repository, `url#ref:folder`, into a new folder and says which folder is meant.
pub fn clone(url: &str, into: &Path, keep_git_dir: bool) -> Result<PathBuf> {
    let (address, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
    if address.starts_with('-') || reference.starts_with('-') {
        return Err(BuildError::new(format!("invalid git address {url:?}")));
    }
    std::fs::create_dir_all(into).map_err(|e| BuildError::io("make", into, &e))?;
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(into).args(args).stdin(Stdio::null()).env("GIT_TERMINAL_PROMPT", "0");
        let output = command.output().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                BuildError::new(format!("{url} is a git repository, and this host has no git: install it"))
            }
            _ => BuildError::new(format!("git: {e}")),
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(BuildError::new(format!("git {} {address}: {}", args[0], said.trim())))
    };
    git(&["init", "--quiet"])?;
    git(&["fetch", "--quiet", "--depth", "1", "--", address, if reference.is_empty() { "HEAD" } else { reference }])?;
    git(&["-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD"])?;
    if !keep_git_dir {
        let dir = into.join(".git");
        std::fs::remove_dir_all(&dir).map_err(|e| BuildError::io("remove", &dir, &e))?;
    }
    let root = Root::open(into).map_err(|e| BuildError::io("open", into, &e))?;
    let real =
        root.real(Path::new(folder)).map_err(|e| BuildError::new(format!("folder {folder:?} of {address}: {e}")))?;
    Ok(into.join(real))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_files() {
        for git in ["git@example.com:a/b.git", "https://example.com/a.git#main:sub", "git://x/y", "ssh://git@x/y"] {
            assert!(is_git(git), "{git}");
        }
        for not in ["https://example.com/a.tar.gz", "./a.git", "https://example.com/a#x.git"] {
            assert!(!is_git(not), "{not}");
        }
    }
}
