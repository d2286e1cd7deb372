//! Service account tokens of one pod: issued by the API server for this pod only, renewed at four fifths of their life.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};

use super::payload::TokenWish;

/// A token is renewed at the latest at this age.
const OLDEST: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone)]
struct Token {
    value: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// The tokens a pod has.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    held: BTreeMap<TokenWish, Token>,
}

impl Tokens {
    /// Tokens for these wishes, new ones where there is none or it is old. A token that cannot be renewed is used to its
    /// end.
    pub(crate) async fn fulfil(
        &mut self,
        client: &kube::Client,
        pod: &Pod,
        wishes: &[TokenWish],
    ) -> Result<BTreeMap<TokenWish, String>, kube::Error> {
        self.held.retain(|wish, _| wishes.contains(wish));
        let mut out = BTreeMap::new();
        for wish in wishes {
            let now = Timestamp::now();
            let held = self.held.get(wish).filter(|t| t.expires_at > now).cloned();
            let token = match held {
                Some(token) if token.renew_at > now => token,
                held => match (issue(client, pod, wish).await, held) {
                    (Ok(token), _) => token,
                    (Err(error), Some(old)) => {
                        tracing::warn!(%error, "service account token not renewed");
                        old
                    }
                    (Err(error), None) => return Err(error),
                },
            };
            out.insert(wish.clone(), token.value.clone());
            self.held.insert(wish.clone(), token);
        }
        Ok(out)
    }

    /// When the first of them is to be renewed.
    pub(crate) fn renew_at(&self) -> Option<Timestamp> {
        self.held.values().map(|t| t.renew_at).min()
    }
}

async fn issue(client: &kube::Client, pod: &Pod, wish: &TokenWish) -> Result<Token, kube::Error> {
    let m = &pod.metadata;
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).filter(|n| !n.is_empty());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(wish.audience.iter().cloned().collect()),
            expiration_seconds: Some(wish.expiration_s),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: m.name.clone(),
                uid: m.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), m.namespace.as_deref().unwrap_or_default());
    let asked_at = Timestamp::now();
    let name = account.unwrap_or("default");
    let answer = api.create_token_request(name, &PostParams::default(), &request).await?;
    let status = answer.status.unwrap_or_default();
    // An answer without a time is taken to last as long as was asked for.
    let asked = asked_at.checked_add(SignedDuration::from_secs(wish.expiration_s)).unwrap_or(asked_at);
    let expires_at = status.expiration_timestamp.map_or(asked, |t| t.0);
    let value = status.token.unwrap_or_default();
    Ok(Token { value, renew_at: renewal(asked_at, expires_at), expires_at })
}

fn renewal(issued: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(issued).max(SignedDuration::ZERO);
    issued.checked_add((life / 5 * 4).min(OLDEST)).unwrap_or(expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_at_four_fifths_of_their_life_or_after_a_day() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        assert_eq!(renewal(at(0), at(1000)), at(800));
        assert_eq!(renewal(at(0), at(10_000_000)), at(86_400));
        assert_eq!(renewal(at(100), at(50)), at(100));
    }
}
