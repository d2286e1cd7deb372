//! Volumes as pods see them: what is in them, whose it is, and how it changes. Entries of Kubernetes' conformance list that
//! have one shape are one table, whose pods run side by side.

mod blocks;
mod claims;
mod csi;
mod downward;
mod empty_dirs;
mod ephemeral;
mod keyed;
mod snapshots;
mod subpaths;
mod table;
mod wrappers;

use std::process::ExitCode;

use e2e::{Instance, Suite, tests};

fn main() -> ExitCode {
    if let Some(served) = csi::driver::serve_if_asked() {
        eprintln!("the driver ended: {served:?}");
        return ExitCode::FAILURE;
    }
    Suite::new("storage")
        .instance(Instance::builder("stor"))
        .threads(6)
        .with(tests![shared:
            wrappers::many_config_maps_in_many_pods_do_not_race,
            keyed::config_maps_are_files_of_a_volume,
            keyed::projected_config_maps_are_files_of_a_volume,
            keyed::secrets_are_files_of_a_volume,
            keyed::projected_secrets_are_files_of_a_volume,
            keyed::config_maps_that_come_change_and_go_are_reflected,
            keyed::projected_config_maps_that_come_change_and_go_are_reflected,
            keyed::secrets_that_come_change_and_go_are_reflected,
            keyed::projected_secrets_that_come_change_and_go_are_reflected,
            keyed::a_secret_of_another_namespace_is_not_this_one,
            downward::the_downward_api_gives_names_limits_and_modes,
            downward::the_projected_downward_api_gives_names_limits_and_modes,
            downward::changed_labels_and_annotations_are_reflected,
            downward::changed_labels_and_annotations_are_reflected_in_a_projection,
            downward::secrets_config_maps_and_fields_are_projected_into_one_folder,
            empty_dirs::an_empty_dir_has_the_mode_and_medium_asked_for,
            empty_dirs::containers_share_an_empty_dir,
            subpaths::a_subpath_of_written_volumes_is_what_is_there,
            claims::a_volume_and_a_claim_live_through_their_verbs,
            claims::the_status_of_a_volume_and_of_a_claim_is_written_apart,
            wrappers::a_secret_and_a_config_map_do_not_conflict,
            claims::a_volume_of_an_enforced_class_is_full_at_its_capacity_grows_and_is_copied,
            ephemeral::a_claim_of_a_pods_own_comes_and_goes_with_it,
            ephemeral::a_claim_of_that_name_that_is_not_the_pods_is_left_alone,
            snapshots::a_snapshot_keeps_what_was_in_a_volume_until_it_is_deleted,
            snapshots::a_snapshot_of_an_enforced_class_is_taken_and_restored,
            snapshots::a_retained_snapshot_outlives_its_object_and_is_imported_again,
            blocks::a_volume_of_an_enforced_class_may_be_a_device,
            blocks::a_device_of_the_host_is_a_local_volume,
            blocks::a_volume_of_an_nfs_server_is_mounted_or_the_pod_is_told_why_not,
            csi::a_driver_in_a_daemon_set_serves_claims_and_inline_volumes,
            csi::attach::a_volume_is_mounted_when_its_attacher_has_attached_it_and_detached_when_it_is_unmounted,
        ])
        .with(tests![alone: csi::volumes_of_a_driver_outlive_a_kill_and_are_taken_away_after_it])
        .main()
}
