//! Images: listed, looked at, named, removed.

pub mod asked;
pub mod building;
pub mod cache;
pub mod lines;
pub mod making;
pub mod registries;
pub mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::StatusCode;
use image::{Digest, ImageInfo, Reference};
use serde_json::{Value, json};

use crate::containers::list::until;
use crate::face::Face;
use crate::fault::{Fault, Result, blocking};
use crate::http::{Answer, Call, empty, json};

/// Docker's short form of a name.
pub fn familiar(reference: &str) -> String {
    reference.parse::<Reference>().map_or_else(|_| reference.to_owned(), |r| r.familiar())
}

/// The image of that name or id.
///
/// # Errors
/// 404.
pub async fn found(face: &Arc<Face>, name: &str) -> Result<ImageInfo> {
    let (of, wanted) = (face.clone(), name.to_owned());
    let image = blocking(move || of.engine.images().get(&wanted)).await?;
    image.ok_or_else(|| Fault::missing(format!("No such image: {name}")))
}

fn created(info: &ImageInfo) -> i64 {
    info.created.as_ref().and_then(|c| c.parse::<jiff::Timestamp>().ok()).map_or(0, |t| t.as_second())
}

fn labels(info: &ImageInfo) -> BTreeMap<String, String> {
    info.config.config().as_ref().and_then(|c| c.labels().clone()).unwrap_or_default().into_iter().collect()
}

/// How many containers run on an image.
fn users(face: &Arc<Face>, id: &Digest) -> usize {
    let id = id.to_string();
    face.all().iter().filter(|c| c.record().image_id == id).count()
}

/// A line for each image that is wanted, the newest first.
///
/// # Errors
/// When the store cannot be read.
pub async fn rows(face: &Arc<Face>, wanted: impl Fn(&ImageInfo) -> bool) -> Result<Vec<Value>> {
    let of = face.clone();
    let mut all = blocking(move || of.engine.images().list()).await?;
    all.retain(|i| wanted(i));
    all.sort_by_key(|i| std::cmp::Reverse(created(i)));
    let row = |info: &ImageInfo| {
        json!({
            "Id": info.id.to_string(), "ParentId": "", "Created": created(info), "Size": info.size_bytes, "SharedSize": -1,
            "VirtualSize": info.size_bytes, "Containers": users(face, &info.id),
            "RepoTags": info.references.iter().filter(|r| !r.contains('@')).map(|r| familiar(r)).collect::<Vec<_>>(),
            "RepoDigests": info.repo_digests.iter().map(|r| familiar(r)).collect::<Vec<_>>(),
            "Labels": labels(info),
        })
    };
    Ok(all.iter().map(row).collect())
}

/// Whether a name fits a pattern with `*` and `?`, as Docker's `reference` filter has them.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if fits(rest, name) => true,
        // A star goes no further than a slash.
        (Some((b'*', _)), Some((c, left))) if *c != b'/' => fits(pattern, left),
        (Some((b'?', rest)), Some((c, left))) if *c != b'/' => fits(rest, left),
        (Some((p, rest)), Some((c, left))) if p == c && *p != b'*' => fits(rest, left),
        _ => false,
    }
}

/// `GET /images/json`.
///
/// # Errors
/// 400 for filters that are none.
pub async fn list(call: Call) -> Result<Answer> {
    let filters = call.query.filters(&["before", "dangling", "label", "label!", "reference", "since", "until"])?;
    let dangling = filters.switch("dangling")?;
    let mut limits = [None, None];
    for (slot, name) in limits.iter_mut().zip(["before", "since"]) {
        if let Some(text) = filters.of(name).first() {
            *slot = Some(created(&found(&call.face, text).await?));
        }
    }
    let [before, since] = limits;
    let until = filters.of("until").first().map(|t| until(t)).transpose()?;
    let called = |tagged: &str| {
        let bare = tagged.rsplit_once(':').map_or(tagged, |(n, _)| n);
        filters.any("reference", |p| [tagged, bare].iter().any(|name| fits(p.as_bytes(), name.as_bytes())))
    };
    let rows = rows(&call.face, |info| {
        dangling.is_none_or(|d| d == info.references.is_empty())
            && before.is_none_or(|b| created(info) < b)
            && since.is_none_or(|s| created(info) > s)
            && until.is_none_or(|u| created(info) * 1000 < u)
            && (!filters.has("reference") || info.references.iter().any(|r| called(&familiar(r))))
            && filters.labels(&labels(info))
    });
    let mut rows = rows.await?;
    // Of an image with several names, those that were asked for.
    for tags in rows.iter_mut().filter_map(|row| row["RepoTags"].as_array_mut()) {
        tags.retain(|tag| tag.as_str().is_some_and(called));
    }
    Ok(json(&rows))
}

/// `GET /images/{name}/json`.
///
/// # Errors
/// 404.
pub async fn inspect(call: Call, name: &str) -> Result<Answer> {
    let info = found(&call.face, name).await?;
    let (of, id) = (call.face.clone(), info.id.clone());
    let raw: Value = blocking(move || {
        let bytes = of.engine.images().raw_config(&id)?;
        Ok::<_, Fault>(serde_json::from_slice(&bytes).unwrap_or_default())
    })
    .await?;
    Ok(json(&json!({
        "Id": info.id.to_string(),
        "RepoTags": info.references.iter().filter(|r| !r.contains('@')).map(|r| familiar(r)).collect::<Vec<_>>(),
        "RepoDigests": info.repo_digests.iter().map(|r| familiar(r)).collect::<Vec<_>>(),
        "Parent": "", "Comment": "", "Created": info.created, "DockerVersion": "",
        "Author": raw["author"].as_str().unwrap_or_default(),
        "Config": raw["config"], "Architecture": raw["architecture"], "Variant": raw["variant"].as_str().unwrap_or_default(),
        "Os": raw["os"], "Size": info.size_bytes, "VirtualSize": info.size_bytes,
        "GraphDriver": { "Name": "overlay2", "Data": null },
        "RootFS": { "Type": "layers", "Layers": info.layers.iter().map(ToString::to_string).collect::<Vec<_>>() },
        "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
        // Gone from Docker's answers since 1.45; docker-compose 1 looks for volumes there when it makes a container anew.
        "ContainerConfig": raw["config"],
    })))
}

/// `GET /images/{name}/history`.
///
/// # Errors
/// 404.
pub async fn history(call: Call, name: &str) -> Result<Answer> {
    let info = found(&call.face, name).await?;
    let steps = info.config.history().clone().unwrap_or_default();
    let last = steps.len().saturating_sub(1);
    let (of, layers) = (call.face.clone(), info.layers.clone());
    let sizes = blocking(move || {
        Ok::<_, Fault>(layers.iter().map(|l| of.engine.images().layer_bytes(l)).collect::<Vec<u64>>())
    });
    let mut sizes = sizes.await?.into_iter();
    // Steps that changed no file have no layer.
    let sizes: Vec<u64> =
        steps.iter().map(|s| if s.empty_layer() == Some(true) { 0 } else { sizes.next().unwrap_or(0) }).collect();
    let rows = steps.iter().enumerate().rev().map(|(n, step)| {
        let tags: Vec<String> = info.references.iter().filter(|_| n == last).map(|r| familiar(r)).collect();
        let time = step.created().as_ref().and_then(|c| c.parse::<jiff::Timestamp>().ok());
        json!({
            "Id": if n == last { info.id.to_string() } else { "<missing>".to_owned() },
            "Created": time.map_or(0, |t| t.as_second()),
            "CreatedBy": step.created_by().clone().unwrap_or_default(), "Comment": step.comment().clone().unwrap_or_default(),
            "Tags": if tags.is_empty() { Value::Null } else { json!(tags) }, "Size": sizes[n],
        })
    });
    Ok(json(&rows.collect::<Vec<_>>()))
}

/// `POST /images/{name}/tag`.
///
/// # Errors
/// 404, 400 for a name that is none.
pub async fn tag(call: Call, name: &str) -> Result<Answer> {
    let info = found(&call.face, name).await?;
    let repository = call.query.get("repo").ok_or_else(|| Fault::bad("invalid reference format"))?;
    let target = match call.query.get("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let (of, source, given) = (call.face.clone(), info.id.to_string(), target.clone());
    blocking(move || of.engine.images().tag(&source, &given)).await?;
    call.face.events.tell(
        "image",
        "tag",
        &info.id.to_string(),
        BTreeMap::from([("name".to_owned(), familiar(&target))]),
    );
    Ok(empty(StatusCode::CREATED))
}

/// `DELETE /images/{name}`.
///
/// # Errors
/// 404, 409 while it is used, or has several names and is named by its id.
pub async fn remove(call: Call, name: &str) -> Result<Answer> {
    let info = found(&call.face, name).await?;
    let (force, id) = (call.query.flag("force"), info.id.to_string());
    let short = &info.id.hex()[..12];
    // A name first: what begins with the digits of an id may be one.
    let by_name = name.parse::<Reference>().is_ok_and(|r| {
        let normal = r.to_string();
        info.references.contains(&normal) || info.repo_digests.contains(&normal)
    });
    if !by_name && info.references.len() > 1 && !force {
        return Err(Fault::conflict(format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )));
    }
    let last = !by_name || info.references.len() <= 1;
    let user = call.face.all().into_iter().map(|c| c.record()).find(|r| last && r.image_id == id);
    if let Some(user) = user {
        let holder = &user.id[..12];
        // The layers are those of the container's file system: they have to stay also with force.
        let how = if user.state.phase.is_live() { "running" } else { "stopped" };
        let what = if force || how == "running" { "cannot be forced" } else { "must remove the container first" };
        let using = format!("image is being used by {how} container {holder}");
        return Err(Fault::conflict(format!(
            "conflict: unable to remove repository reference \"{name}\" ({what}) - {using}"
        )));
    }
    let (of, wanted) = (call.face.clone(), name.to_owned());
    let removed = blocking(move || {
        let mut used: BTreeSet<Digest> = of.engine.images_in_use();
        used.extend(of.all().iter().filter_map(|c| c.record().image_id.parse().ok()));
        of.engine.images().remove(&wanted, &used)
    })
    .await?;
    let mut rows: Vec<Value> = removed.untagged.iter().map(|r| json!({ "Untagged": familiar(r) })).collect();
    rows.extend(removed.deleted.iter().map(|d| json!({ "Deleted": d.to_string() })));
    for action in ["untag", "delete"] {
        if (action == "untag" && !removed.untagged.is_empty()) || (action == "delete" && !removed.deleted.is_empty()) {
            call.face.events.tell("image", action, &id, BTreeMap::from([("name".to_owned(), name.to_owned())]));
        }
    }
    Ok(json(&rows))
}

/// `POST /images/prune`.
///
/// # Errors
/// 400 for filters that are none.
pub async fn prune(call: Call) -> Result<Answer> {
    let filters = call.query.filters(&["dangling", "label", "label!", "until"])?;
    let only_dangling = filters.switch("dangling")?.unwrap_or(true);
    let until = filters.of("until").first().map(|t| until(t)).transpose()?;
    let face = call.face.clone();
    let pruned = blocking(move || {
        let images = face.engine.images();
        let mut used: BTreeSet<Digest> = face.engine.images_in_use();
        used.extend(face.all().iter().filter_map(|c| c.record().image_id.parse().ok()));
        let (mut rows, mut freed) = (Vec::new(), 0u64);
        for info in images.list()? {
            let fits = filters.labels(&labels(&info)) && until.is_none_or(|u| created(&info) * 1000 < u);
            let wanted = fits && !used.contains(&info.id) && (info.references.is_empty() || !only_dangling);
            if !wanted {
                continue;
            }
            // What came to be used meanwhile stays.
            let Ok(removed) = images.remove(&info.id.to_string(), &used) else { continue };
            rows.extend(removed.untagged.iter().map(|r| json!({ "Untagged": familiar(r) })));
            rows.extend(removed.deleted.iter().map(|d| json!({ "Deleted": d.to_string() })));
            freed += removed.freed_bytes;
        }
        // Of pulls that failed, too.
        freed += images.collect_content()?.freed_bytes;
        Ok::<_, Fault>(json!({ "ImagesDeleted": rows, "SpaceReclaimed": freed }))
    });
    Ok(json(&pruned.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stop_at_slashes() {
        let fit = |p: &str, n: &str| fits(p.as_bytes(), n.as_bytes());
        assert!(fit("busy*", "busybox") && fit("*/app", "me/app") && fit("b?sybox:1", "busybox:1"));
        assert!(!fit("*", "me/app") && !fit("busy", "busybox"));
        assert_eq!(familiar("docker.io/library/busybox:latest"), "busybox:latest");
    }
}
