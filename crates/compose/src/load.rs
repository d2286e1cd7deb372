//! From files to one tree: overrides, `include`, `extends`, variables, paths that no longer depend on where a file is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::yaml::{Node, Place, Value};
use crate::{dotenv, interpolate, merge, short, yaml};

/// Names that are looked for, the first that is there counts (compose-spec, "Compose file").
const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
/// What may stand beside it.
const OVERRIDES: [&str; 4] =
    ["compose.override.yaml", "compose.override.yml", "docker-compose.override.yaml", "docker-compose.override.yml"];
/// Most levels of `include` and `extends`.
const LEVELS_MAX: usize = 16;

/// What a path of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A socket, a device.
    Other,
}

/// The world outside: this crate touches nothing itself.
pub trait Host {
    /// The content of a file.
    ///
    /// # Errors
    /// As the system says.
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>>;
    /// A variable of the environment.
    fn env(&self, name: &str) -> Option<String>;
    /// What a path is, links followed; none when it is not there.
    fn kind(&self, path: &Path) -> Option<PathKind>;
}

/// What is to be read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The folder that it is read in, absolute.
    pub dir: PathBuf,
    /// Files, the later over the earlier; none looks for those with the usual names.
    pub files: Vec<PathBuf>,
    /// What relative paths are relative to; none is the folder of the first file.
    pub project_dir: Option<PathBuf>,
    /// Name of the project.
    pub name: Option<String>,
    /// In place of `.env`.
    pub env_files: Vec<PathBuf>,
    /// Profiles that are active.
    pub profiles: Vec<String>,
    /// Services whose profiles count as active.
    pub services: Vec<String>,
}

/// The files of a folder that have the usual names: the first of them and its override.
pub fn find(dir: &Path, host: &dyn Host) -> Vec<PathBuf> {
    let there = |names: &[&str]| {
        names.iter().map(|n| dir.join(n)).find(|p| host.kind(p).is_some_and(|k| k != PathKind::Folder))
    };
    let Some(first) = there(&NAMES) else { return Vec::new() };
    [Some(first), there(&OVERRIDES)].into_iter().flatten().collect()
}

/// Variables: those of the process, then those of files, the nearer file last.
pub struct Env<'a> {
    host: &'a dyn Host,
    vars: BTreeMap<String, String>,
}

impl Env<'_> {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<String> {
        self.host.env(name).or_else(|| self.vars.get(name).cloned())
    }

    /// Adds what a file says and nobody said before.
    fn add(&mut self, path: &Path, optional: bool) -> Result<()> {
        if optional && self.host.kind(path).is_none() {
            return Ok(());
        }
        let text = text(self.host, path)?;
        let read = dotenv::parse(&text, &|n| self.get(n));
        for (name, value) in read.map_err(|m| Error::plain(format!("{}: {m}", path.display())))? {
            if let Some(value) = value {
                self.vars.entry(name).or_insert(value);
            }
        }
        Ok(())
    }
}

/// What was read: one tree, and what it needs to be understood.
pub struct Tree<'a> {
    /// The merged files.
    pub root: Node,
    /// The variables that it was read with.
    pub env: Env<'a>,
    /// The project's folder.
    pub dir: PathBuf,
    /// Variables that have no value.
    pub unset: BTreeSet<String>,
}

/// Reads everything that the options name.
///
/// # Errors
/// The place of what is wrong.
pub fn tree<'a>(options: &Options, host: &'a dyn Host) -> Result<Tree<'a>> {
    let mut files: Vec<PathBuf> = options.files.iter().map(|f| absolute(&options.dir, f)).collect();
    if files.is_empty() {
        files = from_environment(options, host).unwrap_or_else(|| find(&options.dir, host));
    }
    let Some(first) = files.first() else {
        return Err(Error::plain(format!("no Compose file in {}", options.dir.display())));
    };
    let own = first.parent().unwrap_or(&options.dir).to_path_buf();
    let dir = options.project_dir.as_ref().map_or(own, |d| absolute(&options.dir, d));
    let mut env = Env { host, vars: BTreeMap::new() };
    for file in options.env_files.iter().rev() {
        env.add(&absolute(&options.dir, file), false)?;
    }
    if options.env_files.is_empty() {
        env.add(&dir.join(".env"), true)?;
    }
    if let Some(name) = &options.name {
        env.vars.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
    }
    let mut unset = BTreeSet::new();
    let mut loader = Loader { host, unset: &mut unset };
    let root = loader.model(&files, &dir, &env, 0)?;
    Ok(Tree { root, env, dir, unset })
}

/// `COMPOSE_FILE`: several between colons.
fn from_environment(options: &Options, host: &dyn Host) -> Option<Vec<PathBuf>> {
    let text = host.env("COMPOSE_FILE").filter(|t| !t.is_empty())?;
    Some(text.split(':').map(|f| absolute(&options.dir, Path::new(f))).collect())
}

/// A path as seen from a folder, without `.` and `..`.
pub fn absolute(dir: &Path, path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in dir.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// The text of a file.
///
/// # Errors
/// When it cannot be read or is no text.
pub fn text(host: &dyn Host, path: &Path) -> Result<String> {
    let wrong = |e: &dyn std::fmt::Display| Error::plain(format!("read {}: {e}", path.display()));
    String::from_utf8(host.read(path).map_err(|e| wrong(&e))?).map_err(|_| wrong(&"it is not UTF-8"))
}

struct Loader<'a, 'b> {
    host: &'a dyn Host,
    unset: &'b mut BTreeSet<String>,
}

impl Loader<'_, '_> {
    /// Several files over each other, with what they include.
    fn model(&mut self, files: &[PathBuf], dir: &Path, env: &Env<'_>, level: usize) -> Result<Node> {
        let mut root: Option<Node> = None;
        for file in files {
            for document in self.file(file, dir, env)? {
                let document = self.extended(document, file, env)?;
                root = Some(match root {
                    None => merge::clean(document).unwrap_or_else(|| empty(file)),
                    Some(base) => merge::files(base, document)?,
                });
            }
        }
        let mut root = root.unwrap_or_else(|| empty(&files[0]));
        if !matches!(root.value, Value::Map(_)) {
            return Err(Error::new(&root.place, "", format!("a Compose file is a mapping, this is {}", root.kind())));
        }
        if let Some(include) = root.remove("include") {
            let Value::List(items) = include.value else {
                return Err(Error::new(&include.place, "include", "it must be a list".to_owned()));
            };
            for item in items {
                self.include(&mut root, &item, dir, env, level)?;
            }
        }
        Ok(root)
    }

    /// The documents of a file, variables replaced, paths absolute.
    fn file(&mut self, path: &Path, dir: &Path, env: &Env<'_>) -> Result<Vec<Node>> {
        let shown = path.strip_prefix(dir).unwrap_or(path).display().to_string();
        let mut documents = yaml::parse(&shown, &text(self.host, path)?)?;
        for document in &mut documents {
            interpolate::node(document, &|n| env.get(n), self.unset)?;
            paths(document, dir, &|| env.get("HOME"))?;
        }
        Ok(documents)
    }

    fn include(&mut self, root: &mut Node, item: &Node, dir: &Path, env: &Env<'_>, level: usize) -> Result<()> {
        let wrong = |place: &Place, message: String| Error::new(place, "include", message);
        if level >= LEVELS_MAX {
            return Err(wrong(&item.place, format!("more than {LEVELS_MAX} levels; does a file include itself?")));
        }
        let texts = |key: &str| -> Result<Vec<PathBuf>> {
            let Some(node) = item.get(key) else { return Ok(Vec::new()) };
            let all = match &node.value {
                Value::List(items) => items.iter().map(|i| i.text().map(PathBuf::from)).collect(),
                _ => node.text().map(|t| vec![PathBuf::from(t)]),
            };
            all.ok_or_else(|| wrong(&node.place, format!("{key} must be text or a list of texts")))
        };
        let files = match item.text() {
            Some(path) => vec![PathBuf::from(path)],
            None => texts("path")?,
        };
        let unknown =
            item.entries().iter().find(|(k, _)| !["path", "env_file", "project_directory"].contains(&k.as_str()));
        if let Some((key, node)) = unknown {
            return Err(wrong(&node.place, format!("unknown key {key:?}")));
        }
        let files: Vec<PathBuf> = files.iter().map(|f| absolute(dir, f)).collect();
        let Some(first) = files.first() else { return Err(wrong(&item.place, "it names no path".to_owned())) };
        let own = first.parent().unwrap_or(dir).to_path_buf();
        let inner_dir = texts("project_directory")?.first().map_or(own, |d| absolute(dir, d));
        let mut inner_env = Env { host: self.host, vars: env.vars.clone() };
        let env_files = texts("env_file")?;
        for file in env_files.iter().rev() {
            inner_env.add(&absolute(dir, file), false)?;
        }
        if env_files.is_empty() {
            inner_env.add(&inner_dir.join(".env"), true)?;
        }
        let inner = self.model(&files, &inner_dir, &inner_env, level + 1)?;
        let Value::Map(sections) = inner.value else { return Ok(()) };
        for (section, node) in sections {
            let parts = ["services", "volumes", "networks", "secrets", "configs", "models"];
            if !parts.contains(&section.as_str()) {
                continue;
            }
            if root.get(&section).is_none() {
                root.set(&section, Node::at(&node.place, Value::Map(Vec::new())));
            }
            let Some(into) = root.get_mut(&section) else { continue };
            for (name, node) in node.entries() {
                match into.get(name) {
                    Some(own) if !same(own, node) => {
                        let message = format!("{section}.{name} is also in an included file, {}", node.place);
                        return Err(Error::new(&own.place, &section, message));
                    }
                    Some(_) => {}
                    None => into.set(name, node.clone()),
                }
            }
        }
        Ok(())
    }

    /// A file whose services are what they extend, too.
    fn extended(&mut self, mut document: Node, file: &Path, env: &Env<'_>) -> Result<Node> {
        let Some(services) = document.get("services").cloned() else { return Ok(document) };
        for (name, service) in services.entries() {
            if service.get("extends").is_none() {
                continue;
            }
            let whole = self.service(&services, name, file, env, &mut Vec::new())?;
            if let Some(all) = document.get_mut("services") {
                all.set(name, whole);
            }
        }
        Ok(document)
    }

    fn service(
        &mut self,
        services: &Node,
        name: &str,
        file: &Path,
        env: &Env<'_>,
        stack: &mut Vec<(PathBuf, String)>,
    ) -> Result<Node> {
        let Some(mut service) = services.get(name).cloned() else {
            let message = format!("there is no service {name:?} in {} to extend", file.display());
            return Err(Error::new(&services.place, "extends", message));
        };
        let tag = service.tag;
        let Some(extends) = service.remove("extends") else { return Ok(service) };
        let me = (file.to_path_buf(), name.to_owned());
        if stack.contains(&me) || stack.len() >= LEVELS_MAX {
            return Err(Error::new(&extends.place, "extends", format!("{name} extends itself")));
        }
        stack.push(me);
        let field = |key: &str| extends.get(key).and_then(Node::text).map(str::to_owned);
        let unknown = extends.entries().iter().find(|(k, _)| k != "service" && k != "file");
        if let Some((key, node)) = unknown {
            return Err(Error::new(&node.place, "extends", format!("unknown key {key:?}")));
        }
        let base = extends.text().map(str::to_owned).or_else(|| field("service"));
        let Some(base) = base else {
            return Err(Error::new(&extends.place, "extends", "it names no service".to_owned()));
        };
        let base = match field("file").map(PathBuf::from) {
            None => self.service(services, &base, file, env, stack)?,
            Some(other) => {
                let dir = other.parent().unwrap_or(&other).to_path_buf();
                let mut found = None;
                for document in self.file(&other, &dir, env)? {
                    found = document.get("services").cloned().or(found);
                }
                let message = format!("{} has no services", other.display());
                let theirs = found.ok_or_else(|| Error::new(&extends.place, "extends", message))?;
                self.service(&theirs, &base, &other, env, stack)?
            }
        };
        stack.pop();
        let mut whole = merge::services(base, service)?;
        whole.tag = tag;
        Ok(whole)
    }
}

fn empty(file: &Path) -> Node {
    let place = Place { file: file.display().to_string().into(), line: 1, column: 1 };
    Node::at(&place, Value::Map(Vec::new()))
}

/// Equal but for the places.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::List(x), Value::List(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        (Value::Map(x), Value::Map(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|((k, a), (l, b))| k == l && same(a, b))
        }
        (x, y) => x == y,
    }
}

/// Makes the paths of a file absolute: merged with others, it would no longer be known what they are relative to.
fn paths(root: &mut Node, dir: &Path, home: &dyn Fn() -> Option<String>) -> Result<()> {
    let make = |text: &str| -> String {
        let path = match (text.strip_prefix('~'), home()) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => format!("{home}{rest}"),
            _ => text.to_owned(),
        };
        absolute(dir, Path::new(&path)).display().to_string()
    };
    let set = |node: &mut Node| {
        if let Value::Scalar(text) = &mut node.value {
            *text = make(text);
        }
    };
    for section in ["secrets", "configs"] {
        for_each(root.get_mut(section), |item| item.get_mut("file").map(set).unwrap_or_default());
    }
    let Some(services) = root.get_mut("services") else { return Ok(()) };
    let mut wrong = None;
    for_each(Some(services), |service| {
        if let Some(build) = service.get_mut("build") {
            let context = if build.text().is_some() { Some(build) } else { build.get_mut("context") };
            context.filter(|c| c.text().is_some_and(|t| !is_remote(t))).map(set);
        }
        if let Some(contexts) = service.get_mut("build").and_then(|b| b.get_mut("additional_contexts")) {
            for_each(Some(contexts), |one| {
                let Value::Scalar(text) = &mut one.value else { return };
                match text.split_once('=') {
                    Some((name, path)) if !is_remote(path) => *text = format!("{name}={}", make(path)),
                    None if !is_remote(text) => *text = make(text),
                    _ => {}
                }
            });
        }
        for key in ["env_file", "label_file"] {
            let Some(node) = service.get_mut(key) else { continue };
            if node.text().is_some() {
                set(node);
            }
            for_each(Some(node), |one| {
                if one.text().is_some() { set(one) } else { one.get_mut("path").map(set).unwrap_or_default() }
            });
        }
        if let Some(file) = service.get_mut("extends").and_then(|e| e.get_mut("file")) {
            set(file);
        }
        for_each(service.get_mut("volumes"), |one| {
            if let Some(text) = one.text() {
                match short::volume(text) {
                    Ok(v) if v.is_bind() => {
                        let source = make(v.source.as_deref().unwrap_or_default());
                        let options =
                            if v.options.is_empty() { String::new() } else { format!(":{}", v.options.join(",")) };
                        one.value = Value::Scalar(format!("{source}:{}{options}", v.target));
                    }
                    Ok(_) => {}
                    Err(message) => wrong = Some(Error::new(&one.place, "volumes", message)),
                }
            } else if one.get("type").and_then(Node::text) == Some("bind") {
                one.get_mut("source").map(set).unwrap_or_default();
            }
        });
    });
    wrong.map_or(Ok(()), Err)
}

/// Whether a context is not a folder of this host.
pub fn is_remote(text: &str) -> bool {
    text.contains("://") || text.starts_with("git@") || text.starts_with("service:") || text.starts_with("github.com/")
}

fn for_each(node: Option<&mut Node>, mut each: impl FnMut(&mut Node)) {
    match node.map(|n| &mut n.value) {
        Some(Value::List(items)) => items.iter_mut().for_each(each),
        Some(Value::Map(entries)) => entries.iter_mut().for_each(|(_, v)| each(v)),
        _ => {}
    }
}
