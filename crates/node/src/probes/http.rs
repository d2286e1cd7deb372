//! One GET for a probe or hook. Certificates are not verified: the question is whether it answers, not who it is.

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Redirects followed on the same host.
const REDIRECTS: usize = 10;
/// Bytes of a body looked at.
const BODY_MAX: usize = 10 << 10;

/// What to get.
pub(super) struct Get<'a> {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: &'a str,
    pub(super) headers: Vec<(&'a str, &'a str)>,
}

/// Gets it; a status from 200 to 399 is success.
pub(super) async fn get(get: &Get<'_>) -> Result<(), String> {
    let mut path = get.path.to_owned();
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    for _ in 0..REDIRECTS {
        match once(get, &path).await? {
            Some(next) => path = next,
            None => return Ok(()),
        }
    }
    Err(format!("stopped after {REDIRECTS} redirects"))
}

/// One request; the path of a redirect to the same host, if that is the answer.
async fn once(get: &Get<'_>, path: &str) -> Result<Option<String>, String> {
    let place = format!("{}:{}", get.host, get.port);
    let tcp = TcpStream::connect((get.host.as_str(), get.port)).await.map_err(|e| format!("dial tcp {place}: {e}"))?;
    if !get.tls {
        return exchange(TokioIo::new(tcp), get, path).await;
    }
    let config = tls::unchecked().map_err(|e| e.to_string())?;
    let name = ServerName::try_from(get.host.clone()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| format!("TLS with {place}: {e}"))?;
    exchange(TokioIo::new(stream), get, path).await
}

async fn exchange<S>(io: TokioIo<S>, get: &Get<'_>, path: &str) -> Result<Option<String>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    let request = request(get, path)?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        let body = http_body_util::Limited::new(response.into_body(), BODY_MAX);
        // A body that is too long or breaks off does not make the answer worse.
        let _read = body.collect().await;
        if status.is_redirection() {
            return Ok(location.and_then(|l| same_host(&l, get)));
        }
        if (200..400).contains(&status.as_u16()) {
            return Ok(None);
        }
        Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    };
    // The connection lives as long as this exchange and not longer.
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

/// Where a redirect leads if that is the same host; another host is not asked, having been sent there is an answer.
fn same_host(location: &str, get: &Get<'_>) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(location.to_owned());
    }
    let url = url::Url::parse(location).ok()?;
    let same = url.host_str() == Some(get.host.as_str()) && url.port_or_known_default() == Some(get.port);
    let same = same && (url.scheme() == "https") == get.tls;
    same.then(|| url[url::Position::BeforePath..].to_owned())
}

fn request(get: &Get<'_>, path: &str) -> Result<http::Request<Empty<bytes::Bytes>>, String> {
    let own = |name: &str| get.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut builder = http::Request::get(path);
    for (name, default) in [
        ("Host", format!("{}:{}", get.host, get.port)),
        ("User-Agent", "kube-probe/1.36".into()),
        ("Accept", "*/*".into()),
    ] {
        if !own(name) {
            builder = builder.header(name, default);
        }
    }
    for (name, value) in get.headers.iter().filter(|(_, v)| !v.is_empty()) {
        builder = builder.header(*name, *value);
    }
    builder.header("Connection", "close").body(Empty::new()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Serves the answers one after the other; returns the port and the requests.
    async fn serve(answers: Vec<&'static str>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let port = listener.local_addr().expect("address").port();
        let task = tokio::spawn(async move {
            let mut seen = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("accept");
                let mut buffer = [0u8; 2048];
                let n = stream.read(&mut buffer).await.expect("read");
                seen.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                stream.write_all(answer.as_bytes()).await.expect("write");
            }
            seen
        });
        (port, task)
    }

    fn plain(port: u16) -> Get<'static> {
        Get {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "healthz?x=1",
            headers: vec![("Host", "app"), ("X", "1")],
        }
    }

    #[tokio::test]
    async fn success_is_a_status_below_400() {
        let (port, seen) = serve(vec!["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]).await;
        assert_eq!(get(&plain(port)).await, Ok(()));
        let request = seen.await.expect("served").remove(0).to_lowercase();
        assert!(request.starts_with("get /healthz?x=1 http/1.1\r\n"), "{request}");
        assert!(request.contains("host: app\r\n") && request.contains("user-agent: kube-probe/"), "{request}");
        let (port, _) = serve(vec!["HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n"]).await;
        assert_eq!(get(&plain(port)).await, Err("HTTP probe failed with statuscode: 503".into()));
    }

    #[tokio::test]
    async fn redirects_on_the_same_host_are_followed_others_count_as_answers() {
        let (port, seen) = serve(vec![
            "HTTP/1.1 302 Found\r\nlocation: /next\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n",
        ])
        .await;
        assert!(get(&plain(port)).await.is_err());
        assert_eq!(seen.await.expect("served").len(), 2);
        let (port, _) =
            serve(vec!["HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n"]).await;
        assert_eq!(get(&plain(port)).await, Ok(()));
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failure() {
        // A port that was bound and let go may be given to another test.
        let nobody = Get { host: "127.0.0.253".into(), ..plain(9) };
        assert!(get(&nobody).await.expect_err("refused").contains("dial tcp"));
    }
}
