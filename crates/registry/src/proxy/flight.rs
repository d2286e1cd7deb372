//! A blob on its way: one task fetches it, and whoever wants it reads what has come. It becomes content of the store when all of it is
//! there and has its digest; who read along is told of the end only then, and of a wrong digest by a body that breaks off.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RANGE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use image::{Digest, ImageError, UpstreamBlob};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{Proxy, refusal};
use crate::error::Refusal;
use crate::handlers::{Body, Call, DIGEST, bare, blocking, text};
use crate::store::{self, at};

/// Blobs that are fetched at the same time.
const FLIGHTS: usize = 64;
/// Attempts without a byte between them.
const ATTEMPTS: u32 = 5;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// Bytes read at once by who reads along.
const PIECE: u64 = 256 << 10;

/// A blob on its way.
pub(super) struct Flight {
    file: File,
    path: PathBuf,
    /// Bytes of the whole.
    size: u64,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// Bytes that are in the file.
    written: u64,
    /// How it ended.
    end: Option<Result<(), String>>,
}

impl Proxy {
    /// Answers for a blob that is not in the store; `None` when it is, by now.
    ///
    /// # Errors
    /// 404 when upstream has it not, and what upstream or the disk refuses.
    pub async fn blob(
        self: &Arc<Self>,
        call: &Call,
        name: &str,
        digest: &Digest,
    ) -> Result<Option<Response<Body>>, Refusal> {
        let unknown = || Refusal::blob_unknown(digest.as_str());
        if self.has(name, digest).await? {
            return Ok(None);
        }
        let head = |size: u64| {
            let mut answer = bare(StatusCode::OK);
            let headers = answer.headers_mut();
            headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(DIGEST, text(digest.as_str()));
            answer
        };
        if call.method == Method::HEAD {
            let size = self.config.upstream.blob_size(name, digest).await.map_err(|e| refusal(&e))?;
            return Ok(Some(head(size.ok_or_else(unknown)?)));
        }
        let Some(flight) = self.board(name, digest).await? else { return Ok(None) };
        if call.header(RANGE).is_some() {
            // A part is read from the whole.
            flight
                .landed()
                .await
                .map_err(|e| Refusal::unavailable(StatusCode::BAD_GATEWAY, format!("upstream: {e}")))?;
            return Ok(None);
        }
        let mut answer = head(flight.size);
        let pieces = flight.follow().map(|piece| piece.map(Frame::data));
        *answer.body_mut() = BodyExt::boxed(StreamBody::new(pieces));
        Ok(Some(answer))
    }

    /// Whether the repository has the blob; if only another has it, upstream is asked whether this one has it too.
    async fn has(&self, name: &str, digest: &Digest) -> Result<bool, Refusal> {
        let (store, to, wanted) = (self.store.clone(), name.to_owned(), digest.clone());
        let (own, any) = blocking(move || Ok((store.blob(&to, &wanted)?.is_some(), store.touch(&wanted)?))).await?;
        if own || !any {
            return Ok(own);
        }
        let size = self.config.upstream.blob_size(name, digest).await.map_err(|e| refusal(&e))?;
        size.ok_or_else(|| Refusal::blob_unknown(digest.as_str()))?;
        let (store, to, wanted) = (self.store.clone(), name.to_owned(), digest.clone());
        blocking(move || store.claim(&to, &wanted)).await
    }

    /// The flight that brings a blob, begun if there is none; `None` when it has landed.
    async fn board(self: &Arc<Self>, name: &str, digest: &Digest) -> Result<Option<Arc<Flight>>, Refusal> {
        let key = format!("{name} {digest}");
        let turn = self.turn(key.clone());
        let _turn = turn.lock().await;
        if let Some(flight) = self.flights.lock().get(&key) {
            return Ok(Some(flight.clone()));
        }
        // One may have landed since this was looked for.
        if self.has(name, digest).await? {
            return Ok(None);
        }
        if self.flights.lock().len() >= FLIGHTS {
            return Err(Refusal::too_many(format!("{FLIGHTS} blobs are being fetched from upstream")));
        }
        let blob = self.config.upstream.blob(name, digest, 0).await.map_err(|e| refusal(&e))?;
        let blob = blob.ok_or_else(|| Refusal::blob_unknown(digest.as_str()))?;
        let size = blob
            .size
            .ok_or_else(|| Refusal::unavailable(StatusCode::BAD_GATEWAY, "upstream: a blob came without its length"))?;
        if size > self.max_blob {
            let message = format!("blobs are at most {} bytes long", self.max_blob);
            return Err(Refusal::unavailable(StatusCode::BAD_GATEWAY, message));
        }
        self.make_room(size).await?;
        let path = self.store.upload_path(&format!("proxy-{}", uuid::Uuid::new_v4()));
        let made = path.clone();
        let file = blocking(move || {
            File::options().create_new(true).read(true).write(true).open(&made).map_err(at("create", &made))
        });
        let flight = Arc::new(Flight { file: file.await?, path, size, state: watch::Sender::default() });
        self.coming.fetch_add(size, Ordering::Relaxed);
        self.flights.lock().insert(key.clone(), flight.clone());
        let (this, name, digest, fetched) = (self.clone(), name.to_owned(), digest.clone(), flight.clone());
        // Ends with the blob, or when upstream gives up: who asked for it may be gone by then.
        tokio::spawn(async move {
            let end = this.fetch(&name, &digest, &fetched, blob).await;
            if let Err(error) = &end {
                tracing::warn!(name, %digest, error, "a blob was not fetched");
                if let Err(error) = store::remove(&fetched.path) {
                    tracing::warn!(error = %base::chain(&error), "what came of a blob stays until it is old");
                }
            }
            this.coming.fetch_sub(fetched.size, Ordering::Relaxed);
            this.flights.lock().remove(&key);
            fetched.state.send_modify(|state| state.end = Some(end));
        });
        Ok(Some(flight))
    }

    async fn fetch(&self, name: &str, digest: &Digest, flight: &Flight, first: UpstreamBlob) -> Result<(), String> {
        let (mut hasher, mut written, mut blob) = (Sha256::new(), 0u64, Some(first));
        let mut left = ATTEMPTS;
        let mut backoff = base::backoff::Backoff::new(BACKOFF.0, BACKOFF.1, u64::from(std::process::id()));
        while written < flight.size {
            let before = written;
            let broken = match self.resumed(name, digest, written, blob.take()).await {
                Ok(mut blob) => flight.take(&mut blob, &mut hasher, &mut written).await,
                Err(error) => Err(error),
            };
            let Err(error) = broken else { continue };
            if written > before {
                left = ATTEMPTS;
                backoff.reset();
            }
            left -= 1;
            if left == 0 || !error.is_transient() {
                return Err(base::chain(&error));
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        let actual = format!("sha256:{}", hex::encode(hasher.finalize()));
        if actual != digest.as_str() {
            return Err(format!("blob {digest} came with the digest {actual}"));
        }
        let (store, to, path, wanted) = (self.store.clone(), name.to_owned(), flight.path.clone(), digest.clone());
        blocking(move || store.adopt(&to, &path, &wanted)).await.map_err(|refusal| refusal.message)
    }

    /// The rest of a blob: the answer that there is, or a new one.
    async fn resumed(
        &self,
        name: &str,
        digest: &Digest,
        written: u64,
        begun: Option<UpstreamBlob>,
    ) -> Result<UpstreamBlob, ImageError> {
        if let Some(blob) = begun {
            return Ok(blob);
        }
        let gone = || ImageError::MissingContent { what: "blob", digest: digest.clone() };
        self.config.upstream.blob(name, digest, written).await?.ok_or_else(gone)
    }
}

impl Flight {
    /// Writes what comes until the connection ends.
    async fn take(&self, blob: &mut UpstreamBlob, hasher: &mut Sha256, written: &mut u64) -> Result<(), ImageError> {
        // An answer may begin at the beginning although the rest was asked for.
        let mut skip = written.saturating_sub(blob.offset);
        while let Some(chunk) = blob.chunk().await? {
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= known as u64;
            let new = chunk.slice(known..);
            if new.is_empty() {
                continue;
            }
            if *written + new.len() as u64 > self.size {
                return Err(ImageError::TooLarge { what: "the blob".to_owned(), limit: self.size, unit: "bytes" });
            }
            hasher.update(&new);
            let (file, at, bytes) = (self.file.try_clone(), *written, new.clone());
            let write = tokio::task::spawn_blocking(move || file?.write_all_at(&bytes, at)).await;
            let failed = |source| ImageError::Io { action: "write", path: self.path.clone(), source };
            write.map_err(io::Error::other).and_then(|done| done).map_err(failed)?;
            *written += new.len() as u64;
            self.state.send_modify(|state| state.written = *written);
        }
        if *written == self.size {
            return Ok(());
        }
        Err(ImageError::Interrupted { what: "the blob".to_owned(), received: *written, expected: self.size })
    }

    /// Waits for the end.
    async fn landed(&self) -> Result<(), String> {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| state.end.is_some()).await;
        ended.map_err(|_| "the fetch was cut short".to_owned())?.end.clone().unwrap_or(Ok(()))
    }

    /// All of the blob, as it comes.
    fn follow(self: Arc<Self>) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + Sync {
        let state = self.state.subscribe();
        futures::stream::unfold(Some((self, state, 0u64)), |reader| async move {
            let (flight, mut state, at) = reader?;
            let now = state.wait_for(|now| now.written > at || now.end.is_some()).await.map(|now| (*now).clone());
            match now {
                // The last bytes are held back until it is known that they are right: a body that is whole is a good one.
                Ok(now) if now.written.min(flight.size.saturating_sub(1)) > at || matches!(now.end, Some(Ok(()))) => {
                    let end =
                        if matches!(now.end, Some(Ok(()))) { flight.size } else { now.written.min(flight.size - 1) };
                    let len = (end - at).min(PIECE);
                    if len == 0 {
                        return None;
                    }
                    let file = flight.file.try_clone();
                    let read = tokio::task::spawn_blocking(move || {
                        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
                        file?.read_exact_at(&mut bytes, at).map(|()| Bytes::from(bytes))
                    });
                    match read.await.map_err(io::Error::other).and_then(|read| read) {
                        Ok(bytes) => Some((Ok(bytes), Some((flight, state, at + len)))),
                        Err(error) => Some((Err(error), None)),
                    }
                }
                Ok(State { end: Some(Err(error)), .. }) => Some((Err(io::Error::other(error)), None)),
                Ok(_) => match state.wait_for(|now| now.end.is_some()).await.map(drop) {
                    Ok(()) => Some((Ok(Bytes::new()), Some((flight, state, at)))),
                    Err(error) => Some((Err(io::Error::other(error)), None)),
                },
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        })
    }
}
