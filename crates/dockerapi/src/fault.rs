//! What went wrong, as Docker says it: a status and `{"message": …}`.

use engine::runtime::RuntimeError;
use http::StatusCode;
use image::ImageError;

/// An answer that says why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The status.
    pub status: StatusCode,
    /// For the user.
    pub message: String,
}

/// What handlers give.
pub type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// Any status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Fault { status, message: message.into() }
    }

    /// 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Fault::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404.
    pub fn missing(message: impl Into<String>) -> Self {
        Fault::new(StatusCode::NOT_FOUND, message)
    }

    /// 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Fault::new(StatusCode::CONFLICT, message)
    }

    /// 500.
    pub fn broken(message: impl Into<String>) -> Self {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// 501: `what` is part of Docker's API and not of this.
    pub fn unsupported(what: &str) -> Self {
        Fault::new(StatusCode::NOT_IMPLEMENTED, format!("{what} is not supported by Windlass"))
    }

    /// 400: an option that would not be obeyed.
    pub fn refused(option: &str) -> Self {
        Fault::bad(format!("{option} is not supported by Windlass"))
    }

    /// 500 with a cause.
    pub fn io(what: &str, error: &std::io::Error) -> Self {
        Fault::broken(format!("{what}: {error}"))
    }
}

impl From<RuntimeError> for Fault {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::NotFound { kind, id } => Fault::missing(format!("No such {kind}: {id}")),
            RuntimeError::Conflict { .. } => Fault::conflict(error.to_string()),
            RuntimeError::Invalid(message) => Fault::bad(message),
            other => Fault::broken(base::chain(&other)),
        }
    }
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        let text = base::chain(&error);
        match error {
            ImageError::NotFound(name) => Fault::missing(format!("No such image: {name}")),
            ImageError::InvalidReference { reason, .. } if reason == "repository name must be lowercase" => {
                Fault::bad(format!("invalid reference format: {reason}"))
            }
            ImageError::InvalidReference { .. } => Fault::bad("invalid reference format"),
            ImageError::BadDigest { .. } | ImageError::Ambiguous(_) | ImageError::BadArchive { .. } => Fault::bad(text),
            ImageError::AccessDenied { .. } | ImageError::ManifestUnknown(_) | ImageError::NoPlatform { .. } => {
                Fault::missing(text)
            }
            ImageError::InUse { .. } => Fault::conflict(text),
            _ => Fault::broken(text),
        }
    }
}

/// Runs something that blocks, off the runtime's threads.
///
/// # Errors
/// Its own, or that it panicked.
pub async fn blocking<T, E>(work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    E: Into<Fault> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(e) => Err(Fault::broken(e.to_string())),
    }
}
