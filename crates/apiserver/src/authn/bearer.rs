//! Whose a bearer token is.

use std::sync::Arc;

use super::{UserInfo, bootstrap, same_secret};
use crate::server::ApiServer;

/// The user of a token, and the audiences it is good for among those asked for.
pub struct Bearer {
    /// The user.
    pub user: Arc<UserInfo>,
    /// The audiences.
    pub audiences: Vec<String>,
}

/// Asks everybody who knows tokens. Without audiences it is asked for this API server.
///
/// # Errors
/// Why it is nobody's, in words that do not help to guess one.
pub async fn bearer(server: &ApiServer, token: &str, audiences: Option<&[String]>) -> Result<Bearer, String> {
    let own = server.tokens.default_audience();
    // Tokens that are not made for somebody are made for this API server.
    let agnostic = |user: Arc<UserInfo>| match audiences.is_none_or(|list| list.iter().any(|a| a == own)) {
        true => Ok(Bearer { user, audiences: vec![own.to_owned()] }),
        false => Err("token is not for any of the audiences asked for".to_owned()),
    };
    if let Some(admin) = &server.config.admin_token
        && same_secret(admin.as_bytes(), token.as_bytes())
    {
        return agnostic(Arc::new(UserInfo::new("kubernetes-admin", &[crate::pki::MASTERS])));
    }
    if bootstrap::parse(token).is_some() {
        let found = bootstrap::check(&server.caches, token, jiff::Timestamp::now());
        return found.map(Arc::new).map_or_else(
            |why| {
                tracing::debug!(why, "bootstrap token refused");
                Err("invalid bearer token".to_owned())
            },
            agnostic,
        );
    }
    if let Some(oidc) = server.oidc.as_ref().filter(|oidc| oidc.claims(token)) {
        return oidc.check(token).await.map_err(|error| error.to_string()).and_then(agnostic);
    }
    let user = server.tokens.check(&server.caches, token, audiences).map_err(|error| error.to_string())?;
    let good_for = match audiences {
        Some(wanted) => server.tokens.audiences(token).into_iter().filter(|a| wanted.contains(a)).collect(),
        None => vec![own.to_owned()],
    };
    Ok(Bearer { user, audiences: good_for })
}
