use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;

use super::*;
use crate::files::choose::{Request, choose, digest};
use crate::pattern::Ignore;

struct Place {
    dir: tempfile::TempDir,
    ignore: Ignore,
    exclude: Ignore,
    parents: bool,
}

impl Place {
    /// A context: files and folders, with a few things that try to get out.
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("context");
        fs::create_dir_all(context.join("src/deep")).unwrap();
        fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        for (name, text) in [("a.txt", "a"), ("b.txt", "b"), ("src/main.rs", "m"), ("src/deep/x.log", "x")] {
            fs::write(context.join(name), text).unwrap();
        }
        fs::set_permissions(context.join("a.txt"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("main.rs", context.join("src/link")).unwrap();
        symlink("src", context.join("to-src")).unwrap();
        symlink("../../outside", context.join("escape")).unwrap();
        fs::write(dir.path().join("outside"), "host").unwrap();
        Place { dir, ignore: Ignore::default(), exclude: Ignore::default(), parents: false }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn chosen(&self, sources: &[&str]) -> io::Result<Vec<Chosen>> {
        let sources: Vec<String> = sources.iter().map(|s| (*s).to_owned()).collect();
        choose(&Request {
            root: Arc::new(Root::open(&self.dir.path().join("context")).unwrap()),
            sources: &sources,
            ignore: &self.ignore,
            exclude: &self.exclude,
            parents: self.parents,
        })
    }

    fn copy(&self, sources: &[&str], target: &str) -> io::Result<()> {
        let into = Root::open(&self.root()).unwrap();
        let owner = Owner { uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw() };
        put(&self.chosen(sources)?, &Put { into: &into, target, owner, modes: None, parents: self.parents })
    }

    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.root().join(path)).is_ok()
    }
}

#[test]
fn files_go_where_docker_puts_them() {
    for (sources, target, want) in [
        (&["a.txt"][..], "/x", &["x"][..]),
        (&["a.txt"], "/x/", &["x/a.txt"]),
        (&["a.txt"], "/etc", &["etc/a.txt"]),
        (&["a.txt"], "/new/deep/y", &["new/deep/y"]),
        (&["src"], "/app", &["app/main.rs", "app/deep/x.log", "app/link"]),
        (&["src/"], "/app/", &["app/main.rs"]),
        (&["to-src"], "/app", &["app/main.rs"]),
        (&["."], "/all", &["all/a.txt", "all/src/main.rs", "all/escape"]),
        (&["*.txt"], "/t/", &["t/a.txt", "t/b.txt"]),
        (&["a.txt", "src"], "/m/", &["m/a.txt", "m/main.rs"]),
        (&["s*/main.??"], "/w/", &["w/main.rs"]),
        (&["*.none"], "/w/", &[]),
    ] {
        let place = Place::new();
        place.copy(sources, target).unwrap();
        for path in want {
            assert!(place.has(path), "{sources:?} to {target}: no {path}");
        }
    }
    let place = Place::new();
    place.copy(&["a.txt"], "/x").unwrap();
    let meta = fs::metadata(place.root().join("x")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o640);
    assert_eq!(meta.mtime(), fs::metadata(place.dir.path().join("context/a.txt")).unwrap().mtime());
}

#[test]
fn parents_are_kept_on_request() {
    let mut place = Place::new();
    place.parents = true;
    place.copy(&["src/deep/x.log"], "/p").unwrap();
    place.copy(&["src/./deep/x.log"], "/q").unwrap();
    place.copy(&["**/*.log"], "/r").unwrap();
    assert!(place.has("p/src/deep/x.log") && place.has("q/deep/x.log") && place.has("r/src/deep/x.log"));
}

#[test]
fn what_is_ignored_is_not_there() {
    let mut place = Place::new();
    place.ignore = Ignore::read("**/*.log\nb.txt\n").unwrap();
    place.exclude = Ignore::of(["main.rs"]).unwrap();
    place.copy(&["."], "/all").unwrap();
    place.copy(&["src"], "/src").unwrap();
    assert!(place.has("all/a.txt") && place.has("all/src/deep") && place.has("src/link"));
    assert!(!place.has("all/b.txt") && !place.has("all/src/deep/x.log") && !place.has("src/main.rs"));
    assert_eq!(place.copy(&["b.txt"], "/x").unwrap_err().to_string(), "\"/b.txt\": not found");
    assert_eq!(place.copy(&["none"], "/x").unwrap_err().to_string(), "\"/none\": not found");
}

#[test]
fn neither_side_leads_to_the_host() {
    let place = Place::new();
    // The link's text is copied with a folder; named itself, it leads nowhere inside the context.
    assert!(place.copy(&["escape"], "/x").is_err());
    assert!(place.copy(&["../../outside"], "/x").is_err());
    symlink("/../../..", place.root().join("up")).unwrap();
    place.copy(&["a.txt"], "/up/made").unwrap();
    assert!(place.has("made") && !place.dir.path().join("made").exists());
    // A link where a file goes is replaced; one where a folder goes is in the way.
    symlink(place.dir.path().join("outside"), place.root().join("x")).unwrap();
    place.copy(&["a.txt"], "/x").unwrap();
    assert_eq!(fs::read_to_string(place.dir.path().join("outside")).unwrap(), "host");
    symlink(place.dir.path(), place.root().join("deep")).unwrap();
    let error = place.copy(&["src"], "/").unwrap_err().to_string();
    assert!(error.starts_with("cannot copy to non-directory: /deep"), "{error}");
    fs::create_dir(place.root().join("main.rs")).unwrap();
    assert!(place.copy(&["src/main.rs"], "/main.rs/").is_ok());
    fs::remove_file(place.root().join("main.rs/main.rs")).unwrap();
    fs::create_dir(place.root().join("main.rs/main.rs")).unwrap();
    let error = place.copy(&["src/main.rs"], "/main.rs/").unwrap_err().to_string();
    assert!(error.starts_with("cannot replace to directory"), "{error}");
}

#[test]
fn the_digest_is_of_content_names_and_modes_only() {
    let place = Place::new();
    let now = || digest(&place.chosen(&["."]).unwrap()).unwrap();
    let before = now();
    let file = place.dir.path().join("context/a.txt");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(99);
    fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    assert_eq!(now(), before);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let other = now();
    assert_ne!(other, before);
    fs::write(&file, "changed").unwrap();
    assert_ne!(now(), other);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(&file, "a").unwrap();
    assert_eq!(now(), before);
}
