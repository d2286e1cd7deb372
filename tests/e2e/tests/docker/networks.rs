//! Networks that users make: who finds and reaches whom.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::free_port;
use e2e::{Ctx, IMAGE, eventually};

use crate::{Docker, named};

const LIMIT: Duration = Duration::from_secs(60);
/// Serves a page that says who serves it.
const SERVE: &str = "mkdir -p /www; echo page of $WHO > /www/index.html; exec httpd -f -p 80 -h /www";

/// Runs one that serves a page.
fn serve(docker: &Docker, name: &str, flags: &[&str]) -> Result<()> {
    let who = format!("WHO={name}");
    let own = ["-d", "--name", name, "-e", &who, "--stop-timeout", "0"];
    docker.script(&[&own[..], flags].concat(), SERVE)?.ok()?;
    eventually(LIMIT, "the page is served", || {
        docker.ok(&["exec", name, "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"])
    })?;
    Ok(())
}

/// What a container gets from an address.
fn page(docker: &Docker, from: &str, to: &str) -> Result<String> {
    docker.ok(&["exec", from, "timeout", "10", "wget", "-q", "-O", "-", &format!("http://{to}/")])
}

/// Whether it does not get there.
fn unreachable(docker: &Docker, from: &str, to: &str) -> Result<()> {
    let tried = docker.run(&["exec", from, "timeout", "2", "wget", "-q", "-O", "-", &format!("http://{to}/")])?;
    // 143: nothing came back at all.
    ensure!([1, 143].contains(&tried.code()) && tried.stdout.is_empty(), "{tried:?}");
    Ok(())
}

fn address(docker: &Docker, container: &str, network: &str) -> Result<String> {
    docker.field(container, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"))
}

pub fn members_find_each_other_by_name_and_others_do_not(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let [net, a, b, c, out] = ["net", "a", "b", "c", "out"].map(|n| named(ctx, n));
    docker.ok(&["network", "create", &net])?;
    serve(&docker, &a, &["--network", &net, "--network-alias", "web"])?;
    serve(&docker, &b, &["--network", &net, "--network-alias", "web", "--hostname", "called"])?;
    docker.script(&["-d", "--name", &c, "--network", &net, "--link", &format!("{a}:linked")], "sleep 1000")?.ok()?;
    docker.script(&["-d", "--name", &out], "sleep 1000")?.ok()?;
    ensure!(docker.ok(&["exec", &c, "cat", "/etc/resolv.conf"])?.contains("nameserver 127.0.0.11"));
    let short: String = docker.field(&a, "{{.Id}}")?.chars().take(12).collect();
    for name in [a.as_str(), &format!("{a}.{net}"), &short, "linked"] {
        ensure!(page(&docker, &c, name)? == format!("page of {a}"), "{name}");
    }
    ensure!(page(&docker, &c, "called")? == format!("page of {b}"));
    // The two take turns behind the name that both have.
    let (mut of_a, mut of_b) = (0, 0);
    for _ in 0..8 {
        let said = page(&docker, &c, "web")?;
        *(if said.ends_with(&a) { &mut of_a } else { &mut of_b }) += 1;
    }
    ensure!(of_a > 0 && of_b > 0, "{of_a} and {of_b}");
    let ip = address(&docker, &a, &net)?;
    let reverse = docker.ok(&["exec", &c, "nslookup", &ip])?;
    ensure!(reverse.contains(&format!("{a}.{net}")), "{reverse}");
    // In the default network there are no names, and no way to the members.
    unreachable(&docker, &out, &a)?;
    unreachable(&docker, &out, &ip)?;
    let fresh = named(ctx, "fresh");
    docker.ok(&["rename", &a, &fresh])?;
    ensure!(page(&docker, &c, &fresh)? == format!("page of {a}"));
    unreachable(&docker, &c, &a)?;
    let used = docker.fails(&["network", "rm", &net])?;
    ensure!(used.contains(&format!("error while removing network: network {net} has active endpoints")), "{used}");
    docker.ok(&["rm", "-f", &fresh, &b, &c, &out])?;
    docker.ok(&["network", "rm", &net])?;
    Ok(())
}

pub fn networks_are_apart_but_for_published_ports(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let [one, two, inner] = ["one", "two", "inner"].map(|n| named(ctx, n));
    let [web, other, both, shut] = ["web", "other", "both", "shut"].map(|n| named(ctx, n));
    for name in [&one, &two] {
        docker.ok(&["network", "create", name])?;
    }
    docker.ok(&["network", "create", "--internal", &inner])?;
    let port = free_port()?.port();
    serve(&docker, &web, &["--network", &one, "-p", &format!("{port}:80")])?;
    serve(&docker, &other, &["--network", &two])?;
    docker.script(&["-d", "--name", &both, "--network", &one, "--network", &two], "sleep 1000")?.ok()?;
    serve(&docker, &shut, &["--network", &inner])?;
    let (of_web, of_shut) = (address(&docker, &web, &one)?, address(&docker, &shut, &inner)?);
    unreachable(&docker, &other, &of_web)?;
    ensure!(page(&docker, &both, &web)? == format!("page of {web}"));
    ensure!(page(&docker, &both, &other)? == format!("page of {other}"));
    // The port is reached from the host, from the other network, from a neighbour, and from itself.
    let host = docker.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &two])?;
    ensure!(e2e::http::get_ok(([127, 0, 0, 1], port).into(), "localhost", "/")?.contains(&web));
    for from in [&other, &both, &web] {
        ensure!(page(&docker, from, &format!("{host}:{port}"))? == format!("page of {web}"), "{from}");
    }
    // The internal one has no default route, no names of the world, and nobody comes in.
    let routes = docker.ok(&["exec", &shut, "ip", "route"])?;
    ensure!(!routes.contains("default") && !routes.is_empty(), "{routes}");
    ensure!(docker.run(&["exec", &shut, "nslookup", "example.com"])?.code() != 0);
    unreachable(&docker, &shut, &of_web)?;
    unreachable(&docker, &other, &of_shut)?;
    let outside = docker.ok(&["exec", &both, "ip", "route"])?;
    ensure!(outside.lines().filter(|l| l.starts_with("default")).count() == 1, "{outside}");
    docker.ok(&["rm", "-f", &web, &other, &both, &shut])?;
    docker.ok(&["network", "rm", &one, &two, &inner])?;
    Ok(())
}

pub fn a_running_container_comes_into_a_network_and_leaves_it(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let [net, a, b] = ["net", "a", "b"].map(|n| named(ctx, n));
    docker.ok(&[
        "network",
        "create",
        "--subnet",
        "10.91.7.0/24",
        "--gateway",
        "10.91.7.254",
        "--label",
        "x=y",
        &net,
    ])?;
    serve(&docker, &a, &["--network", &net, "--ip", "10.91.7.9"])?;
    docker.script(&["-d", "--name", &b], "sleep 1000")?.ok()?;
    unreachable(&docker, &b, "10.91.7.9")?;
    docker.ok(&["network", "connect", "--ip", "10.91.7.20", "--alias", "guest", &net, &b])?;
    ensure!(page(&docker, &b, &a)? == format!("page of {a}"));
    ensure!(docker.ok(&["exec", &a, "nslookup", "guest"])?.contains("10.91.7.20"));
    // The way out stays where it was.
    let routes = docker.ok(&["exec", &b, "ip", "route"])?;
    ensure!(routes.contains("default via") && routes.contains("dev eth1"), "{routes}");
    let shown =
        docker.ok(&["network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{.IPv4Address}};{{end}}", &net])?;
    ensure!(shown.contains(&format!("{b} 10.91.7.20/24;")) && shown.contains(&format!("{a} 10.91.7.9/24;")), "{shown}");
    docker.ok(&["network", "disconnect", &net, &b])?;
    unreachable(&docker, &b, "10.91.7.9")?;
    ensure!(docker.field(&b, "{{len .NetworkSettings.Networks}}")? == "1");
    let id = docker.field(&b, "{{.Id}}")?;
    let told = docker.ok(&[
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "--filter",
        "type=network",
        "--filter",
        &format!("network={net}"),
        "--format",
        "{{.Action}} {{.Actor.Attributes.container}}",
    ])?;
    for wanted in [format!("connect {id}"), format!("disconnect {id}")] {
        ensure!(told.lines().any(|l| l == wanted), "{wanted}: {told}");
    }
    docker.ok(&["rm", "-f", &a, &b])?;
    docker.ok(&["network", "rm", &net])?;
    Ok(())
}

pub fn the_way_out_goes_along_and_addresses_are_had_once(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let [net, free, a, b] = ["net", "free", "a", "b"].map(|n| named(ctx, n));
    docker.ok(&["network", "create", "--subnet", "10.97.7.0/24", "--gateway", "10.97.7.254", &net])?;
    docker.ok(&["network", "create", &free])?;
    docker.script(&["-d", "--name", &a, "--network", &net, "--ip", "10.97.7.9"], "sleep 1000")?.ok()?;
    docker.script(&["-d", "--name", &b], "sleep 1000")?.ok()?;
    docker.ok(&["network", "connect", &net, &b])?;
    for (args, words) in [
        (&["network", "connect", &net, &b][..], "already exists in network"),
        (
            &["network", "connect", "--ip", "1.2.3.4", &free, &b],
            "only when connecting to networks with user configured",
        ),
        (&["run", "--rm", "--network", &net, "--ip", "10.97.7.9", IMAGE, "true"], "Address already in use"),
        (&["run", "--rm", "--network", &net, "--ip", "10.97.7.254", IMAGE, "true"], "Address already in use"),
        (&["run", "--rm", "--network", &net, "--ip", "10.92.0.1", IMAGE, "true"], "no configured subnet"),
        (&["run", "--rm", "--ip", "10.92.0.1", IMAGE, "true"], "on user defined networks only"),
        (&["network", "disconnect", &free, &b], "is not connected to"),
        (&["network", "connect", "host", &b], "host network"),
    ] {
        let told = docker.fails(args)?;
        ensure!(told.contains(words), "{args:?}: {told}");
    }
    docker.ok(&["network", "disconnect", &net, &b])?;
    // Off the default network and onto another: the way out goes along.
    docker.ok(&["network", "connect", &free, &b])?;
    docker.ok(&["network", "disconnect", "bridge", &b])?;
    let routes = docker.ok(&["exec", &b, "ip", "route"])?;
    let gateway = docker.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &free])?;
    ensure!(routes.contains(&format!("default via {gateway}")), "{routes}");
    docker.ok(&["network", "connect", "bridge", &b])?;
    docker.ok(&["restart", "-t", "0", &b])?;
    let shown = docker.field(&b, "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}")?;
    ensure!(shown.split_whitespace().collect::<BTreeSet<_>>() == BTreeSet::from(["bridge", &free]), "{shown}");
    docker.ok(&["rm", "-f", &a, &b])?;
    docker.ok(&["network", "rm", &net, &free])?;
    Ok(())
}

pub fn networks_are_listed_pruned_and_refused_in_dockers_words(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let [net, other] = ["net", "other"].map(|n| named(ctx, n));
    let label = format!("of={}", ctx.ns);
    let id = docker.ok(&[
        "network",
        "create",
        "-d",
        "bridge",
        "--subnet",
        "10.92.0.0/16",
        "--ip-range",
        "10.92.5.0/24",
        "--gateway",
        "10.92.0.1",
        "--aux-address",
        "kept=10.92.5.0",
        "--label",
        &label,
        "--opt",
        "com.docker.network.driver.mtu=1400",
        &net,
    ])?;
    let given =
        docker.script(&["--rm", "--network", &id], "ip -o addr show eth0; cat /sys/class/net/eth0/mtu")?.ok()?;
    ensure!(given.contains("10.92.5.1/16") && given.contains("1400"), "{given}");
    for (args, code) in [
        (&["network", "create", &net][..], format!("network with name {net} already exists")),
        (
            &["network", "create", "--subnet", "10.92.128.0/24", &other],
            "Pool overlaps with other one on this address space".into(),
        ),
        (&["network", "create", "--subnet", "10.93.0.1/24", &other], "it should be 10.93.0.0/24".into()),
        (&["network", "create", "-d", "ipvlan", &other], "plugin \"ipvlan\" not found".into()),
        (&["network", "create", "--ipv6", &other], "is not supported by Windlass".into()),
        (
            &["network", "create", "--opt", "com.docker.network.bridge.name=br7", &other],
            "is not supported by Windlass".into(),
        ),
        (&["network", "create", "host"], "operation is not permitted on predefined host network".into()),
        (&["network", "inspect", &other], format!("network {other} not found")),
        (&["network", "rm", &other], format!("network {other} not found")),
        (&["network", "rm", "bridge"], "bridge is a pre-defined network and cannot be removed".into()),
        (&["run", "--rm", "--network", &other, IMAGE, "true"], format!("network {other} not found")),
        (&["network", "connect", &net, "nobody"], "No such container: nobody".into()),
    ] {
        let told = docker.fails(args)?;
        ensure!(told.contains(&code), "{args:?}: {told}");
    }
    let listed = |filter: &str| docker.ok(&["network", "ls", "--format", "{{.Name}}", "--filter", filter]);
    ensure!(listed(&format!("label={label}"))? == net);
    ensure!(listed(&format!("id={id}"))? == net);
    ensure!(listed("type=builtin")?.lines().collect::<Vec<_>>() == ["bridge", "host", "none"]);
    ensure!(
        docker.ok(&["network", "inspect", "-f", "{{.Driver}} {{(index .IPAM.Config 0).IPRange}}", &net])?
            == "bridge 10.92.5.0/24"
    );
    let pruned = docker.ok(&["network", "prune", "-f", "--filter", &format!("label={label}")])?;
    ensure!(pruned.contains(&net), "{pruned}");
    ensure!(listed(&format!("label={label}"))?.is_empty());
    Ok(())
}

pub fn a_container_in_anothers_network_is_where_that_is(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let [net, host, guest, near] = ["net", "host", "guest", "near"].map(|n| named(ctx, n));
    docker.ok(&["network", "create", &net])?;
    docker.script(&["-d", "--name", &host, "--network", &net], "sleep 1000")?.ok()?;
    let mode = format!("container:{host}");
    serve(&docker, &guest, &["--network", &mode])?;
    docker.script(&["-d", "--name", &near, "--network", &net], "sleep 1000")?.ok()?;
    ensure!(page(&docker, &near, &host)? == format!("page of {guest}"));
    ensure!(page(&docker, &host, "127.0.0.1")? == format!("page of {guest}"));
    ensure!(docker.ok(&["exec", &guest, "nslookup", &near])?.contains(&address(&docker, &near, &net)?));
    let id = docker.field(&host, "{{.Id}}")?;
    ensure!(docker.field(&guest, "{{.HostConfig.NetworkMode}}")? == format!("container:{id}"));
    ensure!(docker.ok(&["exec", &guest, "hostname"])? == docker.ok(&["exec", &host, "hostname"])?);
    docker.ok(&["rm", "-f", &guest, &host])?;
    docker.ok(&["create", "--name", &host, IMAGE, "true"])?;
    let told = docker.fails(&["run", "--rm", "--network", &mode, IMAGE, "true"])?;
    ensure!(told.contains("non running container"), "{told}");
    docker.ok(&["rm", "-f", &host, &near])?;
    docker.ok(&["network", "rm", &net])?;
    Ok(())
}
