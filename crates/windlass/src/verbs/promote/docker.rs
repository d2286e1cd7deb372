//! The instance's Docker API as a client: one connection for each request.

use std::path::PathBuf;

use anyhow::{Context, bail};
use base::instance::Instance;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::exit::Unfit;

/// Largest answer, bytes.
const ANSWER_MAX: usize = 16 << 20;

/// The API of an instance.
pub struct Docker {
    socket: PathBuf,
}

impl Docker {
    /// Of an instance, if its agent serves it.
    pub fn of(instance: &Instance) -> anyhow::Result<Self> {
        let socket = dockerapi::socket_path(instance);
        if !socket.exists() {
            let problem = format!("the Docker API is not served: there is no {}", socket.display());
            return Err(Unfit::error(problem, "start the instance with: windlass server --detach"));
        }
        Ok(Docker { socket })
    }

    /// What is at a path.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// Has something done.
    pub async fn post(&self, path: &str, body: Option<Value>) -> anyhow::Result<()> {
        self.call(Method::POST, path, body).await.map(drop)
    }

    /// Removes something.
    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.call(Method::DELETE, path, None).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let at = || format!("ask {}", self.socket.display());
        let stream = UnixStream::connect(&self.socket).await.with_context(at)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(at)?;
        // Ends with the sender.
        tokio::spawn(connection);
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let request =
            Request::builder().method(method).uri(format!("/v1.41{path}")).header(http::header::HOST, "docker");
        let request = request.header(http::header::CONTENT_TYPE, "application/json");
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await.with_context(at)?;
        let status = answer.status();
        let bytes =
            Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        let document = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        // What is so already (304) is what was wanted.
        if status.is_client_error() || status.is_server_error() {
            bail!("{}", document["message"].as_str().unwrap_or("the Docker API gave no reason"));
        }
        Ok(document)
    }
}
