//! What flags say about who comes in and what is recorded of them.

use anyhow::Context;
use apiserver::{AuditConfig, OidcConfig};

use crate::cli::{AuditArgs, OidcArgs};

/// Paths become absolute: in the background the server may be somewhere else.
pub fn audit(args: &AuditArgs) -> anyhow::Result<Option<AuditConfig>> {
    let (Some(policy), Some(log)) = (&args.audit_policy_file, &args.audit_log_path) else { return Ok(None) };
    Ok(Some(AuditConfig {
        policy: std::path::absolute(policy)?,
        log: std::path::absolute(log)?,
        max_bytes: args.audit_log_maxsize << 20,
        max_backups: usize::try_from(args.audit_log_maxbackup)?,
    }))
}

/// The identity provider, if one is named.
pub fn oidc(args: &OidcArgs) -> anyhow::Result<Option<OidcConfig>> {
    let (Some(issuer), Some(client)) = (&args.oidc_issuer_url, &args.oidc_client_id) else { return Ok(None) };
    let mut config = OidcConfig::new(issuer, client);
    config.username_claim.clone_from(&args.oidc_username_claim);
    config.username_prefix.clone_from(&args.oidc_username_prefix);
    config.groups_claim.clone_from(&args.oidc_groups_claim);
    config.groups_prefix = args.oidc_groups_prefix.clone().unwrap_or_default();
    config.ca_file = args.oidc_ca_file.as_ref().map(std::path::absolute).transpose()?;
    config.algorithms.clone_from(&args.oidc_signing_algs);
    for claim in &args.oidc_required_claim {
        let (claim, value) =
            claim.split_once('=').with_context(|| format!("--oidc-required-claim {claim:?} is not CLAIM=VALUE"))?;
        config.required_claims.insert(claim.to_owned(), value.to_owned());
    }
    Ok(Some(config))
}
