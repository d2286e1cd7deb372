//! Kinds that steer the API server itself: signing requests, API services, flow control; how the control plane is.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, NAME, col};
use crate::json::{at, int_at, list_at, str_at};
use crate::kinds::Columns;
use crate::meta;
use crate::table::{human_duration, object_age};

/// Columns of certificate signing requests.
pub const SIGNING_REQUEST: Columns = Columns {
    list: &[
        NAME,
        AGE,
        col("SignerName", "string", "Who is asked to sign."),
        col("Requestor", "string", "Who asks."),
        col("RequestedDuration", "string", "For how long the certificate is to hold."),
        col("Condition", "string", "What became of the request."),
    ],
    row: signing_request,
};

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

fn signing_request(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let duration = int_at(spec, &["expirationSeconds"]).map_or_else(|| "<none>".to_owned(), human_duration);
    let has = |kind: &str| list_at(o, &["status", "conditions"]).iter().any(|c| str_at(c, &["type"]) == kind);
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !str_at(o, &["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    vec![
        json!(meta::name(o)),
        json!(object_age(o, now)),
        json!(or_none(str_at(spec, &["signerName"]))),
        json!(str_at(spec, &["username"])),
        json!(duration),
        json!(state),
    ]
}

/// Columns of component statuses.
pub const COMPONENT_STATUS: Columns = Columns {
    list: &[
        NAME,
        col("Status", "string", "Status of the component conditions"),
        col("Message", "string", "Message of the component conditions"),
        col("Error", "string", "Error of the component conditions"),
    ],
    row: component_status,
};

fn component_status(o: &Value, _: Timestamp) -> Vec<Value> {
    let condition = list_at(o, &["conditions"]).iter().find(|c| str_at(c, &["type"]) == "Healthy");
    let (status, message, error) = match condition {
        None => ("Unknown", "", ""),
        Some(c) => {
            let status = if str_at(c, &["status"]) == "True" { "Healthy" } else { "Unhealthy" };
            (status, str_at(c, &["message"]), str_at(c, &["error"]))
        }
    };
    vec![json!(meta::name(o)), json!(status), json!(message), json!(error)]
}

/// Columns of API services.
pub const API_SERVICE: Columns = Columns {
    list: &[
        NAME,
        col("Service", "string", "Service that serves the group-version, or this server."),
        col("Available", "string", "Whether it is served."),
        AGE,
    ],
    row: api_service,
};

fn api_service(o: &Value, now: Timestamp) -> Vec<Value> {
    let service = at(o, &["spec", "service"])
        .map_or_else(|| "Local".to_owned(), |s| format!("{}/{}", str_at(s, &["namespace"]), str_at(s, &["name"])));
    let available = list_at(o, &["status", "conditions"]).iter().find(|c| str_at(c, &["type"]) == "Available");
    let available = available.map_or_else(
        || "Unknown".to_owned(),
        |c| match (str_at(c, &["status"]), str_at(c, &["reason"])) {
            (status @ "True", _) | (status, "") => status.to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        },
    );
    vec![json!(meta::name(o)), json!(service), json!(available), json!(object_age(o, now))]
}

/// Columns of flow schemas.
pub const FLOW_SCHEMA: Columns = Columns {
    list: &[
        NAME,
        col("PriorityLevel", "string", "Level of the requests that match."),
        col("MatchingPrecedence", "string", "Rank among the schemas that match; the lowest wins."),
        col("DistinguisherMethod", "string", "What tells the flows of the schema apart."),
        AGE,
        col("MissingPL", "string", "Whether the level does not exist."),
    ],
    row: flow_schema,
};

fn flow_schema(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let dangling = list_at(o, &["status", "conditions"]).iter().find(|c| str_at(c, &["type"]) == "Dangling");
    vec![
        json!(meta::name(o)),
        json!(str_at(spec, &["priorityLevelConfiguration", "name"])),
        json!(int_at(spec, &["matchingPrecedence"]).unwrap_or(0)),
        json!(or_none(str_at(spec, &["distinguisherMethod", "type"]))),
        json!(object_age(o, now)),
        json!(dangling.map_or("?", |c| str_at(c, &["status"]))),
    ]
}

/// Columns of priority level configurations.
pub const PRIORITY_LEVEL: Columns = Columns {
    list: &[
        NAME,
        col("Type", "string", "Whether the level is limited."),
        col("NominalConcurrencyShares", "string", "Share of the server's concurrency."),
        col("Queues", "string", "Number of queues."),
        col("HandSize", "string", "Queues that one flow may use."),
        col("QueueLengthLimit", "string", "Most waiting requests of a queue."),
        AGE,
    ],
    row: priority_level,
};

fn priority_level(o: &Value, now: Timestamp) -> Vec<Value> {
    let limited = at(o, &["spec", "limited"]);
    let queuing = limited.and_then(|l| at(l, &["limitResponse", "queuing"]));
    let number = |owner: Option<&Value>, key: &str| owner.and_then(|q| at(q, &[key]).cloned());
    let or_none = |value: Option<Value>| value.unwrap_or_else(|| json!("<none>"));
    vec![
        json!(meta::name(o)),
        json!(str_at(o, &["spec", "type"])),
        or_none(number(limited, "nominalConcurrencyShares")),
        or_none(number(queuing, "queues")),
        or_none(number(queuing, "handSize")),
        or_none(number(queuing, "queueLengthLimit")),
        json!(object_age(o, now)),
    ]
}
