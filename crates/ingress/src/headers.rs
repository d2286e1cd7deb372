//! Headers between client and endpoint. Pure.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Headers of one connection, never passed on (RFC 9110, 7.6.1, and what clients really send).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Who asks, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub ip: IpAddr,
    pub tls: bool,
    /// The port of ours that it came to.
    pub port: u16,
}

/// The protocol that the client wants to upgrade to, if any. HTTP/2 in the clear is no upgrade that can be passed on.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    let asked = tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    (asked && !wanted.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| wanted.clone())
}

/// Removes what is about the connection, and what the `Connection` header says is.
pub(crate) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> =
            tokens(headers, &header::CONNECTION).filter_map(|t| HeaderName::try_from(t).ok()).collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// What an endpoint gets: nothing of the client's connection, and who the client is. What the client itself says about
/// that is believed only if `trusted`.
pub(crate) fn to_endpoint(headers: &mut HeaderMap, client: Client, host: &HeaderValue, trusted: bool) {
    let trailers = tokens(headers, &header::TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    strip(headers);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // The body is asked for as soon as an endpoint is found: nobody waits for a "continue".
    headers.remove(header::EXPECT);
    headers.insert(header::HOST, host.clone());
    let ip = client.ip.to_string();
    let chain = match headers.get(FORWARDED_FOR).and_then(|v| v.to_str().ok()) {
        Some(before) if trusted => format!("{before}, {ip}"),
        _ => ip.clone(),
    };
    set_text(headers, FORWARDED_FOR, &chain);
    let keep = |headers: &HeaderMap, name: &HeaderName| trusted && headers.contains_key(name);
    if !keep(headers, &REAL_IP) {
        set_text(headers, REAL_IP, &ip);
    }
    if !keep(headers, &FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if client.tls { "https" } else { "http" }));
    }
    if !keep(headers, &FORWARDED_HOST) {
        headers.insert(FORWARDED_HOST, host.clone());
    }
    if !keep(headers, &FORWARDED_PORT) {
        headers.insert(FORWARDED_PORT, HeaderValue::from(client.port));
    }
}

fn set_text(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => drop(headers.remove(name)),
    }
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(n, v)| (HeaderName::try_from(*n).expect("a name"), HeaderValue::try_from(*v).expect("a value")))
            .collect()
    }

    const CLIENT: Client = Client { ip: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), tls: true, port: 443 };

    fn sent(given: &[(&str, &str)], trusted: bool) -> Vec<(String, String)> {
        let mut headers = headers(given);
        to_endpoint(&mut headers, CLIENT, &HeaderValue::from_static("shop.example"), trusted);
        let mut list: Vec<_> =
            headers.iter().map(|(n, v)| (n.to_string(), v.to_str().expect("text").to_owned())).collect();
        list.sort();
        list
    }

    #[test]
    fn an_endpoint_sees_the_client_and_nothing_of_its_connection() {
        let given = [
            ("host", "spoofed"),
            ("connection", "keep-alive, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("upgrade", "x"),
            ("accept", "*/*"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "gopher"),
        ];
        let expected = [
            ("accept", "*/*"),
            ("host", "shop.example"),
            ("te", "trailers"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "192.0.2.1"),
        ]
        .map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(sent(&given, false), expected);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added_to() {
        let seen =
            sent(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "http"), ("x-real-ip", "1.1.1.1")], true);
        let get = |name: &str| seen.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(get("x-forwarded-for"), Some("1.1.1.1, 192.0.2.1"));
        assert_eq!(get("x-forwarded-proto"), Some("http"));
        assert_eq!(get("x-real-ip"), Some("1.1.1.1"));
    }

    #[test]
    fn an_upgrade_has_to_be_asked_for_in_both_headers() {
        let both = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(upgrade(&both).as_ref().map(HeaderValue::as_bytes), Some(b"websocket".as_slice()));
        for list in [
            vec![("upgrade", "websocket")],
            vec![("connection", "upgrade")],
            vec![("connection", "upgrade, HTTP2-Settings"), ("upgrade", "h2c")],
        ] {
            assert_eq!(upgrade(&headers(&list)), None);
        }
    }
}
