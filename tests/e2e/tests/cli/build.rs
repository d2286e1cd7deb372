//! Images from Dockerfiles, on the image that all tests have.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::command::{Output, run};
use e2e::{Ctx, IMAGE, Instance, patient, pod, skip};
use serde_json::json;

/// How long a build may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(240);
const SECRET: &str = "opensesame-4711-never-in-a-layer";

/// A context: files by name.
fn context(instance: &Instance, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let dir = instance.dir().join(name);
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        std::fs::write(path, text)?;
    }
    Ok(dir)
}

fn build(instance: &Instance, dir: &Path, args: &[&str]) -> Result<Output> {
    let dir = dir.display().to_string();
    instance.windlass_with(&[&["build", "--progress", "plain"], args, &[&dir]].concat(), None, patient(LIMIT))
}

/// Builds, and answers the id and what was printed on the way.
fn built(instance: &Instance, dir: &Path, args: &[&str]) -> Result<(String, String)> {
    let output = build(instance, dir, args)?;
    ensure!(output.code() == 0, "{output:?}");
    Ok((output.stdout.trim().to_owned(), output.stderr))
}

/// Whether the step of this name was taken from the cache.
fn cached(log: &str, step: &str) -> Result<bool> {
    let line = log.lines().find(|l| l.contains(step)).with_context(|| format!("no step {step} in\n{log}"))?;
    let number = line.split(' ').next().unwrap_or_default();
    Ok(log.lines().any(|l| l == format!("{number} CACHED")))
}

const STAGES: &str = r#"# syntax=docker/dockerfile:1
ARG BASE
FROM $BASE AS make
ARG WHO=nobody
ENV GREETING="hello ${WHO:-none}"
WORKDIR /src
COPY . .
RUN <<EOF
set -e
echo "$GREETING from $(pwd)" > /out.txt
cat in.txt >> /out.txt
ls -A >> /out.txt
EOF
RUN --mount=type=secret,id=token,required=true wc -c < /run/secrets/token > /size && ! touch /run/secrets/token
RUN --mount=type=cache,target=/cache,id=log echo x >> /cache/log && wc -l < /cache/log > /count

FROM $BASE AS unused
RUN false

FROM ${BASE}
COPY --from=make --chown=app:extra --chmod=640 /out.txt /size /count /app/
COPY <<-show.sh /app/
	id -u; id -g
	cat /app/out.txt /app/size
	stat -c '%a %u %g' /app/out.txt
show.sh
RUN --mount=type=bind,target=/context --mount=type=tmpfs,target=/memory \
    cp /context/in.txt /memory/ && test ! -e /context/ignored.log && test -s /memory/in.txt
USER app:extra
LABEL made.by=test
EXPOSE 80
ENTRYPOINT ["/bin/sh", "/app/show.sh"]
"#;

fn stages(instance: &Instance) -> Result<PathBuf> {
    let files = [
        ("Dockerfile", STAGES),
        ("in.txt", "first\n"),
        ("sub/b.txt", "b"),
        ("ignored.log", "x"),
        (".dockerignore", "*.log\nDockerfile\n.dockerignore\n"),
    ];
    std::fs::write(instance.dir().join("token"), SECRET)?;
    context(instance, "stages", &files)
}

/// Flags of a build of it; the first four are those that every stage needs.
fn stage_args(instance: &Instance) -> Vec<String> {
    let secret = format!("id=token,src={}", instance.dir().join("token").display());
    ["--build-arg".into(), format!("BASE={IMAGE}"), "--secret".into(), secret, "-t".into(), "stages:1".into()].into()
}

pub fn stages_are_built_cached_and_built_anew_when_a_file_changes() -> Result<()> {
    let instance = Instance::builder("build").prepare()?;
    let dir = stages(&instance)?;
    let args = stage_args(&instance);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (first, log) = built(&instance, &dir, &args)?;
    ensure!(first.starts_with("sha256:"), "{first}");
    ensure!(!cached(&log, "COPY . .")? && !log.contains("RUN false"), "{log}");

    let (again, log) = built(&instance, &dir, &args)?;
    ensure!(again == first, "the same build gave {again} after {first}");
    for step in ["WORKDIR /src", "COPY . .", "RUN <<EOF", "COPY --from=make"] {
        ensure!(cached(&log, step)?, "{step} was done again\n{log}");
    }
    // What is left out of the context is not what a result is made from, nor is a time.
    std::fs::write(dir.join("ignored.log"), "other")?;
    std::fs::File::options().write(true).open(dir.join("in.txt"))?.set_modified(std::time::SystemTime::now())?;
    ensure!(built(&instance, &dir, &args)?.0 == first, "an ignored file or a time counted");

    std::fs::write(dir.join("in.txt"), "second\n")?;
    let (other, log) = built(&instance, &dir, &args)?;
    ensure!(other != first && cached(&log, "WORKDIR /src")? && !cached(&log, "COPY . .")?, "{log}");
    let (_, log) = built(&instance, &dir, &[&args[..], &["--no-cache"]].concat())?;
    ensure!(!cached(&log, "WORKDIR /src")?, "{log}");

    // Removing images leaves the cache, and what it holds.
    instance.windlass(&["image", "rm", "stages:1"])?.ok()?;
    instance.windlass(&["image", "prune"])?.ok()?;
    ensure!(cached(&built(&instance, &dir, &args)?.1, "COPY . .")?, "prune took the cache");

    // The cache mount has a line for each time that its command ran; the files are those of the last build.
    let out = instance.dir().join("out");
    let dest = format!("type=local,dest={}", out.display());
    built(&instance, &dir, &[&args[..4], &["--target", "make", "--output", &dest]].concat())?;
    let text = std::fs::read_to_string(out.join("out.txt"))?;
    ensure!(text == "hello nobody from /src\nsecond\nin.txt\nsub\n", "{text:?}");
    ensure!(std::fs::read_to_string(out.join("count"))?.trim().parse::<u32>()? >= 2);
    ensure!(std::fs::read_to_string(out.join("size"))?.trim() == SECRET.len().to_string());
    // Mount points are no part of a layer.
    ensure!(!out.join("cache").exists() && !out.join("run/secrets").exists() && !out.join("proc").exists());
    instance.down()
}

pub fn a_secret_is_in_no_layer_and_archives_are_those_of_docker_and_oci() -> Result<()> {
    let instance = Instance::builder("secret").prepare()?;
    let dir = stages(&instance)?;
    let args = stage_args(&instance);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let path = |name: &str| instance.dir().join(name).display().to_string();
    let (docker, oci) = (path("docker.tar"), path("oci.tar"));
    let (id, _) = built(&instance, &dir, &[&args[..], &["--output", &format!("type=docker,dest={docker}")]].concat())?;
    built(&instance, &dir, &[&args[..], &["--output", &format!("type=oci,dest={oci},compression=zstd")]].concat())?;
    let target = path("make.tar");
    let whole = format!("type=tar,dest={target}");
    built(&instance, &dir, &[&args[..4], &["--target", "make", "--output", &whole]].concat())?;
    for archive in [&docker, &target] {
        let bytes = std::fs::read(archive)?;
        ensure!(bytes.len() > 100_000, "{archive} is too small to be it");
        ensure!(!bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "the secret is in {archive}");
    }
    instance.windlass(&["image", "rm", "stages:1"])?.ok()?;
    ensure!(instance.windlass(&["image", "load", &docker])?.ok()?.contains("stages:1"));
    let list = instance.windlass(&["image", "list", "--quiet"])?.ok()?;
    ensure!(list.lines().any(|l| id.contains(l)), "{id} is not in {list}");
    let required = build(&instance, &dir, &[&args[..2], &["--no-cache"]].concat())?;
    ensure!(required.code() == 1 && required.stderr.contains("secret token: not found"), "{required:?}");

    if Command::new("skopeo").arg("--version").output().is_err() {
        instance.down()?;
        return Err(skip("no skopeo on this host"));
    }
    let inspect = ["inspect", &format!("oci-archive:{oci}")];
    let text = run(Command::new("skopeo").args(inspect), None, patient(LIMIT))?.ok()?;
    ensure!(text.contains("\"made.by\": \"test\""), "{text}");
    instance.down()
}

pub fn what_fails_shows_its_line_and_leaves_nothing() -> Result<()> {
    let instance = Instance::builder("failing").prepare()?;
    let text = format!("FROM {IMAGE}\n\nRUN echo before\nRUN echo told; exit 7\nRUN echo after\n");
    let dir = context(&instance, "failing", &[("Dockerfile", &text)])?;
    let output = build(&instance, &dir, &["-t", "failing:1"])?;
    ensure!(output.code() == 1 && output.stdout.is_empty(), "{output:?}");
    for say in [
        " told\n",
        "Dockerfile:4\n",
        "   4 | >>> RUN echo told; exit 7",
        "process \"/bin/sh -c echo told; exit 7\" did not complete successfully: exit code: 7",
    ] {
        ensure!(output.stderr.contains(say), "no {say:?} in\n{}", output.stderr);
    }
    ensure!(!output.stderr.contains("[4/4]"), "{}", output.stderr);
    ensure!(!instance.windlass(&["image", "list"])?.ok()?.contains("failing"));

    for (text, say) in [
        ("FROM scratch\nFOO x\n", "dockerfile parse error on line 2: unknown instruction: FOO"),
        (&format!("FROM {IMAGE}\nCOPY none /x\n"), "\"/none\": not found"),
        (&format!("FROM {IMAGE}\nCOPY ../../etc/passwd /x\n"), "\"/etc/passwd\": not found"),
        (&format!("FROM --platform=linux/riscv64 {IMAGE}\n"), "platform linux/riscv64 cannot be built here"),
        (
            &format!("FROM {IMAGE}\nRUN --mount=type=ssh,required=true true\n"),
            "no ssh agent default is forwarded (--ssh)",
        ),
        (&format!("FROM {IMAGE}\nRUN --security=insecure true\n"), "security.insecure is not allowed"),
        (&format!("FROM {IMAGE}\nUSER nosuch\nRUN true\n"), "unable to find user nosuch"),
        ("FROM 127.0.0.253:9/none:1\n", "127.0.0.253:9/none:1: failed to resolve source metadata"),
    ] {
        std::fs::write(dir.join("Dockerfile"), text)?;
        let output = build(&instance, &dir, &[])?;
        ensure!(output.code() == 1 && output.stderr.contains(say), "{text}: {output:?}");
        ensure!(output.stderr.contains(">>>"), "{text}: no line in\n{}", output.stderr);
    }
    let work = instance.names().data_dir().join("build/work");
    let left: Vec<_> = std::fs::read_dir(&work)?.flatten().map(|e| e.file_name()).filter(|n| n != "guard").collect();
    ensure!(left.is_empty(), "{left:?} is left of builds");
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(&instance.names().data_dir().display().to_string()), "{mounts}");
    instance.down()
}

pub fn the_same_build_gives_the_same_image_under_source_date_epoch() -> Result<()> {
    let instance = Instance::builder("epoch").prepare()?;
    let text = format!(
        "FROM {IMAGE}\nWORKDIR /w\nCOPY a b/ ./\nRUN mkdir -p x/y && echo 1 > x/y/z && ln x/y/z hard && ln -s z x/y/l && rm /bin/vi\n\
         RUN rm -r /home && mkdir /home && echo new > /home/file\nENV A=b\n"
    );
    let files = [("Dockerfile", text.as_str()), ("a", "a"), ("b/c", "c")];
    let dir = context(&instance, "epoch", &files)?;
    let args = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    // As checked out on one day, and on another.
    let checked_out = |day: &str| {
        let files = ["a", "b", "b/c"].map(|name| dir.join(name));
        let mut touch = std::process::Command::new("touch");
        e2e::command::run(touch.args(["-d", day]).args(files), None, e2e::command::LIMIT)?.ok()
    };
    checked_out("2024-01-02T03:04:05Z")?;
    let (first, _) = built(&instance, &dir, &args)?;
    checked_out("2025-06-07T08:09:10Z")?;
    let (second, _) = built(&instance, &dir, &args)?;
    ensure!(first == second, "{first} and then {second}");
    let out = instance.dir().join("out");
    let dest = format!("type=local,dest={}", out.display());
    built(&instance, &dir, &["--output", &dest])?;
    ensure!(std::fs::read_to_string(out.join("w/hard"))?.trim() == "1" && out.join("w/c").exists());
    // Removed files and folders stay removed in the layers.
    ensure!(
        std::fs::symlink_metadata(out.join("bin/vi")).is_err() && std::fs::symlink_metadata(out.join("bin/sh")).is_ok()
    );
    ensure!(!out.join("home/app").exists() && out.join("home/file").exists());
    instance.down()
}

pub fn the_packages_of_an_image_are_told_as_the_topmost_layer_has_them() -> Result<()> {
    let instance = Instance::builder("sbom").prepare()?;
    let text = format!(
        "FROM {IMAGE}\nCOPY old /var/lib/dpkg/status\nCOPY os-release /etc/\nCOPY new /var/lib/dpkg/status\nRUN rm -f /etc/none\n"
    );
    let of = |name: &str, version: &str| {
        format!("Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: all\n\n")
    };
    let (old, new) = (of("gone", "1"), of("kept", "1.2-3") + &of("added", "2"));
    let files =
        [("Dockerfile", text.as_str()), ("old", &old), ("new", &new), ("os-release", "ID=debian\nVERSION_ID=\"12\"\n")];
    let dir = context(&instance, "sbom", &files)?;
    built(&instance, &dir, &["-t", "packed:1"])?;
    let sbom = || instance.windlass(&["image", "sbom", "packed:1"])?.ok();
    let said: serde_json::Value = serde_json::from_str(&sbom()?)?;
    ensure!(said["spdxVersion"] == "SPDX-2.3" && said["packages"][0]["name"] == "docker.io/library/packed:1", "{said}");
    let urls: Vec<&str> = said["packages"]
        .as_array()
        .context("packages")?
        .iter()
        .filter_map(|p| p["externalRefs"][0]["referenceLocator"].as_str())
        .collect();
    let want =
        ["pkg:deb/debian/added@2?arch=all&distro=debian-12", "pkg:deb/debian/kept@1.2-3?arch=all&distro=debian-12"];
    ensure!(urls == want, "{urls:?}");
    ensure!(sbom()? == sbom()?, "it differs from time to time");
    instance.down()
}

pub fn an_image_built_beside_the_agent_runs_as_a_pod() -> Result<()> {
    let instance = Arc::new(Instance::builder("built").start()?);
    let dir = stages(&instance)?;
    let args = stage_args(&instance);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    built(&instance, &dir, &[&args[..], &["--build-arg", "WHO=pod"]].concat())?;
    let ctx = Ctx::new(instance.clone(), "built")?;
    let mut shows = pod("shows", "", json!({"restartPolicy": "Never"}));
    shows["spec"]["containers"] =
        json!([{"name": "main", "image": "docker.io/library/stages:1", "imagePullPolicy": "Never"}]);
    let said = ctx.output_of(shows)?;
    let want = format!("1000\n2000\nhello pod from /src\nfirst\nin.txt\nsub\n{}\n640 1000 2000\n", SECRET.len());
    ensure!(said == want, "{said:?} instead of {want:?}");
    instance.down()
}
