//! Where the store's keys are among etcd's: below the prefix, data and what is said about them apart.
//!
//! | etcd's key | what |
//! |---|---|
//! | `PREFIX/bump` | put to move the watches forward when only others have written to this etcd |
//! | `PREFIX/data` + key | the store's keys |
//! | `PREFIX/meta/format` | the version of this layout |
//! | `PREFIX/meta/`name | what all servers must agree on |

use bytes::{Bytes, BytesMut};

use super::proto;
use crate::{KeyValue, prefix_end};

/// The names of keys.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
    data: Bytes,
}

impl Keys {
    /// Below a prefix without a slash at its end.
    pub fn new(prefix: &str) -> Self {
        Keys { prefix: prefix.to_owned(), data: Bytes::from(format!("{prefix}/data")) }
    }

    /// The store's key as etcd's.
    pub fn outer(&self, key: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(self.data.len() + key.len());
        out.extend_from_slice(&self.data);
        out.extend_from_slice(key);
        out.freeze()
    }

    /// etcd's key as the store's; `None` for those that are not data.
    pub fn inner(&self, key: &Bytes) -> Option<Bytes> {
        key.starts_with(&self.data).then(|| key.slice(self.data.len()..))
    }

    /// A key of etcd's with its value as the store's.
    pub fn kv(&self, kv: proto::KeyValue) -> Option<KeyValue> {
        Some(KeyValue {
            key: self.inner(&kv.key)?,
            value: kv.value,
            create_revision: proto::unsigned(kv.create_revision),
            mod_revision: proto::unsigned(kv.mod_revision),
            version: proto::unsigned(kv.version),
        })
    }

    /// What every watch asks etcd for, whatever its prefix: the bump key and all data, so that each change of this store
    /// says how far the watch is.
    pub fn watched(&self) -> (Bytes, Bytes) {
        (self.bump(), prefix_end(&self.data))
    }

    /// The key that moves watches.
    pub fn bump(&self) -> Bytes {
        Bytes::from(format!("{}/bump", self.prefix))
    }

    /// Everything of this store.
    pub fn all(&self) -> (Bytes, Bytes) {
        let start = Bytes::from(format!("{}/", self.prefix));
        let end = prefix_end(&start);
        (start, end)
    }

    /// A key that is not data.
    pub fn meta(&self, name: &str) -> Bytes {
        Bytes::from(format!("{}/meta/{name}", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_out_and_come_in_and_a_watch_includes_the_bump() {
        let keys = Keys::new("/w");
        let outer = keys.outer(b"/registry/a");
        assert_eq!((&outer[..], keys.inner(&outer)), (&b"/w/data/registry/a"[..], Some(Bytes::from("/registry/a"))));
        assert_eq!(keys.inner(&keys.bump()), None);
        let (start, end) = keys.watched();
        assert!(start <= keys.bump() && keys.bump() < end && start < outer && outer < end);
        assert!(keys.meta("format") >= end);
        let (start, end) = keys.all();
        assert!([keys.bump(), outer, keys.meta("x")].iter().all(|key| *key > start && *key < end));
    }
}
