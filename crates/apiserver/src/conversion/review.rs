//! The webhook of a definition.

use std::time::Duration;

use api::crd::conversion;
use api::kinds::KindInfo;
use api::status::ApiError;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::cache::Caches;
use crate::webhook::Client;

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects in one call.
const OBJECTS: usize = 256;
/// Bytes of objects in one call, as long as there is more than one: an answer may be three times as large.
const BYTES: usize = 1 << 20;
/// Calls of one definition under way at once; more wait for their place as long as their own time allows.
const CALLS: usize = 32;

/// Who converts the objects of a definition.
pub(super) struct Webhook {
    client: Client,
    /// Of the review; `None` when the webhook understands none that is spoken here.
    version: Option<&'static str>,
    calls: Semaphore,
}

impl Webhook {
    /// From `spec.conversion.webhook`. What is wrong with it is told when it is called.
    pub fn new(webhook: &Value) -> Self {
        let version = conversion::review_version(webhook);
        Webhook { client: Client::new(&webhook["clientConfig"]), version, calls: Semaphore::new(CALLS) }
    }

    /// Objects in the version of `kind`, in the same order.
    ///
    /// # Errors
    /// 500 in the words of Kubernetes.
    pub async fn convert(&self, caches: &Caches, kind: &KindInfo, objects: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        let mut out = Vec::with_capacity(objects.len());
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for object in objects {
            let size = object.to_string().len();
            if !chunk.is_empty() && (chunk.len() == OBJECTS || bytes + size > BYTES) {
                out.extend(self.call(caches, kind, &std::mem::take(&mut chunk)).await?);
                bytes = 0;
            }
            bytes += size;
            chunk.push(object);
        }
        if !chunk.is_empty() {
            out.extend(self.call(caches, kind, &chunk).await?);
        }
        Ok(out)
    }

    async fn call(&self, caches: &Caches, kind: &KindInfo, objects: &[Value]) -> Result<Vec<Value>, ApiError> {
        let Some(version) = self.version else { return Err(failed("no supported conversion review versions".into())) };
        let uid = uuid::Uuid::new_v4().to_string();
        let desired = kind.api_version();
        let body: Bytes = conversion::review(version, &uid, &desired, objects).to_string().into();
        let asked = async {
            let _place = self.calls.acquire().await;
            self.client.post(caches, TIMEOUT, body).await
        };
        let answer = match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(answer) => answer,
            Err(_) => Err("context deadline exceeded".to_owned()),
        };
        let subject = || conversion::subject(objects);
        let post = || format!("{} failed: Post {:?}", subject(), self.client.url(TIMEOUT));
        let answer = answer.map_err(|why| failed(format!("{}: {why}", post())))?;
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| failed(format!("{} failed: couldn't decode the answer: {error}", subject())))?;
        let mut converted = conversion::converted(&answer, version, &uid, &desired, objects).map_err(failed)?;
        converted.iter_mut().for_each(|object| conversion::settle(kind, object));
        Ok(converted)
    }
}

/// A failure as Kubernetes tells it: 500 without a reason.
fn failed(message: String) -> ApiError {
    ApiError { code: 500, reason: "", message, details: None }
}
