//! `COPY` and `ADD`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::BuiltLayer;

use crate::context;
use crate::dockerfile::Copy;
use crate::error::{BuildError, Result};
use crate::files::root::{Root, by_descriptor};
use crate::files::{Chosen, Modes, Owner, Put, Request, choose, digest, owner_of, put};
use crate::options::Named;
use crate::pattern::{Ignore, clean};
use crate::plan::stage_named;
use crate::run::canceled;
use crate::stage::Building;
use crate::step::{Mounted, key};

/// Mode of a downloaded file (Dockerfile reference, ADD).
const DOWNLOAD_MODE: u32 = 0o600;

/// Where files come from.
pub enum From {
    /// The context, or another one.
    Dir { root: Arc<Root>, ignored: bool },
    /// A stage or image: its layers and what they were made from.
    Layers { layers: Vec<BuiltLayer>, key: String },
}

/// What a copy needs, once all its variables are known.
struct Wanted {
    sources: Vec<String>,
    target: String,
    exclude: Ignore,
    chown: Option<String>,
    modes: Option<Modes>,
    /// All that was said, for the key.
    said: String,
}

impl Building<'_> {
    /// Finds what a `--from` names.
    pub fn source(&self, from: Option<&str>) -> Result<From> {
        let solver = self.solver;
        let Some(from) = from else {
            return Ok(From::Dir { root: solver.context.root.clone(), ignored: true });
        };
        if from.contains('$') {
            return Err(BuildError::new(format!(
                "variable expansion is not supported for --from ({from}), define a new stage with FROM using ARG from global scope as a workaround"
            )));
        }
        if let Some(stage) = stage_named(&solver.file, from, self.stage, &solver.contexts) {
            let done = solver.stage(stage)?;
            return Ok(From::Layers { layers: done.layers.clone(), key: done.key.clone() });
        }
        let reference = match solver.named(from) {
            Some(Named::Dir(path)) => {
                let root = Root::open(path).map_err(|e| BuildError::io("open context", path, &e))?;
                return Ok(From::Dir { root: Arc::new(root), ignored: false });
            }
            Some(Named::Image(reference)) => reference,
            None => from,
        };
        let done = solver.finished_image(reference)?;
        Ok(From::Layers { layers: done.layers, key: done.key })
    }

    /// `COPY` or `ADD`.
    pub fn copy(&mut self, copy: &Copy, text: &str) -> Result<()> {
        let wanted = self.wanted(copy)?;
        let extra = self.gather(copy, &wanted)?;
        let title = self.title(text);
        let source = match extra.rest.is_empty() {
            true => None,
            false => Some(self.source(copy.from.as_deref())?),
        };
        let link = copy.link.to_string();
        let base = if copy.link { "link" } else { self.key.as_str() };
        // First by what the source was made from: then its files need not be looked at.
        let (quick, view) = match &source {
            Some(From::Layers { layers, key: made_from }) => {
                let quick = key(["copy from", base, made_from, &wanted.said, &extra.digest]);
                let known = !self.solver.options.no_cache && self.solver.env.store.recall(&quick)?.is_some();
                (Some(quick), (!known).then(|| Mounted::new(self.solver, layers)).transpose()?)
            }
            _ => (None, None),
        };
        let chosen = match (&source, &view) {
            (Some(From::Dir { root, ignored }), _) => {
                self.choose(copy, &wanted, &extra.rest, root.clone(), *ignored)?
            }
            (Some(From::Layers { .. }), Some(view)) => {
                self.choose(copy, &wanted, &extra.rest, Arc::new(view.root()?), false)?
            }
            _ => Vec::new(),
        };
        let key = match quick {
            Some(quick) => quick,
            None => key(["copy", base, &digest(&chosen)?, &wanted.said, &extra.digest]),
        };
        let below: &[BuiltLayer] = if copy.link { &[] } else { &self.layers };
        let outcome = self.solver.step(title, &key, below, |mounted, _| {
            let into = mounted.root()?;
            let owner = self.owner(&wanted, &into, copy.link)?;
            let how = |target| Put { into: &into, target, owner, modes: wanted.modes.as_ref(), parents: copy.parents };
            // Known a moment ago, and forgotten since.
            let late = match (&source, &view) {
                (Some(From::Layers { layers, .. }), None) => Some(Mounted::new(self.solver, layers)?),
                _ => None,
            };
            let chosen = match &late {
                Some(late) => self.choose(copy, &wanted, &extra.rest, Arc::new(late.root()?), false)?,
                None => chosen,
            };
            let (archives, plain) = split_archives(copy, chosen)?;
            let mut files = extra.files.clone();
            files.extend(plain);
            // Several things, or one that must be in a folder: then the target is one, as if it had a slash.
            let several = files.len() + archives.len() > 1 || wanted.sources.len() > 1;
            let folder = format!("{}/", wanted.target.trim_end_matches('/'));
            put(&files, &how(if several { &folder } else { &wanted.target }))?;
            for archive in archives.iter().chain(&extra.archives) {
                self.unpack(archive, &into, &wanted.target, owner, &wanted)?;
            }
            Ok(())
        })?;
        let chained = crate::step::key([self.key.as_str(), &key, &link]);
        let chained = if copy.link { chained } else { key };
        self.take(outcome, chained, &format!("{text} # buildkit"));
        Ok(())
    }

    fn wanted(&self, copy: &Copy) -> Result<Wanted> {
        let all = |list: &[String]| list.iter().map(|s| self.expand(s)).collect::<Result<Vec<_>>>();
        let sources = copy.sources.iter().map(|s| if s.starts_with("<<") { Ok(s.clone()) } else { self.expand(s) });
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let exclude = all(&copy.exclude)?;
        let target = self.expand(&copy.target)?;
        let chown = copy.chown.as_ref().map(|c| self.expand(c)).transpose()?;
        let chmod = copy.chmod.as_ref().map(|c| self.expand(c)).transpose()?;
        let target = self.absolute(&target);
        let flags = (copy.parents, copy.unpack, copy.keep_git_dir, copy.add, copy.link);
        let said = format!("{:?}", (&sources, &target, &exclude, &chown, &chmod, flags, self.solver.options.epoch));
        let bad = |e| BuildError::new(format!("--exclude: {e}"));
        let exclude = Ignore::of(exclude.iter().map(String::as_str)).map_err(bad)?;
        let modes = chmod.as_deref().map(Modes::read).transpose()?;
        Ok(Wanted { sources, target, exclude, chown, modes, said })
    }

    fn choose(
        &self,
        copy: &Copy,
        wanted: &Wanted,
        sources: &[String],
        root: Arc<Root>,
        ignored: bool,
    ) -> Result<Vec<Chosen>> {
        let nothing = Ignore::default();
        let ignore = if ignored { &self.solver.ignore } else { &nothing };
        let request = Request { root, sources, ignore, exclude: &wanted.exclude, parents: copy.parents };
        choose(&request).map_err(|e| BuildError::new(format!("failed to calculate checksum of the files to copy: {e}")))
    }

    fn owner(&self, wanted: &Wanted, into: &Root, link: bool) -> Result<Owner> {
        let Some(chown) = wanted.chown.as_deref().filter(|c| !c.is_empty()) else { return Ok(Owner::default()) };
        let numbers = chown.split(':').all(|part| part.is_empty() || part.parse::<u32>().is_ok());
        if link && !numbers {
            // The layer stands alone, but names are those of the image it is part of.
            let below = Mounted::new(self.solver, &self.layers)?;
            return Ok(owner_of(&below.root()?, chown)?);
        }
        Ok(owner_of(into, chown)?)
    }

    /// What is not in the source: heredocs, downloads, repositories.
    fn gather(&self, copy: &Copy, wanted: &Wanted) -> Result<Extra> {
        let mut extra = Extra::default();
        let mut dir: Option<PathBuf> = None;
        for source in &wanted.sources {
            let heredoc = source.strip_prefix("<<").and_then(|n| copy.heredocs.get(n.parse::<usize>().ok()?));
            let remote = copy.add && (source.starts_with("http://") || source.starts_with("https://"));
            let git = copy.add && context::is_git(source);
            if heredoc.is_none() && !remote && !git {
                extra.rest.push(source.clone());
                continue;
            }
            let place = match &dir {
                Some(dir) => dir,
                None => dir.insert(self.solver.work_dir()?),
            };
            let own = place.join(extra.count.to_string());
            extra.count += 1;
            fs::create_dir(&own).map_err(|e| BuildError::io("make", &own, &e))?;
            if let Some(heredoc) = heredoc {
                let text = if heredoc.expand { self.expand_heredoc(&heredoc.text())? } else { heredoc.text() };
                write_file(&own.join(file_name(&heredoc.name)), text.as_bytes(), 0o644)?;
                extra.add(&own, false)?;
            } else if git && copy.checksum.is_some() {
                return Err(BuildError::new(
                    "a checksum of a git repository is not supported: name the commit after #",
                ));
            } else if git {
                let from = context::clone(source, &own.join("repository"), copy.keep_git_dir)?;
                extra.add_folder(&from)?;
            } else {
                self.download(source, copy, wanted, &own, &mut extra)?;
            }
        }
        if copy.checksum.is_some() && !wanted.sources.iter().any(|s| s.starts_with("http")) {
            return Err(BuildError::new("checksum can't be specified for files of the context"));
        }
        let all = [extra.files.as_slice(), extra.archives.as_slice()].concat();
        extra.digest = digest(&all)?;
        Ok(extra)
    }

    /// Variables in a document; its quotes are text.
    fn expand_heredoc(&self, text: &str) -> Result<String> {
        let escape = self.solver.file.directives.escape;
        let mut quoted = String::with_capacity(text.len());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            // As in a shell's document, an escape counts before a variable and itself only.
            if c == escape && chars.peek().is_some_and(|next| *next == '$' || *next == escape) {
                quoted.push(c);
                quoted.extend(chars.next());
                continue;
            }
            if c == '"' || c == '\'' || c == escape {
                quoted.push(escape);
            }
            quoted.push(c);
        }
        self.expand(&quoted)
    }

    fn download(&self, url: &str, copy: &Copy, wanted: &Wanted, own: &Path, extra: &mut Extra) -> Result<()> {
        let path = url.split(['?', '#']).next().unwrap_or(url);
        let last = path.split_once("://").map_or("", |(_, rest)| rest).split_once('/').map_or("", |(_, p)| p);
        let last = last.rsplit('/').next().unwrap_or_default();
        let part = own.join("download");
        let solver = self.solver;
        let cancel = solver.stop.subscribe();
        let got = solver.steps.within(url.to_owned(), |_| {
            solver.env.runtime.block_on(async {
                tokio::select! {
                    got = solver.env.store.download(url, &part) => Ok(got?),
                    () = canceled(cancel) => Err(BuildError::canceled()),
                }
            })
        })?;
        if let Some(expected) = &copy.checksum {
            let expected = self.expand(expected)?;
            if got.digest.as_str() != expected {
                return Err(BuildError::new(format!("digest mismatch {}: {expected}", got.digest)));
            }
        }
        let named = if last.is_empty() { got.file_name.clone() } else { Some(last.to_owned()) };
        let name = match named {
            Some(name) => file_name(&name),
            None if !wanted.target.ends_with('/') => "download".to_owned(),
            None => return Err(BuildError::new(format!("cannot determine filename for source {url}"))),
        };
        let file = own.join(&name);
        if file != part {
            fs::rename(&part, &file).map_err(|e| BuildError::io("rename to", &file, &e))?;
        }
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(DOWNLOAD_MODE))
            .map_err(|e| BuildError::io("change the mode of", &file, &e))?;
        let when = got.last_modified.as_deref().and_then(|t| jiff::fmt::rfc2822::parse(t).ok());
        let seconds = when.map_or(0, |t| u64::try_from(t.timestamp().as_second()).unwrap_or(0));
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::options()
            .write(true)
            .open(&file)
            .and_then(|f| f.set_modified(time))
            .map_err(|e| BuildError::io("set the time of", &file, &e))?;
        extra.add(own, copy.unpack == Some(true))
    }

    fn unpack(&self, archive: &Chosen, into: &Root, target: &str, owner: Owner, wanted: &Wanted) -> Result<()> {
        let Some(entry) = archive.entries.first() else { return Ok(()) };
        let file = archive.root.exact_file(&entry.source)?;
        let what = archive.name.display().to_string();
        if wanted.chown.is_some() || wanted.modes.is_some() {
            // Unpacked aside, then copied with the owner asked for.
            let aside = self.solver.work_dir()?;
            self.solver.env.store.extract(&what, file, &aside, u64::MAX)?;
            let mut extra = Extra::default();
            extra.add_folder(&aside)?;
            let how = Put { into, target, owner, modes: wanted.modes.as_ref(), parents: false };
            return Ok(put(&extra.files, &how)?);
        }
        let (dir, _) = into.make_dirs(Path::new(target), (0, 0), 0o755)?;
        // A real path: an archive is taken apart in a folder that is no link.
        let place = fs::read_link(by_descriptor(&dir, "".as_ref()).components().as_path())?;
        Ok(self.solver.env.store.extract(&what, file, &place, u64::MAX)?)
    }
}

#[derive(Default)]
struct Extra {
    files: Vec<Chosen>,
    archives: Vec<Chosen>,
    /// Sources that are in the context or stage.
    rest: Vec<String>,
    digest: String,
    count: usize,
}

impl Extra {
    /// The only file of a folder.
    fn add(&mut self, own: &Path, unpack: bool) -> Result<()> {
        let all = Self::choose(own, "*")?;
        if unpack {
            self.archives.extend(all)
        } else {
            self.files.extend(all)
        }
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        self.files.extend(Self::choose(folder, ".")?);
        Ok(())
    }

    fn choose(folder: &Path, what: &str) -> Result<Vec<Chosen>> {
        let root = Arc::new(Root::open(folder).map_err(|e| BuildError::io("open", folder, &e))?);
        let nothing = Ignore::default();
        let sources = [what.to_owned()];
        let request = Request { root, sources: &sources, ignore: &nothing, exclude: &nothing, parents: false };
        Ok(choose(&request)?)
    }
}

fn file_name(text: &str) -> String {
    clean(text).rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or("file").to_owned()
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let write = || {
        fs::write(path, bytes)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        // What is made of text has no time of its own: the same text is the same file.
        fs::File::options().write(true).open(path)?.set_modified(std::time::SystemTime::UNIX_EPOCH)
    };
    write().map_err(|e| BuildError::io("write", path, &e))
}

/// Archives that `ADD` takes apart, and the rest.
fn split_archives(copy: &Copy, chosen: Vec<Chosen>) -> Result<(Vec<Chosen>, Vec<Chosen>)> {
    if !copy.add || copy.unpack == Some(false) {
        return Ok((Vec::new(), chosen));
    }
    let (mut archives, mut plain) = (Vec::new(), Vec::new());
    for chosen in chosen {
        let is_archive = match chosen.entries.first() {
            Some(entry) if !chosen.is_dir() => archive(&chosen, &entry.source)?,
            _ => false,
        };
        if is_archive { archives.push(chosen) } else { plain.push(chosen) }
    }
    Ok((archives, plain))
}

/// Whether a file is an archive, by its content; one in a form that is not read here is refused, not copied as it is.
fn archive(chosen: &Chosen, path: &Path) -> Result<bool> {
    let open = || chosen.root.exact_file(path);
    let Ok(mut file) = open() else { return Ok(false) };
    let mut head = [0u8; 6];
    let n = file.read(&mut head)?;
    let other = [(&b"\xfd7zXZ\0"[..], "xz"), (&b"BZh"[..], "bzip2")];
    if let Some((_, kind)) = other.iter().find(|(magic, _)| head[..n].starts_with(magic)) {
        let name = chosen.name.display();
        return Err(BuildError::new(format!(
            "{name} is compressed with {kind}, which cannot be taken apart here: use gzip or zstd, or --unpack=false"
        )));
    }
    Ok(image::is_archive(open()?))
}
