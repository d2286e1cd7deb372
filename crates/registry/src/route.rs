//! What a request is about, read from its method and path (distribution-spec, "Endpoints").

use std::collections::BTreeMap;

use http::Method;
use image::{Digest, Reference};

use crate::error::Refusal;

/// Longest name of a repository, as in Docker's registry.
const NAME_MAX: usize = 255;

/// A manifest's name within its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    Tag(String),
    Digest(Digest),
}

impl Selector {
    pub fn as_str(&self) -> &str {
        match self {
            Selector::Tag(tag) => tag,
            Selector::Digest(digest) => digest.as_str(),
        }
    }
}

/// A place of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/tags/list`
    Tags { name: String },
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest { name: String, selector: Selector },
    /// `/v2/NAME/blobs/DIGEST`
    Blob { name: String, digest: Digest },
    /// `/v2/NAME/blobs/uploads/`
    Uploads { name: String },
    /// `/v2/NAME/blobs/uploads/ID`
    Upload { name: String, id: String },
    /// `/v2/NAME/referrers/DIGEST`
    Referrers { name: String, digest: Digest },
}

impl Route {
    /// `None` for a path that is no place of the API.
    ///
    /// # Errors
    /// A place of the API whose name, tag or digest cannot be.
    pub fn of(path: &str) -> Option<Result<Self, Refusal>> {
        let rest = path.strip_prefix("/v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Ok(Route::Base));
        }
        let rest = rest.strip_prefix('/')?;
        if rest == "_catalog" {
            return Some(Ok(Route::Catalog));
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Some(named(name).map(|name| Route::Tags { name }));
        }
        if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
            return Some(named(name).map(|name| Route::Uploads { name }));
        }
        let (front, last) = rest.rsplit_once('/')?;
        if let Some(name) = front.strip_suffix("/blobs/uploads") {
            let id = last.to_owned();
            return Some(named(name).and_then(|name| match uuid::Uuid::parse_str(&id) {
                Ok(_) => Ok(Route::Upload { name, id }),
                Err(_) => Err(Refusal::upload_unknown(&id)),
            }));
        }
        if let Some(name) = front.strip_suffix("/blobs") {
            return Some(named(name).and_then(|name| Ok(Route::Blob { name, digest: digest(last)? })));
        }
        if let Some(name) = front.strip_suffix("/referrers") {
            return Some(named(name).and_then(|name| Ok(Route::Referrers { name, digest: digest(last)? })));
        }
        let name = front.strip_suffix("/manifests")?;
        Some(named(name).and_then(|name| Ok(Route::Manifest { name, selector: selector(last)? })))
    }

    /// The methods that the place has.
    pub fn methods(&self) -> &'static [Method] {
        match self {
            Route::Base | Route::Catalog | Route::Tags { .. } | Route::Referrers { .. } => &[Method::GET, Method::HEAD],
            Route::Manifest { .. } => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
            Route::Blob { .. } => &[Method::GET, Method::HEAD, Method::DELETE],
            Route::Uploads { .. } => &[Method::POST],
            Route::Upload { .. } => &[Method::GET, Method::PATCH, Method::PUT, Method::DELETE],
        }
    }
}

/// # Errors
/// Not a sha256 digest: the registry keeps no other.
pub(crate) fn digest(text: &str) -> Result<Digest, Refusal> {
    let unsupported = text.split_once(':').is_some_and(|(algorithm, _)| algorithm != "sha256");
    text.parse().map_err(|_| match unsupported {
        true => Refusal::digest_invalid("only sha256 digests are kept here"),
        false => Refusal::digest_invalid("provided digest did not match uploaded content"),
    })
}

fn selector(text: &str) -> Result<Selector, Refusal> {
    if text.contains(':') {
        return digest(text).map(Selector::Digest);
    }
    match format!("localhost/x:{text}").parse::<Reference>() {
        Ok(reference) if reference.tag() == Some(text) => Ok(Selector::Tag(text.to_owned())),
        _ => Err(Refusal::tag_invalid(text)),
    }
}

/// The rules of names are those of references.
fn named(name: &str) -> Result<String, Refusal> {
    let good = name.len() <= NAME_MAX
        && !name.contains([':', '@'])
        && format!("localhost/{name}").parse::<Reference>().is_ok_and(|r| r.path() == name);
    if good { Ok(name.to_owned()) } else { Err(Refusal::name_invalid(name)) }
}

/// The name of another repository, in a parameter.
pub(crate) fn name(text: &str) -> Option<String> {
    named(text).ok()
}

/// The parameters of a request; of several of a name the first.
pub(crate) fn parameters(query: Option<&str>) -> BTreeMap<String, String> {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let mut out = BTreeMap::new();
    for pair in query.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        out.entry(decode(key)).or_insert_with(|| decode(value));
    }
    out
}

/// A `Range: bytes=A-B` of a body of `size` bytes: first and last byte. `None` when the whole is to be sent, because none or
/// several were asked for (RFC 9110, 14.2).
///
/// # Errors
/// The body ends before the range begins.
pub(crate) fn range(header: Option<&str>, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some(range) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else { return Ok(None) };
    let Some((first, last)) = range.split_once('-') else { return Ok(None) };
    let (first, last) = (first.trim(), last.trim());
    let end = size.saturating_sub(1);
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), _) if first >= size => Err(()),
        (Ok(first), Ok(last)) if first <= last => Ok(Some((first, last.min(end)))),
        (Ok(first), Err(_)) if last.is_empty() => Ok(Some((first, end))),
        (Err(_), Ok(0)) if first.is_empty() => Err(()),
        (Err(_), Ok(n)) if first.is_empty() && size > 0 => Ok(Some((size - n.min(size), end))),
        _ => Ok(None),
    }
}

/// `Content-Range: A-B` of a chunk (distribution-spec, "Pushing a blob in chunks"; no unit). `None` when it is not of that form.
pub(crate) fn chunk(header: &str) -> Option<(u64, u64)> {
    let range = header.trim();
    let (first, last) =
        range.strip_prefix("bytes=").or(range.strip_prefix("bytes ")).unwrap_or(range).split_once('-')?;
    let last = last.split_once('/').map_or(last, |(last, _)| last);
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn of(path: &str) -> Route {
        Route::of(path).unwrap().unwrap()
    }

    #[test]
    fn paths_are_read_however_the_repository_is_called() {
        let digest: Digest = D.parse().unwrap();
        let name = || "a/blobs/uploads/b".to_owned();
        assert_eq!((of("/v2"), of("/v2/"), of("/v2/_catalog")), (Route::Base, Route::Base, Route::Catalog));
        assert_eq!(of("/v2/a/blobs/uploads/b/tags/list"), Route::Tags { name: name() });
        assert_eq!(
            of(&format!("/v2/a/blobs/uploads/b/blobs/{D}")),
            Route::Blob { name: name(), digest: digest.clone() }
        );
        assert_eq!(of("/v2/a/blobs/uploads/b/blobs/uploads/"), Route::Uploads { name: name() });
        assert_eq!(of("/v2/a/blobs/uploads"), Route::Uploads { name: "a".into() });
        let id = "6f0a5a3e-4f2a-4d3c-9f0a-3b9f9b0f3a11";
        assert_eq!(of(&format!("/v2/a/blobs/uploads/{id}")), Route::Upload { name: "a".into(), id: id.into() });
        let (tag, at) = (Selector::Tag("v1.0".into()), Selector::Digest(digest.clone()));
        assert_eq!(of("/v2/a/manifests/v1.0"), Route::Manifest { name: "a".into(), selector: tag });
        assert_eq!(of(&format!("/v2/a/manifests/{D}")), Route::Manifest { name: "a".into(), selector: at });
        assert_eq!(of(&format!("/v2/a/referrers/{D}")), Route::Referrers { name: "a".into(), digest });
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_code() {
        for (path, code) in [
            ("/v2/Upper/tags/list", "NAME_INVALID"),
            ("/v2/../etc/tags/list", "NAME_INVALID"),
            ("/v2/a..b/tags/list", "NAME_INVALID"),
            ("/v2/a:b/tags/list", "NAME_INVALID"),
            ("/v2/a/manifests/.x", "TAG_INVALID"),
            ("/v2/a/manifests/a%2fb", "TAG_INVALID"),
            ("/v2/a/blobs/sha256:12", "DIGEST_INVALID"),
            ("/v2/a/blobs/sha512:12", "DIGEST_INVALID"),
            ("/v2/a/manifests/sha256:../x", "DIGEST_INVALID"),
            ("/v2/a/blobs/uploads/..", "BLOB_UPLOAD_UNKNOWN"),
        ] {
            match Route::of(path) {
                Some(Err(refusal)) => assert_eq!(refusal.code, code, "{path}"),
                // `manifests/sha256:../x` has another last part.
                other => assert!(other.is_none(), "{path}: {other:?}"),
            }
        }
        for path in ["", "/", "/v1/", "/v2x", "/v2/a", "/v2/a/b/c", "/v2/a/manifests"] {
            assert!(Route::of(path).is_none(), "{path}");
        }
        let long = format!("/v2/{}/tags/list", "a/".repeat(140) + "a");
        assert_eq!(Route::of(&long).unwrap().unwrap_err().code, "NAME_INVALID");
    }

    #[test]
    fn ranges_are_read_as_http_has_them() {
        for (header, size, want) in [
            (None, 10, Ok(None)),
            (Some("bytes=0-"), 10, Ok(Some((0, 9)))),
            (Some("bytes=2-4"), 10, Ok(Some((2, 4)))),
            (Some("bytes=2-40"), 10, Ok(Some((2, 9)))),
            (Some("bytes=-3"), 10, Ok(Some((7, 9)))),
            (Some("bytes=-30"), 10, Ok(Some((0, 9)))),
            (Some("bytes=10-"), 10, Err(())),
            (Some("bytes=-0"), 10, Err(())),
            (Some("bytes=4-2"), 10, Ok(None)),
            (Some("bytes=0-1,3-4"), 10, Ok(None)),
            (Some("bytes=0-"), 0, Err(())),
            (Some("pages=1-2"), 10, Ok(None)),
        ] {
            assert_eq!(range(header, size), want, "{header:?}");
        }
        assert_eq!(
            (chunk("0-9"), chunk("5-4"), chunk("x"), chunk("bytes 3-4/9")),
            (Some((0, 9)), None, None, Some((3, 4)))
        );
    }

    #[test]
    fn parameters_are_decoded() {
        let read = parameters(Some("n=5&last=a%2Fb&digest=sha256%3A1&n=6&flag"));
        assert_eq!((read["n"].as_str(), read["last"].as_str(), read["digest"].as_str()), ("5", "a/b", "sha256:1"));
        assert_eq!(read["flag"], "");
    }
}
