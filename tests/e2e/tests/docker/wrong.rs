//! What is refused, and how.

use std::process::Command;

use anyhow::{Result, ensure};
use e2e::{Ctx, IMAGE, command};

use crate::{Docker, named};

pub fn what_is_not_obeyed_is_refused_by_its_name(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    for (flags, words) in [
        (&["--gpus", "all"][..], "HostConfig.DeviceRequests"),
        (&["--device-cgroup-rule", "c 1:3 r"], "HostConfig.DeviceCgroupRules"),
        (&["--cpuset-mems", "0"], "HostConfig.CpusetMems"),
        (&["--log-driver", "splunk"], "logging driver \"splunk\""),
        (&["--uts", "host"], "HostConfig.UTSMode"),
        (&["--link", "x:y"], "a link in the default network"),
        (&["--security-opt", "apparmor=other"], "HostConfig.SecurityOpt"),
        (&["--mac-address", "02:00:00:00:00:01"], "MacAddress"),
        (&["--runtime", "other"], "HostConfig.Runtime"),
    ] {
        let refused = docker.run(&[&["run", "--rm"], flags, &[IMAGE, "true"]].concat())?;
        ensure!(refused.code() == 125 && refused.stderr.contains(words), "{refused:?}");
        ensure!(refused.stderr.contains("is not supported by Windlass"), "{refused:?}");
    }
    Ok(())
}

pub fn names_that_mean_nothing_are_told_in_dockers_words(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let name = named(ctx, "once");
    docker.ok(&["create", "--name", &name, IMAGE])?;
    for (args, words) in [
        (&["start", "no-such-one"][..], "No such container: no-such-one"),
        (&["create", "--pull", "never", "no.such.host/image:1"], "No such image: no.such.host/image:1"),
        (&["create", "--name", &name, IMAGE], "is already in use by container"),
        (&["create", "--name", "a b", IMAGE], "Invalid container name"),
        (&["create", "-v", "a:b", IMAGE], "mount path must be absolute"),
        (&["create", "--memory", "1m", IMAGE], "Minimum memory limit allowed is 6MB"),
        (&["kill", "-s", "NONE", &name], "invalid signal: NONE"),
        (&["volume", "inspect", "no-such-volume"], "no such volume"),
        (&["network", "inspect", "no-such-network"], "not found"),
        (&["network", "rm", "bridge"], "pre-defined network"),
    ] {
        let told = docker.fails(args)?;
        ensure!(told.contains(words), "{args:?}: {told}");
    }
    docker.ok(&["rm", &name])?;
    Ok(())
}

pub fn versions_outside_the_range_are_refused(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    ensure!(docker.ok(&["version", "-f", "{{.Server.MinAPIVersion}}-{{.Server.APIVersion}}"])? == "1.41-1.50");
    let mut old: Command = docker.command(&["ps"]);
    old.env("DOCKER_API_VERSION", "1.40");
    let refused = command::run(&mut old, None, command::LIMIT)?.failed()?;
    ensure!(refused.contains("client version 1.40 is too old. Minimum supported API version is 1.41"), "{refused}");
    let mut new: Command = docker.command(&["ps"]);
    new.env("DOCKER_API_VERSION", "1.51");
    let refused = command::run(&mut new, None, command::LIMIT)?.failed()?;
    ensure!(refused.contains("client version 1.51 is too new. Maximum supported API version is 1.50"), "{refused}");
    let info = docker.ok(&["info", "-f", "{{.ServerVersion}} {{.OSType}}"])?;
    ensure!(info.ends_with(" linux"), "{info}");
    Ok(())
}
