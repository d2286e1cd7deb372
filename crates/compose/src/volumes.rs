//! `volumes`, `tmpfs`, `shm_size`, `configs`, `secrets`: what a service finds in its file system.

use convert::{Item, Mount, Source, Volume, Workload};

use crate::error::Result;
use crate::fields::Fields;
use crate::load::PathKind;
use crate::service::Context;
use crate::short;
use crate::words;
use crate::yaml::Node;

/// Reads them into the workload.
pub fn read(fields: &Fields<'_>, context: &Context<'_>, workload: &mut Workload) -> Result<()> {
    for item in fields.items("volumes")? {
        match item.text() {
            Some(text) => {
                let volume = short::volume(text).map_err(|m| fields.wrong("volumes", m))?;
                short_one(volume, fields, context, workload)?;
            }
            None => long(item, fields, context, workload)?,
        }
    }
    for text in fields.texts("tmpfs")? {
        let (path, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut size = None;
        for option in options.split(',').filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some(("size", amount)) => {
                    size = Some(
                        words::bytes(amount).ok_or_else(|| fields.wrong("tmpfs", format!("{amount:?} is no size")))?,
                    );
                }
                _ => fields.note("tmpfs", &format!("option {option:?} is lost")),
            }
        }
        mount(workload, "tmp", Source::Memory { size }, Mount { path: path.to_owned(), ..Mount::default() });
    }
    if let Some(size) = fields.bytes("shm_size")? {
        let at = Mount { path: "/dev/shm".to_owned(), ..Mount::default() };
        mount(workload, "shm", Source::Memory { size: Some(size) }, at);
    }
    files(fields, "configs", context, workload)?;
    files(fields, "secrets", context, workload)
}

/// Mounts a source; the same source is one volume of the pod.
fn mount(workload: &mut Workload, name: &str, source: Source, at: Mount) {
    let volumes = &mut workload.pod.volumes;
    let shared = !matches!(source, Source::Memory { .. } | Source::Empty);
    let known = volumes.iter().find(|v| shared && v.source == source).map(|v| v.name.clone());
    let volume = known.unwrap_or_else(|| {
        let plain = convert::name(name);
        let taken = |n: &str| volumes.iter().any(|v| v.name == n);
        let name = (1..).map(|i| if i == 1 { plain.clone() } else { convert::name(&format!("{plain}-{i}")) });
        let name = name.into_iter().find(|n| !taken(n)).expect("there are more numbers than volumes");
        volumes.push(Volume { name: name.clone(), source });
        name
    });
    workload.main().mounts.push(Mount { volume, ..at });
}

fn short_one(volume: short::Volume, fields: &Fields<'_>, context: &Context<'_>, workload: &mut Workload) -> Result<()> {
    let mut at = Mount { path: volume.target.clone(), ..Mount::default() };
    for option in &volume.options {
        match option.as_str() {
            "ro" => at.read_only = true,
            "rw" | "cached" | "delegated" | "consistent" | "private" | "rprivate" | "nocopy" => {}
            "rslave" | "slave" => at.propagation = Some("HostToContainer".to_owned()),
            "rshared" | "shared" => at.propagation = Some("Bidirectional".to_owned()),
            "z" | "Z" => fields.note("volumes", "SELinux labels of files are left as they are"),
            other => {
                return Err(fields.wrong("volumes", format!("option {other:?} of {:?} is not known", volume.target)));
            }
        }
    }
    let is_bind = volume.is_bind();
    match volume.source {
        None => mount(workload, "data", Source::Empty, at),
        Some(path) if is_bind => bind(&path, true, at, fields, context, workload),
        Some(name) => named(&name, at, fields, context, workload)?,
    }
    Ok(())
}

fn named(name: &str, at: Mount, fields: &Fields<'_>, context: &Context<'_>, workload: &mut Workload) -> Result<()> {
    let Some(claim) = context.top.claims.get(name) else {
        return Err(fields.wrong("volumes", format!("undefined volume {name:?}")));
    };
    mount(workload, name, Source::Claim(claim.clone()), at);
    Ok(())
}

fn bind(path: &str, create: bool, at: Mount, fields: &Fields<'_>, context: &Context<'_>, workload: &mut Workload) {
    let kind = match context.host.kind(std::path::Path::new(path)) {
        Some(PathKind::File) => Some("File"),
        Some(PathKind::Folder) => Some("Directory"),
        Some(PathKind::Other) => None,
        None if create => Some("DirectoryOrCreate"),
        None => Some("Directory"),
    };
    // A folder that this host has may be missing on another node, where it is made as Docker would.
    let kind = if create && kind == Some("Directory") { Some("DirectoryOrCreate") } else { kind };
    fields.note("volumes", &format!("{path} is a path of the node that the pod runs on"));
    let source = Source::Host { path: path.to_owned(), kind: kind.map(str::to_owned) };
    let name = std::path::Path::new(path).file_name().map_or("host".into(), |n| n.to_string_lossy());
    mount(workload, &format!("host-{name}"), source, at);
}

fn long(item: &Node, fields: &Fields<'_>, context: &Context<'_>, workload: &mut Workload) -> Result<()> {
    let one = Fields::of(item, fields.at("volumes"), fields.notes())?;
    let kind = one.text("type")?.ok_or_else(|| one.wrong("type", "it is needed"))?;
    let source = one.text("source")?;
    let path = one.text("target")?.ok_or_else(|| one.wrong("target", "it is needed"))?;
    let mut at = Mount { path, read_only: one.truth("read_only")?.unwrap_or(false), ..Mount::default() };
    one.text("consistency")?;
    let (mut create, mut size) = (true, None);
    if let Some(options) = one.below("bind")? {
        create = options.truth("create_host_path")?.unwrap_or(true);
        at.propagation = match options.text("propagation")?.as_deref() {
            None | Some("private" | "rprivate") => None,
            Some("slave" | "rslave") => Some("HostToContainer".to_owned()),
            Some("shared" | "rshared") => Some("Bidirectional".to_owned()),
            Some(other) => return Err(options.wrong("propagation", format!("{other:?} is not known"))),
        };
        options.lose(&[
            ("recursive", "mounts below are mounted, too"),
            ("selinux", "SELinux labels of files are left as they are"),
        ]);
        options.finish()?;
    }
    if let Some(options) = one.below("volume")? {
        options.truth("nocopy")?;
        at.sub_path = options.text("subpath")?;
        options.lose(&[("labels", "a volume's labels are those of its definition")]);
        options.finish()?;
    }
    if let Some(options) = one.below("tmpfs")? {
        size = options.bytes("size")?;
        options.lose(&[("mode", "anybody in the container may write there")]);
        options.finish()?;
    }
    let needed = || one.wrong("source", "it is needed");
    match kind.as_str() {
        "volume" => match source {
            Some(name) => named(&name, at, fields, context, workload)?,
            None => mount(workload, "data", Source::Empty, at),
        },
        "bind" => bind(&source.ok_or_else(needed)?, create, at, fields, context, workload),
        "tmpfs" => mount(workload, "tmp", Source::Memory { size }, at),
        other => return Err(one.wrong("type", format!("{other:?} is not supported: volume, bind or tmpfs"))),
    }
    one.finish()
}

/// Configs and secrets: files whose content is in the cluster.
fn files(fields: &Fields<'_>, key: &'static str, context: &Context<'_>, workload: &mut Workload) -> Result<()> {
    let secrets = key == "secrets";
    for item in fields.items(key)? {
        let (source, target, mode) = match item.text() {
            Some(name) => (name.to_owned(), None, None),
            None => {
                let one = Fields::of(item, fields.at(key), fields.notes())?;
                let source = one.text("source")?.ok_or_else(|| one.wrong("source", "it is needed"))?;
                let mode = match one.text("mode")? {
                    None => None,
                    Some(text) => Some(mode(&text).ok_or_else(|| one.wrong("mode", format!("{text:?} is no mode")))?),
                };
                let target = one.text("target")?;
                one.lose(&[("uid", "files belong to root"), ("gid", "files belong to root")]);
                one.finish()?;
                (source, target, mode)
            }
        };
        let Some((object, entry)) = context.top.file(&source, secrets, context)? else {
            return Err(fields.wrong(key, format!("undefined {} {source:?}", key.trim_end_matches('s'))));
        };
        let path = match target {
            Some(path) if path.starts_with('/') => path,
            Some(name) if secrets => format!("/run/secrets/{name}"),
            None if secrets => format!("/run/secrets/{source}"),
            Some(name) => format!("/{name}"),
            None => format!("/{source}"),
        };
        let items = vec![Item { key: entry.clone(), path: entry.clone(), mode: None }];
        // Docker's: everybody in the container may read.
        let mode = Some(mode.unwrap_or(0o444));
        let source_of = match secrets {
            true => Source::Secret { name: object, items, mode },
            false => Source::ConfigMap { name: object, items, mode },
        };
        let at = Mount { path, sub_path: Some(entry), read_only: true, ..Mount::default() };
        mount(workload, &format!("{}-{source}", key.trim_end_matches('s')), source_of, at);
    }
    Ok(())
}

/// A mode: octal, with or without `0o`.
fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8).ok().filter(|m| *m <= 0o777)
}
