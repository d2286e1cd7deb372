//! Clients that nobody here wrote, unmodified: the official ones for Python and JavaScript, Docker's library for Python,
//! dockerode, Testcontainers, and kube-rs with what operators are made of.

mod languages;
mod operator;

use std::process::ExitCode;
use std::time::Duration;

use e2e::{Instance, Suite, tests};

fn main() -> ExitCode {
    Suite::new("clients")
        .instance(Instance::builder("clients"))
        .with(tests![shared:
            languages::the_python_client_finds_what_it_expects,
            languages::dockers_python_library_finds_what_it_expects,
            languages::testcontainers_finds_what_it_expects,
            languages::dockerode_finds_what_it_expects,
            languages::the_javascript_client_finds_what_it_expects,
            operator::an_operator_of_kube_rs_defines_reflects_reconciles_and_finalizes,
        ])
        .limit(Duration::from_secs(300))
        .main()
}
