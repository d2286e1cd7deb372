//! What a pod's manifest promises its processes.

mod accounts;
mod debug;
mod escapes;
mod lifecycle;
mod limits;
mod placed;
mod security;
mod setup;
mod users;
mod volumes;

use std::process::ExitCode;

use e2e::{Instance, Suite, tests};

// allow-long: the list of the tests
fn main() -> ExitCode {
    Suite::new("pods")
        .instance(Instance::builder("pods"))
        .threads(6)
        .with(tests![shared:
            limits::a_container_over_its_memory_is_oom_killed,
            lifecycle::a_crashing_container_backs_off,
            lifecycle::a_failed_liveness_probe_restarts_the_container,
            volumes::an_update_of_a_config_map_reaches_its_volume,
            lifecycle::pre_stop_runs_before_the_signal_and_both_fit_the_grace_period,
            lifecycle::a_process_that_ignores_its_signal_is_killed_after_the_grace_period,
            setup::init_containers_run_in_order_and_a_sidecar_beside,
            setup::environment_comes_from_values_fields_maps_and_secrets,
            setup::command_args_and_workdir_are_what_the_manifest_says,
            setup::users_and_groups_are_what_the_manifest_says,
            setup::host_names_hosts_file_and_aliases,
            setup::containers_of_a_pod_share_the_network_and_may_share_processes,
            setup::an_image_without_proc_sys_and_dev_gets_them,
            limits::resources_are_written_to_the_cgroup,
            limits::the_server_takes_all_descriptors_and_containers_do_not,
            limits::a_pod_and_its_class_are_limited_in_the_cgroup_as_a_whole,
            limits::a_child_that_is_oom_killed_takes_its_container_along_on_v2,
            limits::the_log_of_a_chatty_container_is_bounded,
            volumes::config_maps_and_secrets_are_files_with_modes_and_items,
            volumes::containers_share_an_empty_dir_that_goes_with_the_pod,
            volumes::a_host_path_is_the_hosts,
            volumes::the_token_of_the_pod_opens_the_api,
            volumes::the_downward_api_is_files,
            volumes::data_in_a_claim_survives_its_pod,
            volumes::an_optional_source_may_be_missing_and_a_needed_one_is_waited_for,
            lifecycle::probes_gate_readiness_and_startup,
            lifecycle::restart_policies_decide_what_happens_after_an_exit,
            lifecycle::the_termination_message_and_exit_code_are_reported,
            lifecycle::post_start_runs_before_the_container_counts_as_running,
            security::run_as_non_root_refuses_root,
            security::a_read_only_root_cannot_be_written,
            security::dropped_capabilities_are_gone_and_added_ones_there,
            security::seccomp_and_no_new_privileges_are_set_in_the_kernel,
            security::the_host_is_masked_from_an_ordinary_container,
            security::privileged_and_host_namespaces_are_what_they_say,
            security::an_unsupported_field_is_refused_by_name,
            placed::a_node_refuses_what_it_has_no_room_for,
            placed::variables_come_from_a_file_that_a_container_wrote,
            placed::a_container_is_asked_to_end_by_its_own_signal,
            placed::the_status_tells_of_users_and_mounts,
            placed::a_pod_as_a_whole_has_amounts_that_can_be_resized,
            escapes::a_container_and_an_exec_have_no_descriptors_but_their_streams,
            escapes::a_working_directory_cannot_be_a_folder_of_the_runtime,
            escapes::a_command_is_not_run_in_a_folder_of_the_runtime,
            escapes::the_runtimes_program_cannot_be_written_from_a_container,
            escapes::a_sub_path_that_is_swapped_for_a_link_stays_in_its_volume,
            escapes::a_mount_point_that_is_swapped_for_a_link_stays_in_the_container,
            escapes::a_mask_is_not_made_of_a_swapped_null_device,
            escapes::a_terminal_is_not_bound_over_a_swapped_console,
            escapes::a_volume_in_proc_is_refused_by_name_and_by_link,
            escapes::every_path_that_tells_of_the_host_is_masked_or_read_only,
            escapes::the_default_capabilities_are_the_fourteen_known_ones,
            escapes::the_default_filter_refuses_what_reaches_the_host,
            users::root_in_a_pod_of_its_own_users_is_nobody_on_the_host,
            users::volumes_of_a_pod_with_its_own_users_keep_their_owners_on_disk,
            users::users_terminals_and_shared_processes_work_in_a_pod_with_its_own_users,
            debug::an_ephemeral_container_sees_the_processes_of_its_target,
            debug::kubectl_debug_starts_a_container_and_attaches_to_it,
            debug::a_resize_changes_the_cgroup_without_a_restart,
            debug::a_resize_policy_restarts_the_container,
            debug::kubectl_top_tells_what_pods_and_nodes_use,
            debug::an_image_is_a_volume,
            debug::a_runtime_class_names_a_handler_of_the_node,
            accounts::each_container_reads_token_authority_and_namespace,
            accounts::pods_and_accounts_may_do_without_the_token,
            accounts::a_projected_token_is_a_file,
            accounts::a_pod_finds_the_issuer_and_the_keys_of_its_token,
            accounts::the_authority_of_a_namespace_comes_back,
            debug::a_container_that_fills_the_disk_is_evicted,
        ])
        .main()
}
