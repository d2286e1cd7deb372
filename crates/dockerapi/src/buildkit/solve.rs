//! One build of a client, from what it asks to what comes of it.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use buildkit::Session;
use buildkit::messages::{Any, Status};
use engine::build::{self, BuildError, Context, Environment, Event, Named, Output, Progress as _, Source};
use grpc::server::{Refusal, code};
use prost::Message as _;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::asked::{Asked, Export, Where};
use super::client::{Asking, Files, Main};
use super::jobs::Job;
use super::synced::{self, Synced};
use super::tracker::Tracker;
use crate::face::Face;
use crate::http::Reader;
use crate::images::building::announce;
use crate::images::familiar;

/// The step that sends results, after all that the builder has.
const SENDING: usize = usize::MAX;

/// The folders of clients that are kept.
pub fn synced_dir(face: &Face) -> PathBuf {
    face.engine.instance().data_dir().join("build").join("synced")
}

/// Says that nobody waits any more.
struct Stop(watch::Sender<bool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// A folder of one build's own, gone after it.
struct Work(PathBuf);

impl Work {
    fn new(face: &Face, id: &str) -> Result<Work, Refusal> {
        let name = image::Digest::of(id.as_bytes()).hex()[..32].to_owned();
        let path = face.engine.instance().data_dir().join("build").join("clients").join(name);
        let fail = |e| Refusal::new(code::INTERNAL, format!("make {}: {e}", path.display()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fail)?;
        Ok(Work(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Builds, and answers what the client is told of the result. Who drops the future ends the build.
///
/// # Errors
/// Why it failed, with the place in the Dockerfile.
pub async fn run(
    face: &Arc<Face>,
    id: &str,
    job: Arc<Job>,
    asked: Asked,
    session: Arc<Session>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let slots = face.builds.slots.clone();
    let slot = slots.acquire_owned().await.map_err(|e| Refusal::new(code::INTERNAL, e.to_string()))?;
    let (stop, cancel) = watch::channel(false);
    let stop = Stop(stop);
    let mut sessions = BTreeMap::new();
    for (folder, id) in &asked.sessions {
        let other = face.buildkit.sessions.get(id).await.map_err(|e| Refusal::new(code::NOT_FOUND, e.to_string()))?;
        sessions.insert(folder.clone(), other);
    }
    let (tx, rx) = oneshot::channel();
    let (of, name) = (face.clone(), id.to_owned());
    let tracker = Tracker::new(id, job);
    let drain = face.drain();
    let runtime = Handle::current();
    let making = Making { face: of, tracker, asked, session, sessions, cancel, runtime };
    let building = tokio::task::spawn_blocking(move || making.make(&name));
    // The builder is waited for also when nobody wants its result.
    face.tasks.spawn("build of a client's", async move {
        let _slot = slot;
        let result = building.await.unwrap_or_else(|e| Err(Refusal::new(code::INTERNAL, e.to_string())));
        let _ = tx.send(result);
    });
    let result = tokio::select! {
        result = rx => result.unwrap_or_else(|_| Err(Refusal::new(code::CANCELED, "the build was cut short"))),
        () = drain.cancelled() => Err(Refusal::new(code::CANCELED, "the builder ends")),
    };
    drop(stop);
    result
}

struct Making {
    face: Arc<Face>,
    tracker: Tracker,
    asked: Asked,
    session: Arc<Session>,
    /// Of folders that are in others than the build's own.
    sessions: BTreeMap<String, Arc<Session>>,
    cancel: watch::Receiver<bool>,
    runtime: Handle,
}

impl Making {
    fn files(&self, folder: &str, work: &Work) -> Files {
        Files {
            session: self.sessions.get(folder).unwrap_or(&self.session).clone(),
            runtime: self.runtime.clone(),
            cancel: self.cancel.clone(),
            all: synced_dir(&self.face),
            work: work.0.join(format!("of-{}", folder.replace('/', "-"))),
            bytes: self.asked.options.context_max_bytes,
        }
    }

    /// Blocks.
    fn make(mut self, id: &str) -> Result<BTreeMap<String, String>, Refusal> {
        let work = Work::new(&self.face, id)?;
        let builder = self.face.builds.builder(&self.face).map_err(|e| Refusal::new(code::INTERNAL, e.message))?;
        let (held, place) = (self.locals(&work)?, Arc::default());
        let context = self.context(&work, &place)?;
        let out = work.0.join("out");
        self.asked.options.output = match self.asked.export {
            Export::Image => Output::Image,
            Export::Local => Output::Local(out.clone()),
            Export::Tar => Output::Tar(out.clone()),
            Export::Nothing => Output::CacheOnly,
        };
        let asking = Asking { session: self.session.clone(), runtime: self.runtime.clone() };
        let env = Environment {
            store: self.face.engine.images().clone(),
            dir: self.face.engine.instance().data_dir().join("build"),
            runner: &*builder,
            runtime: self.runtime.clone(),
            progress: &self.tracker,
            client: &asking,
            cancel: self.cancel.clone(),
        };
        let built = build::build(context, &self.asked.options, &env).map_err(|e| refusal(&e))?;
        drop((held, place));
        synced::cut_down(&synced_dir(&self.face));
        for warning in &self.asked.warnings {
            self.tracker.event(Event::Warning(warning.clone()));
        }
        let mut response = BTreeMap::new();
        if let Some(image) = &built.image {
            let names: Vec<String> = self.asked.options.names.iter().map(|n| familiar(n)).collect();
            let digest = image.id.to_string();
            // As the image store of Docker's own builder has it: an image is known by its configuration.
            response.insert("containerimage.digest".to_owned(), digest.clone());
            response.insert("containerimage.config.digest".to_owned(), digest);
            if !names.is_empty() {
                response.insert("image.name".to_owned(), self.asked.options.names.join(","));
            }
            announce(&self.face, &image.id, names);
        }
        self.send(&out, &response)?;
        Ok(response)
    }

    /// Brings the other contexts that are in the session.
    fn locals(&mut self, work: &Work) -> Result<Vec<Synced>, Refusal> {
        let mut held = Vec::new();
        for (n, (name, folder)) in self.asked.locals.clone().into_iter().enumerate() {
            // Their steps come after those of the builder.
            let step = SENDING - 1 - n;
            let title = format!("[context {name}] load from client");
            let files = self.files(&folder, work);
            let place = self.within(step, title, || {
                let exclude = files.patterns(&folder)?;
                let key = Asked::key(&files.session.shared_key, &folder, &[], &exclude);
                let place = Synced::take(&files.all, key, &files.work, "context").map_err(|e| e.to_string())?;
                let tree = files.folder(&place, &folder, &[], &exclude, &|text| self.say(step, text))?;
                Ok((place, tree))
            });
            let (place, tree) = place.map_err(|e| Refusal::new(code::UNKNOWN, e))?;
            self.asked.options.contexts.insert(name, Named::Dir(tree));
            held.push(place);
        }
        Ok(held)
    }

    fn context(&mut self, work: &Work, place: &Arc<parking_lot::Mutex<Option<Synced>>>) -> Result<Context, Refusal> {
        let unknown = |e: String| Refusal::new(code::UNKNOWN, e);
        self.asked.options.source = match &self.asked.dockerfile {
            None => Source::InContext(self.asked.filename.clone()),
            Some(dir) if !matches!(self.asked.context, Where::Session(_)) => {
                let files = self.files(dir, work);
                let definition = files.definition(dir, &self.asked.filename).map_err(unknown)?;
                Source::Text { name: definition.name, text: definition.text, ignore: definition.ignore }
            }
            Some(_) => Source::InContext(self.asked.filename.clone()),
        };
        Ok(match &self.asked.context {
            Where::Git(url) => Context::Git(url.clone()),
            Where::Url(url) => Context::Url(url.clone()),
            Where::Upload(path, host) => {
                let upload = self.runtime.block_on(self.session.upload(path, host));
                Context::Tar(Box::new(Reader::new(upload.map_err(|e| unknown(e.to_string()))?)))
            }
            Where::Session(context) => Context::Remote(Box::new(Main {
                files: self.files(context, work),
                dockerfile: self.asked.dockerfile.clone().unwrap_or_else(|| context.clone()),
                filename: self.asked.filename.clone(),
                context: context.clone(),
                place: place.clone(),
            })),
        })
    }

    fn say(&self, step: usize, text: &str) {
        let bytes = format!("{text}\n").into_bytes();
        self.tracker.event(Event::Output { step, stream: build::Stream::Err, bytes });
    }

    fn within<T>(&self, step: usize, name: String, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        self.tracker.event(Event::Started { step, name });
        let begun = std::time::Instant::now();
        let result = work();
        self.tracker.event(match &result {
            Ok(_) => Event::Done { step, took: begun.elapsed() },
            Err(message) => Event::Failed { step, message: message.clone() },
        });
        result
    }

    /// Sends the client what it wants to have itself.
    fn send(&self, out: &std::path::Path, about: &BTreeMap<String, String>) -> Result<(), Refusal> {
        let name = match self.asked.export {
            Export::Local => "copying files",
            Export::Tar => "sending tarball",
            Export::Image | Export::Nothing => return Ok(()),
        };
        let sent = self.within(SENDING, name.to_owned(), || {
            let sending = async {
                match self.asked.export {
                    Export::Local => self.session.send_folder(0, out).await,
                    _ => self.session.send_file(0, about, out).await,
                }
            };
            let canceled = build::canceled(self.cancel.clone());
            let sent = async {
                tokio::select! {
                    sent = sending => sent.map_err(|e| e.to_string()),
                    () = canceled => Err("canceled".to_owned()),
                }
            };
            self.runtime.block_on(sent)
        });
        sent.map_err(|e| Refusal::new(code::UNKNOWN, e))
    }
}

/// An error as clients read it: its words, and the place in the Dockerfile from which they print the lines.
fn refusal(error: &BuildError) -> Refusal {
    use base64::Engine as _;
    let code = if error.message == "canceled" { code::CANCELED } else { code::UNKNOWN };
    let mut refusal = Refusal::new(code, error.message.clone());
    if let Some(place) = &error.place {
        let source = json!({
            "info": {
                "filename": place.file,
                "data": base64::engine::general_purpose::STANDARD.encode(&place.text),
                "language": "Dockerfile",
            },
            "ranges": [{ "start": { "line": place.span.first }, "end": { "line": place.span.last } }],
        });
        let detail = Any {
            type_url: "github.com/moby/buildkit/errdefs.Source+json".to_owned(),
            value: source.to_string().into_bytes(),
        };
        let status = Status {
            code: i32::try_from(code).unwrap_or_default(),
            message: error.message.clone(),
            details: vec![detail],
        };
        refusal.details = status.encode_to_vec();
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::build::Place;
    use engine::build::dockerfile::Span;

    #[test]
    fn an_error_says_its_place_in_the_dockerfile() {
        let place = Place { file: "Dockerfile".into(), span: Span { first: 2, last: 3 }, text: "FROM x\nRUN\n".into() };
        let error = BuildError { place: Some(Box::new(place)), ..BuildError::new("failed") };
        let status = Status::decode(refusal(&error).details.as_slice()).unwrap();
        let source: serde_json::Value = serde_json::from_slice(&status.details[0].value).unwrap();
        assert_eq!(
            (source["info"]["filename"].as_str(), source["info"]["data"].as_str()),
            (Some("Dockerfile"), Some("RlJPTSB4ClJVTgo="))
        );
        assert_eq!(source["ranges"][0]["end"]["line"], 3);
        assert!(refusal(&BuildError::new("x")).details.is_empty());
    }
}
