//! One of several servers: the store in etcd, what all servers must have in common, and which of them runs the
//! controllers.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use control::{ControlConfig, Election};
use serde::{Deserialize, Serialize};
use store::{EtcdConfig, EtcdError, EtcdStore, Store};
use tokio_util::sync::CancellationToken;

use super::{Settings, sealing};
use crate::cli::EtcdArgs;
use crate::exit::Unfit;

/// The Lease of the server that runs the controllers.
const LEASE: &str = "windlass-controllers";
/// The same with its namespace.
pub const LEASE_KEY: &str = "kube-system/windlass-controllers";

/// The settings, if an etcd is named. Paths become absolute: in the background the server may be somewhere else.
pub fn config(args: &EtcdArgs) -> anyhow::Result<Option<EtcdConfig>> {
    if args.etcd_endpoints.is_empty() {
        return Ok(None);
    }
    let mut config = EtcdConfig::new(args.etcd_endpoints.clone(), &args.etcd_prefix);
    let absolute = |path: &Option<std::path::PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    config.ca_file = absolute(&args.etcd_cafile)?;
    config.identity = absolute(&args.etcd_certfile)?.zip(absolute(&args.etcd_keyfile)?);
    Ok(Some(config))
}

/// Opens the store, and checks that this server may be one of those that use it.
pub async fn open(s: &Settings, config: &EtcdConfig) -> anyhow::Result<Arc<dyn Store>> {
    let store = EtcdStore::open(config).await.map_err(|error| unfit(&error))?;
    let file = s.instance.data_dir().join("store.redb");
    if file.exists() {
        tracing::warn!(file = %file.display(), "the cluster's objects are in etcd; those in the file are not used");
    }
    let pki = apiserver::pki::ensure(&s.pki_dir, &[], &[]).context("prepare keys and certificates")?;
    let keys = sealing::key_names(&s.pki_dir)?;
    let mine = Common {
        certificate_authority: pki.ca_pem().to_owned(),
        service_account_key: pki.service_account_public_pem(),
        service_range: s.instance.service_cidr().to_string(),
        encryption_key: keys.first().cloned().unwrap_or_default(),
    };
    let said = store.agree("cluster", serde_json::to_vec(&mine)?.into()).await?;
    let common: Common = serde_json::from_slice(&said).context("read what the servers of this etcd have in common")?;
    match mine.difference(&common, &keys, &s.pki_dir) {
        None => Ok(Arc::new(store)),
        Some((problem, fix)) => Err(Unfit::error(problem, fix)),
    }
}

fn unfit(error: &EtcdError) -> anyhow::Error {
    let fix = match error {
        EtcdError::Endpoints(_) | EtcdError::Endpoint(_) => "name the members with --etcd-endpoints https://HOST:2379",
        EtcdError::Prefix(_) => "name a path with --etcd-prefix, for example /windlass",
        EtcdError::NoCa(_) => "name the file with --etcd-cafile",
        EtcdError::File { .. } | EtcdError::Pem { .. } | EtcdError::Tls(_) => {
            "correct --etcd-cafile, --etcd-certfile and --etcd-keyfile"
        }
        EtcdError::Unreachable(_) => "start etcd, or correct --etcd-endpoints and the certificates it is reached with",
        EtcdError::Refused(_) => {
            "see etcd's log; a client certificate is named with --etcd-certfile and --etcd-keyfile"
        }
        EtcdError::Version { .. } => "upgrade etcd",
        EtcdError::ForeignKeys { .. } => "choose another --etcd-prefix",
        EtcdError::Format { .. } => "use the release of Windlass that wrote it, or choose another --etcd-prefix",
        EtcdError::Store(_) => "see etcd's log",
    };
    Unfit::error(base::chain(error).to_string(), fix)
}

/// What is the same for all servers of a cluster. The first one to use an etcd writes it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Common {
    /// PEM. Clients trust it, whichever server they reach.
    certificate_authority: String,
    /// PEM, the public half: a token that one server signs is shown to another.
    service_account_key: String,
    /// Addresses of Services.
    service_range: String,
    /// Name of the key that sealed Secrets when the cluster began; further keys may have come since.
    encryption_key: String,
}

impl Common {
    /// What this server (with these keys in that folder) has otherwise than the cluster, and what to do about it.
    fn difference(&self, cluster: &Common, keys: &[String], pki_dir: &Path) -> Option<(String, String)> {
        let folder = pki_dir.display();
        let copy = || {
            let files = "ca.crt, ca.key, service-account.key and encryption.keys";
            format!(
                "copy {files} of a server of this cluster to {folder}, or name a folder that has them with --pki-dir"
            )
        };
        let other = |what: &str| Some((format!("{what} in {folder} is not that of the cluster in etcd"), copy()));
        if self.certificate_authority != cluster.certificate_authority {
            return other("the certificate authority");
        }
        if self.service_account_key != cluster.service_account_key {
            return other("the key of service account tokens");
        }
        if !keys.contains(&cluster.encryption_key) {
            return other("the key of Secrets");
        }
        (self.service_range != cluster.service_range).then(|| {
            let (mine, wanted) = (&self.service_range, &cluster.service_range);
            let problem = format!("the range of Services is {mine}, that of the cluster in etcd is {wanted}");
            (problem, format!("start with --service-cidr {wanted}"))
        })
    }
}

/// Runs the controllers: always, or, with other servers beside, whenever this one leads.
pub fn controllers(
    s: &Settings,
    client: kube::Client,
    config: ControlConfig,
    drain: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let identity = format!("{}_{:016x}", s.node_name, rand::random::<u64>());
    let election = s.etcd.is_some().then(|| Election { name: LEASE.into(), identity });
    async move {
        let work = {
            let client = client.clone();
            move |term: CancellationToken| {
                let (client, config) = (client.clone(), config.clone());
                async move {
                    if let Err(error) = control::run(client, config, term).await {
                        tracing::error!(error = %base::chain(&error), "the controllers failed");
                    }
                }
            }
        };
        match election {
            Some(election) => control::lead(client, election, drain, work).await,
            None => work(drain).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_with_other_keys_or_ranges_is_told_which_and_what_to_do() {
        let ours = Common {
            certificate_authority: "ca".into(),
            service_account_key: "key".into(),
            service_range: "10.9.0.0/16".into(),
            encryption_key: "11111111".into(),
        };
        let rotated = ["22222222".to_owned(), "11111111".to_owned()];
        let ask = |mine: &Common, keys: &[String]| mine.difference(&ours, keys, Path::new("/data/pki"));
        assert_eq!(ask(&ours, &rotated), None);
        let expect = |mine: Common, keys: &[String], problem: &str, fix: &str| {
            let (found, remedy) = ask(&mine, keys).unwrap_or_default();
            assert_eq!(found, problem);
            assert!(remedy.contains(fix), "{remedy}");
        };
        let other = || "x".to_owned();
        let mine = Common { certificate_authority: other(), ..ours.clone() };
        let words = "the certificate authority in /data/pki is not that of the cluster in etcd";
        expect(mine, &rotated, words, "copy ca.crt, ca.key");
        let mine = Common { service_account_key: other(), ..ours.clone() };
        let words = "the key of service account tokens in /data/pki is not that of the cluster in etcd";
        expect(mine, &rotated, words, "--pki-dir");
        let words = "the key of Secrets in /data/pki is not that of the cluster in etcd";
        expect(ours.clone(), &rotated[..1], words, "encryption.keys");
        let mine = Common { service_range: "10.8.0.0/16".into(), ..ours.clone() };
        let words = "the range of Services is 10.8.0.0/16, that of the cluster in etcd is 10.9.0.0/16";
        expect(mine, &rotated, words, "--service-cidr 10.9.0.0/16");
    }
}
