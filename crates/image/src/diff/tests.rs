use std::collections::BTreeMap;
use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::unpack::{Limits, unpack};

const LIMITS: Limits = Limits { bytes: 64 << 20, entries: 1000, plain: false };

fn pack(upper: &Path, lower: &[PathBuf], latest: Option<i64>) -> (Vec<u8>, u64) {
    write_layer(&Source { upper, lower, latest, skip: &[] }, Vec::new()).unwrap()
}

fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(Cursor::new(tar));
    archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
}

#[test]
fn what_is_packed_unpacks_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (upper, back) = (dir.path().join("upper"), dir.path().join("back"));
    fs::create_dir_all(upper.join("b/deep")).unwrap();
    fs::create_dir(&back).unwrap();
    let long = "n".repeat(150);
    fs::write(upper.join("b/deep").join(&long), "long").unwrap();
    fs::write(upper.join("a"), "text").unwrap();
    fs::set_permissions(upper.join("a"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(upper.join("a"), upper.join("b/same")).unwrap();
    symlink("../a", upper.join("b/link")).unwrap();
    let (tar, entries) = pack(&upper, &[], None);
    assert_eq!(entries, 6);
    unpack("test", Cursor::new(tar), &back, LIMITS).unwrap();
    assert_eq!(fs::read_to_string(back.join("b/deep").join(&long)).unwrap(), "long");
    assert_eq!(fs::metadata(back.join("a")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(fs::metadata(back.join("a")).unwrap().ino(), fs::metadata(back.join("b/same")).unwrap().ino());
    assert_eq!(fs::read_link(back.join("b/link")).unwrap(), Path::new("../a"));
    let time = |p: &Path| fs::metadata(p).unwrap().mtime();
    assert_eq!(time(&back.join("a")), time(&upper.join("a")));
}

#[test]
fn folders_that_did_not_change_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
    for root in [&upper, &lower] {
        fs::create_dir_all(root.join("same/in")).unwrap();
        fs::create_dir_all(root.join("led")).unwrap();
    }
    fs::write(upper.join("led/file"), "x").unwrap();
    fs::create_dir(upper.join("new")).unwrap();
    let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
    for root in [&upper, &lower] {
        for name in ["same/in", "same", "led"] {
            fs::File::open(root.join(name)).unwrap().set_modified(then).unwrap();
        }
    }
    let (tar, _) = pack(&upper, std::slice::from_ref(&lower), None);
    assert_eq!(names(&tar), ["led/", "led/file", "new/"]);
}

#[test]
fn the_same_change_gives_the_same_bytes_under_a_clamp() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = BTreeMap::new();
    for (n, order) in [["a", "b", "c"], ["c", "a", "b"]].iter().enumerate() {
        let upper = dir.path().join(n.to_string());
        fs::create_dir(&upper).unwrap();
        for name in order {
            fs::write(upper.join(name), name).unwrap();
            let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000 + n as u64);
            fs::File::options().write(true).open(upper.join(name)).unwrap().set_modified(then).unwrap();
        }
        seen.insert(n, pack(&upper, &[], Some(1_000_000_000)));
    }
    assert_eq!(seen[&0], seen[&1]);
}

#[test]
fn an_empty_folder_is_no_layer() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(pack(dir.path(), &[], None).1, 0);
}

#[test]
fn a_name_that_means_removal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".wh.x"), "").unwrap();
    let source = Source { upper: dir.path(), lower: &[], latest: None, skip: &[] };
    assert!(write_layer(&source, Vec::new()).unwrap_err().to_string().contains(".wh.x"));
}

use std::time::SystemTime;

#[test]
fn what_is_to_be_left_out_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/hosts"), "").unwrap();
    fs::write(dir.path().join("etc/own"), "x").unwrap();
    let skip = [PathBuf::from("etc/hosts")];
    let source = Source { upper: dir.path(), lower: &[], latest: None, skip: &skip };
    let (tar, _) = write_layer(&source, Vec::new()).unwrap();
    assert_eq!(names(&tar), ["etc/", "etc/own"]);
}
