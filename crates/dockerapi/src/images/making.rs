//! Images that are not built: of a container (`docker commit`), of an archive of files (`docker import`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use engine::build::Commit;
use http::StatusCode;
use image::{BuiltLayer, Compression, ImageInfo, LayerSource, Reference};
use serde_json::{Value, json};

use super::building::{Incoming, let_finish};
use super::lines::message;
use crate::containers::create::root_key;
use crate::containers::record::{Phase, Record};
use crate::face::{Container, Face};
use crate::fault::{Fault, Result, blocking};
use crate::http::{Answer, Call, status_json, whole};
use crate::images::familiar;

/// Instructions at most.
const CHANGES_MAX: usize = 1000;
/// Made by the runtime to mount on: no part of an image if it has them not.
const OWN: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];

fn name(call: &Call) -> Result<Option<Reference>> {
    let Some(repository) = call.query.get("repo") else { return Ok(None) };
    let text = match call.query.get("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let name: Reference = text.parse().map_err(Fault::from)?;
    match name.digest() {
        Some(_) => Err(Fault::bad("cannot use digest in the name of an image")),
        None => Ok(Some(name)),
    }
}

fn changes(call: &Call) -> Result<Vec<String>> {
    let all: Vec<String> = call.query.all("changes").flat_map(|c| c.split('\n')).map(str::to_owned).collect();
    match all.len() > CHANGES_MAX {
        true => Err(Fault::bad(format!("more than {CHANGES_MAX} changes"))),
        false => Ok(all),
    }
}

/// What was asked of a commit.
struct Asked {
    name: Option<Reference>,
    changes: Vec<String>,
    author: String,
    comment: String,
    /// Over what the container says.
    over: Value,
}

/// `POST /commit`.
///
/// # Errors
/// 404, 400 for a name or a change that is none.
pub async fn commit(mut call: Call) -> Result<Answer> {
    let id = call.query.get("container").ok_or_else(|| Fault::bad("no container is named"))?.to_owned();
    let container = call.face.container(&id)?;
    let text = |name: &str| call.query.get(name).unwrap_or_default().to_owned();
    let (author, comment, pause) = (text("author"), text("comment"), call.query.flag_or("pause", true));
    let (name, changes) = (name(&call)?, changes(&call)?);
    let over = crate::containers::model::without_nulls(call.json::<Value>().await?);
    let asked = Asked { name, changes, author, comment, over };
    let face = call.face.clone();
    // A client that goes away leaves no container frozen.
    let made = tokio::spawn(async move { frozen(&face, &container, pause, asked).await });
    let info = made.await.map_err(|e| Fault::broken(e.to_string()))??;
    Ok(status_json(StatusCode::CREATED, &json!({ "Id": info.id.to_string() })))
}

/// Nothing is written while its files are taken, unless the user wants it so. It is neither started, nor stopped, nor removed
/// meanwhile.
async fn frozen(face: &Arc<Face>, container: &Arc<Container>, pause: bool, asked: Asked) -> Result<ImageInfo> {
    let _ops = container.ops.lock().await;
    let pause = pause && container.phase() == Phase::Running;
    if pause {
        face.engine.freeze(&container.id, true).await?;
    }
    let (of, record) = (face.clone(), container.record());
    let comment = asked.comment.clone();
    let made = blocking(move || committed(&of, &record, &asked)).await;
    if pause {
        face.engine.freeze(&container.id, false).await?;
    }
    let info = made?;
    let said = [("comment", comment), ("imageID", info.id.to_string())];
    face.tell(&container.record(), "commit", &said);
    Ok(info)
}

/// What a container says of itself, as an image says it.
fn config_of(record: &Record, over: &Value) -> Value {
    let mut config = serde_json::to_value(&record.config).unwrap_or_default();
    let Some(over) = over.as_object() else { return config };
    for name in [
        "Cmd",
        "Entrypoint",
        "Env",
        "ExposedPorts",
        "Healthcheck",
        "Labels",
        "StopSignal",
        "User",
        "Volumes",
        "WorkingDir",
    ] {
        let Some(value) = over.get(name) else { continue };
        match (name, value) {
            (_, Value::String(text)) if text.is_empty() => {}
            (_, Value::Array(list)) if list.is_empty() => {}
            ("Env", Value::Array(list)) => {
                let key = |v: &Value| v.as_str().and_then(|t| t.split('=').next()).map(str::to_owned);
                let mut env: Vec<Value> = config["Env"].as_array().cloned().unwrap_or_default();
                env.retain(|old| !list.iter().any(|new| key(new) == key(old)));
                env.extend(list.iter().cloned());
                config["Env"] = Value::Array(env);
            }
            ("ExposedPorts" | "Labels" | "Volumes", Value::Object(more)) => {
                let mut all = config[name].as_object().cloned().unwrap_or_default();
                all.extend(more.clone());
                config[name] = Value::Object(all);
            }
            _ => config[name] = value.clone(),
        }
    }
    config
}

fn committed(face: &Arc<Face>, record: &Record, asked: &Asked) -> Result<ImageInfo> {
    let images = face.engine.images();
    // What is made here stays until it is part of an image.
    let _hold = images.hold()?;
    let below =
        images.get(&record.image_id)?.ok_or_else(|| Fault::missing(format!("No such image: {}", record.image)))?;
    let files = images.snapshot(&root_key(&record.id), &below)?;
    let is_own = |path: &PathBuf| !files.lower.iter().any(|l| l.join(path).symlink_metadata().is_ok());
    let skip: Vec<PathBuf> = OWN.iter().map(PathBuf::from).filter(is_own).collect();
    let source = LayerSource {
        upper: &files.upper,
        lower: &files.lower,
        latest: None,
        compression: Compression::Gzip,
        skip: &skip,
    };
    let layer = images.add_layer(&source)?;
    let mut layers = images.layers_of(&below)?;
    let has_layer = layer.is_some();
    layers.extend(layer);
    let document: Value = serde_json::from_slice(&images.config_of(&below)?).unwrap_or_default();
    let commit = Commit {
        below: document,
        config: config_of(record, &asked.over),
        changes: &asked.changes,
        author: &asked.author,
        comment: &asked.comment,
        created_by: &record.argv.join(" "),
        created: &jiff::Timestamp::now().to_string(),
        has_layer,
    };
    install(face, &commit, &layers, asked.name.as_ref())
}

fn install(face: &Face, commit: &Commit<'_>, layers: &[BuiltLayer], name: Option<&Reference>) -> Result<ImageInfo> {
    let diff_ids: Vec<&str> = layers.iter().map(|l| l.diff_id.as_str()).collect();
    let document = commit.document(&diff_ids).map_err(|e| Fault::bad(e.message))?;
    let bytes = serde_json::to_vec(&document).map_err(|e| Fault::broken(e.to_string()))?;
    let info = face.engine.images().install_built(&bytes, layers, name.cloned().as_slice())?;
    if let Some(name) = name {
        let of = BTreeMap::from([("name".to_owned(), familiar(&name.to_string()))]);
        face.events.tell("image", "tag", &info.id.to_string(), of);
    }
    Ok(info)
}

/// What an import is asked for; what is wrong with it is said before the archive is read.
fn wanted(call: &Call) -> Result<(Option<Reference>, Vec<String>)> {
    crate::containers::check::platform(&call.query)?;
    let (name, changes) = (name(call)?, changes(call)?);
    Commit { changes: &changes, ..Commit::default() }.document(&[]).map_err(|e| Fault::bad(e.message))?;
    Ok((name, changes))
}

/// `POST /images/create` with `fromSrc`: an archive of files, of the body (`-`) or of the web.
///
/// # Errors
/// 400 for a name, a change or an archive that is none.
pub async fn import(call: Call) -> Result<Answer> {
    let (name, changes) = match wanted(&call) {
        Ok(wanted) => wanted,
        Err(fault) => {
            let_finish(call).await;
            return Err(fault);
        }
    };
    let source = call.query.get("fromSrc").unwrap_or_default().to_owned();
    let comment = call.query.get("message").map_or_else(|| format!("Imported from {source}"), str::to_owned);
    let face = call.face.clone();
    let (of, runtime) = (face.clone(), tokio::runtime::Handle::current());
    let from_web = source.starts_with("http://") || source.starts_with("https://");
    if source != "-" && !from_web {
        return Err(Fault::bad(format!("fromSrc {source:?} is neither - nor a URL")));
    }
    let reader = Incoming::of(call);
    let info = blocking(move || {
        let images = of.engine.images();
        let _hold = images.hold()?;
        let layer = if from_web {
            let dir = of.dir.join("import");
            std::fs::create_dir_all(&dir).map_err(|e| Fault::io("make a folder", &e))?;
            let part = Part(dir.join(crate::containers::names::id()));
            runtime.block_on(images.download(&source, &part.0))?;
            let file = std::fs::File::open(&part.0).map_err(|e| Fault::io("open what was downloaded", &e))?;
            images.add_archive(&source, file)?
        } else {
            images.add_archive("the archive", reader)?
        };
        let created = jiff::Timestamp::now().to_string();
        let commit =
            Commit { changes: &changes, comment: &comment, created: &created, has_layer: true, ..Commit::default() };
        install(&of, &commit, &[layer], name.as_ref())
    })
    .await?;
    face.events.tell("image", "import", &info.id.to_string(), BTreeMap::new());
    let mut answer = http::Response::new(whole(message(&json!({ "status": info.id.to_string() }))));
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// A download under way, gone when it is done with.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_goes_over_what_the_container_says() {
        let mut record = Record::default();
        record.config.env = vec!["A=1".into(), "B=2".into()];
        record.config.user = "app".into();
        let over = json!({ "Env": ["B=3"], "Cmd": ["x"], "Labels": { "l": "v" }, "User": "", "Hostname": "h" });
        let config = config_of(&record, &over);
        assert_eq!(config["Env"], json!(["A=1", "B=3"]));
        assert_eq!((&config["Cmd"], &config["Labels"]), (&json!(["x"]), &json!({ "l": "v" })));
        assert_eq!((&config["User"], &config["Hostname"]), (&json!("app"), &json!("")));
        assert_eq!(config_of(&record, &json!({}))["Env"], json!(["A=1", "B=2"]));
    }
}
