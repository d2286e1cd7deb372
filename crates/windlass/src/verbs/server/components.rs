//! What the API server's `componentstatuses` is told of the controllers.

use std::sync::Arc;

use control::{Component, Health};

use super::shared;

/// The controllers of this process.
#[derive(Debug)]
pub struct Controllers(pub Arc<Health>);

impl apiserver::Components for Controllers {
    fn check(&self, component: &str) -> Option<Result<(), String>> {
        self.0.check(if component == apiserver::SCHEDULER { Component::Scheduler } else { Component::Controllers })
    }

    fn lease(&self) -> &str {
        shared::LEASE_KEY
    }
}
