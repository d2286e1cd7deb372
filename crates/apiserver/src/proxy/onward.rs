//! Requests that somebody else answers, passed on as they are: any method, any body, streams and upgrades.

use std::net::IpAddr;
use std::sync::Arc;

use api::status::ApiError;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, LOCATION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::links::Page;
use super::pipe;
use crate::authn::UserInfo;
use crate::http::body::{Body, RequestBody};
use crate::http::respond::Reply;
use crate::server::ApiServer;

/// Headers that belong to one connection (RFC 9110, section 7.6.1).
const OF_CONNECTION: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Longest page whose links are changed, bytes, as it is sent and as it is.
const PAGE_MAX: usize = 8 << 20;

/// A request to be passed on, of a user who may make it.
pub(crate) struct Onward {
    pub server: Arc<ApiServer>,
    pub user: Arc<UserInfo>,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: RequestBody,
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// Where it comes from.
    pub from: Option<IpAddr>,
    /// Its place among the streams, held as long as the answer lasts.
    pub place: Option<OwnedSemaphorePermit>,
}

/// What becomes of links in the answer.
pub(crate) struct Rewrite {
    /// What comes before the path at this server.
    pub prefix: String,
    /// The host that is asked, as links may name it.
    pub backend: String,
    /// The host that the client asked.
    pub asked: String,
    /// Pages are changed, not only the `Location` header.
    pub pages: bool,
}

impl Onward {
    /// Whether the client wants to switch to another protocol.
    pub fn wants_upgrade(&self) -> bool {
        let mut tokens =
            self.headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        self.headers.contains_key(UPGRADE) && tokens.any(|t| t.trim().eq_ignore_ascii_case("upgrade"))
    }

    /// The host that the client asked.
    pub fn asked(&self) -> &str {
        let header = self.headers.get(HOST).and_then(|v| v.to_str().ok());
        header.or_else(|| self.uri.authority().map(|a| a.as_str())).unwrap_or("")
    }

    /// The request as the backend gets it: without what is between the client and this server, which includes every
    /// header that says who the client is.
    ///
    /// # Errors
    /// 400 for a target that is none.
    pub fn prepare(self, target: &str, host: &str) -> Result<(Request<RequestBody>, Pending), ApiError> {
        let target: Uri = target.parse().map_err(|_| ApiError::bad_request("the path to be passed on is not valid"))?;
        let upgrading = self.wants_upgrade();
        let protocol = self.headers.get(UPGRADE).cloned();
        let mut headers = self.headers;
        strip(&mut headers);
        headers.remove(AUTHORIZATION);
        headers.remove(EXPECT);
        // The length is said anew, of the body that is sent.
        headers.remove(CONTENT_LENGTH);
        let named: Vec<HeaderName> = headers.keys().filter(|name| says_who(name.as_str())).cloned().collect();
        for name in named {
            headers.remove(name);
        }
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| ApiError::bad_request("malformed header"));
        headers.insert(HOST, value(host)?);
        headers.insert("x-forwarded-uri", value(self.uri.path())?);
        if let Some(from) = self.from {
            let before: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
            let list = before.into_iter().map(str::to_owned).chain([from.to_string()]).collect::<Vec<_>>().join(", ");
            headers.insert("x-forwarded-for", value(&list)?);
        }
        let upgrade = if upgrading {
            let upgrade = self.upgrade.ok_or_else(|| ApiError::bad_request("this connection cannot be upgraded"))?;
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.extend(protocol.map(|protocol| (UPGRADE, protocol)));
            Some(upgrade)
        } else {
            None
        };
        // Anything after the head of an upgrade belongs to the stream.
        let body = if upgrade.is_some() { empty() } else { self.body };
        let mut request = Request::new(body);
        let head = self.method == Method::HEAD;
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (self.method, target, headers);
        Ok((request, Pending { upgrade, head, place: self.place, server: self.server }))
    }
}

/// No body.
pub(crate) fn empty() -> RequestBody {
    RequestBody::Local(http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync())
}

/// Headers by which a proxy says who a user is, and whom he acts for: those of a client would be believed.
fn says_who(name: &str) -> bool {
    name.starts_with("x-remote-") || name.starts_with("impersonate-")
}

/// Takes out what belongs to one connection.
fn strip(headers: &mut HeaderMap) {
    let listed = headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let listed: Vec<HeaderName> = listed.filter_map(|name| name.trim().parse().ok()).collect();
    for name in listed {
        headers.remove(name);
    }
    for name in OF_CONNECTION {
        headers.remove(name);
    }
}

/// A request that has been sent.
pub(crate) struct Pending {
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    head: bool,
    place: Option<OwnedSemaphorePermit>,
    server: Arc<ApiServer>,
}

impl Pending {
    /// The answer as the client gets it.
    ///
    /// # Errors
    /// 502 for an answer that does not fit the request.
    pub async fn answer(self, answer: Response<Incoming>, rewrite: &Rewrite) -> Result<Reply, ApiError> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(answer);
        }
        let (mut parts, body) = answer.into_parts();
        strip(&mut parts.headers);
        let page = Page { prefix: &rewrite.prefix, backend: &rewrite.backend, asked: &rewrite.asked };
        let location = parts.headers.get(LOCATION).and_then(|v| v.to_str().ok()).and_then(|v| page.link(v));
        let moved = parts.headers.contains_key(LOCATION);
        if let Some(location) = location.and_then(|l| HeaderValue::from_str(&l).ok()) {
            parts.headers.insert(LOCATION, location);
        }
        let body = if rewrite.pages && !self.head && !moved && is_page(&parts.headers) {
            let changed = change(body, &parts.headers, &page).await?;
            parts.headers.remove(CONTENT_LENGTH);
            Body::from(changed)
        } else {
            Body::Passed(body)
        };
        Ok(Reply::from_parts(parts, Body::Held(Box::new(body), self.place.map(|p| Box::new(p) as _))))
    }

    fn switch(self, mut answer: Response<Incoming>) -> Result<Reply, ApiError> {
        let Some(client) = self.upgrade else {
            return Err(bad_gateway("the backend switched protocols, which the client did not ask for"));
        };
        let backend = hyper::upgrade::on(&mut answer);
        let mut reply = Response::new(Body::Empty);
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *reply.headers_mut() = std::mem::take(answer.headers_mut());
        reply.headers_mut().remove(TRANSFER_ENCODING);
        pipe::join(client, backend, self.server.streams_end.clone(), self.place);
        Ok(reply)
    }
}

/// 502: the other side answers, but not as it should.
pub(crate) fn bad_gateway(message: impl Into<String>) -> ApiError {
    ApiError { code: 502, reason: "InternalError", ..ApiError::service_unavailable(message) }
}

fn encoding(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// Whether it is an HTML document in a form that can be read.
fn is_page(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).and_then(|v| v.split(';').next());
    media.is_some_and(|m| m.trim().eq_ignore_ascii_case("text/html")) && matches!(encoding(headers), "" | "gzip")
}

async fn change(body: Incoming, headers: &HeaderMap, page: &Page<'_>) -> Result<Vec<u8>, ApiError> {
    let whole = Limited::new(body, PAGE_MAX).collect().await;
    let bytes = whole.map_err(|e| bad_gateway(format!("cannot read the page to change its links: {e}")))?.to_bytes();
    let zipped = encoding(headers) == "gzip";
    let text = if zipped { unzip(&bytes)? } else { bytes.to_vec() };
    let changed = match String::from_utf8(text) {
        Ok(text) => page.html(&text).into_bytes(),
        // Another encoding: its links stay.
        Err(error) => error.into_bytes(),
    };
    Ok(if zipped { zip(&changed) } else { changed })
}

fn unzip(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    use std::io::Read as _;
    let mut out = Vec::new();
    let decoder = flate2::read::MultiGzDecoder::new(bytes);
    let read = decoder.take(PAGE_MAX as u64 + 1).read_to_end(&mut out);
    match read {
        Ok(n) if n <= PAGE_MAX => Ok(out),
        Ok(_) => Err(bad_gateway("cannot read the page to change its links: it is too long")),
        Err(error) => Err(bad_gateway(format!("cannot read the page to change its links: {error}"))),
    }
}

fn zip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(bytes.len() / 4), flate2::Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Own"), ("x-own", "1"), ("te", "trailers"), ("x-other", "2")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
        assert!(says_who("x-remote-extra-scopes") && says_who("impersonate-user") && !says_who("x-remo"));
    }

    #[test]
    fn pages_are_found_and_survive_compression() {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("Text/HTML; charset=utf-8"))]);
        assert!(is_page(&headers));
        assert_eq!(unzip(&zip(b"hello")).unwrap(), b"hello");
        assert_eq!(unzip(b"not gzip").unwrap_err().code, 502);
        assert_eq!(unzip(&zip(&vec![0; PAGE_MAX + 1])).unwrap_err().code, 502);
    }
}
