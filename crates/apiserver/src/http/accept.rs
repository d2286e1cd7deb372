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

/// What is served, as a 406 lists it.
pub const MEDIA: &[&str] = &["application/json"];
/// Media type of an answer in YAML.
pub const YAML: &str = "application/yaml";
const OBJECT_MEDIA: &[&str] = &["application/json", YAML, api::protobuf::MEDIA];
const STREAM_MEDIA: &[&str] = &["application/json;stream=watch", api::protobuf::WATCH_MEDIA];

/// What an answer will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The form of the resource.
    pub form: Form,
    /// Encoded as protobuf instead of JSON.
    pub protobuf: bool,
    /// Written as YAML instead of JSON.
    pub yaml: bool,
    /// JSON is to be indented.
    pub pretty: bool,
}

/// The form of a document that is JSON only.
///
/// # Errors
/// 406 when none is served.
pub fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    match best(headers, &|| false, false) {
        Some(accepted) => Ok(accepted.form),
        None => Err(ApiError::not_acceptable(MEDIA)),
    }
}

/// The form of a document of discovery: also as YAML, if it is none of the aggregated ones.
///
/// # Errors
/// 406 when none is served.
pub fn discovery(headers: &HeaderMap) -> Result<Accepted, ApiError> {
    best(headers, &|| false, true).ok_or_else(|| ApiError::not_acceptable(OBJECT_MEDIA))
}

/// What the client likes best of what a resource can be answered with. `protobuf` says whether its objects have messages;
/// it is asked only when the client has heard of protobuf.
///
/// # Errors
/// 406 when nothing fits.
pub fn negotiate(headers: &HeaderMap, stream: bool, protobuf: impl Fn() -> bool) -> Result<Accepted, ApiError> {
    let media = if stream { STREAM_MEDIA } else { OBJECT_MEDIA };
    best(headers, &protobuf, !stream).ok_or_else(|| ApiError::not_acceptable(media))
}

/// How a document that can be anything, as a Status, is written; JSON if the client takes none of it.
pub fn anything(headers: &HeaderMap) -> Accepted {
    let has =
        |v: &http::HeaderValue, word: &[u8]| v.as_bytes().windows(word.len()).any(|w| w.eq_ignore_ascii_case(word));
    let named = |v: &http::HeaderValue| has(v, b"protobuf") || has(v, b"yaml");
    if !headers.get_all(ACCEPT).iter().any(named) {
        return Accepted::default();
    }
    best(headers, &|| true, true).unwrap_or_default()
}

/// The first media range that is served, by quality, then by how much it says, then in the client's order (RFC 9110, 12.5.1).
fn best(headers: &HeaderMap, protobuf: &dyn Fn() -> bool, yaml: bool) -> Option<Accepted> {
    let mut any = false;
    let mut found: Option<((u16, u8), Accepted)> = None;
    for item in headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
        let item = item.trim();
        if item.is_empty() {
            continue;
        }
        any = true;
        let Some(range) = Range::parse(item).filter(|range| range.quality > 0) else { continue };
        let rank = (range.quality, range.weight);
        if found.is_none_or(|(best, _)| rank > best)
            && let Some(accepted) = range.accepted(protobuf, yaml)
        {
            found = Some((rank, accepted));
        }
    }
    if any { found.map(|(_, accepted)| accepted) } else { Some(Accepted::default()) }
}

/// One media range.
#[derive(Default)]
struct Range<'a> {
    media: &'a str,
    /// How much it says: a type, any of `application`, anything.
    weight: u8,
    /// In thousandths.
    quality: u16,
    kind: &'a str,
    group: &'a str,
    version: &'a str,
    pretty: bool,
    stream: bool,
}

impl<'a> Range<'a> {
    /// `None` for what is malformed or asks for something that is not there.
    fn parse(item: &'a str) -> Option<Self> {
        let mut parts = item.split(';').map(str::trim);
        let media = parts.next()?;
        let weight = match media {
            "*/*" => 0,
            _ if media.ends_with("/*") => 1,
            _ => 2,
        };
        let mut out = Range { media, weight, quality: 1000, ..Range::default() };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "as" => out.kind = value,
                "g" => out.group = value,
                "v" => out.version = value,
                "q" => out.quality = (value.parse::<f32>().ok()?.clamp(0.0, 1.0) * 1000.0) as u16,
                "pretty" => out.pretty = value == "1",
                "stream" if !matches!(value, "" | "watch") => return None,
                "stream" => out.stream = !value.is_empty(),
                // A version of the server's own for generic output: there is none.
                "sv" if !value.is_empty() => return None,
                _ => {}
            }
        }
        Some(out)
    }

    fn accepted(&self, protobuf: &dyn Fn() -> bool, yaml: bool) -> Option<Accepted> {
        let form = match (self.kind, self.group, self.version) {
            ("", "", "") => Form::Object,
            ("Table", "meta.k8s.io", "v1" | "v1beta1") => Form::Table,
            ("PartialObjectMetadata", "meta.k8s.io", "v1" | "v1beta1") => Form::Partial,
            ("PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => Form::PartialList,
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Form::AggregatedDiscovery,
            _ => return None,
        };
        if ["application/json", "application/*", "*/*"].iter().any(|m| self.media.eq_ignore_ascii_case(m)) {
            return Some(Accepted { form, pretty: self.pretty, ..Accepted::default() });
        }
        // A stream of documents in YAML is not a thing that Kubernetes has, and aggregated discovery has media types of its own.
        if yaml && self.media.eq_ignore_ascii_case(YAML) && !self.stream && form != Form::AggregatedDiscovery {
            return Some(Accepted { form, yaml: true, ..Accepted::default() });
        }
        let sayable = match form {
            Form::Object => self.media.eq_ignore_ascii_case(api::protobuf::MEDIA) && protobuf(),
            // Metadata has a message whatever it belongs to.
            Form::Partial | Form::PartialList => self.media.eq_ignore_ascii_case(api::protobuf::MEDIA),
            Form::Table | Form::AggregatedDiscovery => false,
        };
        sayable.then_some(Accepted { form, protobuf: true, ..Accepted::default() })
    }
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
            anything(&headers).protobuf
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
        assert_eq!(anything(&HeaderMap::new()), Accepted::default());
    }

    #[test]
    fn resources_are_negotiated() {
        let (object, table, partial) = (Form::Object, Form::Table, Form::Partial);
        // Header, whether objects have a message, what comes out.
        type Case = (&'static str, bool, Option<(Form, bool)>);
        let cases: &[Case] = &[
            ("application/vnd.kubernetes.protobuf", true, Some((object, true))),
            ("application/vnd.kubernetes.protobuf", false, None),
            ("application/vnd.kubernetes.protobuf,application/json", false, Some((object, false))),
            ("application/vnd.kubernetes.protobuf;stream=watch", true, Some((object, true))),
            ("application/json;stream=watch", true, Some((object, false))),
            ("application/json;stream=exec", true, None),
            ("application/json;q=0.4, application/vnd.kubernetes.protobuf;q=0.8", true, Some((object, true))),
            ("application/json;q=0.9, application/vnd.kubernetes.protobuf;q=0.8", true, Some((object, false))),
            ("application/vnd.kubernetes.protobuf;q=0.8, */*;q=0.9", true, Some((object, false))),
            ("*/*, application/vnd.kubernetes.protobuf", true, Some((object, true))),
            ("text/html, application/*;q=0.1", true, Some((object, false))),
            ("text/html", true, None),
            ("application/vnd.kubernetes.protobuf;q=0", true, None),
            ("application/json;q=x", true, None),
            ("application/json;sv=v9", true, None),
            ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", true, None),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                false,
                Some((partial, true)),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1, application/json;as=Table;g=meta.k8s.io;v=v1",
                true,
                Some((table, false)),
            ),
            ("application/json;g=meta.k8s.io;v=v1", true, None),
            ("application/yaml, APPLICATION/JSON", true, Some((object, false))),
            ("", true, Some((object, false))),
        ];
        for (header, messages, want) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, header.parse().unwrap());
            let got = negotiate(&headers, false, || *messages);
            assert_eq!(got.clone().ok().map(|a| (a.form, a.protobuf)), *want, "{header}");
            if let Err(error) = got {
                assert_eq!(
                    (error.code, error.message.as_str()),
                    (
                        406,
                        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
                    )
                );
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, "text/html".parse().unwrap());
        assert_eq!(
            negotiate(&headers, true, || true).unwrap_err().message,
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
        );
        headers.insert(ACCEPT, "application/json;pretty=1".parse().unwrap());
        assert!(negotiate(&headers, false, || true).unwrap().pretty);
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
