//! `build`: how the image of a service is made.

use crate::error::Result;
use crate::fields::Fields;
use crate::model::Build;
use crate::service::Context;
use crate::yaml::Node;

/// Reads it.
pub fn read(service: &Fields<'_>, context: &Context<'_>) -> Result<Option<Build>> {
    let Some(node) = service.take("build") else { return Ok(None) };
    if let Some(path) = node.text() {
        return Ok(Some(Build { context: path.to_owned(), ..Build::default() }));
    }
    let fields = Fields::of(node, service.at("build"), service.notes())?;
    let mut build = Build {
        context: fields.text("context")?.unwrap_or_else(|| ".".to_owned()),
        dockerfile: fields.text("dockerfile")?,
        inline: fields.text("dockerfile_inline")?,
        target: fields.text("target")?,
        tags: fields.texts("tags")?,
        no_cache: fields.truth("no_cache")?.unwrap_or(false),
        pull: fields.truth("pull")?.unwrap_or(false),
        ..Build::default()
    };
    if build.inline.is_some() && build.dockerfile.is_some() {
        return Err(fields.wrong("dockerfile_inline", "dockerfile says another"));
    }
    for (name, value) in fields.pairs("args")? {
        build.args.extend(value.or_else(|| context.env.get(&name)).map(|v| (name, v)));
    }
    build.labels = fields.pairs("labels")?.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect();
    for (name, value) in fields.pairs("additional_contexts")? {
        let value = value.unwrap_or_default();
        if value.starts_with("service:") {
            return Err(
                fields.wrong("additional_contexts", format!("{value:?} is not supported: name a folder or an image"))
            );
        }
        build.contexts.insert(name, value);
    }
    match fields.text("network")?.as_deref() {
        None | Some("default") => {}
        Some(network @ ("none" | "host")) => build.network = Some(network.to_owned()),
        Some(other) => {
            return Err(fields.wrong("network", format!("{other:?} is not supported: default, host or none")));
        }
    }
    for (name, ip) in fields.pairs("extra_hosts")? {
        let ip = ip.unwrap_or_default();
        let Ok(address) = ip.parse() else {
            return Err(fields.wrong("extra_hosts", format!("{ip:?} is not an address")));
        };
        build.hosts.push((name, address));
    }
    secrets(&fields, context, &mut build)?;
    if fields.texts("platforms")?.len() > 1 {
        return Err(fields.wrong("platforms", "not supported: images are built for this host only"));
    }
    fields.refuse(&[
        ("entitlements", "builds have no further rights"),
        ("isolation", "it is for Windows"),
        ("privileged", "builds have no further rights"),
        ("ssh", "builds have no agent for SSH"),
    ])?;
    fields.lose(&[
        ("cache_from", "the cache of this host is used"),
        ("cache_to", "the cache of this host is used"),
        ("shm_size", "it is that of the build"),
        ("ulimits", "they are those of the build"),
    ]);
    fields.finish()?;
    Ok(Some(build))
}

fn secrets(fields: &Fields<'_>, context: &Context<'_>, build: &mut Build) -> Result<()> {
    for item in fields.items("secrets")? {
        let (source, target) = secret(item, fields)?;
        let content = context.top.secret_bytes(&source, context).ok_or_else(|| {
            fields.wrong("secrets", format!("undefined secret {source:?}, or one that is outside of the project"))
        })?;
        build.secrets.insert(target, content);
    }
    Ok(())
}

fn secret(item: &Node, fields: &Fields<'_>) -> Result<(String, String)> {
    if let Some(name) = item.text() {
        return Ok((name.to_owned(), name.to_owned()));
    }
    let one = Fields::of(item, fields.at("secrets"), fields.notes())?;
    let source = one.text("source")?.ok_or_else(|| one.wrong("source", "it is needed"))?;
    let target = one.text("target")?.unwrap_or_else(|| source.clone());
    one.lose(&[("uid", "builds run as root"), ("gid", "builds run as root"), ("mode", "builds run as root")]);
    one.finish()?;
    Ok((source, target))
}
