//! A build from beginning to end: stages made side by side, each once, each when what it needs is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{Auth, BuiltLayer, ImageInfo, Reference};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tokio::sync::watch;

use crate::client::{Remote, Used};
use crate::context::{self, Loaded, Prepared};
use crate::dockerfile::{self, Dockerfile};
use crate::error::{BuildError, Result};
use crate::options::{Context, Environment, Named, Options, Output};
use crate::pattern::Ignore;
use crate::plan::{Asked, PROXIES, Plan};
use crate::progress::Steps;
use crate::run::canceled;
use crate::stage::Building;
use crate::state::State;
use crate::{output, step};

/// What came of a build.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image, when one was made.
    pub image: Option<ImageInfo>,
}

/// A stage that is made.
#[derive(Debug, Clone)]
pub struct Finished {
    pub layers: Vec<BuiltLayer>,
    pub state: State,
    /// What its files were made from.
    pub key: String,
}

enum Slot {
    Idle,
    Busy,
    Done(Option<Arc<Finished>>),
}

/// Everything that the stages of one build share.
pub struct Solver<'a> {
    pub options: &'a Options,
    pub env: &'a Environment<'a>,
    pub steps: Steps<'a>,
    /// Folder of work under way, of this build alone.
    pub work: PathBuf,
    pub file: Dockerfile,
    /// What the file is called, and its text.
    pub name: String,
    pub text: String,
    pub plan: Plan,
    pub context: Prepared,
    pub ignore: Ignore,
    /// The client that may have more of the context, and the text of the patterns.
    remote: Mutex<Option<(Box<dyn Remote>, String)>>,
    pub contexts: BTreeSet<String>,
    /// Becomes true when the user wants it to end, or a stage failed.
    pub stop: Arc<watch::Sender<bool>>,
    slots: Mutex<Vec<Slot>>,
    changed: Condvar,
    error: Mutex<Option<BuildError>>,
    images: Mutex<BTreeMap<String, ImageInfo>>,
}

/// This host, as platforms are named.
pub fn host_platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    };
    format!("linux/{arch}")
}

/// Builds. Blocks, and must not be called on a thread of an async runtime.
///
/// # Errors
/// The first failure, with its place in the Dockerfile when an instruction is to blame.
pub fn build(context: Context, options: &Options, env: &Environment<'_>) -> Result<Built> {
    let steps = Steps::new(env.progress);
    let host = host_platform();
    if let Some(platform) = options.platform.as_deref().filter(|p| !p.is_empty()) {
        crate::plan::runs_here(platform, &host)?;
    }
    let names: Vec<Reference> = options.names.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    if let Some(name) = names.iter().find(|n| n.digest().is_some()) {
        return Err(BuildError::new(format!("invalid tag {name}: a name to give cannot hold a digest")));
    }
    // Nothing that is made or used here goes before it is part of an image.
    let hold = env.store.hold()?;
    let work = Work::new(&env.dir)?;
    let (loaded, files) = load(context, options, env, &steps, &work.path)?;
    let file = dockerfile::parse(&loaded.text).map_err(|e| BuildError::parse(&e, &loaded.name, &loaded.text))?;
    let contexts: BTreeSet<String> = options.contexts.keys().cloned().collect();
    let asked = Asked {
        file: &file,
        name: &loaded.name,
        text: &loaded.text,
        args: &options.args,
        target: options.target.as_deref(),
        contexts: &contexts,
        host: &host,
    };
    let plan = asked.plan()?;
    let known = |name: &String| plan.consumed.contains(name) || PROXIES.contains(&name.as_str()) || name == EPOCH;
    let unused: Vec<&str> = options.args.keys().filter(|n| !known(n)).map(String::as_str).collect();
    if !unused.is_empty() {
        steps.warn(format!("One or more build-args [{}] were not consumed", unused.join(" ")));
    }
    let (context, remote) = match files {
        Found::Here(prepared) => (prepared, None),
        Found::There(mut remote, patterns) => {
            let used = crate::plan::used(&file, &plan);
            let folder = fetch(&steps, remote.as_mut(), &used, &patterns)?;
            (Prepared::of(&folder)?, Some((remote, patterns)))
        }
    };
    let slots = Mutex::new(file.stages.iter().map(|_| Slot::Idle).collect());
    let (name, text, ignore) = (loaded.name, loaded.text, loaded.ignore);
    let solver = Solver {
        options,
        env,
        steps,
        work: work.path.clone(),
        file,
        name,
        text,
        plan,
        context,
        ignore,
        remote: Mutex::new(remote),
        contexts,
        stop: Arc::new(watch::channel(*env.cancel.borrow()).0),
        slots,
        changed: Condvar::new(),
        error: Mutex::new(None),
        images: Mutex::new(BTreeMap::new()),
    };
    let built = solver.until_canceled(|| output::write(&solver, &*solver.solve()?, &names))?;
    drop(solver);
    drop(work);
    drop(hold);
    env.store.forget_cached(options.cache_max_bytes)?;
    Ok(built)
}

/// What was loaded, and where the rest is.
enum Found {
    Here(Prepared),
    There(Box<dyn Remote>, String),
}

fn load(
    context: Context,
    options: &Options,
    env: &Environment<'_>,
    steps: &Steps<'_>,
    work: &Path,
) -> Result<(Loaded, Found)> {
    if let Context::Remote(mut remote) = context {
        let (loaded, patterns) = context::ask(remote.as_mut(), steps)?;
        return Ok((loaded, Found::There(remote, patterns)));
    }
    let context =
        steps.within("[internal] load build context".to_owned(), |_| context::prepare(context, options, env, work))?;
    let loaded = steps.within("[internal] load build definition from Dockerfile".to_owned(), |step| {
        let loaded = context::load(&options.source, &context)?;
        step.say(&format!("transferring dockerfile: {}B", loaded.text.len()));
        Ok(loaded)
    })?;
    Ok((loaded, Found::Here(context)))
}

fn fetch(steps: &Steps<'_>, remote: &mut dyn Remote, used: &Used, patterns: &str) -> Result<PathBuf> {
    let title = "[internal] load build context".to_owned();
    steps.within(title, |step| Ok(remote.folder(used, patterns, &|text| step.say(text))?))
}

/// The argument that is the newest time in an image (reproducible-builds.org).
pub const EPOCH: &str = "SOURCE_DATE_EPOCH";

impl Solver<'_> {
    /// Works, and stops when the user wants it to.
    fn until_canceled<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let (cancel, stop) = (self.env.cancel.clone(), self.stop.clone());
        let forward = self.env.runtime.spawn(async move {
            canceled(cancel).await;
            stop.send_replace(true);
        });
        let result = work();
        forward.abort();
        result
    }

    fn solve(&self) -> Result<Arc<Finished>> {
        let needed: Vec<usize> = self.plan.needed.iter().copied().collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.options.parallel.clamp(1, needed.len().max(1)) {
                scope.spawn(|| {
                    while let Some(stage) = needed.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // Its error is kept.
                        let _ = self.stage(*stage);
                    }
                });
            }
        });
        if let Some(error) = self.error.lock().take() {
            return Err(error);
        }
        self.stage(self.plan.target)
    }

    /// A stage, made if nobody did; waits if somebody is at it. Stages need earlier ones only, so nobody waits in a circle.
    pub fn stage(&self, n: usize) -> Result<Arc<Finished>> {
        let mut slots = self.slots.lock();
        loop {
            match &slots[n] {
                Slot::Done(Some(done)) => return Ok(done.clone()),
                Slot::Done(None) => return Err(BuildError::canceled()),
                Slot::Busy => self.changed.wait(&mut slots),
                Slot::Idle => break,
            }
        }
        slots[n] = Slot::Busy;
        drop(slots);
        let result = Building::make(self, n).map(Arc::new);
        let done = result.as_ref().ok().cloned();
        if let Err(error) = result {
            // What others end with because of it comes later, or says less.
            let mut first = self.error.lock();
            if first.as_ref().is_none_or(|e| e.message == BuildError::canceled().message) {
                *first = Some(error);
            }
            self.stop.send_replace(true);
        }
        self.slots.lock()[n] = Slot::Done(done.clone());
        self.changed.notify_all();
        done.ok_or_else(BuildError::canceled)
    }

    /// Sees to it that all of the context is here, for who copies what could not be known from the Dockerfile.
    pub fn whole_context(&self) -> Result<()> {
        if let Some((mut remote, patterns)) = self.remote.lock().take() {
            fetch(&self.steps, remote.as_mut(), &Used::All, &patterns)?;
        }
        Ok(())
    }

    /// An image, pulled if it is not here.
    pub fn image(&self, reference: &str) -> Result<ImageInfo> {
        if let Some(known) = self.images.lock().get(reference) {
            return Ok(known.clone());
        }
        self.check_canceled()?;
        let image = self.steps.within(format!("[internal] load metadata for {reference}"), |step| {
            let here = self.env.store.get(reference)?;
            match here {
                Some(image) if !self.options.pull => return Ok(image),
                _ => step.say(&format!("resolve {reference}")),
            }
            let (store, cancel) = (&self.env.store, self.stop.subscribe());
            let auth = match &self.options.docker_config {
                Some(config) => Auth::from_docker_config(&config.0, &reference.parse()?)?,
                None => self.env.client.credentials(&reference.parse()?)?,
            };
            self.env.runtime.block_on(async {
                tokio::select! {
                    pulled = store.pull(reference, auth, &()) => pulled.map_err(|e| {
                        let said = base::chain(&e);
                        BuildError { message: format!("{reference}: failed to resolve source metadata: {said}"), ..BuildError::from(e) }
                    }),
                    () = canceled(cancel) => Err(BuildError::canceled()),
                }
            })
        })?;
        crate::plan::runs_here(&format!("{}/{}", image.config.os(), image.config.architecture()), &host_platform())
            .map_err(|e| BuildError::new(format!("{reference}: {e}")))?;
        self.images.lock().insert(reference.to_owned(), image.clone());
        Ok(image)
    }

    /// An image as a stage that is made.
    pub fn finished_image(&self, reference: &str) -> Result<Finished> {
        let image = self.image(reference)?;
        let document: Value = serde_json::from_slice(&self.env.store.config_of(&image)?)
            .map_err(|e| BuildError::new(format!("configuration of {reference}: {e}")))?;
        let state = State::of_image(&document);
        Ok(Finished { layers: self.env.store.layers_of(&image)?, state, key: image.id.to_string() })
    }

    /// A context by name.
    pub fn named(&self, name: &str) -> Option<&Named> {
        self.options.contexts.get(name)
    }

    /// What the user wants beyond an image.
    pub fn wants(&self) -> &Output {
        &self.options.output
    }
}

/// The folder of one build's work, locked while it is in use. What dead builds left is removed on the way.
struct Work {
    path: PathBuf,
    #[allow(dead_code, reason = "the open file is the lock")]
    lock: std::fs::File,
}

impl Work {
    fn new(dir: &Path) -> Result<Work> {
        use std::os::unix::fs::DirBuilderExt;
        let all = dir.join("work");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&all)
            .map_err(|e| BuildError::io("make", &all, &e))?;
        let all = all.canonicalize().map_err(|e| BuildError::io("resolve", &all, &e))?;
        let fail = |e: std::io::Error| BuildError::io("make", &all, &e);
        // One at a time: a lock that was just made must not look like one that was left.
        let guard = std::fs::File::create(all.join("guard")).map_err(fail)?;
        guard.lock().map_err(fail)?;
        sweep(&all);
        let id = format!("{}-{:x}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
        let lock = std::fs::File::create_new(all.join(format!("{id}.lock"))).map_err(fail)?;
        lock.lock().map_err(fail)?;
        let path = all.join(id);
        std::fs::create_dir(&path).map_err(fail)?;
        Ok(Work { path, lock })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = step::remove_work(&self.path) {
            tracing::warn!(dir = %self.path.display(), error, "what a build worked with stays until the next build");
            return;
        }
        let _ = std::fs::remove_file(self.path.with_extension("lock"));
    }
}

/// Removes what builds in the builder's folder `dir` left whose process is gone: mounts first of all.
pub fn remove_leftovers(dir: &Path) {
    if let Ok(all) = dir.join("work").canonicalize() {
        sweep(&all);
    }
}

fn sweep(all: &Path) {
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        let free = std::fs::File::options().write(true).open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if free && step::remove_work(&path.with_extension("")).is_ok() {
            let _ = std::fs::remove_file(&path);
        }
    }
}
