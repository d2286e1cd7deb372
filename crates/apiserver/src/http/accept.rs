//! Which form of an answer the client wants.

use api::status::ApiError;
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING};

/// The form of a resource in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// The object or list itself.
    #[default]
    Object,
    /// A `Table` for people.
    Table,
    /// Metadata only.
    Partial,
    /// A list of metadata.
    PartialList,
    /// Aggregated discovery.
    AggregatedDiscovery,
}

/// What is served beside plain JSON, as a 406 lists it.
pub const MEDIA: &[&str] = &["application/json"];

/// The first acceptable form, in the order of the client's preference.
///
/// # Errors
/// 406 when none is served.
pub fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    let mut any = false;
    let mut best: Option<(u16, Form)> = None;
    for value in headers.get_all(ACCEPT) {
        let Ok(value) = value.to_str() else { continue };
        for item in value.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            any = true;
            if let Some((quality, form)) = one(item)
                && quality > 0
                && best.is_none_or(|(q, _)| quality > q)
            {
                best = Some((quality, form));
            }
        }
    }
    match best {
        Some((_, form)) => Ok(form),
        None if !any => Ok(Form::Object),
        None => Err(ApiError::not_acceptable(MEDIA)),
    }
}

/// One media range with its quality in thousandths.
fn one(item: &str) -> Option<(u16, Form)> {
    let mut parts = item.split(';').map(str::trim);
    let media = parts.next()?;
    let (mut kind, mut group, mut version, mut quality) = ("", "", "", 1000);
    for part in parts {
        match part.split_once('=') {
            Some(("as", v)) => kind = v,
            Some(("g", v)) => group = v,
            Some(("v", v)) => version = v,
            Some(("q", v)) => quality = (v.parse::<f32>().ok()?.clamp(0.0, 1.0) * 1000.0) as u16,
            _ => {}
        }
    }
    if !matches!(media.to_ascii_lowercase().as_str(), "application/json" | "*/*" | "application/*") {
        return None;
    }
    let form = match (kind, group, version) {
        ("", _, _) => Form::Object,
        ("Table", "meta.k8s.io", "v1" | "v1beta1") => Form::Table,
        ("PartialObjectMetadata", "meta.k8s.io", "v1" | "v1beta1") => Form::Partial,
        ("PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => Form::PartialList,
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Form::AggregatedDiscovery,
        _ => return None,
    };
    Some((quality, form))
}

/// Whether the client names protobuf before any form of JSON. That it takes JSON as well is what [`form`] sees to: large
/// lists and watches are always JSON.
pub fn protobuf(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let mut best = (0, false);
    for item in ranges.map(str::trim) {
        let (media, parameters) = item.split_once(';').unwrap_or((item, ""));
        let is_protobuf = media.trim().eq_ignore_ascii_case(api::protobuf::MEDIA);
        // With the parameters of JSON of the same form, which say what is asked for and how much it is wanted.
        let as_json = if is_protobuf { &format!("application/json;{parameters}") } else { item };
        if let Some((quality, _)) = one(as_json)
            && quality > best.0
        {
            best = (quality, is_protobuf);
        }
    }
    best.1
}

/// Whether the client understands gzip.
pub fn gzip(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        named && !parts.any(|p| p.replace(' ', "").trim_start_matches("q=").parse::<f32>().is_ok_and(|q| q == 0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &'static str) -> Result<Form, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, value.parse().unwrap());
        form(&headers).map_err(|e| e.code)
    }

    #[test]
    fn the_first_form_that_is_served_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl), Ok(Form::Table));
        assert_eq!(accept("application/vnd.kubernetes.protobuf, application/json"), Ok(Form::Object));
        assert_eq!(
            accept("application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io"),
            Ok(Form::AggregatedDiscovery)
        );
        assert_eq!(accept("application/json;q=0.1,application/json;as=Table;v=v1;g=meta.k8s.io"), Ok(Form::Table));
        assert_eq!(accept("*/*"), Ok(Form::Object));
        assert_eq!(accept("text/html, */*;q=0.8"), Ok(Form::Object));
        assert_eq!(accept("application/vnd.kubernetes.protobuf"), Err(406));
        assert_eq!(accept("application/json;as=Sculpture;v=v1;g=meta.k8s.io"), Err(406));
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Object);
    }

    #[test]
    fn protobuf_is_preferred_when_it_comes_first() {
        let prefers = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, value.parse().unwrap());
            protobuf(&headers)
        };
        assert!(prefers("application/vnd.kubernetes.protobuf,application/json"));
        assert!(prefers("application/vnd.kubernetes.protobuf, */*"));
        assert!(prefers("application/json;q=0.5, application/vnd.kubernetes.protobuf"));
        assert!(prefers(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
        ));
        assert!(!prefers("application/json, application/vnd.kubernetes.protobuf"));
        assert!(!prefers("application/vnd.kubernetes.protobuf;q=0, */*"));
        assert!(!prefers("application/json"));
        assert!(!protobuf(&HeaderMap::new()));
    }

    #[test]
    fn gzip_is_used_only_when_accepted() {
        let mut headers = HeaderMap::new();
        assert!(!gzip(&headers));
        headers.insert(ACCEPT_ENCODING, "deflate, gzip;q=1.0".parse().unwrap());
        assert!(gzip(&headers));
        headers.insert(ACCEPT_ENCODING, "gzip;q=0".parse().unwrap());
        assert!(!gzip(&headers));
    }
}
