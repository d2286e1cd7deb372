//! What happens to workloads when something above or beside them is killed: nothing.

mod processes;
mod server;

use std::process::ExitCode;
use std::time::Duration;

use e2e::{Instance, Suite, tests};

fn main() -> ExitCode {
    Suite::new("survival")
        .instance(Instance::builder("survival"))
        // One at a time: each kills what the others stand on.
        .threads(1)
        .with(tests![shared:
            processes::a_killed_process_is_started_again,
            processes::a_killed_shim_takes_its_containers_along_and_they_are_started_again,
            server::an_agent_that_is_killed_comes_back_and_workloads_do_not_notice,
            server::server_and_agent_are_killed_under_load_and_no_request_fails,
            server::what_was_acknowledged_is_there_after_kill_9,
            server::what_changed_while_the_agent_was_away_is_caught_up_with,
        ])
        .limit(Duration::from_secs(240))
        .main()
}
