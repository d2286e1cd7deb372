//! Docker's API: the stock docker CLI against a real instance.

mod buildkit;
mod builds;
mod buildx;
mod compose;
mod containers;
mod files;
mod lives;
mod logging;
mod mirrors;
mod networks;
mod parents;
mod pods;
mod promote;
mod registries;
mod remote;
mod runs;
mod services;
mod stacks;
mod trouble;
mod wrong;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use e2e::command::{self, Output};
use e2e::{Ctx, IMAGE, Instance, Suite, tests};

/// Docker against one instance.
pub struct Docker {
    socket: PathBuf,
    config: PathBuf,
}

impl Docker {
    /// Of an instance.
    ///
    /// # Errors
    /// The test is skipped where there is no docker CLI.
    pub fn of(instance: &Instance) -> Result<Docker> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|d| d.join("docker").is_file()) {
            return Err(e2e::skip("the docker CLI is not on the PATH"));
        }
        Ok(Docker {
            socket: instance.names().run_dir().join("docker.sock"),
            config: instance.dir().join("docker-config"),
        })
    }

    /// The same with a configuration of its own, for who logs in.
    ///
    /// # Errors
    /// As [`Docker::of`].
    pub fn with_config(instance: &Instance, name: &str) -> Result<Docker> {
        Ok(Docker { config: instance.dir().join(name), ..Docker::of(instance)? })
    }

    /// Where the API is.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// A command line of docker, to be run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(args);
        self.on(command)
    }

    /// The same surroundings for another program that runs docker.
    pub fn on(&self, mut command: Command) -> Command {
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display())).env("DOCKER_CONFIG", &self.config);
        command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_API_VERSION");
        command
    }

    /// Runs docker.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        command::run(&mut self.command(args), None, command::LIMIT)
    }

    /// What it prints, without blanks around it, if it succeeds.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.run(args)?.ok()?.trim().to_owned())
    }

    /// What it says when it fails, as it should.
    pub fn fails(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.failed()
    }

    /// A field of a container.
    pub fn field(&self, container: &str, template: &str) -> Result<String> {
        self.ok(&["inspect", "--type", "container", "-f", template, container])
    }

    /// `docker run` of a shell script with further flags.
    pub fn script(&self, flags: &[&str], script: &str) -> Result<Output> {
        self.run(&[&["run"], flags, &[IMAGE, "sh", "-c", script]].concat())
    }
}

/// A name for a container of this test alone.
pub fn named(ctx: &Ctx, name: &str) -> String {
    format!("{}-{name}", ctx.ns)
}

// allow-long: the list of the tests
fn main() -> ExitCode {
    Suite::new("docker")
        .instance(Instance::builder("docker"))
        .threads(3)
        .with(tests![shared:
            runs::run_prints_what_the_container_prints_and_ends_as_it_ends,
            runs::input_goes_in_and_no_output_is_lost,
            runs::a_terminal_is_one,
            runs::what_cannot_be_run_ends_as_in_a_shell,
            runs::options_are_obeyed,
            runs::devices_and_cpus_are_those_that_are_named,
            runs::volumes_come_from_other_containers,
            runs::a_container_is_removed_with_rm_and_its_volumes_without_names_too,
            containers::logs_are_followed_cut_and_told_apart,
            containers::commands_run_in_a_container,
            containers::listings_are_filtered,
            containers::stop_asks_before_it_kills_and_kill_sends_what_is_named,
            containers::a_container_is_started_again_as_its_policy_says,
            containers::a_check_of_health_is_asked_and_shown,
            containers::pause_rename_update_and_wait,
            containers::events_tell_what_happened,
            files::files_are_copied_both_ways_whether_it_runs_or_not,
            files::a_volume_keeps_its_files_and_gets_those_of_the_image,
            files::a_published_port_is_reached_over_loopback_and_is_given_once,
            files::images_are_listed_named_saved_loaded_and_removed,
            builds::a_build_is_told_step_by_step_and_done_once,
            builds::the_network_and_the_hosts_of_a_build_are_those_asked_for,
            builds::what_is_wrong_with_a_dockerfile_is_told_with_its_line,
            builds::hostile_contexts_reach_nothing_and_leave_nothing,
            builds::a_build_ends_with_its_client,
            builds::a_container_becomes_an_image,
            buildkit::a_client_of_sessions_builds_and_sends_what_changed,
            buildkit::older_clients_of_sessions_build_over_http,
            buildkit::a_hostile_client_reaches_nothing,
            buildkit::a_build_ends_with_its_connection,
            buildx::buildx_builds_and_transfers_what_changed,
            buildx::buildx_brings_secrets_contexts_and_standard_input,
            buildx::buildx_is_told_what_is_wrong_and_where,
            buildx::a_build_of_buildx_ends_with_its_client,
            registries::who_is_logged_in_may_pull_push_and_look,
            registries::a_search_asks_the_index_that_stands_before_the_term,
            pods::containers_of_pods_are_shown_and_left_to_kubernetes,
            mirrors::a_container_is_a_pod_that_kubectl_shows_and_runs_commands_in,
            mirrors::ends_restarts_and_input_are_those_of_the_container,
            mirrors::who_deletes_the_pod_removes_the_container,
            mirrors::nobody_makes_such_pods_by_hand_and_other_pods_keep_their_names,
            promote::a_container_is_promoted_with_its_volume_its_port_and_its_secrets,
            promote::a_container_whose_workload_does_not_get_ready_runs_again,
            networks::members_find_each_other_by_name_and_others_do_not,
            networks::networks_are_apart_but_for_published_ports,
            networks::a_running_container_comes_into_a_network_and_leaves_it,
            networks::the_way_out_goes_along_and_addresses_are_had_once,
            networks::networks_are_listed_pruned_and_refused_in_dockers_words,
            networks::a_container_in_anothers_network_is_where_that_is,
            parents::members_of_a_macvlan_are_neighbours_of_the_host,
            parents::the_way_out_leads_over_the_network_of_the_highest_priority,
            services::a_service_is_made_scaled_changed_gone_back_to_and_removed,
            services::an_update_that_fails_waits_or_goes_back,
            services::other_modes_and_the_nodes,
            services::services_are_refused_in_dockers_words,
            services::the_python_client_knows_services,
            stacks::a_stack_is_deployed_changed_and_removed,
            compose::compose_brings_up_scales_and_takes_down_a_project,
            compose::the_python_client_finds_what_it_expects,
            wrong::what_is_not_obeyed_is_refused_by_its_name,
            wrong::names_that_mean_nothing_are_told_in_dockers_words,
            wrong::versions_outside_the_range_are_refused,
        ])
        .with(tests![alone:
            remote::a_port_is_for_clients_with_a_certificate_alone,
            remote::a_port_without_certificates_is_refused,
            trouble::an_agent_killed_under_followers_loses_no_line_and_no_container,
            trouble::a_thousand_clients_at_once_hurt_nobody,
            trouble::a_full_disk_refuses_pulls_and_builds_and_leaves_nothing_half_done,
            logging::lines_reach_a_server_that_was_away_and_outlive_a_killed_agent,
            logging::journald_syslog_and_gelf_get_lines_in_their_words,
            mirrors::pods_are_put_right_after_the_agent_was_away_and_quotas_do_not_keep_them_out,
            lives::containers_outlive_a_killed_agent_and_go_with_the_instance,
        ])
        .limit(Duration::from_secs(300))
        .main()
}
