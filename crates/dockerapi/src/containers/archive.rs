//! `docker cp` both ways, `docker export`, `docker diff`.

use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use http::{HeaderValue, StatusCode};
use nix::sys::stat::FileStat;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::containers::record::Record;
use crate::containers::seed::Mounted;
use crate::containers::tree::{Root, go_mode};
use crate::face::{Container, Face, stamp};
use crate::fault::{Fault, Result, blocking};
use crate::http::{Answer, CHUNKS, Call, Reader, Writer, empty, fallible, json};

/// Changed files told of at most.
const CHANGES_MAX: usize = 1_000_000;
/// Made by the runtime to mount on, and no change of the container's.
const OWN: [&str; 6] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev", "/proc", "/sys"];
const STAT_HEADER: &str = "x-docker-container-path-stat";

/// Files of a container below one root: its own, or that of the mount that covers the path.
struct Place {
    /// Keeps what was mounted for this.
    _mounted: Option<Mounted>,
    root: Root,
    path: PathBuf,
    writable: bool,
}

fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// Blocks.
fn place(face: &Arc<Face>, record: &Record, path: &str) -> Result<Place> {
    let path = clean(path);
    let failed = |e: io::Error| Fault::io("open the container's files", &e);
    let covering = record.mounts.iter().filter(|m| path.starts_with(&m.target));
    let covering = covering.max_by_key(|m| m.target.as_os_str().len());
    match covering {
        Some(mount) if mount.kind == "tmpfs" => Err(Fault::unsupported(&format!(
            "copying from or to the file system in memory at {}",
            mount.target.display()
        ))),
        Some(mount) => {
            let rest = path.strip_prefix(&mount.target).unwrap_or(Path::new(""));
            // A file that is mounted is found by its name in its folder.
            let (root, inside) = match mount.source.is_dir() {
                true => (mount.source.clone(), Path::new("/").join(rest)),
                false => {
                    let name = mount.source.file_name().unwrap_or_default();
                    (mount.source.parent().unwrap_or(Path::new("/")).to_owned(), Path::new("/").join(name))
                }
            };
            let root = Root::open(&root).map_err(failed)?;
            Ok(Place { _mounted: None, root, path: inside, writable: mount.writable })
        }
        None => {
            let mounted = Mounted::of(face, record)?;
            let root = Root::open(mounted.path()).map_err(failed)?;
            Ok(Place { _mounted: Some(mounted), root, path, writable: !record.host.readonly_rootfs })
        }
    }
}

fn path_of(call: &Call) -> Result<String> {
    call.query.get("path").map(str::to_owned).ok_or_else(|| Fault::bad("bad parameter: 'path' cannot be empty"))
}

/// A container that does not run is kept from being started while its files are mounted.
async fn held(container: &Arc<Container>) -> Option<tokio::sync::MutexGuard<'_, ()>> {
    let ops = container.ops.lock().await;
    (!container.phase().is_live()).then_some(ops)
}

fn lookup(place: &Place, record: &Record, path: &str) -> Result<(FileStat, Option<PathBuf>)> {
    place.root.stat(&place.path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Fault::missing(format!("Could not find the file {path} in container {}", record.name))
        }
        _ => Fault::io(&format!("look up {path}"), &e),
    })
}

fn name_of(path: &str) -> String {
    clean(path).file_name().map_or_else(|| "/".to_owned(), |n| n.to_string_lossy().into_owned())
}

fn stat_header(path: &str, stat: &FileStat, link: Option<&Path>) -> Option<HeaderValue> {
    let document = json!({
        "name": name_of(path), "size": stat.st_size, "mode": go_mode(stat), "mtime": stamp(stat.st_mtime * 1000),
        "linkTarget": link.map(Path::to_path_buf).unwrap_or_default(),
    });
    HeaderValue::from_str(&base64::engine::general_purpose::STANDARD.encode(document.to_string())).ok()
}

/// `HEAD /containers/{id}/archive`.
///
/// # Errors
/// 404.
pub async fn stat(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let path = path_of(&call)?;
    let held = held(&container).await;
    let (face, record, wanted) = (call.face.clone(), container.record(), path.clone());
    let (stat, link) = blocking(move || lookup(&place(&face, &record, &wanted)?, &record, &wanted)).await?;
    drop(held);
    let mut answer = empty(StatusCode::OK);
    if let Some(value) = stat_header(&path, &stat, link.as_deref()) {
        answer.headers_mut().insert(STAT_HEADER, value);
    }
    Ok(answer)
}

/// `GET /containers/{id}/archive`.
///
/// # Errors
/// 404 before anything is sent.
pub async fn get(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let path = path_of(&call)?;
    send(call, container, path.clone(), Some(path)).await
}

/// `GET /containers/{id}/export`.
///
/// # Errors
/// 404.
pub async fn export(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    send(call, container, "/".to_owned(), None).await
}

/// Sends what is at a path; without `named` its content as it is, without what is mounted over it.
async fn send(call: Call, container: Arc<Container>, path: String, named: Option<String>) -> Result<Answer> {
    let (tx, rx) = mpsc::channel(CHUNKS);
    let (looked, found) = tokio::sync::oneshot::channel();
    let face = call.face.clone();
    tokio::spawn(async move {
        let held = held(&container).await;
        let record = container.record();
        let packed = tokio::task::spawn_blocking(move || {
            let place = match named {
                Some(_) => place(&face, &record, &path),
                None => whole(&face, &record),
            };
            let place = place.and_then(|p| lookup(&p, &record, &path).map(|found| (p, found)));
            let (place, found) = match place {
                Ok(both) => both,
                Err(fault) => return drop(looked.send(Err(fault))),
            };
            let _ = looked.send(Ok(found));
            let name = match &named {
                Some(path) => PathBuf::from(name_of(path).trim_start_matches('/')),
                None => PathBuf::new(),
            };
            let name = if name.as_os_str().is_empty() { PathBuf::from(".") } else { name };
            let failed = Writer::new(tx.clone());
            let mut tar = tar::Builder::new(Writer::new(tx));
            let packed = place.root.pack(&place.path, &name, &mut tar);
            let done = packed.and_then(|()| tar.into_inner()).and_then(|mut writer| writer.flush());
            if let Err(error) = done {
                failed.fail(error);
            }
        });
        drop(packed.await);
        drop(held);
    });
    let (stat, link) = found.await.map_err(|_| Fault::broken("the copy was given up"))??;
    let mut answer = fallible("application/x-tar", rx);
    if let Some(value) = stat_header(call.query.get("path").unwrap_or("/"), &stat, link.as_deref()) {
        answer.headers_mut().insert(STAT_HEADER, value);
    }
    Ok(answer)
}

fn whole(face: &Arc<Face>, record: &Record) -> Result<Place> {
    let mounted = Mounted::of(face, record)?;
    let root = Root::open(mounted.path()).map_err(|e| Fault::io("open the container's files", &e))?;
    Ok(Place { _mounted: Some(mounted), root, path: PathBuf::from("/"), writable: false })
}

/// `PUT /containers/{id}/archive`.
///
/// # Errors
/// 404 without the folder, 400 when it is none, 403 where nothing can be written.
pub async fn put(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let path = path_of(&call)?;
    if call.query.flag("copyUIDGID") {
        return Err(Fault::unsupported("copying with the owner changed to the container's user (docker cp --archive)"));
    }
    let keep_kinds = call.query.flag("noOverwriteDirNonDir");
    let held = held(&container).await;
    let (face, record) = (call.face.clone(), container.record());
    let reader = Reader::new(call.chunks());
    blocking(move || {
        let place = place(&face, &record, &path)?;
        lookup(&place, &record, &path)?;
        if !place.root.is_dir(&place.path) {
            return Err(Fault::bad("extraction point is not a directory"));
        }
        if !place.writable {
            return Err(Fault::new(StatusCode::FORBIDDEN, "container rootfs or volume is marked read-only"));
        }
        let source = io::BufReader::new(reader);
        place
            .root
            .unpack(&place.path, source, keep_kinds)
            .map_err(|e| Fault::bad(format!("cannot unpack the archive: {e}")))
    })
    .await?;
    drop(held);
    Ok(empty(StatusCode::OK))
}

/// `GET /containers/{id}/changes`.
///
/// # Errors
/// 404.
pub async fn changes(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.container(id)?;
    let (face, record) = (call.face.clone(), container.record());
    let rows = blocking(move || {
        let images = face.engine.images();
        let info =
            images.get(&record.image_id)?.ok_or_else(|| Fault::missing(format!("No such image: {}", record.image)))?;
        let layers = images.snapshot(&crate::containers::create::root_key(&record.id), &info)?;
        let mounts: Vec<PathBuf> = record.mounts.iter().map(|m| m.target.clone()).collect();
        let mut rows = Vec::new();
        walk(&layers.upper, &layers.lower, &mounts, Path::new(""), &mut rows)
            .map_err(|e| Fault::io("read what changed", &e))?;
        Ok::<_, Fault>(rows)
    });
    let rows = rows.await?;
    Ok(if rows.is_empty() { json(&Value::Null) } else { json(&rows) })
}

/// What overlayfs wrote (Documentation/filesystems/overlayfs.rst): a whiteout is a device 0/0.
fn walk(upper: &Path, lower: &[PathBuf], skip: &[PathBuf], at: &Path, rows: &mut Vec<Value>) -> io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(upper.join(at))?.collect::<io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = at.join(entry.file_name());
        let meta = match entry.path().symlink_metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if rows.len() >= CHANGES_MAX {
            return Ok(());
        }
        let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
        let before = lower.iter().any(|l| l.join(&path).symlink_metadata().is_ok());
        // 0 modified, 1 added, 2 deleted.
        let kind = match (whiteout, before) {
            (true, _) => 2,
            (false, true) => 0,
            (false, false) => 1,
        };
        let shown = Path::new("/").join(&path);
        if kind == 1 && (skip.contains(&shown) || OWN.iter().any(|own| shown == Path::new(own))) {
            continue;
        }
        rows.push(json!({ "Path": shown, "Kind": kind }));
        if meta.is_dir() {
            walk(upper, lower, skip, &path, rows)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_told_from_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (upper, lower) = (dir.path().join("u"), dir.path().join("l"));
        std::fs::create_dir_all(upper.join("etc")).unwrap();
        std::fs::create_dir_all(lower.join("etc")).unwrap();
        std::fs::write(upper.join("etc/new"), "").unwrap();
        std::fs::write(upper.join("etc/hosts"), "").unwrap();
        std::fs::create_dir(upper.join("data")).unwrap();
        let mut rows = Vec::new();
        walk(&upper, &[lower], &[PathBuf::from("/data")], Path::new(""), &mut rows).unwrap();
        assert_eq!(rows, [json!({ "Path": "/etc", "Kind": 0 }), json!({ "Path": "/etc/new", "Kind": 1 })]);
    }

    #[test]
    fn paths_do_not_climb_out() {
        assert_eq!(clean("../../a/./b/../c"), Path::new("/a/c"));
        assert_eq!((name_of("/"), name_of("/a/b/").as_str()), ("/".to_owned(), "b"));
    }
}
