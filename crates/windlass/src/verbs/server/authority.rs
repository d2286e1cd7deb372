//! The cluster's certificate authority, lent to the controllers that sign requests.

use std::fmt;
use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::pki::{SignError, SigningRequest};
use control::{Authority, NotSigned};

/// The authority of this server.
pub struct Cluster(pub Arc<ApiServer>);

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster(..)")
    }
}

impl Authority for Cluster {
    fn sign(
        &self,
        request: &[u8],
        signer: &str,
        usages: &[String],
        expiration_seconds: Option<i64>,
    ) -> Result<String, NotSigned> {
        let asked = SigningRequest { pem: request, signer, usages, seconds: expiration_seconds };
        self.0.pki().sign(&asked, jiff::Timestamp::now()).map_err(|error| match error {
            SignError::NotOurs(_) => NotSigned::NotOurs,
            SignError::Refused(why) => NotSigned::Refused(why),
            SignError::Authority(why) => NotSigned::Failed(why),
        })
    }

    fn agent(&self, request: &[u8], signer: &str, usages: &[String]) -> Option<String> {
        apiserver::pki::agent_of(&SigningRequest { pem: request, signer, usages, seconds: None })
    }
}
