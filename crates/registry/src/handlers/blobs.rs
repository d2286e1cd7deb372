//! Blobs: read, whole or in part; pushed at once, in chunks, or mounted from another repository.

use std::sync::Arc;

use futures::TryStreamExt as _;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, RANGE};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use image::Digest;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::{Answer, Body, Call, DIGEST, Registry, bare, blocking, text};
use crate::error::Refusal;
use crate::route;
use crate::uploads::Upload;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// A blob is read in pieces of so many bytes.
const PIECE: usize = 256 << 10;

impl Registry {
    /// GET, HEAD, DELETE of a blob.
    pub(super) async fn blob(self: &Arc<Self>, call: &Call, name: String, digest: Digest) -> Answer {
        let (store, wanted) = (self.store.clone(), digest.clone());
        if call.method == Method::DELETE {
            let removed = blocking(move || store.unlink(&name, &wanted)).await?;
            return if removed { Ok(bare(StatusCode::ACCEPTED)) } else { Err(Refusal::blob_unknown(digest.as_str())) };
        }
        if let Some(proxy) = &self.proxy
            && let Some(answer) = proxy.blob(call, &name, &digest).await?
        {
            return Ok(answer);
        }
        let size = blocking(move || store.blob(&name, &wanted)).await?;
        let size = size.ok_or_else(|| Refusal::blob_unknown(digest.as_str()))?;
        let etag = format!("\"{digest}\"");
        if call.header(IF_NONE_MATCH) == Some(&etag) {
            return Ok(bare(StatusCode::NOT_MODIFIED));
        }
        let part = match route::range(call.header(RANGE), size) {
            Ok(part) => part,
            Err(()) => {
                let mut answer = bare(StatusCode::RANGE_NOT_SATISFIABLE);
                answer.headers_mut().insert(CONTENT_RANGE, text(&format!("bytes */{size}")));
                return Ok(answer);
            }
        };
        let (first, len) = part.map_or((0, size), |(first, last)| (first, last - first + 1));
        let mut answer = if call.method == Method::HEAD {
            bare(StatusCode::OK)
        } else {
            Response::new(self.content(&digest, first, len).await?)
        };
        let headers = answer.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(ETAG, text(&etag));
        headers.insert(DIGEST, text(digest.as_str()));
        if let Some((first, last)) = part {
            headers.insert(CONTENT_RANGE, text(&format!("bytes {first}-{last}/{size}")));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(answer)
    }

    async fn content(&self, digest: &Digest, first: u64, len: u64) -> Result<Body, Refusal> {
        let path = self.store.blob_path(digest);
        let open = async {
            let mut file = tokio::fs::File::open(&path).await?;
            file.seek(std::io::SeekFrom::Start(first)).await?;
            Ok(file.take(len))
        };
        let file = open.await.map_err(crate::store::at("open", &path))?;
        Ok(StreamBody::new(ReaderStream::with_capacity(file, PIECE).map_ok(Frame::data)).boxed())
    }

    /// POST: begins an upload, or is one.
    pub(super) async fn begin(self: &Arc<Self>, call: &Call, name: String, body: Incoming) -> Answer {
        if let (Some(digest), Some(from)) = (call.query.get("mount"), call.query.get("from")) {
            let (digest, from) = (route::digest(digest)?, route::name(from));
            let (store, to, wanted) = (self.store.clone(), name.clone(), digest.clone());
            if let Some(from) = from
                && blocking(move || store.mount(&to, &from, &wanted)).await?
            {
                return Ok(created(&name, &digest));
            }
        }
        let digest = call.query.get("digest").map(|d| route::digest(d)).transpose()?;
        let id = self.uploads.begin(&name).await?;
        let Some(digest) = digest else {
            let mut answer = bare(StatusCode::ACCEPTED);
            progress(&mut answer, &name, &id, 0);
            return Ok(answer);
        };
        let done = self.finish(&name, &id, &digest, body).await;
        if done.is_err() {
            self.uploads.cancel(&name, &id)?;
        }
        done
    }

    /// GET, PATCH, PUT, DELETE of an upload.
    pub(super) async fn upload(self: &Arc<Self>, call: &Call, name: String, id: String, body: Incoming) -> Answer {
        let upload = self.uploads.get(&name, &id).await?;
        match call.method {
            Method::DELETE => {
                self.uploads.cancel(&name, &id)?;
                Ok(bare(StatusCode::NO_CONTENT))
            }
            Method::PATCH => {
                let mut upload = upload.lock().await;
                in_order(call, &upload)?;
                let taken = take(&mut upload, body, self.max_blob).await;
                // What came counts, also of a body that broke off: the client asks how far it got.
                upload.digest().await?;
                taken?;
                let mut answer = bare(StatusCode::ACCEPTED);
                progress(&mut answer, &name, &id, upload.len);
                Ok(answer)
            }
            Method::PUT => {
                let missing = || Refusal::digest_invalid("the parameter digest is missing");
                let digest = route::digest(call.query.get("digest").ok_or_else(missing)?)?;
                in_order(call, &*upload.lock().await)?;
                self.finish(&name, &id, &digest, body).await
            }
            _ => {
                let mut answer = bare(StatusCode::NO_CONTENT);
                progress(&mut answer, &name, &id, upload.lock().await.len);
                Ok(answer)
            }
        }
    }

    /// Takes the rest of an upload and makes it a blob, if it is the one it is said to be.
    async fn finish(&self, name: &str, id: &str, digest: &Digest, body: Incoming) -> Answer {
        let upload = self.uploads.get(name, id).await?;
        let mut upload = upload.lock().await;
        take(&mut upload, body, self.max_blob).await?;
        let actual = upload.digest().await?;
        if actual != *digest {
            // Nothing can make it right any more.
            self.uploads.cancel(name, id)?;
            return Err(Refusal::digest_invalid(format!("the content has the digest {actual}, not {digest}")));
        }
        let (store, to, path, wanted) = (self.store.clone(), name.to_owned(), upload.path.clone(), digest.clone());
        blocking(move || store.adopt(&to, &path, &wanted)).await?;
        self.uploads.done(name, id);
        Ok(created(name, digest))
    }
}

/// # Errors
/// 416 when a chunk says that it begins elsewhere than where the last one ended.
fn in_order(call: &Call, upload: &Upload) -> Result<(), Refusal> {
    let Some(header) = call.header(CONTENT_RANGE) else { return Ok(()) };
    let length = call.header(CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
    match route::chunk(header) {
        None => Err(Refusal::upload_invalid(format!("Content-Range: want FIRST-LAST, not {header:?}"))),
        Some((first, last)) if length.is_some_and(|len| last - first + 1 != len) => {
            Err(Refusal::upload_invalid("Content-Range and Content-Length differ"))
        }
        Some((first, _)) if first != upload.len => {
            Err(Refusal::out_of_order(format!("the next byte is {}, not {first}", upload.len)))
        }
        Some(_) => Ok(()),
    }
}

async fn take(upload: &mut Upload, mut body: Incoming, max: u64) -> Result<(), Refusal> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::broken_off())?;
        if let Some(bytes) = frame.data_ref() {
            upload.append(bytes, max).await?;
        }
    }
    Ok(())
}

/// Where an upload goes on, and how far it is.
fn progress(answer: &mut Response<Body>, name: &str, id: &str, len: u64) {
    let headers = answer.headers_mut();
    headers.insert(LOCATION, text(&format!("/v2/{name}/blobs/uploads/{id}")));
    headers.insert(UPLOAD_ID, text(id));
    // Docker's registry says `0-0` of nothing as well.
    headers.insert(RANGE, text(&format!("0-{}", len.saturating_sub(1))));
}

fn created(name: &str, digest: &Digest) -> Response<Body> {
    let mut answer = bare(StatusCode::CREATED);
    answer.headers_mut().insert(LOCATION, text(&format!("/v2/{name}/blobs/{digest}")));
    answer.headers_mut().insert(DIGEST, text(digest.as_str()));
    answer
}
