//! `windlass build`: an image from a Dockerfile. Works whether or not the instance runs.

mod agents;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base::instance::Instance;
use engine::Builder;
use engine::build::{self, Context, Environment, Named, Options, Output, Plain, Source};
use engine::image::{Compression, ImageStore};
use tokio::sync::watch;

use crate::cli::BuildArgs;
use crate::exit;

/// Most bytes of a secret (BuildKit's limit).
const SECRET_MAX: u64 = 500 << 10;

/// Runs the verb.
pub fn run(instance: &Instance, args: BuildArgs) -> anyhow::Result<ExitCode> {
    crate::preflight::root()?;
    let options = options(&args)?;
    let agents = agents::sockets(&args.ssh)?;
    let built = execute(instance, context(&args.context), &options, agents, args.quiet)?;
    match built {
        Outcome::Failed(code) => return Ok(ExitCode::from(code)),
        Outcome::Built(Some(id)) => {
            if let Some(path) = &args.iidfile {
                std::fs::write(path, &id).with_context(|| format!("write {}", path.display()))?;
            }
            println!("{id}");
        }
        Outcome::Built(None) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What came of a build.
pub(super) enum Outcome {
    /// The image's id, when one was made.
    Built(Option<String>),
    /// It was said why not; the exit code.
    Failed(u8),
}

/// Builds, and shows on standard error how it goes.
pub(super) fn execute(
    instance: &Instance,
    context: Context,
    options: &Options,
    sockets: agents::Sockets,
    quiet: bool,
) -> anyhow::Result<Outcome> {
    crate::preflight::root()?;
    crate::preflight::data_dir(instance.data_dir())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let root = instance.data_dir().join("images");
    let store = ImageStore::open(&root).with_context(|| format!("open the image store {}", root.display()))?;
    let builder = Builder::open(instance, runtime.handle().clone())?;
    let progress = Plain::new(std::io::stderr());
    let (stop, cancel) = watch::channel(false);
    // Ends with the process.
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = stop.send(true);
            // Held so that a second signal does not look like the end of the sender.
            std::future::pending::<()>().await;
        }
    });
    let agents = agents::Agents { sockets, runtime: runtime.handle().clone() };
    let env = Environment {
        store,
        dir: instance.data_dir().join("build"),
        runner: &builder,
        runtime: runtime.handle().clone(),
        progress: if quiet { &() } else { &progress },
        client: &agents,
        cancel: cancel.clone(),
    };
    let built = match build::build(context, options, &env) {
        Ok(built) => built,
        Err(error) => {
            let stopped = *cancel.borrow();
            // Who stopped it needs no line to blame.
            if let Some(place) = error.place.as_ref().filter(|_| !stopped) {
                eprint!("------\n{}", place.render());
            }
            eprintln!("ERROR: failed to build: failed to solve: {}", error.message);
            return Ok(Outcome::Failed(if stopped { 130 } else { exit::FAILED }));
        }
    };
    Ok(Outcome::Built(built.image.map(|image| image.id.to_string())))
}

fn is_url(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

pub(super) fn context(text: &str) -> Context {
    match text {
        "-" => Context::Tar(Box::new(std::io::stdin())),
        text if build::is_git(text) => Context::Git(text.to_owned()),
        text if is_url(text) => Context::Url(text.to_owned()),
        text => Context::Dir(PathBuf::from(text)),
    }
}

fn options(args: &BuildArgs) -> anyhow::Result<Options> {
    let mut options = Options::new();
    options.source = source(args)?;
    options.target.clone_from(&args.target);
    for arg in &args.build_arg {
        match arg.split_once('=') {
            Some((name, value)) => drop(options.args.insert(name.to_owned(), value.to_owned())),
            // A name alone takes its value from the environment, and none if it has none.
            None => options.args.extend(std::env::var(arg).ok().map(|value| (arg.clone(), value))),
        }
    }
    options.labels = pairs("label", &args.label)?;
    options.names.clone_from(&args.tag);
    for (name, value) in pairs("build context", &args.build_context)? {
        let named = match value.strip_prefix("docker-image://") {
            Some(reference) => Named::Image(reference.to_owned()),
            None => Named::Dir(PathBuf::from(value)),
        };
        options.contexts.insert(name, named);
    }
    for text in &args.secret {
        let (id, value) = secret(text)?;
        options.secrets.insert(id, value);
    }
    options.platform.clone_from(&args.platform);
    options.no_cache = args.no_cache;
    options.pull = args.pull;
    for allowed in &args.allow {
        match allowed.as_str() {
            "security.insecure" => options.allow_insecure = true,
            "network.host" => {}
            other => bail!("--allow {other:?} is not known: it is security.insecure or network.host"),
        }
    }
    let epoch = options.args.get("SOURCE_DATE_EPOCH").cloned().or_else(|| std::env::var("SOURCE_DATE_EPOCH").ok());
    if let Some(text) = epoch.filter(|t| !t.is_empty()) {
        options.epoch =
            Some(text.parse().with_context(|| format!("SOURCE_DATE_EPOCH {text:?} is no number of seconds"))?);
    }
    if let Some(text) = &args.output {
        output(text, &mut options)?;
    }
    Ok(options)
}

/// `Dockerfile` of the context, or the file named, which may be elsewhere and brings its own patterns.
fn source(args: &BuildArgs) -> anyhow::Result<Source> {
    let Some(path) = &args.file else { return Ok(Source::InContext("Dockerfile".to_owned())) };
    if path == Path::new("-") {
        if args.context == "-" {
            bail!("the context and the Dockerfile cannot both be standard input");
        }
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read the Dockerfile from standard input")?;
        return Ok(Source::Text { name: "Dockerfile".to_owned(), text, ignore: None });
    }
    if args.context == "-" || build::is_git(&args.context) || is_url(&args.context) {
        // Such a context is not here yet: the name is one in it.
        return Ok(Source::InContext(path.display().to_string()));
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("failed to read dockerfile {}", path.display()))?;
    let mut own = path.clone().into_os_string();
    own.push(".dockerignore");
    let ignore = match std::fs::read_to_string(&own) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e).with_context(|| format!("read {}", Path::new(&own).display())),
    };
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Source::Text { name, text, ignore })
}

fn pairs(what: &str, list: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let split = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| format!("{what} {text:?} is not NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    list.iter().map(split).collect()
}

/// `key=value` between commas.
fn fields(text: &str) -> anyhow::Result<BTreeMap<&str, &str>> {
    text.split(',').map(|f| f.split_once('=').with_context(|| format!("{f:?} is not KEY=VALUE"))).collect()
}

/// `id=x,src=file`, `id=x,env=NAME`.
fn secret(text: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let mut fields = fields(text).context("--secret")?;
    let kind = fields.remove("type");
    let path = fields.remove("src").or(fields.remove("source"));
    let variable = fields.remove("env");
    let id = fields.remove("id").with_context(|| format!("--secret {text:?} has no id"))?;
    if let Some(other) = fields.keys().next() {
        bail!("--secret: unexpected key {other:?}");
    }
    let value = match (kind, path, variable) {
        (Some("env"), None, None) | (None, None, None) if std::env::var_os(id).is_some() => {
            std::env::var(id)?.into_bytes()
        }
        (None | Some("env"), None, Some(name)) => {
            std::env::var(name).with_context(|| format!("secret {id}: variable {name}"))?.into_bytes()
        }
        (None | Some("file"), path, None) => {
            let path = path.unwrap_or(id);
            let file = std::fs::File::open(path).with_context(|| format!("secret {id}: open {path}"))?;
            let mut bytes = Vec::new();
            file.take(SECRET_MAX + 1).read_to_end(&mut bytes).with_context(|| format!("secret {id}: read {path}"))?;
            bytes
        }
        _ => bail!("--secret {text:?}: it is id=ID,src=FILE or id=ID,env=NAME"),
    };
    if value.len() as u64 > SECRET_MAX {
        bail!("secret {id} is larger than {SECRET_MAX} bytes");
    }
    Ok((id.to_owned(), value))
}

/// `type=oci,dest=FILE`, or a folder's path alone.
fn output(text: &str, options: &mut Options) -> anyhow::Result<()> {
    if !text.contains('=') {
        options.output = Output::Local(PathBuf::from(text));
        return Ok(());
    }
    let mut fields = fields(text).context("--output")?;
    let kind = fields.remove("type").context("--output has no type")?;
    let dest = fields.remove("dest").map(PathBuf::from);
    if let Some(name) = fields.remove("name") {
        options.names.extend(name.split('|').map(str::to_owned));
    }
    match fields.remove("compression") {
        None | Some("gzip") => {}
        Some("zstd") => options.compression = Compression::Zstd,
        Some(other) => bail!("--output compression {other:?} is not supported: it is gzip or zstd"),
    }
    if let Some(other) = fields.keys().next() {
        bail!("--output: {other:?} is not supported");
    }
    let place = || {
        dest.clone().filter(|d| d != Path::new("-")).with_context(|| format!("--output type={kind} needs dest=PATH"))
    };
    options.output = match kind {
        "image" => Output::Image,
        "cacheonly" => Output::CacheOnly,
        "oci" => Output::Oci(place()?),
        "docker" if dest.is_none() => Output::Image,
        "docker" => Output::Docker(place()?),
        "local" => Output::Local(place()?),
        "tar" => Output::Tar(place()?),
        other => bail!("--output type {other:?} is not supported: it is image, oci, docker, local, tar or cacheonly"),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_and_secrets_are_read() {
        let of = |text: &str| {
            let mut options = Options::new();
            output(text, &mut options).map(|()| options)
        };
        assert_eq!(of("type=oci,dest=/x.tar,compression=zstd").unwrap().output, Output::Oci("/x.tar".into()));
        assert_eq!(of("out").unwrap().output, Output::Local("out".into()));
        assert_eq!(of("type=image,name=a:1").unwrap().names, ["a:1"]);
        for bad in ["type=oci", "type=registry", "type=image,push=true", "dest=x", "type=image,compression=xz"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(secret("src=x").is_err() && secret("id=x,mode=1").is_err() && secret("id=x,src=/nonexistent").is_err());
    }
}
