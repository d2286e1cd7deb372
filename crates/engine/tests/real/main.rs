//! Real containers through the engine: needs root, busybox-static and nft. Has its own `main`, because shims run from a
//! copy of this binary. `cargo test -p engine --test real -- NAME` runs those whose name contains NAME.

#![allow(clippy::unwrap_used, reason = "a test")]

mod basics;
mod confinement;
mod lifetimes;
mod limits;
mod restarts;
mod streams;
mod world;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use world::World;

type Test = (&'static str, fn(Arc<World>) -> Pin<Box<dyn Future<Output = ()> + Send>>);

/// Lists tests by path; each is an async function of the shared world.
macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), |w| Box::pin($module::$name(w)))),*]
    };
}

const TESTS: &[Test] = tests![
    basics::a_container_runs_and_its_end_is_known,
    basics::what_cannot_start_says_so_as_the_field_does,
    basics::environment_folder_and_files_are_as_asked,
    basics::mounts_are_seen_and_read_only_ones_cannot_be_written,
    basics::repeating_a_call_changes_nothing,
    limits::limits_and_usage,
    limits::a_class_weighs_what_its_sandboxes_ask_for,
    limits::no_more_processes_than_the_limit,
    limits::all_of_a_container_ends_when_memory_runs_out_on_v2,
    limits::in_the_cgroup_of_a_container_limits_hold_too,
    basics::a_sandbox_has_an_address_and_ports_can_be_reached,
    confinement::system_calls_and_capabilities_are_limited_in_exec_too,
    confinement::users_groups_and_their_streams,
    confinement::privileged_and_unconfined_are_what_they_say,
    confinement::a_read_only_root_and_no_new_privileges,
    lifetimes::stop_asks_then_kills,
    lifetimes::memory_beyond_the_limit_is_oom,
    lifetimes::namespaces_are_shared_as_asked,
    lifetimes::processes_left_behind_go_with_their_container,
    lifetimes::removal_leaves_nothing,
    lifetimes::a_shim_is_small_and_its_maker_can_be_lost,
    lifetimes::many_sandboxes_at_once,
    streams::logs_are_cut_and_rotated,
    streams::exec_gives_streams_status_and_words,
    streams::exec_on_a_terminal_can_be_resized,
    streams::a_dropped_exec_is_killed,
    streams::attach_reads_and_writes,
    streams::attach_to_a_terminal,
    restarts::a_killed_engine_leaves_containers_running_and_learns_of_exits,
    restarts::a_killed_shim_is_reported_and_cleaned_up,
    restarts::after_a_reboot_nothing_is_claimed_to_run,
    restarts::half_made_things_are_removed,
    restarts::kills_at_any_moment_leave_what_can_be_taken_up,
    restarts::two_engines_do_not_share_an_instance,
];

/// A test that takes longer has failed.
const TEST_LIMIT: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    if let Some(code) = shim::main_if_shim() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if args.first().is_some_and(|a| a == "hold") {
        return restarts::hold(&args[1..]);
    }
    if args.first().is_some_and(|a| a == "churn") {
        return restarts::churn(&args[1..]);
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let chosen = |name: &str| args.is_empty() || args.iter().any(|a| name.contains(a.as_str()));
    let failed = runtime.block_on(async {
        world::destroy_strays().await;
        if args.iter().any(|a| a == "measure") {
            let world = World::new("measure").await;
            world::measure(&world).await;
            world.close().await;
            return 0;
        }
        let world = World::new("main").await;
        let mut failed = 0;
        for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
            let started = Instant::now();
            let task = tokio::spawn(tokio::time::timeout(TEST_LIMIT, test(world.clone())));
            let passed = matches!(task.await, Ok(Ok(())));
            let (seconds, verdict) = (started.elapsed().as_secs_f32(), if passed { "ok" } else { "FAILED" });
            println!("test {name} ({seconds:.1} s) ... {verdict}");
            failed += usize::from(!passed);
        }
        world.close().await;
        failed
    });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
