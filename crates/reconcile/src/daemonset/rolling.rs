//! RollingUpdate: from the old template to the new one, within what may be missing or too many.

use k8s_openapi::api::core::v1::Pod;

use super::State;
use crate::plan::{DAEMON_SETS, Plan};
use crate::pods;

/// Adds the deletions of this pass to the plan, and to `missing` the nodes that get a second pod.
pub(super) fn roll<'a>(state: &State<'a>, missing: &mut Vec<&'a str>, plan: &mut Plan) {
    if state.bounds().0 > 0 { surge(state, missing, plan) } else { replace(state, plan) }
}

/// The pod of the template now and the one of an older template on a node.
fn split<'a>(state: &State<'a>, place: &super::Place<'a>) -> (Option<&'a Pod>, Option<&'a Pod>) {
    let (mut new, mut old) = (None, None);
    for pod in place.active() {
        let slot = if state.is_current(pod) { &mut new } else { &mut old };
        slot.get_or_insert(pod);
    }
    (new, old)
}

/// Deletes old pods, first those that do no good anyway, and makes the new ones in the next passes.
fn replace(state: &State<'_>, plan: &mut Plan) {
    let (_, allowed) = state.bounds();
    let mut unavailable = 0;
    let (mut idle, mut serving) = (Vec::new(), Vec::new());
    for place in state.places.iter().filter(|p| p.fit.run) {
        match split(state, place) {
            (Some(new), _) => unavailable += i32::from(!state.available(new)),
            (None, Some(old)) if state.available(old) => serving.push(old),
            (None, Some(old)) => {
                unavailable += 1;
                idle.push(old);
            }
            (None, None) => unavailable += 1,
        }
    }
    let room = usize::try_from(allowed - unavailable).unwrap_or(0);
    for pod in idle.into_iter().chain(serving.into_iter().take(room)) {
        plan.delete_for(DAEMON_SETS, &state.ds.metadata, &pod.metadata);
    }
    wake_when_available(state, plan);
}

/// Makes new pods beside the old ones; an old pod goes once the new one is available.
fn surge<'a>(state: &State<'a>, missing: &mut Vec<&'a str>, plan: &mut Plan) {
    let (allowed, _) = state.bounds();
    let mut surging = 0;
    let (mut idle, mut serving) = (Vec::new(), Vec::new());
    for place in state.places.iter().filter(|p| p.fit.run) {
        // A pod on its way out still takes its place on the node.
        let leaving = place.pods.len() > place.active().count();
        match split(state, place) {
            (Some(new), Some(old)) => {
                surging += 1;
                if state.available(new) {
                    plan.delete_for(DAEMON_SETS, &state.ds.metadata, &old.metadata);
                }
            }
            (None, Some(_)) if leaving => surging += 1,
            (None, Some(old)) if state.available(old) => serving.push(place.node),
            (None, Some(_)) => idle.push(place.node),
            _ => {}
        }
    }
    let room = usize::try_from(allowed - surging).unwrap_or(0);
    missing.extend(idle.into_iter().chain(serving).take(room));
    wake_when_available(state, plan);
}

/// `minReadySeconds` may be what the next step waits for.
fn wake_when_available(state: &State<'_>, plan: &mut Plan) {
    let all: Vec<&Pod> = state.places.iter().flat_map(super::Place::active).collect();
    pods::count_available(&all, state.min_ready(), state.now, plan);
}
