//! Several servers of one cluster, with their store in etcd.

mod cluster;
mod etcd;
mod host;

use std::process::ExitCode;
use std::time::Duration;

use e2e::{Suite, tests};

fn main() -> ExitCode {
    Suite::new("servers")
        .threads(2)
        .with(tests![alone:
            cluster::two_servers_are_one_cluster_and_one_of_them_runs_the_controllers,
            cluster::two_servers_with_their_nodes_are_a_cluster_with_pods_on_both,
            cluster::a_server_that_does_not_belong_to_the_cluster_is_refused,
        ])
        .limit(Duration::from_secs(400))
        .main()
}
