//! What goes over the error channel of exec and attach: a `metav1.Status`, in the words of the kubelet, which clients
//! take apart to find the exit code.

use bytes::Bytes;
use serde_json::{Value, json};

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Exit status 0, or the end of what was attached to.
    Success,
    /// The command's exit status.
    Exit(i32),
    /// It could not be run, or was lost.
    Failed(String),
}

impl Outcome {
    /// As the channel protocols from version 4 on want it.
    pub fn json(&self) -> Bytes {
        serde_json::to_vec(&self.value()).expect("a JSON value is always serializable").into()
    }

    /// As the older protocols want it: empty means success.
    pub fn text(&self) -> Bytes {
        match self.value().get("message") {
            Some(Value::String(message)) => message.clone().into_bytes().into(),
            _ => Bytes::new(),
        }
    }

    fn value(&self) -> Value {
        match self {
            Outcome::Success | Outcome::Exit(0) => json!({"metadata": {}, "status": "Success"}),
            Outcome::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Outcome::Failed(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        }
    }
}
