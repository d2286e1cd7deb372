//! Files, volumes, ports and images.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, eventually, free_port};

use crate::{Docker, named};

const LIMIT: Duration = Duration::from_secs(60);

pub fn files_are_copied_both_ways_whether_it_runs_or_not(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let name = named(ctx, "copy");
    let dir = ctx.instance.dir().join(&name);
    std::fs::create_dir_all(dir.join("in/deep"))?;
    std::fs::write(dir.join("in/deep/file"), "from the host")?;
    std::os::unix::fs::symlink("deep/file", dir.join("in/link"))?;
    let (source, target) = (dir.join("in").display().to_string(), dir.join("out").display().to_string());
    // Not started yet.
    docker.ok(&["create", "--name", &name, IMAGE, "sh", "-c", IDLE])?;
    docker.ok(&["cp", &source, &format!("{name}:/srv")])?;
    docker.ok(&["start", &name])?;
    ensure!(docker.ok(&["exec", &name, "cat", "/srv/deep/file"])? == "from the host");
    ensure!(docker.ok(&["exec", &name, "readlink", "/srv/link"])? == "deep/file");
    // A link of the container that leads to the host leads nowhere outside.
    docker.ok(&["exec", &name, "sh", "-c", "echo of the container > /tmp/mine; ln -s /../../../../tmp /up"])?;
    docker.ok(&["cp", &format!("{name}:/up/mine"), &target])?;
    ensure!(std::fs::read_to_string(&target)? == "of the container\n");
    let changed = docker.ok(&["diff", &name])?;
    ensure!(changed.lines().any(|l| l == "A /tmp/mine") && changed.lines().any(|l| l == "C /tmp"), "{changed}");
    docker.ok(&["stop", "-t", "0", &name])?;
    docker.ok(&["cp", &format!("{name}:/tmp/mine"), &format!("{target}-2")])?;
    ensure!(std::fs::read_to_string(format!("{target}-2"))? == "of the container\n");
    let missing = docker.fails(&["cp", &format!("{name}:/nothing"), &target])?;
    ensure!(missing.contains("Could not find the file /nothing"), "{missing}");
    docker.ok(&["rm", &name])?;
    Ok(())
}

pub fn a_volume_keeps_its_files_and_gets_those_of_the_image(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let volume = named(ctx, "volume");
    let at = format!("{volume}:/home");
    // Fresh: what the image has there, with its owner.
    let seen = docker.script(&["--rm", "-v", &at], "stat -c %u /home/app; echo kept > /home/app/file")?.ok()?;
    ensure!(seen.trim() == "1000", "{seen}");
    ensure!(docker.script(&["--rm", "-v", &format!("{at}:ro")], "cat /home/app/file")?.ok()?.trim() == "kept");
    let read_only = docker.script(&["--rm", "-v", &format!("{at}:ro")], "touch /home/x")?;
    ensure!(read_only.code() == 1 && read_only.stderr.contains("Read-only"), "{read_only:?}");
    let holder = named(ctx, "holder");
    docker.ok(&["create", "--name", &holder, "--mount", &format!("type=volume,src={volume},dst=/v"), IMAGE])?;
    let used = docker.fails(&["volume", "rm", &volume])?;
    ensure!(used.contains("volume is in use"), "{used}");
    docker.ok(&["rm", "-v", &holder])?;
    let place = docker.ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", &volume])?;
    ensure!(std::fs::read_to_string(format!("{place}/app/file"))? == "kept\n");
    docker.ok(&["volume", "rm", &volume])?;
    ensure!(docker.fails(&["volume", "inspect", &volume])?.contains("no such volume"));
    let host = ctx.instance.dir().join(&volume);
    std::fs::create_dir(&host)?;
    docker.script(&["--rm", "-v", &format!("{}:/host", host.display())], "echo bound > /host/file")?.ok()?;
    ensure!(std::fs::read_to_string(host.join("file"))? == "bound\n");
    Ok(())
}

pub fn a_published_port_is_reached_over_loopback_and_is_given_once(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let (name, other) = (named(ctx, "web"), named(ctx, "rival"));
    let address = free_port()?;
    let publish = format!("127.0.0.1:{}:80", address.port());
    let serve = "mkdir /www; echo a page > /www/index.html; httpd -f -p 80 -h /www";
    docker.script(&["-d", "--name", &name, "-p", &publish, "-p", "81", "--stop-timeout", "0"], serve)?.ok()?;
    eventually(LIMIT, "the page is served", || {
        let page = e2e::http::get_ok(address, "localhost", "/index.html")?;
        ensure!(page.contains("a page"), "{page}");
        Ok(())
    })?;
    ensure!(docker.ok(&["port", &name, "80"])? == address.to_string());
    let any: u16 = docker.field(&name, "{{(index (index .NetworkSettings.Ports \"81/tcp\") 0).HostPort}}")?.parse()?;
    ensure!(any >= 32_768, "{any}");
    let taken = docker.script(&["--name", &other, "-p", &publish], "true")?;
    ensure!(taken.code() == 125 && taken.stderr.contains("port is already allocated"), "{taken:?}");
    docker.ok(&["rm", &other])?;
    // Free again once the first one is gone.
    docker.ok(&["stop", &name])?;
    docker.script(&["--rm", "-p", &publish], "true")?.ok()?;
    docker.ok(&["rm", &name])?;
    Ok(())
}

pub fn images_are_listed_named_saved_loaded_and_removed(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let (tag, file) = (format!("{}/app:v1", ctx.ns), ctx.instance.dir().join(format!("{}.tar", ctx.ns)));
    let file = file.display().to_string();
    docker.ok(&["tag", IMAGE, &tag])?;
    let listed = docker.ok(&[
        "images",
        "--format",
        "{{.Repository}}:{{.Tag}}",
        "--filter",
        &format!("reference={}/*", ctx.ns),
    ])?;
    ensure!(listed == tag, "{listed}");
    let id = docker.ok(&["inspect", "--type", "image", "-f", "{{.Id}}", IMAGE])?;
    ensure!(docker.ok(&["inspect", "--type", "image", "-f", "{{.Id}}", &tag])? == id);
    ensure!(docker.ok(&["history", "-q", &tag])?.lines().count() == 1);
    docker.ok(&["save", "-o", &file, &tag])?;
    let removed = docker.ok(&["rmi", &tag])?;
    ensure!(removed.contains(&format!("Untagged: {tag}")), "{removed}");
    let loaded = docker.ok(&["load", "-i", &file])?;
    ensure!(loaded.contains(&format!("Loaded image: {tag}")), "{loaded}");
    let holder = named(ctx, "holder");
    docker.ok(&["create", "--name", &holder, &tag])?;
    docker.ok(&["rmi", &tag])?;
    docker.ok(&["rm", &holder])?;
    ensure!(docker.ok(&["images", "-q", "--no-trunc"])?.contains(&id));
    ensure!(docker.ok(&["system", "df", "--format", "{{.Type}}"])?.contains("Images"));
    let missing = docker.fails(&["inspect", "--type", "image", &tag])?;
    ensure!(missing.to_lowercase().contains("no such image"), "{missing}");
    Ok(())
}
