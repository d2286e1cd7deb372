//! Images that are made here: `docker build`, `docker commit`, `docker import`.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, command, eventually, patient};

use crate::{Docker, named};

const LIMIT: Duration = Duration::from_secs(240);

/// The one trick with a context that only fails to do harm.
const THROUGH: &str = "a link, then a file through it";

/// Two stages, of which the first takes the whole context.
pub const STAGES: &str = r#"ARG BASE
FROM $BASE AS make
ARG WHO=nobody
WORKDIR /src
COPY . .
RUN echo "made for $WHO" > /out; ls -A >> /out

FROM $BASE
COPY --from=make /out /out
ENV KIND=built
CMD ["sh", "-c", "cat /out; echo $KIND"]
"#;

/// A context: files by name.
pub fn context(ctx: &Ctx, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let dir = ctx.instance.dir().join(named(ctx, name));
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        std::fs::write(path, text)?;
    }
    Ok(dir)
}

fn build(docker: &Docker, dir: &Path, args: &[&str]) -> Result<command::Output> {
    let (dir, base) = (dir.display().to_string(), format!("BASE={IMAGE}"));
    let mut command = docker.command(&[&["build", "--build-arg", &base], args, &[&dir]].concat());
    // As on a machine of somebody who has set nothing.
    command.env_remove("DOCKER_BUILDKIT");
    command::run(&mut command, None, patient(LIMIT))
}

pub fn a_build_is_told_step_by_step_and_done_once(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let files = [("Dockerfile", STAGES), ("in.txt", "x"), ("left.log", "x"), (".dockerignore", "*.log\n")];
    let dir = context(ctx, "stages", &files)?;
    let (one, two) = (format!("{}/one:1", ctx.ns), format!("{}/two", ctx.ns));
    let id_file = dir.with_extension("id");
    let id_path = id_file.display().to_string();
    let args = ["-t", &one, "-t", &two, "--build-arg", "WHO=me", "--label", "l=v", "--iidfile", &id_path];
    let said = build(&docker, &dir, &args)?.ok()?;
    let tagged = [format!("Successfully tagged {one}\n"), format!("Successfully tagged {two}:latest\n")];
    ensure!(said.contains("Step 4/4 (make) : RUN echo") && tagged.iter().all(|t| said.contains(t.as_str())), "{said}");
    let id = docker.ok(&["inspect", "--type", "image", "-f", "{{.Id}} {{.Config.Labels.l}}", &two])?;
    ensure!(id == format!("{} v", std::fs::read_to_string(&id_file)?), "{id}");
    let printed = docker.ok(&["run", "--rm", &one])?;
    ensure!(printed.starts_with("made for me\n") && printed.ends_with("built"), "{printed}");
    ensure!(printed.contains("in.txt") && !printed.contains("left.log"), "{printed}");

    let again = build(&docker, &dir, &args)?.ok()?;
    ensure!(again.matches(" ---> Using cache\n").count() == 4, "{again}");
    let fresh = build(&docker, &dir, &["--no-cache", "--build-arg", "WHO=me"])?.ok()?;
    ensure!(!fresh.contains("Using cache"), "{fresh}");
    // Nothing but the id; of a stage that is named; packed on its way.
    let quiet = build(
        &docker,
        &dir,
        &["-q", "--compress", "--target", "make", "-f", &format!("{}/Dockerfile", dir.display())],
    )?
    .ok()?;
    ensure!(quiet.trim().len() == 71 && quiet.starts_with("sha256:"), "{quiet}");
    let steps = docker.ok(&["system", "df", "-v", "--format", "{{json .BuildCache}}"])?;
    ensure!(steps.contains("regular"), "{steps}");
    docker.ok(&["rmi", &one, &two])?;
    let pruned = docker.ok(&["builder", "prune", "-f", "-a"])?;
    ensure!(pruned.contains("Total"), "{pruned}");
    let anew = build(&docker, &dir, &args)?.ok()?;
    ensure!(!anew.contains("Using cache"), "{anew}");
    docker.ok(&["rmi", &one, &two])?;
    Ok(())
}

pub fn the_network_and_the_hosts_of_a_build_are_those_asked_for(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let file = "ARG BASE\nFROM $BASE\nRUN ls /sys/class/net; grep a.example /etc/hosts || echo no line\n";
    let dir = context(ctx, "net", &[("Dockerfile", file)])?;
    let alone = build(&docker, &dir, &["--network", "none"])?.ok()?;
    ensure!(alone.contains("lo\n") && !alone.contains("eth0") && alone.contains("no line"), "{alone}");
    let hosts = build(&docker, &dir, &["--add-host", "a.example:192.0.2.7"])?.ok()?;
    ensure!(hosts.contains("192.0.2.7\ta.example") && !hosts.contains("Using cache"), "{hosts}");
    for (flags, word) in [
        (&["--network", "bridge"][..], "networkmode"),
        (&["--memory", "64m"], "memory of a build"),
        (&["--ulimit", "nofile=100"], "ulimits of a build"),
        (&["--squash"], "squash"),
        (&["--platform", "linux/s390x"], "platform"),
        (&["--add-host", "a:host-gateway"], "host-gateway"),
    ] {
        let refused = build(&docker, &dir, flags)?.failed()?;
        ensure!(refused.contains(word), "{flags:?}: {refused}");
    }
    Ok(())
}

pub fn what_is_wrong_with_a_dockerfile_is_told_with_its_line(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let wrong = |name: &str, text: &str| build(&docker, &context(ctx, name, &[("Dockerfile", text)])?, &["--no-cache"]);
    let unknown = wrong("unknown", "FROM x\n\nRUNN true\n")?.failed()?;
    ensure!(unknown.contains("dockerfile parse error on line 3: unknown instruction: RUNN"), "{unknown}");
    let failed = wrong("failed", "ARG BASE\nFROM $BASE\nRUN echo said; exit 3\n")?;
    ensure!(failed.code() == 3, "{failed:?}");
    ensure!(
        failed.stderr.contains("The command '/bin/sh -c echo said; exit 3' returned a non-zero code: 3"),
        "{failed:?}"
    );
    ensure!(
        failed.stdout.contains("said\n") && failed.stdout.contains("   3 | >>> RUN echo said; exit 3"),
        "{failed:?}"
    );
    let missing = wrong("missing", "ARG BASE\nFROM $BASE\nCOPY nothing /\n")?.failed()?;
    ensure!(missing.contains("nothing"), "{missing}");
    let dir = context(ctx, "empty", &[("Dockerfile", "")])?;
    ensure!(build(&docker, &dir, &[])?.failed()?.contains("no instructions"), "an empty Dockerfile was built");
    Ok(())
}

/// What the API answers to a body that is sent as it is; it may be shorter than it is said to be.
fn post(docker: &Docker, path: &str, body: &[u8], length: usize) -> Result<String> {
    let mut stream = UnixStream::connect(docker.socket())?;
    stream.set_read_timeout(Some(patient(Duration::from_secs(60))))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    if body.len() < length {
        stream.shutdown(std::net::Shutdown::Write)?;
    }
    let mut answer = Vec::new();
    // A connection that is broken off is an answer, too.
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// An archive: names, kinds, and what they hold or lead to.
fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, what) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        // Written as it is: the library refuses what leads out.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let is_link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        if is_link {
            header.as_old_mut().linkname[..what.len()].copy_from_slice(what.as_bytes());
        }
        let content = if is_link { "" } else { what };
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content.as_bytes())?;
    }
    Ok(tar.into_inner()?)
}

pub fn hostile_contexts_reach_nothing_and_leave_nothing(ctx: &Ctx) -> Result<()> {
    use tar::EntryType::{Link, Regular, Symlink};
    let docker = Docker::of(&ctx.instance)?;
    let trap = ctx.instance.dir().join(named(ctx, "trap"));
    std::fs::create_dir(&trap)?;
    std::fs::write(trap.join("secret"), "of the host")?;
    let at = trap.display().to_string();
    let from = format!("FROM {IMAGE}\n");
    let copies = format!("FROM {IMAGE}\nCOPY way/secret /got\nRUN cat /got\n");
    let every = format!("FROM {IMAGE}\nCOPY . /all/\nRUN cat /all/way/secret\n");
    type Entry<'a> = (&'a str, tar::EntryType, &'a str);
    let tricks: [(&str, Vec<Entry<'_>>); 6] = [
        ("a name that climbs", vec![("Dockerfile", Regular, &from), ("../../climbed", Regular, "x")]),
        (THROUGH, vec![("Dockerfile", Regular, &from), ("way", Symlink, &at), ("way/out", Regular, "x")]),
        (
            "a second name of a file outside",
            vec![("Dockerfile", Regular, &from), ("hard", Link, "../../../../../etc/passwd")],
        ),
        ("a Dockerfile that is elsewhere", vec![("Dockerfile", Symlink, "/etc/passwd")]),
        ("a copy through a link", vec![("Dockerfile", Regular, &copies), ("way", Symlink, &at)]),
        ("a link in what is copied", vec![("Dockerfile", Regular, &every), ("way", Symlink, &at)]),
    ];
    for (what, entries) in tricks {
        let body = archive(&entries)?;
        let answer = post(&docker, "/build?nocache=1", &body, body.len())?;
        ensure!(!answer.contains("of the host") && !answer.contains("root:x:0"), "{what}: {answer}");
        // A link is followed as if the context were the whole file system: what goes through it stays within.
        let told = answer.contains("HTTP/1.1 400") || answer.contains("errorDetail");
        ensure!(told || what == THROUGH, "{what}: {answer}");
    }
    ensure!(std::fs::read_dir(&trap)?.count() == 1, "something was written outside");

    let good = archive(&[("Dockerfile", Regular, &from)])?;
    let half = post(&docker, "/build", &good[..good.len() / 2], good.len())?;
    ensure!(!half.contains("Successfully built"), "{half}");
    let empty = post(&docker, "/build", b"", 0)?;
    ensure!(empty.contains("HTTP/1.1 400") && empty.contains("Dockerfile"), "{empty}");
    let rubbish = post(&docker, "/build", &[7u8; 4096], 4096)?;
    ensure!(rubbish.contains("HTTP/1.1 400"), "{rubbish}");
    let whole = post(&docker, "/build", &good, good.len())?;
    ensure!(whole.contains("Successfully built"), "{whole}");
    Ok(())
}

/// Whether a process has this word in its command line.
/// Whether a process of a container has that word in its command line.
pub fn runs(word: &str) -> bool {
    let said = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    e2e::leaks::pids().iter().any(|pid| said(pid).contains(word))
}

pub fn a_build_ends_with_its_client(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    // A word that the client's own command line has not.
    let word = format!("idle-build-{}", ctx.ns);
    let file = format!("FROM {IMAGE}\nRUN : {word}; {IDLE}\n");
    let dir = context(ctx, "forever", &[("Dockerfile", &file)])?;
    let mut command = docker.command(&["build", "--no-cache", &dir.display().to_string()]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let begun = eventually(LIMIT, "the command runs", || {
        ensure!(runs(&word), "nothing is built");
        Ok(())
    });
    child.kill()?;
    child.wait()?;
    begun?;
    eventually(LIMIT, "it ends", || {
        ensure!(!runs(&word), "it goes on");
        Ok(())
    })?;
    Ok(())
}

pub fn a_container_becomes_an_image(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let (name, image) = (named(ctx, "source"), format!("{}/made:1", ctx.ns));
    docker.script(&["-d", "--name", &name, "-e", "KEPT=1"], &format!("echo written > /file; {IDLE}"))?.ok()?;
    eventually(LIMIT, "the file is written", || {
        ensure!(docker.ok(&["exec", &name, "cat", "/file"])? == "written");
        Ok(())
    })?;
    let changes = ["--change", "CMD cat /file", "--change", "LABEL a=b", "--change", "ENV MORE=2"];
    let id = docker.ok(&[&["commit", "-m", "why", "-a", "me"], &changes[..], &[&name, &image]].concat())?;
    ensure!(docker.field(&name, "{{.State.Status}}")? == "running", "it is still frozen");
    let seen = docker.ok(&[
        "inspect",
        "--type",
        "image",
        "-f",
        "{{.Id}} {{.Author}} {{.Config.Labels.a}} {{.Config.Env}}",
        &image,
    ])?;
    ensure!(seen.starts_with(&format!("{id} me b ")) && seen.contains("KEPT=1") && seen.contains("MORE=2"), "{seen}");
    ensure!(docker.ok(&["run", "--rm", &image])? == "written");
    ensure!(docker.ok(&["history", "--format", "{{.Comment}}", &image])?.starts_with("why"));
    // What the runtime made to mount on is not in it.
    let listed = docker.ok(&["run", "--rm", "--entrypoint", "/bin/sh", &image, "-c", "ls /etc"])?;
    ensure!(listed.contains("passwd"), "{listed}");
    let refused = docker.fails(&["commit", "--change", "RUN true", &name])?;
    ensure!(refused.contains("RUN is not a valid change command"), "{refused}");

    // Its files alone, as an archive, and back.
    let file = ctx.instance.dir().join(named(ctx, "files.tar"));
    let path = file.display().to_string();
    docker.ok(&["export", "-o", &path, &name])?;
    let flat = format!("{}/flat:1", ctx.ns);
    let imported = docker.ok(&["import", "-m", "flattened", "-c", "CMD [\"cat\",\"/file\"]", &path, &flat])?;
    ensure!(imported.starts_with("sha256:"), "{imported}");
    ensure!(docker.ok(&["run", "--rm", &flat])? == "written");
    ensure!(docker.ok(&["history", "--format", "{{.Comment}}", &flat])? == "flattened");
    std::fs::write(&file, "no archive")?;
    ensure!(docker.run(&["import", &path])?.code() != 0, "what is no archive was taken");
    docker.ok(&["rm", "-f", &name])?;
    docker.ok(&["save", "-o", &path, &image, &flat])?;
    docker.ok(&["rmi", &image, &flat])?;
    let loaded = docker.ok(&["load", "-i", &path])?;
    ensure!(loaded.contains(&image) && loaded.contains(&flat), "{loaded}");
    docker.ok(&["rmi", &image, &flat])?;
    Ok(())
}
