//! What Kubernetes promises of its nodes: pods that say what they were given, by their logs and their status.

mod api;
mod cpus;
mod dead;
mod ends;
mod env;
mod files;
mod hooks;
mod init;
mod pages;
mod pods;
mod pressure;
mod probes;
mod registry;
mod resize;
mod rights;
mod room;
mod scarce;
mod servers;
mod signatures;
mod taints;
mod websocket;

use std::process::ExitCode;
use std::time::Duration;

use e2e::{Instance, Suite, tests};

/// An image with an entrypoint and arguments of its own; see [`env`].
const ENTRY_IMAGE: &str = "windlass.local/entry:1";

fn main() -> ExitCode {
    Suite::new("node")
        .instance(Instance::builder("node").entry_image(ENTRY_IMAGE, &["echo", "entry"], &["of", "the", "image"]))
        .threads(8)
        .with(tests![shared:
            init::after_a_failed_init_container_nothing_else_starts,
            probes::the_count_of_restarts_only_grows,
            probes::a_container_that_answers_its_liveness_probe_is_left_alone,
            probes::a_container_that_fails_its_liveness_probe_is_restarted,
            probes::readiness_waits_for_its_delay_and_restarts_nothing,
            env::variables_come_from_config_maps_and_secrets,
            env::variables_tell_of_the_pod_and_its_node,
            env::command_and_arguments_are_the_images_or_the_pods,
            env::a_later_pod_has_the_addresses_of_services,
            hooks::hooks_run_after_the_start_and_before_the_end,
            init::all_init_containers_end_before_the_others_start,
            init::ephemeral_containers_are_added_one_after_another,
            ends::the_last_words_are_told,
            ends::the_restart_policy_says_what_follows_an_exit,
            ends::output_is_kept_and_a_failing_pod_can_be_deleted,
            files::the_hosts_file_is_the_nodes_unless_the_pod_has_another,
            files::the_root_is_written_only_where_it_may_be,
            files::a_subpath_is_made_of_variables_and_stays_in_its_volume,
            files::a_subpath_follows_the_pods_annotations_until_it_is_made,
            files::an_image_of_a_registry_is_a_volume,
            signatures::only_what_is_signed_runs_where_signatures_are_required,
            rights::a_container_runs_as_its_user_with_its_rights,
            rights::a_safe_kernel_parameter_is_set,
            pages::huge_pages_are_counted_mounted_and_limited,
            room::a_rule_of_a_container_restarts_all_of_them,
            room::extended_resources_are_given_as_often_as_there_are,
            resize::three_guaranteed_containers_are_resized_to_more_in_all,
            resize::three_guaranteed_containers_are_resized_to_less_in_all,
            resize::three_guaranteed_containers_are_resized_each_its_own_way,
            resize::burstable_containers_are_given_requests_and_limits_they_had_not,
            resize::a_pod_is_resized_by_replacing_it,
            pods::a_pod_is_submitted_updated_and_removed,
            pods::pods_are_deleted_by_selection,
            pods::a_pod_and_its_status_are_patched_and_replaced,
            pods::commands_and_logs_come_over_websockets,
            pods::the_generation_counts_changes_of_the_spec,
            pods::five_hundred_changes_are_all_seen_in_the_end,
            pods::a_pod_of_a_runtime_class_is_placed_with_its_overhead,
        ])
        .with(tests![alone:
            taints::a_taint_evicts_in_time_and_its_end_cancels_that,
            cpus::a_guaranteed_container_has_whole_cpus_for_itself,
            dead::a_node_keeps_as_many_dead_containers_as_it_is_told,
            pressure::a_node_short_of_memory_says_so_and_ends_what_it_may,
            pressure::a_node_short_of_disk_removes_unused_images_and_then_ends_the_greediest,
            scarce::a_node_short_of_process_ids_says_so_and_ends_who_has_the_most,
            scarce::a_node_whose_images_have_a_disk_of_their_own_ends_who_fills_it,
            room::a_node_makes_room_for_critical_pods_and_goes_down_in_order,
        ])
        // Some take hundreds of steps: on a machine that does other things as well they are many, not stuck.
        .limit(Duration::from_secs(400))
        .main()
}
