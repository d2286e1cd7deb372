//! `containers/create`: what is asked for is checked, completed from the image, and written down.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use http::StatusCode;
use image::ImageInfo;
use serde_json::{Value, json};

use crate::containers::model::{Creation, Healthcheck, Mount, Words};
use crate::containers::record::{MountPoint, Record};
use crate::containers::{check, names, spec};
use crate::face::{Container, Face, now_ms};
use crate::fault::{Fault, Result, blocking};
use crate::http::{Answer, Call, status_json};
use crate::networks;

/// Propagations a bind may have.
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

/// A name while it is being given.
struct Claim {
    face: Arc<Face>,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.face.making.lock().remove(&self.name);
    }
}

/// Has nobody else take the name until it is given.
fn claim(face: &Arc<Face>, wanted: &str) -> Result<Claim> {
    let mut making = face.making.lock();
    let owner = |name: &str| face.containers.lock().values().find(|c| c.name() == name).map(|c| c.id.clone());
    let name = match wanted.strip_prefix('/').unwrap_or(wanted) {
        "" => names::name(|n| making.contains(n) || owner(n).is_some()),
        given if !names::valid(given) => {
            return Err(Fault::bad(format!(
                "Invalid container name ({given}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        given => {
            let by = owner(given).or_else(|| making.contains(given).then(|| "that is being created".to_owned()));
            if let Some(id) = by {
                return Err(taken(given, &id));
            }
            given.to_owned()
        }
    };
    making.insert(name.clone());
    Ok(Claim { face: face.clone(), name })
}

fn taken(name: &str, id: &str) -> Fault {
    Fault::conflict(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) \
         that container to be able to reuse that name."
    ))
}

/// `POST /containers/create`.
///
/// # Errors
/// 400 for what cannot be obeyed, 404 without the image, 409 for a name that is taken.
pub async fn create(mut call: Call) -> Result<Answer> {
    let document: Value = call.json().await?;
    let mut asked = Creation::read(document)?;
    check::platform(&call.query)?;
    let name = call.query.get("name").unwrap_or_default();
    // Some libraries say in the document again what they say in the query.
    if asked.config.rest.get("name").is_some_and(|said| said == name) {
        asked.config.rest.remove("name");
    }
    let claim = claim(&call.face, name)?;
    let (face, mut warnings) = (call.face.clone(), Vec::new());
    check::creation(&asked, &mut warnings)?;
    let given = std::mem::take(&mut asked.networks);
    asked.networks = networks::asked(&face, &mut asked.host, given)?;
    let image = image_of(&face, &asked.config.image).await?;
    let mut record = complete(&face, asked, image.clone(), &claim.name).await?;
    // What would be refused at the start is refused now.
    spec::sandbox(&face, &record, &networks::Ground::default(), &[])?;
    spec::container(&face, &record)?;
    let made = make(&face, &mut record, image).await;
    if let Err(fault) = made {
        discard(&face, &record).await;
        return Err(fault);
    }
    let id = record.id.clone();
    face.tell(&record, "create", &[]);
    face.containers.lock().insert(id.clone(), Arc::new(Container::new(record)));
    Ok(status_json(StatusCode::CREATED, &json!({ "Id": id, "Warnings": warnings })))
}

async fn image_of(face: &Arc<Face>, name: &str) -> Result<ImageInfo> {
    if name.is_empty() {
        return Err(Fault::bad("no image specified"));
    }
    let (engine, wanted) = (face.engine.clone(), name.to_owned());
    let found = blocking(move || engine.images().get(&wanted)).await?;
    let shown = || name.parse::<image::Reference>().map_or_else(|_| name.to_owned(), |r| r.familiar());
    found.ok_or_else(|| Fault::missing(format!("No such image: {}", shown())))
}

/// The key of a container's file system in the image store.
pub fn root_key(id: &str) -> String {
    format!("{}{id}", crate::ROOT_PREFIX)
}

async fn make(face: &Arc<Face>, record: &mut Record, image: ImageInfo) -> Result<()> {
    let (of, key) = (face.clone(), root_key(&record.id));
    blocking(move || of.engine.images().snapshot(&key, &image).map(drop)).await?;
    for point in &mut record.mounts {
        if point.kind == "volume" {
            face.volumes.ensure(&point.name, &BTreeMap::new(), point.anonymous)?;
            point.source = face.volumes.data(&point.name);
        }
    }
    crate::containers::seed::volumes(face, record).await?;
    face.records.put(record).map_err(|e| Fault::io("write the container's record", &e))
}

/// Undoes [`make`].
async fn discard(face: &Arc<Face>, record: &Record) {
    let (of, key, id) = (face.clone(), root_key(&record.id), record.id.clone());
    let mounts = record.mounts.clone();
    let undone = blocking(move || {
        of.engine.images().remove_snapshot(&key)?;
        for point in mounts.iter().filter(|m| m.anonymous && crate::volumes::users(&of, &m.name).is_empty()) {
            drop(of.volumes.remove(&point.name));
        }
        of.records.remove(&id).map_err(|e| Fault::io("remove the container's folder", &e))
    });
    if let Err(error) = undone.await {
        tracing::warn!(%error, "a container that could not be made is not fully undone");
    }
}

/// What the image says, where the user says nothing.
async fn complete(face: &Arc<Face>, asked: Creation, image: ImageInfo, name: &str) -> Result<Record> {
    let Creation { mut config, mut host, networks } = asked;
    let (engine, id) = (face.engine.clone(), image.id.clone());
    let raw: Value = blocking(move || {
        let bytes = engine.images().raw_config(&id)?;
        Ok::<_, Fault>(serde_json::from_slice(&bytes).unwrap_or_default())
    })
    .await?;
    let of_image = image.config.config().clone().unwrap_or_default();
    if config.entrypoint.is_none() {
        config.entrypoint = of_image.entrypoint().clone().map(Words);
        if config.cmd.as_ref().is_none_or(|c| c.0.is_empty()) {
            config.cmd = of_image.cmd().clone().map(Words);
        }
    }
    let words = |w: &Option<Words>| w.as_ref().map(|w| w.0.clone()).unwrap_or_default();
    // `--entrypoint ""` is sent as one empty word: no entry point, and not the image's.
    let entrypoint: Vec<String> = words(&config.entrypoint);
    let entrypoint = if entrypoint == [""] { Vec::new() } else { entrypoint };
    let argv: Vec<String> = entrypoint.into_iter().chain(words(&config.cmd)).collect();
    if argv.is_empty() {
        return Err(Fault::bad("no command specified"));
    }
    config.env = merged_env(of_image.env().clone().unwrap_or_default(), &config.env);
    for (key, value) in of_image.labels().clone().unwrap_or_default() {
        config.labels.entry(key).or_insert(value);
    }
    let fill = |slot: &mut String, value: &Option<String>| {
        if slot.is_empty() {
            *slot = value.clone().unwrap_or_default();
        }
    };
    fill(&mut config.user, of_image.user());
    fill(&mut config.working_dir, of_image.working_dir());
    fill(&mut config.stop_signal, of_image.stop_signal());
    for port in of_image.exposed_ports().iter().flatten() {
        config.exposed_ports.entry(port.clone()).or_insert_with(|| json!({}));
    }
    if config.healthcheck.as_ref().is_none_or(|h| h.test.is_empty()) {
        let of_image = raw.pointer("/config/Healthcheck").cloned().unwrap_or_default();
        let of_image: Option<Healthcheck> =
            serde_json::from_value(crate::containers::model::without_nulls(of_image)).ok();
        config.healthcheck = config.healthcheck.take().or(of_image);
    }
    for port in host.port_bindings.keys() {
        config.exposed_ports.entry(port.clone()).or_insert_with(|| json!({}));
    }
    let id = names::id();
    if config.hostname.is_empty() {
        config.hostname = match host.network_mode.as_str() {
            "host" => nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            _ => id[..12].to_owned(),
        };
    }
    if host.log_config.kind.is_empty() {
        host.log_config.kind = "json-file".to_owned();
    }
    let declared: Vec<String> = of_image.volumes().iter().flatten().cloned().collect();
    let mut mounts = mounts(&config.volumes, &declared, &host.binds, &host.mounts, &host.tmpfs)?;
    from_others(face, &host.volumes_from, &mut mounts)?;
    let (image, image_id) = (config.image.clone(), image.id.to_string());
    let name = name.to_owned();
    let created_ms = now_ms();
    Ok(Record { id, name, created_ms, image, image_id, config, host, networks, argv, mounts, ..Record::default() })
}

/// The image's variables, then the user's; a name alone takes the image's away.
fn merged_env(of_image: Vec<String>, of_user: &[String]) -> Vec<String> {
    let name = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> =
        of_image.into_iter().filter(|e| !of_user.iter().any(|u| name(u) == name(e))).collect();
    merged.extend(of_user.iter().filter(|e| e.contains('=')).cloned());
    merged
}

/// A path in a container.
pub fn target(text: &str) -> Result<PathBuf> {
    let path: PathBuf = Path::new(text).components().filter(|c| !matches!(c, Component::CurDir)).collect();
    if !path.is_absolute() || path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(Fault::bad(format!(
            "invalid mount config: invalid mount path: '{text}' mount path must be absolute"
        )));
    }
    if path == Path::new("/") {
        return Err(Fault::bad("invalid specification: destination can't be '/'"));
    }
    Ok(path)
}

/// All mounts; the later forms win over volumes that the image declares.
fn mounts(
    volumes: &BTreeMap<String, Value>,
    declared: &[String],
    binds: &[String],
    mounts: &[Mount],
    tmpfs: &BTreeMap<String, String>,
) -> Result<Vec<MountPoint>> {
    let mut points: BTreeMap<PathBuf, MountPoint> = BTreeMap::new();
    let mut add = |point: MountPoint| match points.insert(point.target.clone(), point) {
        Some(first) => Err(Fault::bad(format!("Duplicate mount point: {}", first.target.display()))),
        None => Ok(()),
    };
    for bind in binds {
        add(of_bind(bind)?)?;
    }
    for mount in mounts {
        add(of_mount(mount)?)?;
    }
    for (path, options) in tmpfs {
        add(in_memory(target(path)?, options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect()))?;
    }
    for path in volumes.keys().chain(declared) {
        let path = target(path)?;
        points.entry(path.clone()).or_insert_with(|| volume(String::new(), path));
    }
    Ok(points.into_values().collect())
}

/// Volumes and binds of other containers (`--volumes-from`): what is asked for itself stands before them, what only the image
/// declares does not.
fn from_others(face: &Arc<Face>, names: &[String], mounts: &mut Vec<MountPoint>) -> Result<()> {
    for text in names {
        let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
        if !matches!(mode, "rw" | "ro") {
            return Err(Fault::bad(format!("invalid mode for volumes-from: {mode}")));
        }
        // Not 404: clients would take it for a missing image, and pull.
        let other = face.container(name).map_err(|fault| Fault::bad(fault.message))?.record();
        for mut point in other.mounts.into_iter().filter(|m| m.kind != "tmpfs") {
            point.writable &= mode == "rw";
            match mounts.iter_mut().find(|m| m.target == point.target) {
                Some(own) if own.anonymous => *own = point,
                Some(_) => {}
                None => mounts.push(point),
            }
        }
    }
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(())
}

/// A volume; without a name it gets one of its own.
fn volume(name: String, target: PathBuf) -> MountPoint {
    let anonymous = name.is_empty();
    let name = if anonymous { names::id() } else { name };
    let (kind, source, writable) = ("volume".to_owned(), PathBuf::new(), true);
    let (propagation, options, no_copy) = (String::new(), Vec::new(), false);
    MountPoint { kind, name, source, target, writable, propagation, options, anonymous, no_copy }
}

fn in_memory(target: PathBuf, options: Vec<String>) -> MountPoint {
    let writable = !options.iter().any(|o| o == "ro");
    MountPoint { kind: "tmpfs".to_owned(), writable, options, ..volume("-".to_owned(), target) }.unnamed()
}

impl MountPoint {
    fn unnamed(mut self) -> Self {
        self.name.clear();
        self
    }
}

/// `source:target[:options]`, or `target` for a volume without a name.
fn of_bind(text: &str) -> Result<MountPoint> {
    let invalid = || Fault::bad(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, at, options) = match parts[..] {
        [at] => ("", at, ""),
        [source, at] => (source, at, ""),
        [source, at, options] => (source, at, options),
        _ => return Err(invalid()),
    };
    let at = target(at).map_err(|_| invalid())?;
    let mut point = if source.starts_with('/') {
        MountPoint { kind: "bind".to_owned(), source: source.into(), ..volume("-".to_owned(), at) }.unnamed()
    } else {
        if !source.is_empty() && !names::valid(source) {
            return Err(Fault::bad(format!(
                "create {source}: \"{source}\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        volume(source.to_owned(), at)
    };
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "rw" => {}
            "ro" => point.writable = false,
            "nocopy" if point.kind == "volume" => point.no_copy = true,
            // Labels of SELinux, which no host of ours has.
            "z" | "Z" => {}
            p if PROPAGATIONS.contains(&p) && point.kind == "bind" => point.propagation = p.to_owned(),
            other => return Err(Fault::bad(format!("invalid mode: {other}"))),
        }
    }
    point.options = vec![options.to_owned()];
    if point.kind == "bind" {
        // As Docker does for this form: a folder that is not there is made.
        std::fs::create_dir_all(&point.source)
            .or_else(|e| if point.source.exists() { Ok(()) } else { Err(e) })
            .map_err(|e| Fault::io(&format!("create {}", point.source.display()), &e))?;
    }
    Ok(point)
}

fn of_mount(mount: &Mount) -> Result<MountPoint> {
    crate::containers::model::only_empty("HostConfig.Mounts.", &mount.rest)?;
    let invalid = |why: String| Fault::bad(format!("invalid mount config for type \"{}\": {why}", mount.kind));
    if mount.target.is_empty() {
        return Err(invalid("field Target must not be empty".to_owned()));
    }
    let at = target(&mount.target)?;
    match mount.kind.as_str() {
        "bind" => {
            let options = mount.bind_options.clone().unwrap_or_default();
            crate::containers::model::only_empty("HostConfig.Mounts.BindOptions.", &options.rest)?;
            let source = PathBuf::from(&mount.source);
            if !source.is_absolute() {
                return Err(invalid("field Source must be an absolute path".to_owned()));
            }
            if options.create_mountpoint {
                std::fs::create_dir_all(&source).map_err(|e| invalid(e.to_string()))?;
            }
            if !source.exists() {
                return Err(invalid(format!("bind source path does not exist: {}", source.display())));
            }
            if !options.propagation.is_empty() && !PROPAGATIONS.contains(&options.propagation.as_str()) {
                return Err(invalid(format!("invalid propagation mode: {}", options.propagation)));
            }
            let (kind, writable, propagation) = ("bind".to_owned(), !mount.read_only, options.propagation);
            Ok(MountPoint { kind, source, writable, propagation, ..volume("-".to_owned(), at) }.unnamed())
        }
        "volume" => {
            let options = mount.volume_options.clone().unwrap_or_default();
            crate::containers::model::only_empty("HostConfig.Mounts.VolumeOptions.", &options.rest)?;
            if !mount.source.is_empty() && !names::valid(&mount.source) {
                return Err(invalid(format!("invalid volume name {:?}", mount.source)));
            }
            let (writable, no_copy) = (!mount.read_only, options.no_copy);
            Ok(MountPoint { writable, no_copy, ..volume(mount.source.clone(), at) })
        }
        "tmpfs" => {
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            crate::containers::model::only_empty("HostConfig.Mounts.TmpfsOptions.", &options.rest)?;
            let mut list = Vec::new();
            list.extend((options.size_bytes > 0).then(|| format!("size={}", options.size_bytes)));
            list.extend((options.mode > 0).then(|| format!("mode={:o}", options.mode)));
            list.extend(mount.read_only.then(|| "ro".to_owned()));
            Ok(in_memory(at, list))
        }
        other => Err(Fault::refused(&format!("HostConfig.Mounts of type {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(text: &str) -> Result<MountPoint> {
        of_bind(text)
    }

    #[test]
    fn binds_are_read_as_docker_reads_them() {
        let named = bind("data:/var/lib/x:ro").unwrap();
        assert_eq!((named.kind.as_str(), named.name.as_str(), named.writable), ("volume", "data", false));
        assert!(bind("/var/lib/x").unwrap().anonymous);
        let host = bind("/tmp:/x:rslave").unwrap();
        assert_eq!((host.kind.as_str(), host.propagation.as_str(), host.name.as_str()), ("bind", "rslave", ""));
        for bad in ["a:b", "/a:/b:nope", "/a:/b:ro:x", "/a:/", "in valid:/x", "/tmp:/a/../b"] {
            assert!(bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_mounts_on_one_path_are_refused_and_declared_volumes_give_way() {
        let none = BTreeMap::new();
        let binds = ["aa:/x".to_owned(), "bb:/x/".to_owned()];
        let fault = mounts(&none, &[], &binds, &[], &BTreeMap::new()).unwrap_err();
        assert_eq!(fault.message, "Duplicate mount point: /x");
        let points = mounts(&none, &["/x".to_owned()], &binds[..1], &[], &BTreeMap::new()).unwrap();
        assert_eq!(points.len(), 1);
        assert_eq!(points[0].name, "aa");
    }

    #[test]
    fn a_variable_without_a_value_is_taken_away() {
        let of_image = vec!["A=1".to_owned(), "B=2".to_owned()];
        let merged = merged_env(of_image, &["B".to_owned(), "C=3".to_owned(), "A=4".to_owned()]);
        assert_eq!(merged, ["C=3", "A=4"]);
    }
}
