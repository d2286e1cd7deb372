//! `docker run`.

use std::process::Command;

use anyhow::{Result, ensure};
use e2e::{Ctx, IMAGE, command};

use crate::{Docker, named};

pub fn run_prints_what_the_container_prints_and_ends_as_it_ends(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    ensure!(docker.ok(&["run", "--rm", IMAGE, "echo", "hi"])? == "hi");
    let both = docker.script(&["--rm"], "echo out; echo err >&2; exit 7")?;
    ensure!(both.code() == 7 && both.stdout == "out\n" && both.stderr == "err\n", "{both:?}");
    // Without a command the image's own.
    ensure!(docker.run(&["run", "--rm", IMAGE])?.code() == 0);
    Ok(())
}

pub fn input_goes_in_and_no_output_is_lost(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let text: Vec<u8> = (0..400_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let mut cat = docker.command(&["run", "--rm", "-i", IMAGE, "cat"]);
    let echoed = command::run(&mut cat, Some(&text), command::LIMIT)?.ok()?;
    ensure!(echoed.as_bytes() == text, "{} of {} bytes came back", echoed.len(), text.len());
    let counted = docker.script(&["--rm"], "seq 1 500000; seq 1 1000 >&2")?;
    ensure!(counted.stdout.lines().count() == 500_000 && counted.stderr.lines().count() == 1000);
    ensure!(counted.stdout.ends_with("\n500000\n"));
    Ok(())
}

pub fn a_terminal_is_one(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let name = named(ctx, "tty");
    // script(1) gives docker a terminal of its own, and types what it is given.
    let shell = |line: String, typed: &str| {
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]);
        command::run(&mut docker.on(script), Some(typed.as_bytes()), command::LIMIT)
    };
    let seen = shell(format!("docker run --rm -it {IMAGE} sh -c 'tty; exit 5'"), "")?;
    ensure!(seen.stdout.contains("/dev/pts/0") && seen.code() == 5, "{seen:?}");
    docker.ok(&["run", "-dit", "--name", &name, IMAGE, "sh"])?;
    let typed = shell(format!("docker attach {name}"), "echo is $((40+2))\nexit 9\n")?;
    ensure!(typed.stdout.contains("is 42") && typed.code() == 9, "{typed:?}");
    docker.ok(&["rm", &name])?;
    Ok(())
}

pub fn what_cannot_be_run_ends_as_in_a_shell(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let missing = docker.run(&["run", "--rm", IMAGE, "no-such-program"])?;
    ensure!(missing.code() == 127 && missing.stderr.contains("executable file not found in $PATH"), "{missing:?}");
    let data = docker.run(&["run", "--rm", IMAGE, "/etc/passwd"])?;
    ensure!(data.code() == 126 && data.stderr.contains("permission denied"), "{data:?}");
    let name = named(ctx, "never");
    ensure!(docker.run(&["run", "--name", &name, IMAGE, "no-such-program"])?.code() == 127);
    ensure!(docker.field(&name, "{{.State.Status}} {{.State.ExitCode}}")? == "created 127");
    docker.ok(&["rm", &name])?;
    Ok(())
}

pub fn options_are_obeyed(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let flags = "--rm --hostname box --user 1000:2000 --workdir /tmp --env A=1 --add-host a.b:1.2.3.4 --dns 9.9.9.9 --read-only \
         --tmpfs /scratch:size=1m --shm-size 2m --ulimit nofile=100:200 --memory 64m --cpus 0.5 --pids-limit 64 --cap-drop ALL \
         --security-opt no-new-privileges --init";
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let script = "hostname; id -u; id -g; pwd; echo $A; grep -c '1.2.3.4.a.b' /etc/hosts; grep -c 9.9.9.9 /etc/resolv.conf; \
         touch /x 2>/dev/null || echo read-only; df -k /scratch | awk 'END {print $2}'; df -k /dev/shm | awk 'END {print $2}'; \
         ulimit -n; grep NoNewPrivs /proc/self/status | awk '{print $2}'; test $$ = 1 || echo not-first";
    let seen = docker.script(&flags, script)?.ok()?;
    let wanted = ["box", "1000", "2000", "/tmp", "1", "1", "1", "read-only", "1024", "2048", "100", "1", "not-first"];
    ensure!(seen.lines().collect::<Vec<_>>() == wanted, "{seen}");
    let none = docker.script(&["--rm", "--network", "none"], "ip -o link | wc -l")?.ok()?;
    ensure!(none.trim() == "1", "{none}");
    let host = docker.script(&["--rm", "--network", "host"], "ip -o link")?.ok()?;
    ensure!(host.contains(&ctx.instance.names().bridge()), "{host}");
    let entry = docker.ok(&["run", "--rm", "--entrypoint", "echo", IMAGE, "one", "two"])?;
    ensure!(entry == "one two", "{entry}");
    Ok(())
}

pub fn a_container_is_removed_with_rm_and_its_volumes_without_names_too(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let name = named(ctx, "gone");
    let id = docker.ok(&["create", "--rm", "--name", &name, "-v", "/nameless", IMAGE, "true"])?;
    let volume = docker.field(&id, "{{(index .Mounts 0).Name}}")?;
    ensure!(docker.ok(&["volume", "ls", "-q"])?.contains(&volume));
    ensure!(docker.run(&["start", "-a", &id])?.code() == 0);
    let gone = docker.fails(&["inspect", "--type", "container", &name])?;
    ensure!(gone.to_lowercase().contains("no such container"), "{gone}");
    ensure!(!docker.ok(&["volume", "ls", "-q"])?.contains(&volume));
    Ok(())
}

pub fn devices_and_cpus_are_those_that_are_named(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let look = "ls -l /dev/other; head -c 4 /dev/other | wc -c; echo x > /dev/other && echo written";
    let seen = docker.script(&["--rm", "--device", "/dev/zero:/dev/other:r"], look)?;
    ensure!(seen.stdout.contains("1,   5") || seen.stdout.contains("1, 5"), "{seen:?}");
    ensure!(seen.stdout.lines().any(|l| l.trim() == "4"), "{seen:?}");
    for (device, words) in [("/dev/e2e-none", "it is not there"), ("/etc/passwd", "not a device node")] {
        let refused = docker.script(&["--rm", "--device", device], "true")?;
        ensure!(refused.code() == 125 && refused.stderr.contains("error gathering device information"), "{refused:?}");
        ensure!(refused.stderr.contains(words), "{refused:?}");
    }
    let listed = docker.script(&["--rm", "--cpuset-cpus", "0"], "grep Cpus_allowed_list /proc/self/status")?.ok()?;
    ensure!(listed.split_whitespace().last() == Some("0"), "{listed}");
    ensure!(docker.ok(&["plugin", "ls", "-q"])?.is_empty());
    Ok(())
}

pub fn volumes_come_from_other_containers(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let (first, second) = (named(ctx, "first"), named(ctx, "second"));
    let kept = named(ctx, "kept");
    docker
        .script(
            &["--name", &first, "-v", "/anonymous", "-v", &format!("{kept}:/kept")],
            "echo 1 > /anonymous/file; echo 2 > /kept/file",
        )?
        .ok()?;
    let read = "cat /anonymous/file /kept/file; touch /kept/more";
    let both = docker.script(&["--name", &second, "--volumes-from", &first], read)?.ok()?;
    ensure!(both == "1\n2\n", "{both}");
    let protected = docker.script(&["--rm", "--volumes-from", &format!("{first}:ro")], read)?;
    ensure!(protected.code() != 0 && protected.stdout == "1\n2\n", "{protected:?}");
    // What another still has stays.
    docker.ok(&["rm", "-v", &first])?;
    ensure!(docker.ok(&["start", "-a", &second])? == "1\n2");
    docker.ok(&["rm", "-v", &second])?;
    let refused = docker.fails(&["create", "--volumes-from", "nobody", IMAGE])?;
    ensure!(refused.contains("No such container: nobody"), "{refused}");
    docker.ok(&["volume", "rm", &kept])?;
    Ok(())
}
