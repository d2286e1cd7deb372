//! The command line: what it prints, how it fails, and that starting and stopping leave nothing behind.

mod build;
mod compose;
mod images;
mod instances;
mod registry;
mod signing;
mod words;

use std::process::ExitCode;

use e2e::{Suite, tests};

fn main() -> ExitCode {
    Suite::new("cli")
        .threads(3)
        .with(tests![alone:
            words::help_names_every_verb,
            words::a_reader_that_goes_ends_it_quietly,
            words::version_names_the_kubernetes_api,
            words::a_wrong_flag_is_exit_code_2,
            words::a_verb_without_its_instance_is_exit_code_3_and_says_the_fix,
            words::anyone_but_root_is_told_to_be_root,
            words::doctor_finds_this_host_fit,
            images::images_are_imported_tagged_saved_loaded_and_removed,
            images::a_broken_archive_is_refused_and_leaves_no_image,
            registry::images_are_pushed_to_our_registry_survive_its_kill_and_are_pulled,
            registry::our_registry_asks_for_tls_and_users_beyond_loopback_and_for_users_where_told,
            registry::a_cache_of_dockers_registry_serves_on_when_that_is_gone,
            signing::a_signature_is_where_cosign_looks_and_openssl_finds_it_good,
            build::stages_are_built_cached_and_built_anew_when_a_file_changes,
            build::a_secret_is_in_no_layer_and_archives_are_those_of_docker_and_oci,
            build::what_fails_shows_its_line_and_leaves_nothing,
            build::the_same_build_gives_the_same_image_under_source_date_epoch,
            build::the_packages_of_an_image_are_told_as_the_topmost_layer_has_them,
            build::an_image_built_beside_the_agent_runs_as_a_pod,
            compose::a_compose_project_comes_up_is_reached_looked_at_and_goes,
            compose::releases_of_a_compose_project_drop_nothing_and_bad_ones_are_rolled_back,
            compose::what_up_cannot_do_is_said_and_nothing_is_begun,
            compose::a_folder_of_manifests_comes_up_changes_and_goes,
            instances::a_taken_port_is_exit_code_3_and_names_its_holder,
            instances::a_second_server_on_an_instance_is_refused,
            instances::two_instances_run_side_by_side_and_one_goes_without_the_other,
            instances::sigterm_ends_the_server_with_0_and_containers_survive,
            instances::detach_returns_when_ready_and_down_without_purge_keeps_the_data,
            instances::apply_wait_and_status_show_the_workload,
            instances::secrets_are_sealed_on_disk_and_their_keys_can_be_rotated,
            instances::purge_refuses_a_folder_that_is_not_ours,
        ])
        .main()
}
