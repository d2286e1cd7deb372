//! Services.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, container, deployment, eventually, free_port, http, httpd, merge, pod, service};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// A Deployment whose pods answer with their names, and a Service before it.
fn names_service(ctx: &Ctx, name: &str, replicas: u32, spec: serde_json::Value) -> Result<()> {
    ctx.apply(&[deployment(name, replicas, json!([httpd("$HOSTNAME")])), service(name, spec)])?;
    ctx.ok(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"])?;
    Ok(())
}

/// Who answers that many requests made in a pod.
fn answers(ctx: &Ctx, pod: &str, url: &str, count: u32) -> Result<BTreeSet<String>> {
    let script = format!("for i in $(seq 1 {count}); do timeout 3 wget -q -O- {url} || echo FAILED; echo; done");
    let said = ctx.sh(pod, &script)?;
    let lines: Vec<&str> = said.lines().filter(|l| !l.is_empty()).collect();
    ensure!(lines.len() == count as usize && !lines.contains(&"FAILED"), "{said}");
    Ok(lines.into_iter().map(str::to_owned).collect())
}

fn pod_names(ctx: &Ctx, app: &str) -> Result<BTreeSet<String>> {
    let pods = ctx.list("pods", &format!("app={app}"))?;
    let live = pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
    Ok(live.filter_map(|p| p["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

pub fn a_cluster_ip_balances_over_the_ready_pods(ctx: &Ctx) -> Result<()> {
    names_service(ctx, "web", 3, json!({}))?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    let ip = ctx.field("service/web", ".spec.clusterIP")?;
    let pods = pod_names(ctx, "web")?;
    eventually(SOON, "all three pods answer", || {
        let seen = answers(ctx, "client", &format!("http://{ip}/"), 30)?;
        ensure!(seen == pods, "{seen:?} of {pods:?} answered");
        Ok(())
    })?;
    // The host is a client like others.
    let addr: SocketAddr = format!("{ip}:80").parse()?;
    ensure!(pods.contains(&http::get_ok(addr, "web", "/")?));
    Ok(())
}

pub fn a_node_port_is_reached_from_the_host(ctx: &Ctx) -> Result<()> {
    names_service(ctx, "web", 2, json!({"type": "NodePort"}))?;
    let port: u16 = ctx.field("service/web", ".spec.ports[0].nodePort")?.parse()?;
    ensure!((30000..=32767).contains(&port), "{port}");
    let pods = pod_names(ctx, "web")?;
    let node =
        ctx.ok(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}"])?;
    for ip in [node.as_str(), "127.0.0.1"] {
        let addr = SocketAddr::new(ip.parse().with_context(|| format!("address {ip:?}"))?, port);
        eventually(SOON, "both pods answer", || {
            let seen: Result<BTreeSet<String>> = (0..20).map(|_| http::get_ok(addr, "web", "/")).collect();
            let seen = seen?;
            ensure!(seen == pods, "{seen:?} of {pods:?} answered at {addr}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The first address of a Service's load balancer; nothing while it has none.
fn balanced_at(ctx: &Ctx, name: &str) -> Result<String> {
    ctx.field(&format!("service/{name}"), ".status.loadBalancer.ingress[0].ip")
}

pub fn a_load_balancer_is_the_node_itself(ctx: &Ctx) -> Result<()> {
    let port = free_port()?.port();
    let spec = json!({"type": "LoadBalancer", "ports": [{"port": port, "targetPort": 8080}]});
    names_service(ctx, "first", 1, spec.clone())?;
    let answered = |who: &str| {
        let ip = eventually(SOON, "the service has an address", || {
            let ip = balanced_at(ctx, who)?;
            ensure!(!ip.is_empty(), "{who} has no address");
            Ok(ip)
        })?;
        let pods = pod_names(ctx, who)?;
        for ip in [ip.as_str(), "127.0.0.1"] {
            let addr: SocketAddr = format!("{ip}:{port}").parse()?;
            eventually(SOON, "its pod answers", || {
                let said = http::get_ok(addr, "web", "/")?;
                ensure!(pods.contains(&said), "{said} answered at {addr}");
                Ok(())
            })?;
        }
        anyhow::Ok(())
    };
    answered("first")?;
    // A port is one Service's, and no program's of the host.
    ensure!(std::net::TcpListener::bind(("0.0.0.0", port)).is_err(), "port {port} is free");
    names_service(ctx, "second", 1, spec)?;
    eventually(SOON, "the second is told", || {
        let said = ctx.ok(&[
            "get",
            "events",
            "--field-selector",
            "involvedObject.name=second,reason=PortUnavailable",
            "-o",
            "name",
        ])?;
        ensure!(!said.is_empty(), "no event");
        Ok(())
    })?;
    ensure!(balanced_at(ctx, "second")?.is_empty());
    // Another type gives the address back, and the port to who waits for it.
    ctx.ok(&["patch", "service", "first", "-p", "{\"spec\": {\"type\": \"ClusterIP\"}}"])?;
    answered("second")?;
    eventually(SOON, "the first has no address any more", || {
        ensure!(balanced_at(ctx, "first")?.is_empty());
        Ok(())
    })?;
    ctx.ok(&["delete", "service", "second"])?;
    eventually(SOON, "the port is free", || Ok(std::net::TcpListener::bind(("0.0.0.0", port)).map(drop)?))
}

pub fn traffic_follows_readiness(ctx: &Ctx) -> Result<()> {
    let script = "mkdir -p /tmp/www && echo -n $HOSTNAME > /tmp/www/index.html && touch /tmp/ready && \
                  trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/www & while :; do wait $!; done";
    let probe = json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}});
    ctx.apply(&[deployment("web", 2, json!([merge(container("web", script), probe)])), service("web", json!({}))])?;
    ctx.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    let pods = pod_names(ctx, "web")?;
    let (sick, well) = (pods.first().context("two pods")?, pods.last().context("two pods")?);
    let ip = ctx.field("service/web", ".spec.clusterIP")?;
    let only = |who: &BTreeSet<String>| {
        eventually(SOON, "traffic follows", || {
            let seen = answers(ctx, "client", &format!("http://{ip}/"), 20)?;
            ensure!(seen == *who, "{seen:?} answered, not {who:?}");
            Ok(())
        })
    };
    only(&pods)?;
    ctx.sh(sick, "rm /tmp/ready")?;
    only(&[well.clone()].into())?;
    let ready = ctx.ok(&[
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=web",
        "-o",
        "jsonpath={.items[0].endpoints[?(@.conditions.ready==true)].targetRef.name}",
    ])?;
    ensure!(ready == *well, "{ready}");
    ctx.sh(sick, "touch /tmp/ready")?;
    only(&pods)?;
    ensure!(
        ctx.ok(&["get", "endpoints", "web", "-o", "jsonpath={.subsets[0].addresses[*].targetRef.name}"])?
            .split(' ')
            .count()
            == 2
    );
    Ok(())
}

pub fn a_service_without_selector_leads_where_its_endpoints_say(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(e2e::merge(
        pod("outside", "", json!({})),
        json!({"spec": {"containers": [merge(httpd("by hand"), json!({"name": "main"}))]}}),
    ))?;
    let ip = ctx.field("pod/outside", ".status.podIP")?;
    let mut svc = service("manual", json!({}));
    svc["spec"].as_object_mut().context("a spec")?.remove("selector");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "manual-1", "labels": {"kubernetes.io/service-name": "manual"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
    });
    ctx.apply(&[svc, slice])?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    eventually(SOON, "it answers", || {
        ensure!(answers(ctx, "client", "http://manual/", 1)? == ["by hand".to_owned()].into());
        Ok(())
    })
}

pub fn client_ip_affinity_keeps_a_client_on_one_pod(ctx: &Ctx) -> Result<()> {
    names_service(ctx, "web", 3, json!({"sessionAffinity": "ClientIP"}))?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    let ip = ctx.field("service/web", ".spec.clusterIP")?;
    let first = eventually(SOON, "it answers", || answers(ctx, "client", &format!("http://{ip}/"), 1))?;
    ensure!(answers(ctx, "client", &format!("http://{ip}/"), 25)? == first, "a client was sent to several pods");
    Ok(())
}

pub fn udp_is_forwarded(ctx: &Ctx) -> Result<()> {
    // busybox sends datagrams only as DNS queries, so the server is here, on the pods' gateway, and denies every name.
    let gateway = ctx.instance.names().pod_cidr().nth(1).context("the range has a gateway")?;
    let socket = UdpSocket::bind((gateway, 0))?;
    let port = socket.local_addr()?.port();
    socket.set_read_timeout(Some(SOON))?;
    let server = std::thread::spawn(move || -> Result<SocketAddr> {
        let mut packet = [0_u8; 512];
        let (length, client) = socket.recv_from(&mut packet)?;
        // RFC 1035, 4.1.1: an answer, recursion available, code 3.
        packet[2..4].copy_from_slice(&[0x81, 0x83]);
        socket.send_to(&packet[..length], client)?;
        Ok(client)
    });
    let mut svc = service("denier", json!({}));
    svc["spec"].as_object_mut().context("a spec")?.remove("selector");
    svc["spec"]["ports"] = json!([{"name": "dns", "port": 53, "targetPort": port, "protocol": "UDP"}]);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "denier-1", "labels": {"kubernetes.io/service-name": "denier"}},
        "addressType": "IPv4",
        "ports": [{"name": "dns", "protocol": "UDP", "port": port}],
        "endpoints": [{"addresses": [gateway.to_string()], "conditions": {"ready": true}}],
    });
    ctx.apply(&[svc, slice])?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    let ip = ctx.field("service/denier", ".spec.clusterIP")?;
    let said = ctx.sh("client", &format!("nslookup -type=a any.example. {ip} 2>&1 || true"))?;
    ensure!(said.contains("NXDOMAIN"), "{said}");
    let client = server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure!(client.ip().to_string() == ctx.field("pod/client", ".status.podIP")?, "it was asked by {client}");
    Ok(())
}

pub fn a_host_port_is_reached_from_the_host(ctx: &Ctx) -> Result<()> {
    let port = free_port()?.port();
    let server = merge(httpd("host port"), json!({"name": "main"}));
    let server = merge(server, json!({"ports": [{"name": "http", "containerPort": 8080, "hostPort": port}]}));
    ctx.ready_pod(pod("bound", "", json!({"containers": [server]})))?;
    let node = ctx.field("pod/bound", ".status.hostIP")?;
    let addr = SocketAddr::new(node.parse()?, port);
    eventually(SOON, "it answers", || {
        ensure!(http::get_ok(addr, "x", "/")? == "host port");
        Ok(())
    })?;
    // The port is taken now: a second pod that wants it stays unscheduled and says so.
    let server = merge(
        merge(httpd("x"), json!({"name": "main"})),
        json!({"ports": [{"name": "http", "containerPort": 8080, "hostPort": port}]}),
    );
    ctx.apply(&[pod("second", "", json!({"containers": [server]}))])?;
    ctx.wait("pod/second", "condition=PodScheduled=false")?;
    ensure!(ctx.field("pod/second", ".status.conditions[?(@.type==\"PodScheduled\")].message")?.contains("ports"));
    Ok(())
}

pub fn a_service_without_endpoints_refuses_at_once(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[service("empty", json!({}))])?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    let ip = ctx.field("service/empty", ".spec.clusterIP")?;
    eventually(SOON, "it refuses", || {
        let said = ctx.sh("client", &format!("timeout 2 wget -q -O- http://{ip}/ 2>&1; echo code $?"))?;
        ensure!(said.contains("refused") || said.contains("unreachable"), "{said}");
        Ok(())
    })
}

pub fn pods_reach_pods_directly_and_see_their_own_address(ctx: &Ctx) -> Result<()> {
    let cgi = "mkdir -p /tmp/w/cgi-bin; printf '#!/bin/sh\\necho; echo $REMOTE_ADDR\\n' > /tmp/w/cgi-bin/peer; \
               chmod +x /tmp/w/cgi-bin/peer; trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/w & while :; do wait $!; done";
    let probe =
        json!({"containers": [{"name": "main", "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]});
    ctx.ready_pod(pod("server", cgi, probe))?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    let (server, client) = (ctx.field("pod/server", ".status.podIP")?, ctx.field("pod/client", ".status.podIP")?);
    let seen = ctx.sh("client", &format!("timeout 3 wget -q -O- http://{server}:8080/cgi-bin/peer"))?;
    ensure!(
        seen.trim_start_matches("::ffff:").trim_matches(['[', ']']).contains(&client),
        "{client} was seen as {seen}"
    );
    let own = ctx.sh("client", "ip -o -4 addr show dev eth0 | tr -s ' ' | cut -d' ' -f4")?;
    ensure!(own.split('/').next() == Some(client.as_str()), "{own}");
    Ok(())
}

pub fn a_pod_reaches_itself_through_its_service(ctx: &Ctx) -> Result<()> {
    names_service(ctx, "web", 1, json!({}))?;
    let pods = pod_names(ctx, "web")?;
    let only = pods.first().context("a pod")?;
    eventually(SOON, "it reaches itself", || {
        ensure!(answers(ctx, only, "http://web/", 3)? == pods);
        Ok(())
    })
}
