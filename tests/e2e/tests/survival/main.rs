//! What happens to workloads when something above or beside them is killed: nothing.

mod clock;
mod crowd;
mod docker;
mod faults;
mod full;
mod outage;
mod processes;
mod reboot;
#[path = "../node/registry.rs"]
mod registry;
mod server;
mod traces;
mod users;

use std::process::ExitCode;
use std::time::Duration;

use e2e::{Instance, Suite, tests};

fn main() -> ExitCode {
    Suite::new("survival")
        .instance(Instance::builder("survival").env("WINDLASS_FAULT_FILE", &faults::file().display().to_string()))
        // One at a time: each kills what the others stand on.
        .threads(1)
        .with(tests![shared:
            processes::a_killed_process_is_started_again,
            processes::a_killed_shim_takes_its_containers_along_and_they_are_started_again,
            server::an_agent_that_is_killed_comes_back_and_workloads_do_not_notice,
            server::server_and_agent_are_killed_under_load_and_no_request_fails,
            server::what_was_acknowledged_is_there_after_kill_9,
            server::what_changed_while_the_agent_was_away_is_caught_up_with,
            users::ids_of_a_pod_survive_the_agent_and_are_nobody_elses,
            faults::an_agent_killed_at_any_step_of_a_pod_loses_and_leaves_nothing,
            faults::a_shim_killed_at_any_step_of_its_pod_loses_and_leaves_nothing,
            reboot::after_a_reboot_pods_come_back_once_and_volumes_are_intact,
            crowd::a_full_node_starts_every_pod_once_and_gives_everything_back,
            crowd::pods_that_come_and_go_leave_nothing,
            outage::a_registry_that_is_away_delays_pulls_and_nothing_else,
        ])
        .with(tests![alone:
            full::a_full_disk_refuses_writes_loses_nothing_and_recovers,
            docker::after_a_reboot_networks_are_there_and_containers_start_by_their_policies,
            clock::a_clock_that_is_set_disturbs_nothing,
            traces::a_pods_way_to_ready_is_one_trace,
        ])
        .limit(Duration::from_secs(600))
        .main()
}
