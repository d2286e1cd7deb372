//! A file from the web, with the limits and the TLS of the registry client.

use std::io::Write;
use std::path::Path;

use reqwest::header::{CONTENT_DISPOSITION, ETAG, LAST_MODIFIED};

use crate::digest::{Digest, Hashing};
use crate::error::{ImageError, Result, io_error};
use crate::registry::network;
use crate::store::ImageStore;

/// What was downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Of its bytes.
    pub digest: Digest,
    /// How many.
    pub bytes: u64,
    /// `Last-Modified`, as the server said it.
    pub last_modified: Option<String>,
    /// The name the server gives it.
    pub file_name: Option<String>,
    /// What the server calls this version.
    pub etag: Option<String>,
}

impl ImageStore {
    /// Downloads `http` or `https` into a file that must not exist yet.
    ///
    /// # Errors
    /// [`ImageError::Network`], [`ImageError::Registry`] for an answer other than success, [`ImageError::TooLarge`].
    pub async fn download(&self, url: &str, into: &Path) -> Result<Download> {
        let bad = |e: String| ImageError::Network { url: url.to_owned(), message: e };
        let parsed: reqwest::Url = url.parse().map_err(|e: url::ParseError| bad(e.to_string()))?;
        let client = self.http.client_for(parsed.host_str().unwrap_or_default()).map_err(bad)?;
        let mut response = client.get(parsed).send().await.map_err(network)?;
        if !response.status().is_success() {
            let status = response.status();
            let message = status.canonical_reason().unwrap_or("the server refused").to_owned();
            return Err(ImageError::Registry { url: url.to_owned(), status: status.as_u16(), message });
        }
        let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (last_modified, etag) = (text(LAST_MODIFIED), text(ETAG));
        let file_name = text(CONTENT_DISPOSITION).as_deref().and_then(named);
        let file = std::fs::File::create_new(into).map_err(io_error("create", into))?;
        let mut sink = Hashing::new(std::io::BufWriter::with_capacity(1 << 20, file));
        let (mut bytes, limit) = (0u64, self.options.max_blob_bytes);
        while let Some(chunk) = response.chunk().await.map_err(network)? {
            bytes += chunk.len() as u64;
            if bytes > limit {
                return Err(ImageError::TooLarge { what: url.to_owned(), limit, unit: "bytes" });
            }
            sink.write_all(&chunk).map_err(io_error("write", into))?;
        }
        sink.flush().map_err(io_error("write", into))?;
        let (_, digest, bytes) = sink.finish();
        Ok(Download { digest, bytes, last_modified, file_name, etag })
    }
}

/// `attachment; filename="x"`; a path is no name.
pub(crate) fn named(disposition: &str) -> Option<String> {
    let (_, name) = disposition.split_once("filename=")?;
    let name = name.split(';').next()?.trim().trim_matches('"');
    let plain = !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
    plain.then(|| name.to_owned())
}
