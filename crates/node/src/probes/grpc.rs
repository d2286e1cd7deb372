//! The gRPC health protocol, as much as a probe needs: one `Check`, over HTTP/2 without TLS.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// A health answer is a few bytes.
const ANSWER_MAX: usize = 4096;
/// `HealthCheckResponse.SERVING`.
const SERVING: u64 = 1;

/// A `HealthCheckRequest` in a gRPC frame.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

fn varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The `status` of a framed `HealthCheckResponse`: 0 (unknown) when the field is not there.
fn status(frame: &[u8]) -> Option<u64> {
    let (&compressed, rest) = frame.split_first()?;
    let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let mut message = rest.get(4..4usize.checked_add(length)?)?;
    if compressed != 0 {
        return None;
    }
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => return read_varint(&mut message),
            (_, 0) => drop(read_varint(&mut message)?),
            (_, 2) => {
                let skip = usize::try_from(read_varint(&mut message)?).ok()?;
                message = message.get(skip..)?;
            }
            _ => return None,
        }
    }
    Some(0)
}

fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Asks; anything but `SERVING` is an error.
pub(super) async fn check(ip: IpAddr, port: u16, service: &str) -> Result<(), String> {
    let place = std::net::SocketAddr::new(ip, port);
    let tcp = TcpStream::connect(place).await.map_err(|e| format!("dial tcp {place}: {e}"))?;
    let io = TokioIo::new(tcp);
    let text = |e: hyper::Error| format!("grpc: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(text)?;
    let request = http::Request::post(format!("http://{place}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(question(service)))
        .map_err(|e| e.to_string())?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(text)?;
        let early = grpc_status(response.headers());
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|e| e.to_string())?;
        let code = body.trailers().map_or(early.clone(), |t| grpc_status(t).or(early));
        match code.as_deref() {
            Some("0") => {}
            Some("12") => return Err("this server does not implement the grpc health protocol".to_owned()),
            Some("5") => return Err(format!("service {service:?} is not known to the server")),
            other => return Err(format!("health rpc failed with code {}", other.unwrap_or("none"))),
        }
        match status(&body.to_bytes()) {
            Some(SERVING) => Ok(()),
            other => Err(format!("service unhealthy (responded with {other:?})")),
        }
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    let mut open = true;
    loop {
        tokio::select! {
            result = &mut answer => return result,
            _closed = &mut connection, if open => open = false,
        }
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<String> {
    headers.get("grpc-status").and_then(|v| v.to_str().ok()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_protocol() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0, 0, 0, 0, 9, 8, 1]), None);
        assert_eq!(status(&[1, 0, 0, 0, 2, 8, 1]), None);
        assert_eq!(status(&[0, 0, 0, 0, 5, 0x12, 1, 0, 8, 2]), Some(2));
    }
}
