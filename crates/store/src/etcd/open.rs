//! Opening: who answers, which version it is, and whether the keys below the prefix are ours.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use tokio::sync::watch;

use super::channel::{Channel, Repeat, failed};
use super::grpc::CallError;
use super::keys::Keys;
use super::leases::Leases;
use super::proto::{self, Empty, RangeRequest, StatusResponse};
use super::{EtcdConfig, EtcdError, EtcdStore, FORMAT, Inner, OLDEST};
use crate::StoreError;

impl EtcdStore {
    /// Connects, checks etcd's version, and claims the prefix, which must be empty or Windlass' own.
    ///
    /// # Errors
    /// Says what is wrong with the settings or with etcd.
    pub async fn open(config: &EtcdConfig) -> Result<Self, EtcdError> {
        let endpoints = config.parsed()?;
        let tls = config.tls(&endpoints)?;
        let prefix = config.prefix()?;
        for endpoint in endpoints.iter().filter(|e| !e.https && !e.is_local()) {
            tracing::warn!(endpoint = endpoint.url, "the cluster's objects cross the network in clear text");
        }
        let channel = Channel::new(config, endpoints, tls);
        let status = channel.unary("/etcdserverpb.Maintenance/Status", &Empty {}, Repeat::Safe).await;
        let status: StatusResponse = status.map_err(unusable)?;
        if !is_supported(&status.version) {
            return Err(EtcdError::Version { found: status.version });
        }
        let inner = Inner {
            channel,
            keys: Keys::new(prefix),
            leases: Leases::default(),
            max_value_bytes: config.max_value_bytes,
            known: AtomicU64::new(0),
            ours: AtomicU64::new(0),
            wanted: watch::Sender::new(0),
        };
        check_layout(&inner, prefix).await?;
        let newest = inner.cluster_revision().await.map_err(EtcdError::Store)?;
        inner.saw(newest, false);
        tracing::info!(version = status.version, prefix, revision = newest, "the store is in etcd");
        Ok(EtcdStore::start(Arc::new(inner)))
    }

    /// What all servers of the cluster must agree on under a name: what the first of them said.
    ///
    /// # Errors
    /// When etcd fails.
    pub async fn agree(&self, name: &str, mine: Bytes) -> Result<Bytes, StoreError> {
        first(&self.inner, self.inner.keys.meta(name), mine).await
    }
}

/// Sets a key unless it is set, and gives its value.
async fn first(inner: &Inner, key: Bytes, mine: Bytes) -> Result<Bytes, StoreError> {
    let compare = vec![proto::Compare { target: proto::TARGET_MOD, key: key.clone(), mod_revision: Some(0) }];
    let put = proto::PutRequest { key: key.clone(), value: mine.clone(), ..Default::default() };
    let range = RangeRequest { key, ..Default::default() };
    let request = proto::TxnRequest {
        compare,
        success: vec![super::step(proto::Request::Put(put))],
        failure: vec![super::step(proto::Request::Range(range))],
    };
    // Done twice, it finds what it did.
    let answer: proto::TxnResponse = inner
        .channel
        .unary("/etcdserverpb.KV/Txn", &request, Repeat::Safe)
        .await
        .map_err(failed("writing to etcd failed"))?;
    let found = answer.responses.into_iter().find_map(|r| match r.response {
        Some(proto::Response::Range(mut range)) => range.kvs.pop(),
        _ => None,
    });
    Ok(found.map_or(mine, |kv| kv.value))
}

async fn check_layout(inner: &Inner, prefix: &str) -> Result<(), EtcdError> {
    let marker = inner.keys.meta("format");
    let read = async |request: RangeRequest| inner.call_range(&request).await.map_err(unusable);
    let marked = RangeRequest { key: marker.clone(), count_only: true, ..Default::default() };
    let (key, range_end) = inner.keys.all();
    let any = RangeRequest { key, range_end, limit: 1, ..Default::default() };
    // Looked at in this order, keys that another server has just written have their marker.
    if let Some(kv) = read(any).await?.kvs.pop()
        && read(marked).await?.count == 0
    {
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        return Err(EtcdError::ForeignKeys { prefix: prefix.to_owned(), key });
    }
    let found = first(inner, marker, Bytes::from(FORMAT.to_string())).await.map_err(EtcdError::Store)?;
    if found != FORMAT.to_string().as_bytes() {
        return Err(EtcdError::Format { found: String::from_utf8_lossy(&found).into_owned() });
    }
    Ok(())
}

fn unusable(error: CallError) -> EtcdError {
    match error {
        CallError::Status { .. } => EtcdError::Refused(Arc::from(error.to_string())),
        other => EtcdError::Unreachable(Arc::from(other.to_string())),
    }
}

fn is_supported(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    matches!((parts.next(), parts.next()), (Some(Some(major)), Some(Some(minor))) if major == OLDEST.0 && minor >= OLDEST.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_since_the_oldest_of_the_same_api_are_supported() {
        for (version, supported) in
            [("3.4.23", true), ("3.6.0-rc.1", true), ("3.3.27", false), ("2.3.8", false), ("4.0.0", false), ("", false)]
        {
            assert_eq!(is_supported(version), supported, "{version}");
        }
    }
}
