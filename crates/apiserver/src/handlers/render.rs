//! Objects in the form the client asked for.

use api::kinds::KindInfo;
use api::status::ApiError;
use api::table::{self, IncludeObject};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::Call;
use crate::cache::entry;
use crate::http::accept::Form;
use crate::http::respond::{self, Reply};

/// One object, given in its stored version.
pub(crate) fn object(call: &Call, kind: &KindInfo, code: StatusCode, stored: Bytes) -> Result<Reply, ApiError> {
    if call.form == Form::Object && !entry::is_converted(kind) {
        return Ok(respond::json(code, stored, call.style));
    }
    let mut object: Value = serde_json::from_slice(&stored).map_err(ApiError::internal)?;
    kind.from_storage(&mut object);
    served(call, kind, code, &object)
}

/// One object in its served version.
pub(crate) fn served(call: &Call, kind: &KindInfo, code: StatusCode, object: &Value) -> Result<Reply, ApiError> {
    let value = match call.form {
        Form::Object => return Ok(respond::json(code, entry::encode(object).into(), call.style)),
        Form::Table => {
            let mut table = table::table(kind, [object], jiff::Timestamp::now(), include(call)?);
            table["metadata"] = json!({"resourceVersion": api::meta::resource_version(object)});
            table
        }
        Form::Partial => table::partial_metadata(object),
        Form::PartialList | Form::AggregatedDiscovery => return Err(ApiError::not_acceptable(&["application/json"])),
    };
    Ok(respond::value(code, &value, call.style))
}

/// `includeObject` of a table.
pub(crate) fn include(call: &Call) -> Result<IncludeObject, ApiError> {
    IncludeObject::parse(&call.query.include)
        .ok_or_else(|| ApiError::bad_request(format!("unrecognized includeObject value: {:?}", call.query.include)))
}
