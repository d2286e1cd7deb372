//! `windlass image …`: the image store of this host. Works whether or not the instance runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::SystemTime;

use anyhow::Context;
use base::instance::Instance;
use image::{ArchiveFormat, Auth, Digest, ImageInfo, ImageStore, ImportConfig, ProgressEvent, Reference};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::{ImageVerb, ImportArgs};
use crate::printer;

/// Hex digits of a shortened digest, as docker prints them.
const SHORT: usize = 12;

/// Runs one image verb.
pub fn run(instance: &Instance, verb: ImageVerb) -> anyhow::Result<ExitCode> {
    // Keys are made anywhere, by anybody.
    if let ImageVerb::GenerateKeyPair { output_key_prefix } = &verb {
        super::signing::generate(output_key_prefix)?;
        return Ok(ExitCode::SUCCESS);
    }
    crate::preflight::root()?;
    let root = instance.data_dir().join("images");
    crate::preflight::data_dir(instance.data_dir())?;
    let store = ImageStore::open(&root).with_context(|| format!("open the image store {}", root.display()))?;
    match verb {
        ImageVerb::Import(args) => import(&store, args)?,
        ImageVerb::Load { archive } => {
            for image in store.load_archive(&archive)? {
                println!("Loaded image: {}", first_name(&image));
            }
        }
        ImageVerb::List { quiet } => list(&store, quiet)?,
        ImageVerb::Pull { reference } => super::short_lived(transfer(&store, &reference, Way::Pull))?,
        ImageVerb::Push { reference } => super::short_lived(transfer(&store, &reference, Way::Push))?,
        ImageVerb::Tag { source, target } => store.tag(&source, &target)?,
        ImageVerb::Save { references, output } => {
            let references: Vec<&str> = references.iter().map(String::as_str).collect();
            store.save(&references, &output, ArchiveFormat::Docker)?;
        }
        ImageVerb::Remove { references } => {
            for reference in references {
                print_removed(&store.remove(&reference, &BTreeSet::new())?);
            }
        }
        ImageVerb::GenerateKeyPair { .. } => {}
        ImageVerb::Sbom { reference } => {
            let image = store.get(&reference)?.with_context(|| format!("no such image: {reference}"))?;
            println!("{:#}", store.sbom(&image)?);
        }
        ImageVerb::Sign { reference, key } => super::short_lived(super::signing::sign(&store, &reference, &key))?,
        ImageVerb::Verify { reference, key } => super::short_lived(super::signing::verify(&store, &reference, &key))?,
        ImageVerb::Prune => {
            let removed = store.prune()?;
            print_removed(&removed);
            println!("Total reclaimed space: {}", printer::size(removed.freed_bytes));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_removed(removed: &image::Removed) {
    removed.untagged.iter().for_each(|n| println!("Untagged: {n}"));
    removed.deleted.iter().for_each(|d| println!("Deleted: {d}"));
    if removed.deferred {
        println!(
            "Content stays for now: something is being pulled or loaded. Free it later with: windlass image prune"
        );
    }
}

fn first_name(image: &ImageInfo) -> String {
    image.references.first().map_or_else(|| image.id.to_string(), |r| familiar(r))
}

fn familiar(reference: &str) -> String {
    reference.parse::<Reference>().map_or_else(|_| reference.to_owned(), |r| r.familiar())
}

fn import(store: &ImageStore, args: ImportArgs) -> anyhow::Result<()> {
    let mut labels = Vec::new();
    for label in args.label {
        let (name, value) = label.split_once('=').with_context(|| format!("label {label:?} is not NAME=VALUE"))?;
        labels.push((name.to_owned(), value.to_owned()));
    }
    if let Some(bad) = args.env.iter().find(|e| !e.contains('=')) {
        anyhow::bail!("environment {bad:?} is not NAME=VALUE");
    }
    let config = ImportConfig {
        entrypoint: args.entrypoint,
        cmd: args.cmd,
        env: args.env,
        user: args.user,
        workdir: args.workdir,
        exposed_ports: args.expose,
        labels,
        stop_signal: args.stop_signal,
        created: None,
    };
    let image = store.import_rootfs(&args.tarball, &args.tag, &config)?;
    println!("{}", image.id);
    Ok(())
}

fn list(store: &ImageStore, quiet: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for image in store.list()? {
        if quiet {
            println!("{}", short(&image.id));
            continue;
        }
        let age = image.created.as_deref().map_or_else(|| "-".into(), |c| age(c, SystemTime::now()));
        let names = if image.references.is_empty() { vec!["<none>".to_owned()] } else { image.references.clone() };
        for name in names {
            let name = familiar(&name);
            let (repository, tag) = match name.rsplit_once(':') {
                Some((r, t)) if !t.contains('/') => (r.to_owned(), t.to_owned()),
                _ => (name, "<none>".to_owned()),
            };
            rows.push(vec![repository, tag, short(&image.id), age.clone(), printer::size(image.size_bytes)]);
        }
    }
    if !quiet {
        rows.sort();
        printer::table(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows);
    }
    Ok(())
}

fn short(digest: &Digest) -> String {
    let text = digest.to_string();
    let hex = text.split_once(':').map_or(text.as_str(), |(_, h)| h);
    hex.chars().take(SHORT).collect()
}

/// `3 days ago`, as docker prints it; `-` for what is not a time.
fn age(created: &str, now: SystemTime) -> String {
    let Ok(then) = created.parse::<jiff::Timestamp>() else { return "-".into() };
    let now = jiff::Timestamp::try_from(now).unwrap_or(then);
    let seconds = (now.as_second() - then.as_second()).max(0);
    let (n, unit) = match seconds {
        s if s < 60 => (s, "second"),
        s if s < 3600 => (s / 60, "minute"),
        s if s < 86_400 => (s / 3600, "hour"),
        s if s < 86_400 * 30 => (s / 86_400, "day"),
        s if s < 86_400 * 365 => (s / (86_400 * 30), "month"),
        s => (s / (86_400 * 365), "year"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

enum Way {
    Pull,
    Push,
}

async fn transfer(store: &ImageStore, reference: &str, way: Way) -> anyhow::Result<()> {
    let name: Reference = reference.parse()?;
    let auth = Auth::saved(&name)?;
    let progress = Layers::new();
    let see = |event: ProgressEvent| progress.see(event);
    match way {
        Way::Pull => {
            let image = store.pull(reference, auth, &see).await?;
            progress.clear();
            println!("Digest: {}", image.manifest_digest);
            println!("{}", name.familiar());
        }
        Way::Push => {
            let digest = store.push(reference, auth, &see).await?;
            progress.clear();
            println!("{}: digest: {digest}", name.tag().unwrap_or("latest"));
        }
    }
    Ok(())
}

/// A line per layer on a terminal; a line per finished layer elsewhere.
struct Layers {
    screen: Option<MultiProgress>,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Layers {
    fn new() -> Self {
        Layers { screen: std::io::stderr().is_terminal().then(MultiProgress::new), bars: Mutex::default() }
    }

    fn bar(&self, digest: &Digest, total: u64) -> Option<ProgressBar> {
        let screen = self.screen.as_ref()?;
        let mut bars = self.bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bar = bars.entry(digest.to_string()).or_insert_with(|| {
            let bar = screen.add(ProgressBar::new(total));
            let style = ProgressStyle::with_template("{prefix}: {msg:<12} {bar:30} {bytes}/{total_bytes}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(short(digest));
            bar
        });
        bar.set_length(total);
        Some(bar.clone())
    }

    fn see(&self, event: ProgressEvent) {
        match event {
            ProgressEvent::Transfer { digest, done, total } => {
                if let Some(bar) = self.bar(&digest, total) {
                    bar.set_message("Transferring");
                    bar.set_position(done);
                }
            }
            ProgressEvent::Unpacking { digest } => self.say(&digest, "Extracting"),
            ProgressEvent::Exists { digest } => self.finish(&digest, "Already exists"),
            ProgressEvent::Done { digest } => self.finish(&digest, "Complete"),
            ProgressEvent::Retry { digest, reason } => eprintln!("{}: again, after: {reason}", short(&digest)),
            _ => {}
        }
    }

    fn say(&self, digest: &Digest, message: &'static str) {
        let bars = self.bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bar) = bars.get(&digest.to_string()) {
            bar.set_message(message);
        }
    }

    fn finish(&self, digest: &Digest, message: &'static str) {
        if self.screen.is_none() {
            eprintln!("{}: {message}", short(digest));
            return;
        }
        let bars = self.bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bar) = bars.get(&digest.to_string()) {
            bar.finish_with_message(message);
        }
    }

    fn clear(&self) {
        if let Some(screen) = &self.screen {
            let _ = screen.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_like_dockers() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400 * 3);
        assert_eq!(age("1970-01-01T00:00:00Z", now), "3 days ago");
        assert_eq!(age("1970-01-03T23:59:00Z", now), "1 minute ago");
        assert_eq!(age("yesterday", now), "-");
    }
}
