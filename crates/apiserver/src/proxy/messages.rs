//! Logs over WebSocket, for browsers, which can send no headers with a plain request: each piece is a message, binary or,
//! for `base64.binary.k8s.io`, text in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::http::body::Body;
use crate::http::respond::Reply;

/// Nothing but control frames is expected of the client, bytes.
const INCOMING_MAX: usize = 64 << 10;

/// The subprotocols of a one-way stream; none means binary.
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// What the client and we agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    protocol: Option<&'static str>,
}

/// Whether a request asks for a WebSocket, and for which: `None` when it is a plain one or names only protocols that are
/// not spoken here.
pub(super) fn wanted(headers: &HeaderMap) -> Option<Agreed> {
    let upgrade = headers.get(UPGRADE)?.to_str().ok()?;
    if !upgrade.eq_ignore_ascii_case("websocket") || !headers.contains_key(SEC_WEBSOCKET_KEY) {
        return None;
    }
    let offered: Vec<&str> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .collect();
    if offered.is_empty() {
        return Some(Agreed { protocol: None });
    }
    let spoken = |name: &&str| [BINARY, BASE64].into_iter().find(|p| p == name);
    offered.iter().find_map(spoken).map(|protocol| Agreed { protocol: Some(protocol) })
}

/// The answer that makes the connection a WebSocket.
pub(super) fn switching(agreed: Agreed, headers: &HeaderMap) -> Reply {
    let key = headers.get(SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    let mut reply = Response::new(Body::Empty);
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = reply.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) {
        out.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = agreed.protocol {
        out.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    reply
}

/// Sends a body as messages until it or the client ends.
pub(super) async fn run(agreed: Agreed, client: OnUpgrade, body: Incoming) {
    let upgraded = match client.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, "log stream was not upgraded"),
    };
    let config = WebSocketConfig::default().max_message_size(Some(INCOMING_MAX)).max_frame_size(Some(INCOMING_MAX));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    if let Err(error) = send(agreed, socket, body).await {
        tracing::debug!(%error, "log stream broke");
    }
}

async fn send(agreed: Agreed, socket: WebSocketStream<TokioIo<Upgraded>>, mut body: Incoming) -> Result<(), Error> {
    let (mut out, mut incoming) = socket.split();
    loop {
        tokio::select! {
            frame = body.frame() => match frame {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let message = if agreed.protocol == Some(BASE64) {
                        Message::text(STANDARD.encode(&data))
                    } else {
                        Message::Binary(data)
                    };
                    out.send(message).await?;
                }
                // A log that breaks off ends like any other; what there was has been sent.
                Some(Err(_)) | None => break,
            },
            // Reading answers pings, and shows that the client has gone.
            read = incoming.next() => match read {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
        }
    }
    out.send(Message::Close(None)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_protocol_that_is_spoken_here_is_taken() {
        let with = |upgrade: &'static str, protocols: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
            for p in protocols {
                headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(p));
            }
            headers
        };
        assert_eq!(wanted(&with("websocket", &[])), Some(Agreed { protocol: None }));
        assert_eq!(
            wanted(&with("WebSocket", &["x, base64.binary.k8s.io, binary.k8s.io"])).unwrap().protocol,
            Some(BASE64)
        );
        assert_eq!(wanted(&with("websocket", &["v4.channel.k8s.io"])), None);
        assert_eq!(wanted(&with("SPDY/3.1", &[])), None);
        let reply = switching(Agreed { protocol: Some(BINARY) }, &with("websocket", &[BINARY]));
        assert_eq!(reply.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "the example of RFC 6455");
    }
}
