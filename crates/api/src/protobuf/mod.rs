//! Kubernetes' protobuf encoding of the built-in kinds, which Go clients (kubectl among them) prefer to JSON.
//!
//! Objects stay JSON values everywhere else: [`decode`] gives what the same client would have sent as JSON, [`encode`] takes
//! what would have been answered as JSON. What a message looks like is said by a table (see `table.rs`).

mod decode;
mod encode;
mod table;
mod wire;

pub use decode::decode;
pub use encode::{
    DOCUMENT_END, document_of, encode, is_encodable, item_length, list_head, message, put_item, watch_frame,
    watch_frame_of,
};

/// The media type of single documents.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";
/// The media type of watches: frames as [`watch_frame`] makes them.
pub const WATCH_MEDIA: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// What every document begins with, so that it cannot be taken for JSON.
const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages. Kubernetes objects stay below 30.
const DEPTH: usize = 64;
/// Most values (objects, list items, map entries, fields) of one document: a few bytes on the wire can stand for a value
/// that takes a hundred in memory.
const VALUES: usize = 1 << 20;

/// Why bytes are not a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not this encoding at all.
    #[error("it does not begin with the magic number")]
    Magic,
    /// Bytes are missing.
    #[error("it ends too early")]
    Short,
    /// A varint of more than ten bytes.
    #[error("a number is too long")]
    Varint,
    /// A field number or wire type that cannot be.
    #[error("it has an illegal tag")]
    Tag,
    /// A field is on the wire as what it is not.
    #[error("field {field:?} has the wrong wire type")]
    Wire {
        /// The field's JSON name.
        field: &'static str,
    },
    /// Text that is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// More than 64 messages in each other.
    #[error("it is nested too deeply")]
    Deep,
    /// More than 2^20 values.
    #[error("it has too many values")]
    Many,
    /// Bytes that should be JSON text are not.
    #[error("embedded JSON is malformed")]
    Json,
    /// A time outside of the years that can be written.
    #[error("a time is out of range")]
    Time,
    /// The content is packed in a way that is not known.
    #[error("content encoding or content type of the envelope is not supported")]
    Content,
}

#[cfg(test)]
mod tests;
