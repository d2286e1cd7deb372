//! What a client is asked in its session: field numbers are those of BuildKit's `session/*` and of fsutil's `types`.

use std::collections::BTreeMap;

use prost::Message;

/// Bytes of a stream, whatever it carries.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BytesMessage {
    /// They.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
}

/// `Auth.Credentials`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CredentialsRequest {
    /// The registry.
    #[prost(string, tag = "1")]
    pub host: String,
}

/// Of `Auth.Credentials`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CredentialsResponse {
    /// The user; empty with a token.
    #[prost(string, tag = "1")]
    pub username: String,
    /// The password, or a token.
    #[prost(string, tag = "2")]
    pub secret: String,
}

/// `Secrets.GetSecret` and `SSH.CheckAgent`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ById {
    /// Which.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// Something in a folder that is transferred.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Stat {
    /// In the folder, with slashes.
    #[prost(string, tag = "1")]
    pub path: String,
    /// As Go's `os.FileMode` has it.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// Bytes.
    #[prost(int64, tag = "5")]
    pub size: i64,
    /// Changed, nanoseconds since the epoch.
    #[prost(int64, tag = "6")]
    pub mod_time: i64,
    /// Where a symbolic link leads, or what a file is a hard link to.
    #[prost(string, tag = "7")]
    pub linkname: String,
    /// Of a device.
    #[prost(int64, tag = "8")]
    pub devmajor: i64,
    /// Of a device.
    #[prost(int64, tag = "9")]
    pub devminor: i64,
    /// Extended attributes.
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What a [`Packet`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum PacketKind {
    /// Something is there; without one, that was all.
    Stat = 0,
    /// Its content is wanted.
    Req = 1,
    /// Its content; empty at its end.
    Data = 2,
    /// Nothing more is wanted, or given.
    Fin = 3,
    /// It failed.
    Err = 4,
}

/// Of the transfer of a folder.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Packet {
    /// What it is.
    #[prost(enumeration = "PacketKind", tag = "1")]
    pub kind: i32,
    /// Something that is there.
    #[prost(message, optional, tag = "2")]
    pub stat: Option<Stat>,
    /// Which of those that were told, from 0.
    #[prost(uint32, tag = "3")]
    pub id: u32,
    /// Content, or words.
    #[prost(bytes = "vec", tag = "4")]
    pub data: Vec<u8>,
}
