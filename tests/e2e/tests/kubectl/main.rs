//! kubectl, unmodified: what people type and scripts run.

mod access;
mod admission;
mod aggregated;
mod changes;
mod crd;
mod guestbook;
mod objects;
mod rbac;
mod replication;
mod rollouts;
mod singles;
mod streams;

use std::process::ExitCode;

use e2e::{Instance, Suite, tests};

fn main() -> ExitCode {
    if let Some(served) = aggregated::server::serve_if_asked() {
        eprintln!("the server of parcels ended: {served:?}");
        return ExitCode::FAILURE;
    }
    Suite::new("kubectl")
        .instance(Instance::builder("kubectl"))
        .with(tests![shared:
            streams::logs_are_followed_from_the_first_line_to_the_end,
            streams::logs_can_be_cut_and_stamped_and_are_there_after_a_restart,
            streams::exec_passes_input_output_and_the_exit_code,
            streams::exec_in_a_terminal_is_interactive,
            streams::attach_joins_a_running_container,
            streams::cp_copies_files_and_folders_both_ways,
            streams::port_forward_reaches_pod_and_service,
            rollouts::rollout_status_history_undo_pause_and_resume,
            rollouts::scale_and_set_image_change_the_running_pods,
            changes::apply_is_idempotent_and_diff_shows_the_difference,
            changes::apply_prunes_fields_it_no_longer_names,
            changes::edit_saves_what_the_editor_wrote,
            changes::three_kinds_of_patch_change_a_deployment,
            changes::server_side_apply_refuses_to_take_anothers_field,
            changes::dry_run_server_validates_and_stores_nothing,
            changes::label_annotate_and_replace_change_metadata,
            changes::a_stale_replace_is_a_conflict,
            objects::get_prints_tables_wide_yaml_json_and_jsonpath,
            objects::get_selects_by_label_and_field_and_watches,
            objects::describe_tells_the_story_of_a_pod,
            objects::events_are_listed_for_an_object,
            objects::create_expose_and_run_make_what_they_say,
            objects::delete_by_name_selector_and_force,
            objects::wait_for_conditions_deletion_and_fields,
            objects::errors_read_as_kubectl_users_know_them,
            objects::large_lists_come_in_chunks,
            crd::custom_resources_are_applied_listed_explained_scaled_and_deleted,
            access::explain_describes_fields_of_every_kind,
            access::api_resources_and_versions_list_the_slice,
            access::cluster_info_version_and_health,
            access::auth_whoami_and_can_i_answer_for_admin_and_service_account,
            access::tokens_are_made_for_service_accounts_and_obey_rbac_defaults,
            admission::limit_ranges_give_defaults_and_bounds,
            admission::quotas_are_kept_and_shown,
            admission::pod_security_refuses_and_warns,
            admission::eviction_waits_for_the_budget,
            admission::a_dead_webhook_is_told_of_and_can_be_removed,
            admission::a_policy_denies_what_its_expression_says,
            rbac::a_service_account_with_a_role_lists_pods_from_its_token,
            rbac::the_default_roles_have_what_they_collect,
            rbac::auth_reconcile_adds_what_is_missing_and_refuses_to_escalate,
            rbac::certificate_approve_makes_a_user,
            rbac::a_serving_certificate_of_a_node_waits_for_somebody_to_approve_it,
            guestbook::an_application_of_three_tiers_keeps_what_is_written_to_it,
            replication::a_replication_controller_is_created_scaled_and_stopped,
            replication::describe_tells_of_controllers_their_pods_services_nodes_and_namespaces,
            replication::expose_makes_services_of_a_controller_and_of_a_service,
            replication::patch_annotates_each_pod_of_a_controller,
            singles::run_makes_one_pod_of_an_image,
            singles::label_sets_and_removes_the_label_of_a_running_pod,
            singles::replace_changes_the_image_of_a_pod_and_forced_makes_another_pod,
            singles::a_dry_run_of_a_patch_leaves_the_pod_as_it_is,
            singles::diff_shows_the_image_that_a_deployment_would_have,
            singles::logs_are_cut_by_lines_bytes_and_age,
            singles::proxy_serves_the_api_on_any_port_and_on_a_socket,
        ])
        .with(tests![alone: aggregated::an_api_server_in_a_deployment_extends_the_cluster_until_its_registration_goes])
        .main()
}
