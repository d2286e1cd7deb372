//! `windlass image generate-key-pair`, `sign` and `verify`: signatures as cosign makes them.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use image::{Auth, ImageStore, PublicKey, Reference, SigningKey};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// As cosign's users have it in their pipelines.
const PASSWORD: &str = "COSIGN_PASSWORD";
/// Longest file of a key, bytes.
const KEY_MAX: u64 = 64 << 10;

/// A password: of the environment, else asked for, else a line of standard input.
fn password(twice: bool) -> anyhow::Result<String> {
    if let Ok(password) = std::env::var(PASSWORD) {
        return Ok(password);
    }
    let line = || {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("read the password")?;
        anyhow::Ok(line.trim_end_matches(['\n', '\r']).to_owned())
    };
    if !std::io::stdin().is_terminal() {
        return line();
    }
    let asked = |what: &str| {
        eprint!("{what}");
        std::io::stderr().flush()?;
        let before = tcgetattr(std::io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &quiet)?;
        let read = line();
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before)?;
        eprintln!();
        read
    };
    let password = asked("Enter password for private key: ")?;
    ensure!(!twice || asked("Enter password for private key again: ")? == password, "passwords do not match");
    Ok(password)
}

fn file(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;

    let mut text = String::new();
    let open = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    open.take(KEY_MAX).read_to_string(&mut text).with_context(|| format!("read {}", path.display()))?;
    Ok(text)
}

/// Makes a pair; files that are there stay.
pub fn generate(prefix: &Path) -> anyhow::Result<()> {
    let named = |extension: &str| {
        let mut name = prefix.as_os_str().to_owned();
        name.push(extension);
        PathBuf::from(name)
    };
    let (private, public) = (named(".key"), named(".pub"));
    if let Some(there) = [&private, &public].iter().find(|path| path.exists()) {
        bail!("{} exists already", there.display());
    }
    let pair = SigningKey::generate(password(true)?.as_bytes())?;
    for (path, text, mode) in [(&private, pair.private, 0o600), (&public, pair.public, 0o644)] {
        let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let written = open.and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| format!("write {}", path.display()))?;
    }
    println!("Private key written to {}\nPublic key written to {}", private.display(), public.display());
    Ok(())
}

/// Signs what a name means in its registry.
pub async fn sign(store: &ImageStore, reference: &str, key: &Path) -> anyhow::Result<()> {
    let text = file(key)?;
    let sealed = text.contains("ENCRYPTED");
    let password = if sealed { password(false)? } else { String::new() };
    let key = SigningKey::read(&text, password.as_bytes()).with_context(|| format!("key {}", key.display()))?;
    let signed = store.sign(reference, &key, Auth::saved(&reference.parse::<Reference>()?)?).await?;
    println!("Digest: {}\nPushed signature to: {}", signed.digest, signed.signatures);
    Ok(())
}

/// Checks the signatures of what a name means in its registry, and prints what was signed.
pub async fn verify(store: &ImageStore, reference: &str, keys: &[PathBuf]) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for path in keys {
        all.extend(PublicKey::read_all(&file(path)?).with_context(|| format!("key {}", path.display()))?);
    }
    let signed = store.verify(reference, &all, Auth::saved(&reference.parse::<Reference>()?)?).await?;
    eprintln!("Verified: {}", signed.digest);
    println!("[{}]", signed.payloads.join(","));
    Ok(())
}
