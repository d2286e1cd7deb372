//! `componentstatuses`: how the parts of the control plane are, asked when somebody wants to know. Nothing of it is stored.

use std::time::Duration;

use api::kinds::{KindInfo, VirtualKind, answered};
use api::labels::Labels;
use api::selectors::{FieldSelector, LabelSelector};
use api::status::ApiError;
use api::table;
use futures::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};
use store::{Compare, Txn};

use super::{Call, render};
use crate::http::accept::Form;
use crate::http::respond::{self, Reply};
use crate::server::ApiServer;

/// What there is to ask, in Kubernetes' words.
const NAMES: [&str; 3] = [CONTROLLERS, "etcd-0", SCHEDULER];
/// The component that runs every controller but the scheduler.
pub const CONTROLLERS: &str = "controller-manager";
/// The component that places pods.
pub const SCHEDULER: &str = "scheduler";
/// What Kubernetes says to whoever asks.
const DEPRECATED: &str = "v1 ComponentStatus is deprecated in v1.19+";
/// How long a component may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells how the controllers are, which live outside of this crate.
pub trait Components: std::fmt::Debug + Send + Sync {
    /// How a component is: [`SCHEDULER`] or [`CONTROLLERS`]. `None`: it does not run in this process.
    fn check(&self, component: &str) -> Option<Result<(), String>>;

    /// `NAMESPACE/NAME` of the Lease that the server holds which runs the controllers, when there are several servers.
    fn lease(&self) -> &str;
}

/// GET of one or of all.
pub(crate) async fn serve(call: Call, of: &'static VirtualKind) -> Result<Reply, ApiError> {
    let kind = answered(of).ok_or_else(ApiError::path_not_found)?;
    if !matches!(call.verb, "get" | "list") || !call.path.subresource.is_empty() {
        return Err(ApiError::method_not_allowed(of.plural, of.group, call.method.as_str()));
    }
    if !call.path.namespace.is_empty() {
        return Err(ApiError::path_not_found());
    }
    call.warnings.add(DEPRECATED);
    if call.verb == "get" {
        let name = NAMES.iter().find(|name| **name == call.path.name);
        let name = name.ok_or_else(|| ApiError::not_found("componentstatus", "", &call.path.name))?;
        return render::served(&call, kind, StatusCode::OK, &status(&call.server, name).await);
    }
    let wanted = selected(&call, kind)?;
    let all = join_all(wanted.into_iter().map(|name| status(&call.server, name))).await;
    list(&call, kind, all)
}

fn selected(call: &Call, kind: &KindInfo) -> Result<Vec<&'static str>, ApiError> {
    let labels = LabelSelector::parse(&call.query.labels)?;
    let fields = FieldSelector::parse(&call.query.fields)?;
    fields.check(kind)?;
    let keeps = |name: &&str| {
        labels.matches(&Labels::default()) && fields.matches(|field| if field == "metadata.name" { name } else { "" })
    };
    Ok(NAMES.into_iter().filter(keeps).collect())
}

fn list(call: &Call, kind: &KindInfo, items: Vec<Value>) -> Result<Reply, ApiError> {
    let value = match call.form {
        Form::Object => {
            let items: Vec<Value> = items.into_iter().map(item).collect();
            json!({"kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": {}, "items": items})
        }
        Form::Table => table::table(kind, &items, jiff::Timestamp::now(), render::include(call)?),
        Form::Partial | Form::PartialList => table::partial_metadata_list(&items),
        Form::AggregatedDiscovery => return Err(ApiError::not_acceptable(&["application/json"])),
    };
    Ok(respond::value(StatusCode::OK, &value, call.style))
}

/// What stands in a list goes without saying what it is.
fn item(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

async fn status(server: &ApiServer, name: &str) -> Value {
    let health = match name {
        "etcd-0" => {
            tokio::time::timeout(PATIENCE, stored(server)).await.unwrap_or_else(|_| Err("no answer".to_owned()))
        }
        component => controllers(server, component),
    };
    let (state, message) = match health {
        Ok(()) => ("True", "ok".to_owned()),
        Err(why) => ("False", why),
    };
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": state, "message": message}],
    })
}

/// Asks the store for a transaction that cannot be: it goes the way of every write, and changes nothing.
async fn stored(server: &ApiServer) -> Result<(), String> {
    let compare = vec![Compare::ModRevision("/registry/health".into(), NEVER)];
    match server.caches.store().txn(Txn { compare, ops: Vec::new() }).await {
        Ok(_) => Ok(()),
        Err(error) => Err(base::chain(&error).to_string()),
    }
}

/// A revision that a key never has.
const NEVER: u64 = 1 << 60;

/// Asks the controllers, or looks whether the server that runs them has said so lately.
fn controllers(server: &ApiServer, component: &str) -> Result<(), String> {
    let Some(components) = &server.config.components else {
        return Err("it does not run in this process".to_owned());
    };
    if let Some(known) = components.check(component) {
        return known;
    }
    if !server.caches.store().is_shared() {
        return Err("it is not running".to_owned());
    }
    let key = components.lease();
    let lease = server.caches.by("coordination.k8s.io", "leases").and_then(|cache| cache.get(key));
    holds(&lease.map(|entry| entry.value()).unwrap_or_default(), key, jiff::Timestamp::now())
}

/// Whether a Lease has a holder who renewed it in time.
fn holds(lease: &Value, key: &str, now: jiff::Timestamp) -> Result<(), String> {
    let spec = &lease["spec"];
    let holder = spec["holderIdentity"].as_str().unwrap_or_default();
    if holder.is_empty() {
        return Err(format!("no server runs it: nobody holds Lease {key}"));
    }
    let renewed: Option<jiff::Timestamp> = spec["renewTime"].as_str().and_then(|at| at.parse().ok());
    let duration = spec["leaseDurationSeconds"].as_i64().unwrap_or_default();
    let silent = renewed.map_or(i64::MAX, |at| now.as_second() - at.as_second());
    if silent > duration {
        return Err(format!("{holder} runs it and has not renewed Lease {key} for more than {duration} s"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_says_who_runs_the_controllers_as_long_as_it_is_renewed() {
        let now: jiff::Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let lease = |holder: &str, renewed: &str| json!({"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}});
        let of = |lease: Value| holds(&lease, "kube-system/l", now);
        assert_eq!(of(lease("a", "2026-01-01T00:00:50.000000Z")), Ok(()));
        assert_eq!(
            of(lease("a", "2026-01-01T00:00:20.000000Z")),
            Err("a runs it and has not renewed Lease kube-system/l for more than 15 s".to_owned())
        );
        let nobody = Err("no server runs it: nobody holds Lease kube-system/l".to_owned());
        assert_eq!(of(lease("", "2026-01-01T00:00:59.000000Z")), nobody);
        assert_eq!(of(Value::Null), nobody);
    }
}
