//! Whole builds with a runner that only pretends to run: a few words that write and read files. Needs root for overlayfs.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use build::{
    BuildError, Built, Context, Environment, Event, Options, Output, RunMount, RunSpec, Runner, Sink, Source, Stream,
};
use image::{ImageStore, ImportConfig};
use tokio::sync::watch;

/// Runs `write PATH TEXT`, `remove PATH`, `show PATH`, `env NAME`, `fail CODE`, one a line.
#[derive(Default)]
struct Pretend {
    runs: AtomicUsize,
}

impl Pretend {
    fn path(spec: &RunSpec, path: &str) -> PathBuf {
        for mount in &spec.mounts {
            if let RunMount::Bind { source, target, .. } = mount
                && let Ok(rest) = Path::new(path).strip_prefix(target)
            {
                return if rest.as_os_str().is_empty() { source.clone() } else { source.join(rest) };
            }
        }
        spec.rootfs.join(path.trim_start_matches('/'))
    }
}

impl Runner for Pretend {
    fn run(&self, spec: &RunSpec, output: Sink<'_>, _: watch::Receiver<bool>) -> Result<i32, String> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        // What a runtime does: places to mount on.
        std::fs::create_dir_all(spec.rootfs.join("proc")).map_err(|e| e.to_string())?;
        for line in spec.args.last().map(String::as_str).unwrap_or_default().lines() {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            let done = match words.as_slice() {
                ["write", path, text] => std::fs::write(Self::path(spec, path), text),
                ["remove", path] => std::fs::remove_file(Self::path(spec, path)),
                ["show", path] => std::fs::read(Self::path(spec, path)).map(|bytes| output(Stream::Out, &bytes)),
                ["env", name] => {
                    let value = spec.env.iter().find(|(n, _)| n == name).map_or("-", |(_, v)| v);
                    output(Stream::Out, format!("{name}={value}\n").as_bytes());
                    Ok(())
                }
                ["fail", code] => return Ok(code.parse().unwrap_or(1)),
                _ => return Err(format!("what is {line:?}?")),
            };
            done.map_err(|e| format!("{line}: {e}"))?;
        }
        Ok(0)
    }
}

struct Place {
    dir: tempfile::TempDir,
    store: ImageStore,
    runner: Pretend,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    fn new() -> Option<Place> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: overlayfs needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("images")).unwrap();
        let tar = dir.path().join("base.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&tar).unwrap());
        for (name, text) in [("etc/passwd", "app:x:7:8::/:/bin/sh\n"), ("base", "base")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap();
        let config =
            ImportConfig { env: vec!["FROM_BASE=1".into()], cmd: vec!["base".into()], ..ImportConfig::default() };
        store.import_rootfs(&tar, "base:1", &config).unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Some(Place { dir, store, runner: Pretend::default(), runtime })
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.dir.path().join("context").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Builds, and answers what was printed too.
    fn build(&self, text: &str, change: impl FnOnce(&mut Options)) -> (Result<Built, BuildError>, Vec<Event>) {
        struct Keep(std::sync::Mutex<Vec<Event>>);
        impl build::Progress for Keep {
            fn event(&self, event: Event) {
                self.0.lock().unwrap().push(event);
            }
        }
        let mut options = Options::new();
        options.source = Source::Text { name: "Dockerfile".into(), text: text.into(), ignore: None };
        change(&mut options);
        let keep = Keep(std::sync::Mutex::default());
        let (_stop, cancel) = watch::channel(false);
        let env = Environment {
            store: self.store.clone(),
            dir: self.dir.path().join("build"),
            runner: &self.runner,
            runtime: self.runtime.handle().clone(),
            progress: &keep,
            client: &(),
            cancel,
        };
        let built = build::build(Context::Dir(self.dir.path().join("context")), &options, &env);
        (built, keep.0.into_inner().unwrap())
    }

    /// The files of what this Dockerfile gives.
    fn files(&self, text: &str) -> PathBuf {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let out = self.dir.path().join(format!("out-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let (built, events) = self.build(text, |options| options.output = Output::Local(out.clone()));
        built.unwrap_or_else(|e| panic!("{e}: {events:?}"));
        out
    }

    fn runs(&self) -> usize {
        self.runner.runs.load(Ordering::Relaxed)
    }
}

fn said(events: &[Event]) -> String {
    let bytes = events.iter().filter_map(|e| match e {
        Event::Output { bytes, .. } => Some(bytes.clone()),
        _ => None,
    });
    String::from_utf8(bytes.flatten().collect()).unwrap()
}

#[test]
fn configuration_is_what_the_instructions_say() {
    let Some(place) = Place::new() else { return };
    let text = "ARG V=1\nFROM base:1\nARG V\nARG W=w$V\nENV A=$W B=\"b c\"\nWORKDIR /a\nWORKDIR b/../c\nLABEL l=$A\n\
                EXPOSE 80 90-91/udp\nVOLUME /v\nUSER app\nSTOPSIGNAL SIGUSR1\nENTRYPOINT [\"x\", \"$A\"]\nCMD y\n\
                HEALTHCHECK --retries=2 CMD z\nSHELL [\"/bin/ash\", \"-c\"]\nONBUILD RUN write /triggered yes\n";
    let (built, _) = place.build(text, |options| options.names.push("made:1".into()));
    let image = built.unwrap().image.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&place.store.config_of(&image).unwrap()).unwrap();
    let config = &document["config"];
    assert_eq!(config["WorkingDir"], "/a/c");
    assert_eq!(config["Labels"]["l"], "w1");
    assert_eq!(config["User"], "app");
    assert_eq!(config["Entrypoint"], serde_json::json!(["x", "$A"]));
    assert_eq!(config["Cmd"], serde_json::json!(["/bin/sh", "-c", "y"]));
    assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD-SHELL", "z"]));
    assert_eq!(config["ExposedPorts"], serde_json::json!({"80/tcp": {}, "90/udp": {}, "91/udp": {}}));
    let env = config["Env"].as_array().unwrap();
    assert!(
        env.contains(&"FROM_BASE=1".into()) && env.contains(&"A=w1".into()) && env.contains(&"B=b c".into()),
        "{env:?}"
    );
    let layers = document["history"].as_array().unwrap().iter().filter(|h| h["empty_layer"] != true).count();
    assert_eq!(layers, document["rootfs"]["diff_ids"].as_array().unwrap().len());
    assert_eq!(place.store.get("made:1").unwrap().unwrap().id, image.id);

    // Triggers run in who builds on it, and only there. An entrypoint of its own drops the base's arguments.
    assert_eq!(place.runs(), 0);
    let (child, _) = place.build("FROM made:1\nENTRYPOINT [\"q\"]\n", |_| ());
    let child = child.unwrap().image.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&place.store.config_of(&child).unwrap()).unwrap();
    assert_eq!((place.runs(), document["config"].get("Cmd"), document["config"].get("OnBuild")), (1, None, None));
}

#[test]
fn steps_are_cached_until_what_they_are_made_from_changes() {
    let Some(place) = Place::new() else { return };
    place.file("a", "1");
    place.file("b", "1");
    let text = "FROM base:1\nCOPY a /a\nRUN write /made x\nCOPY b /b\nRUN write /more y\n";
    let build = || place.build(text, |_| ()).0.unwrap().image.unwrap().id;
    let first = build();
    assert_eq!(place.runs(), 2);
    assert_eq!(build(), first);
    assert_eq!(place.runs(), 2);
    place.file("b", "2");
    assert_ne!(build(), first);
    assert_eq!(place.runs(), 3);
    place.file("b", "1");
    assert_eq!(build(), first);
    assert_eq!(place.runs(), 3);
    // The cache has a bound; beyond it the oldest go.
    place.build(text, |options| options.cache_max_bytes = 0).0.unwrap();
    build();
    assert_eq!(place.runs(), 5);
}

#[test]
fn files_come_from_stages_heredocs_and_archives() {
    let Some(place) = Place::new() else { return };
    place.file("dir/in", "in");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    {
        let mut tar = tar::Builder::new(&mut gz);
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o600);
        tar.append_data(&mut header, "inner/name", &b"text"[..]).unwrap();
        tar.finish().unwrap();
    }
    std::fs::write(place.dir.path().join("context/x.tar.gz"), gz.finish().unwrap()).unwrap();
    let text = "FROM base:1 AS one\nRUN write /one 1\nRUN remove /base\n\
                FROM base:1 AS never\nRUN fail 1\n\
                FROM scratch\nENV N=v\nCOPY --from=one /one /base* /etc/ /from/\nCOPY <<a <<\"b\" /docs/\n$N 'q' \\$N \\n\na\n$N\nb\n\
                ADD x.tar.gz /x/\nADD --unpack=false x.tar.gz /y/\nCOPY --link --chmod=700 dir/in /linked\nCOPY dir /d\n";
    let out = place.files(text);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(read("from/one"), "1");
    assert!(read("from/passwd").starts_with("app:") && !out.join("from/base").exists());
    assert_eq!((read("docs/a").as_str(), read("docs/b").as_str()), ("v 'q' $N \\n\n", "$N\n"));
    assert_eq!(read("x/inner/name"), "text");
    assert!(out.join("y/x.tar.gz").is_file());
    assert_eq!((read("linked").as_str(), read("d/in").as_str()), ("in", "in"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(out.join("linked")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(place.runs(), 2);
}

#[test]
fn mounts_are_there_and_leave_nothing() {
    let Some(place) = Place::new() else { return };
    place.file("in", "context");
    place.file(".dockerignore", "hidden\n");
    place.file("hidden", "h");
    let text = "FROM base:1 AS other\nRUN write /o other\nFROM base:1\nARG A=arg\n\
                RUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S --mount=target=/c --mount=from=other,target=/o,source=/o \
                --mount=type=cache,target=/k <<E\nshow /run/secrets/s\nenv S\nenv A\nenv HTTP_PROXY\nshow /c/in\nshow /o\nwrite /k/kept k\nE\n\
                RUN --mount=type=cache,target=/k show /k/kept\n";
    let (built, events) = place.build(text, |options| {
        options.secrets.insert("s".into(), b"secret;".to_vec());
        options.args.insert("HTTP_PROXY".into(), "p".into());
        options.args.insert("UNUSED".into(), "u".into());
    });
    let image = built.unwrap().image.unwrap();
    let said = said(&events);
    assert!(said.contains("secret;S=secret;\nA=arg\nHTTP_PROXY=p\ncontextother"), "{said}");
    assert!(events.contains(&Event::Warning("One or more build-args [UNUSED] were not consumed".into())));
    // Nothing was written, so there is no layer of it.
    assert_eq!(image.layers.len(), 1);
    let (missing, _) = place.build("FROM base:1\nRUN --mount=target=/c show /c/hidden\n", |_| ());
    assert!(missing.unwrap_err().message.contains("No such file"));
    let work = place.dir.path().join("build/work");
    assert_eq!(std::fs::read_dir(work).unwrap().flatten().filter(|e| e.file_name() != "guard").count(), 0);
}

#[test]
fn a_failure_names_its_line_and_ends_the_other_stages() {
    let Some(place) = Place::new() else { return };
    let text = "FROM base:1 AS one\nRUN fail 3\nFROM base:1\nCOPY --from=one /x /y\nRUN write /z z\n";
    let (failed, events) = place.build(text, |_| ());
    let error = failed.unwrap_err();
    assert_eq!(error.message, "process \"/bin/sh -c fail 3\" did not complete successfully: exit code: 3");
    assert_eq!((error.exit_code, error.place.unwrap().span.first), (Some(3), 2));
    assert!(events.iter().any(|e| matches!(e, Event::Failed { .. })));
    assert_eq!(place.runs(), 1);
}
