//! Which dead containers of the pod go, and what stays known of them.

use super::{Action, ContainerView, Op, Plan, Snapshot, status};
use crate::containergc::{Dead, excess};

/// Of each container as many runs stay as the node keeps (for `lastState` and `logs --previous`), but for those that the
/// node has too many of altogether.
pub(super) fn collect(s: &Snapshot<'_>, out: &mut Plan) {
    let over = s.memory.is_down();
    let needed = |view: &ContainerView| !over && s.latest(&view.name).is_some_and(|latest| latest.id == view.id);
    let dead = s.containers.iter().filter_map(|view| {
        let of = (String::new(), view.name.clone());
        Some(Dead { id: view.id.clone(), of, ended: view.exit()?.finished_at, needed: needed(view) })
    });
    let found = excess(dead.collect(), &s.memory.keep, s.now);
    if let Some(at) = found.again {
        out.wake(at);
    }
    for view in s.containers {
        let surplus = s.memory.surplus.contains(&view.id) && !needed(view);
        if !(surplus || found.ids.contains(&view.id)) || s.memory.in_flight(&Op::Remove(view.id.clone())) {
            continue;
        }
        if let Some(exit) = view.exit() {
            out.removed.push((view.name.clone(), view.attempt, status::terminated(view, exit)));
            out.actions.push(Action::Remove { name: view.name.clone(), id: view.id.clone(), attempt: view.attempt });
        }
    }
}
