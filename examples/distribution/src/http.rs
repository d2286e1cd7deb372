//! A small HTTP client for calls between the roles: kept-alive connections, a time limit, bounded answers, no retries of
//! its own.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;

/// Largest answer taken, bytes.
const ANSWER_MAX: usize = 4 << 20;

/// The client; clones share connections.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    limit: Duration,
}

/// An answer, read whole.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

impl Http {
    /// A client whose every call ends within `limit`.
    pub fn new(limit: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(limit));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .retry_canceled_requests(false)
            .build(connector);
        Http { client, limit }
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// When the server cannot be reached, breaks off, answers too much, or takes too long.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(anyhow::Error::from_boxed).context("read the answer")?;
            anyhow::Ok(Answer { status, body: body.to_bytes() })
        };
        tokio::time::timeout(self.limit, exchange).await.context("no answer in time")?
    }

    /// Sends a call with a JSON body or none.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn call(&self, method: Method, url: &str, body: Option<&serde_json::Value>) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(url);
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            request = request.header("content-type", "application/json");
            bytes = serde_json::to_vec(body)?.into();
        }
        self.send(request.body(Full::new(bytes))?).await
    }

    /// Reads a JSON document.
    ///
    /// # Errors
    /// As [`Http::send`], and when the answer is not 200 or not that document.
    pub async fn get<T: DeserializeOwned>(&self, url: &str) -> anyhow::Result<T> {
        let answer = self.call(Method::GET, url, None).await?;
        anyhow::ensure!(answer.status == StatusCode::OK, "{url} answered {}", answer.status);
        Ok(serde_json::from_slice(&answer.body)?)
    }
}
