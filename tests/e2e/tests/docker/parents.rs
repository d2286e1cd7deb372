//! Networks on an interface of the host, and which of several networks is the way out.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::command::{self, run};
use e2e::{Ctx, IMAGE, eventually};

use crate::{Docker, named};

const LIMIT: Duration = Duration::from_secs(60);

/// A neighbour: a network namespace with a link to this host.
struct Neighbour {
    name: String,
    /// The end of the link that is here.
    link: String,
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args), None, LIMIT)?.ok().map(drop)
}

impl Neighbour {
    fn new() -> Result<Neighbour> {
        let pid = std::process::id();
        let neighbour = Neighbour { name: format!("e2e-lan-{pid:x}"), link: format!("e2e{pid:x}l") };
        ip(&["netns", "add", &neighbour.name])?;
        ip(&["link", "add", &neighbour.link, "type", "veth", "peer", "name", "lan", "netns", &neighbour.name])?;
        ip(&["link", "set", &neighbour.link, "up"])?;
        ip(&["-n", &neighbour.name, "addr", "add", "10.97.0.254/24", "dev", "lan"])?;
        ip(&["-n", &neighbour.name, "link", "set", "lan", "up"])?;
        Ok(neighbour)
    }

    /// What a page says that it asks for.
    fn gets(&self, url: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "curl", "--silent", "--fail", "--max-time", "5", url]);
        run(&mut command, None, command::LIMIT)?.ok()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // The link goes with it; where the namespace was not made, neither was the link.
        let _ = ip(&["netns", "del", &self.name]);
        let _ = ip(&["link", "del", &self.link]);
    }
}

pub fn members_of_a_macvlan_are_neighbours_of_the_host(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let neighbour = Neighbour::new()?;
    let (lan, web, other) = (named(ctx, "lan"), named(ctx, "web"), named(ctx, "other"));
    let parent = format!("parent={}", neighbour.link);
    let create = ["network", "create", "-d", "macvlan", "--subnet", "10.97.0.0/24", "--gateway", "10.97.0.254", "-o"];
    let missing = docker.fails(&[&create[..], &["parent=e2enone", &lan]].concat())?;
    ensure!(missing.contains("the host has no interface e2enone"), "{missing}");
    docker.ok(&[&create[..], &[&parent, &lan]].concat())?;
    let again =
        docker.fails(&["network", "create", "-d", "macvlan", "--subnet", "10.98.0.0/24", "-o", &parent, &other])?;
    ensure!(again.contains("is already using parent interface"), "{again}");
    ensure!(
        docker.ok(&["network", "inspect", "-f", "{{.Driver}} {{.Options.parent}}", &lan])?.starts_with("macvlan e2e")
    );
    let page = "mkdir /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www";
    let flags = ["-d", "--name", &web, "--network", &lan, "--ip", "10.97.0.9", "--stop-timeout", "0"];
    docker.script(&flags, page)?.ok()?;
    let said = eventually(LIMIT, "the neighbour reads the page", || neighbour.gets("http://10.97.0.9/"))?;
    ensure!(said == "page\n", "{said}");
    let asked = "ip route; wget -q -O - http://$WEB/";
    let asked = docker.script(&["--rm", "--network", &lan, "-e", &format!("WEB={web}")], asked)?.ok()?;
    ensure!(asked.contains("default via 10.97.0.254") && asked.contains("page"), "{asked}");
    let published = docker.script(&["--rm", "--network", &lan, "-p", "80"], "true")?;
    ensure!(published.code() == 125 && published.stderr.contains("ports cannot be published"), "{published:?}");
    docker.ok(&["network", "disconnect", &lan, &web])?;
    let left = docker.ok(&["exec", &web, "ls", "/sys/class/net"])?;
    ensure!(!left.contains("eth"), "{left}");
    ensure!(neighbour.gets("http://10.97.0.9/").is_err());
    docker.ok(&["network", "connect", "--ip", "10.97.0.10", &lan, &web])?;
    eventually(LIMIT, "it is there under another address", || neighbour.gets("http://10.97.0.10/"))?;
    docker.ok(&["rm", "-f", &web])?;
    docker.ok(&["network", "rm", &lan])?;
    Ok(())
}

pub fn the_way_out_leads_over_the_network_of_the_highest_priority(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let (first, second, box_) = (named(ctx, "a"), named(ctx, "b"), named(ctx, "box"));
    for (net, subnet) in [(&first, "10.99.1.0/24"), (&second, "10.99.2.0/24")] {
        docker.ok(&["network", "create", "--subnet", subnet, net])?;
    }
    let preferred = format!("name={second},gw-priority=1");
    let run = ["run", "--rm", "--network", &first, "--network", &preferred, IMAGE, "ip", "route"];
    let routes = docker.ok(&run)?;
    ensure!(routes.contains("default via 10.99.2.1") && routes.contains("10.99.1.0/24"), "{routes}");
    docker.ok(&["run", "-d", "--name", &box_, "--network", &first, "--stop-timeout", "0", IMAGE, "sleep", "1000"])?;
    let refused = docker.fails(&["network", "connect", "--gw-priority", "1", &second, &box_])?;
    ensure!(refused.contains("GwPriority") && refused.contains("is not supported by Windlass"), "{refused}");
    docker.ok(&["network", "connect", &second, &box_])?;
    ensure!(docker.ok(&["exec", &box_, "ip", "route"])?.contains("default via 10.99.1.1"));
    for (flag, value) in [("--ip6", "fd00::9"), ("--link-local-ip", "169.254.8.8")] {
        let third = named(ctx, "c");
        docker.ok(&["network", "create", "--subnet", "10.99.3.0/24", &third])?;
        let refused = docker.fails(&["network", "connect", flag, value, &third, &box_])?;
        ensure!(refused.contains("an IPv6 or link-local address of a container is not supported"), "{refused}");
        docker.ok(&["network", "rm", &third])?;
    }
    docker.ok(&["rm", "-f", &box_])?;
    docker.ok(&["network", "rm", &first, &second])?;
    Ok(())
}
