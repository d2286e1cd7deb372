//! Compressed streams, told apart by their first bytes: media types lie more often than magic numbers.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::manifest::{OCI_LAYER_GZIP, OCI_LAYER_ZSTD};

type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// A stream made plain.
pub(crate) enum Plain<R: Read> {
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(Box<zstd::Decoder<'static, Source<R>>>),
    Tar(Source<R>),
}

impl<R: Read> Plain<R> {
    pub(crate) fn new(mut source: R) -> io::Result<Self> {
        let mut head = Vec::with_capacity(4);
        source.by_ref().take(4).read_to_end(&mut head)?;
        let gzip = head.starts_with(&[0x1f, 0x8b]);
        let zstandard = head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable(&head);
        let source = BufReader::with_capacity(128 * 1024, Cursor::new(head).chain(source));
        Ok(match (gzip, zstandard) {
            (true, _) => Plain::Gzip(Box::new(MultiGzDecoder::new(source))),
            (_, true) => Plain::Zstd(Box::new(zstd::Decoder::with_buffer(source)?)),
            _ => Plain::Tar(source),
        })
    }

    /// The OCI media type of a layer compressed this way; `None` for a plain one.
    pub(crate) fn layer_media_type(&self) -> Option<&'static str> {
        match self {
            Plain::Gzip(_) => Some(OCI_LAYER_GZIP),
            Plain::Zstd(_) => Some(OCI_LAYER_ZSTD),
            Plain::Tar(_) => None,
        }
    }
}

/// A zstd skippable frame, with which zstd:chunked layers may begin (RFC 8878, 3.1.2).
fn skippable(head: &[u8]) -> bool {
    head.len() == 4 && (0x50..=0x5f).contains(&head[0]) && head[1..] == [0x2a, 0x4d, 0x18]
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Plain::Gzip(r) => r.read(buf),
            Plain::Zstd(r) => r.read(buf),
            Plain::Tar(r) => r.read(buf),
        }
    }
}
