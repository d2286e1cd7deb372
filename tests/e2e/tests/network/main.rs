//! Names, Services, node ports, Ingress: how requests find pods.

mod ingress;
mod names;
mod services;

use std::process::ExitCode;

use e2e::{Instance, Suite, tests};

fn main() -> ExitCode {
    Suite::new("network")
        .instance(Instance::builder("network"))
        .with(tests![shared:
            services::a_cluster_ip_balances_over_the_ready_pods,
            services::a_node_port_is_reached_from_the_host,
            services::a_load_balancer_is_the_node_itself,
            services::traffic_follows_readiness,
            services::a_service_without_selector_leads_where_its_endpoints_say,
            services::client_ip_affinity_keeps_a_client_on_one_pod,
            services::udp_is_forwarded,
            services::a_host_port_is_reached_from_the_host,
            services::a_service_without_endpoints_refuses_at_once,
            services::pods_reach_pods_directly_and_see_their_own_address,
            services::a_pod_reaches_itself_through_its_service,
            names::services_headless_services_and_pods_have_names,
            names::short_names_and_other_namespaces_resolve,
            names::named_ports_and_external_names_resolve,
            names::an_unknown_name_does_not_exist,
            ingress::hosts_and_paths_are_routed,
            ingress::an_ingress_follows_its_service_and_reports_its_address,
            ingress::bodies_and_headers_pass_whole,
        ])
        .main()
}
