//! Controllers with real pods: what a workload's manifest promises over time.

mod daemons;
mod deployments;
mod garbage;
mod jobs;
mod owners;
mod schedules;
mod stateful;

use std::process::ExitCode;

use e2e::{Instance, Suite, tests};

fn main() -> ExitCode {
    Suite::new("controllers")
        .instance(Instance::builder("controllers"))
        .with(tests![shared:
            deployments::a_rolling_update_keeps_its_promises_and_fails_no_request,
            deployments::recreate_never_runs_two_versions,
            deployments::a_bad_release_stops_and_undo_brings_the_old_one_back,
            deployments::a_lost_pod_is_replaced,
            deployments::old_replica_sets_are_kept_up_to_the_limit,
            stateful::pods_start_in_order_with_claims_of_their_own_and_keep_them,
            stateful::an_update_goes_from_the_last_to_the_first_and_stops_at_the_partition,
            jobs::a_job_completes_and_keeps_its_count,
            jobs::the_running_pods_of_a_deleted_job_go_with_it,
            jobs::a_failing_job_is_given_up_after_its_limit,
            jobs::an_indexed_job_runs_every_index_once,
            jobs::indexes_fail_on_their_own_and_a_policy_ends_a_job_early,
            jobs::a_deadline_ends_a_job_and_its_time_to_live_removes_it,
            daemons::a_daemon_set_runs_on_the_node_rolls_and_goes_back,
            daemons::a_replication_controller_keeps_its_number,
            daemons::a_budget_counts_what_may_be_missing,
            schedules::a_cron_job_gives_jobs_by_hand_and_by_time,
            schedules::an_autoscaler_keeps_its_bounds_and_says_what_it_lacks,
            schedules::a_pod_of_high_priority_takes_the_place_of_a_lower_one,
            garbage::a_namespace_takes_everything_in_it_along,
            garbage::dependents_go_in_the_background,
            garbage::dependents_go_first_in_the_foreground,
            garbage::orphans_stay_and_are_adopted_again,
            garbage::pods_go_before_everything_else_of_a_namespace,
            owners::pods_go_with_their_controller_in_the_background,
            owners::a_controller_stays_until_its_last_pod_is_gone,
            owners::pods_that_are_orphaned_stay_and_belong_to_nobody,
            owners::pods_with_another_owner_stay,
            owners::a_circle_of_owners_is_no_obstacle,
        ])
        .main()
}
