//! Service account tokens that a driver asks for (KEP-2047).

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::{Api, PostParams};
use serde_json::json;

const KEY: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The tokens by audience, under the key drivers look for them; `None` when the driver wants none.
pub(super) async fn of_pod(
    client: &kube::Client,
    pod: &Pod,
    driver: Option<&CSIDriver>,
) -> Result<Option<(String, String)>, String> {
    let wanted = driver.and_then(|d| d.spec.token_requests.as_ref()).filter(|t| !t.is_empty());
    let Some(wanted) = wanted else { return Ok(None) };
    let m = &pod.metadata;
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).filter(|n| !n.is_empty());
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), m.namespace.as_deref().unwrap_or_default());
    let mut tokens = serde_json::Map::new();
    for wish in wanted {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(Some(wish.audience.clone()).filter(|a| !a.is_empty()).into_iter().collect()),
                expiration_seconds: wish.expiration_seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: m.name.clone(),
                    uid: m.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let answer = api.create_token_request(account.unwrap_or("default"), &PostParams::default(), &request).await;
        let status = answer.map_err(|e| format!("failed to fetch token: {e}"))?.status.unwrap_or_default();
        let expires = status.expiration_timestamp.map_or_else(Timestamp::now, |t| t.0);
        let token = json!({"token": status.token, "expirationTimestamp": expires.to_string()});
        tokens.insert(wish.audience.clone(), token);
    }
    Ok(Some((KEY.to_owned(), serde_json::Value::Object(tokens).to_string())))
}
