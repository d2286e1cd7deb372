//! What stock Kubernetes takes: reported figures, measured elsewhere and not in the same run.

/// The heading of the column.
pub const HEADING: &str = "stock Kubernetes 1.36, 2 cores, reported";

/// A pod from its creation to Ready, its image present, milliseconds.
pub const READY_MS: f64 = 660.0;
/// ConfigMaps created, per second.
pub const CREATE: f64 = 1_000.0;
/// ConfigMaps read, per second.
pub const GET: f64 = 2_200.0;
/// ConfigMaps patched, per second.
pub const PATCH: f64 = 1_000.0;
/// A list of 5,000 ConfigMaps of 1 KiB, milliseconds.
pub const LIST_MS: f64 = 100.0;
/// Events to 100 watchers of 1,000 updates, per second.
pub const EVENTS: f64 = 30_000.0;
