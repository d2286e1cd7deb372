//! Frames of streams into pods.

use super::Target;

/// SPDY/3.1.
pub const SPDY: Target = Target {
    name: "spdy",
    about: "a SPDY connection, as kubectl port-forward opens",
    json: false,
    seeds: node::server::fuzz::spdy_seeds,
    run: node::server::fuzz::spdy,
};

/// WebSocket.
pub const WEBSOCKET: Target = Target {
    name: "websocket",
    about: "a WebSocket connection, as kubectl exec opens",
    json: false,
    seeds: node::server::fuzz::websocket_seeds,
    run: node::server::fuzz::websocket,
};
