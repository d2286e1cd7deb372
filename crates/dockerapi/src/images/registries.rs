//! What registries are asked: whether they know somebody, what a name means there, what they have.

use http::StatusCode;
use image::{Auth, ImageError};
use serde_json::{Value, json};

use crate::fault::{Fault, Result};
use crate::http::{Answer, Call, json};
use crate::images::transfer::{Credentials, credentials};

/// Results of a search when nothing is said, and at most.
const SEARCH: (usize, usize) = (25, 100);

/// `https://index.docker.io/v1/`, `http://host:5000/v2/`, `host:5000` as the registry that is meant.
fn registry_of(address: &str) -> &str {
    let bare = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")).unwrap_or(address);
    match bare.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => image::DEFAULT_REGISTRY,
        other => other,
    }
}

/// `POST /auth`: whether a registry takes these credentials. Nothing of them is kept: the client does that.
///
/// # Errors
/// 401 when it does not, 400 when there are none.
pub async fn login(mut call: Call) -> Result<Answer> {
    let given: Credentials = call.json().await?;
    let registry = registry_of(&given.serveraddress).to_owned();
    let auth = given.auth()?.ok_or_else(|| Fault::bad("no user name and no token to log in with"))?;
    // What a registry gives for a token is another token, which is not asked for.
    if matches!(auth, Auth::Bearer(_)) {
        return Err(Fault::refused("registrytoken of a login"));
    }
    let images = call.face.engine.images().clone();
    match images.login(&registry, auth).await {
        Ok(()) => Ok(json(&json!({ "Status": "Login Succeeded", "IdentityToken": "" }))),
        Err(ImageError::Unauthorized { message, .. }) => Err(denied(&registry, &message)),
        Err(ImageError::AccessDenied { .. }) => Err(denied(&registry, "authentication required")),
        Err(error) => Err(error.into()),
    }
}

fn denied(registry: &str, message: &str) -> Fault {
    Fault::new(StatusCode::UNAUTHORIZED, format!("Get \"https://{registry}/v2/\": unauthorized: {message}"))
}

/// `GET /distribution/{name}/json`.
///
/// # Errors
/// 404 where there is none, or none that this client may see.
pub async fn distribution(call: Call, name: &str) -> Result<Answer> {
    let auth = credentials(call.header("x-registry-auth"))?;
    let images = call.face.engine.images().clone();
    let found = images.remote(name, auth).await?;
    Ok(json(&json!({
        "Descriptor": { "mediaType": found.media_type, "digest": found.digest.to_string(), "size": found.size },
        "Platforms": found.platforms,
    })))
}

/// `GET /images/search`.
///
/// # Errors
/// 400 for filters or limits that are none; what the registry says.
pub async fn search(call: Call) -> Result<Answer> {
    let term = call.query.get("term").ok_or_else(|| Fault::bad("no term to search for"))?.to_owned();
    let filters = call.query.filters(&["is-automated", "is-official", "stars"])?;
    let limit = match call.query.number::<i64>("limit")? {
        None | Some(0) => SEARCH.0,
        Some(n) => usize::try_from(n)
            .ok()
            .filter(|n| (1..=SEARCH.1).contains(n))
            .ok_or_else(|| Fault::bad(format!("limit {n} is outside the range of [1, {}]", SEARCH.1)))?,
    };
    let (official, automated) = (filters.switch("is-official")?, filters.switch("is-automated")?);
    let mut stars = 0i64;
    for text in filters.of("stars") {
        let wanted = text.parse().map_err(|_| Fault::bad(format!("invalid filter 'stars=[{text}]'")))?;
        stars = stars.max(wanted);
    }
    let auth = credentials(call.header("x-registry-auth"))?;
    let images = call.face.engine.images().clone();
    let found = images.search(&term, limit, auth).await?;
    let fits = found.iter().filter(|f| {
        official.is_none_or(|o| o == f.is_official)
            && automated.is_none_or(|a| a == f.is_automated)
            && f.star_count >= stars
    });
    let rows: Vec<Value> = fits.map(|f| serde_json::to_value(f).unwrap_or_default()).collect();
    Ok(json(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_in_several_ways() {
        for (address, registry) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://localhost:5000/v2/", "localhost:5000"),
        ] {
            assert_eq!(registry_of(address), registry);
        }
    }
}
