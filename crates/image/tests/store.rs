//! The store on disk: names, removal, archives, snapshots, several processes.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use image::{ArchiveFormat, ImageError, ImageStore, ImportConfig, RootFs};
use support::{Fixture, root, tar_of, tree};

#[test]
fn an_imported_file_system_is_an_image_with_its_settings() {
    if !root() {
        return;
    }
    let f = Fixture::new();
    let image = f.import("app:1", &[("bin/", b""), ("bin/app", b"#!")]);
    assert_eq!(image.references, ["docker.io/library/app:1"]);
    let config = image.config.config().as_ref().unwrap();
    assert_eq!(config.entrypoint().as_ref().unwrap(), &["/bin/app"]);
    assert_eq!(config.cmd().as_ref().unwrap(), &["--flag"]);
    assert_eq!(config.user().as_deref(), Some("1000:1000"));
    assert_eq!(config.exposed_ports().as_ref().unwrap(), &["80/tcp"]);
    assert_eq!(image.size_bytes, 2);
    // The same once more is the same image; by name, id, prefix.
    assert_eq!(f.import("app:1", &[("bin/", b""), ("bin/app", b"#!")]).id, image.id);
    for text in ["app:1", "docker.io/library/app:1", image.id.as_str(), image.id.hex(), &image.id.hex()[..12]] {
        assert_eq!(f.store.get(text).unwrap().unwrap().id, image.id, "{text}");
    }
    assert_eq!(f.store.get("app").unwrap(), None);
    assert_eq!(f.leftovers(), Vec::<String>::new());
}

#[test]
fn a_damaged_archive_is_named_and_leaves_nothing() {
    if !root() {
        return;
    }
    let f = Fixture::new();
    let bad = f.path("bad.tar");
    fs::write(&bad, vec![7; 4096]).unwrap();
    let error = f.store.import_rootfs(&bad, "app", &ImportConfig::default()).unwrap_err().to_string();
    assert!(error.contains("bad archive") && error.contains("bad.tar"), "{error}");
    let error = f.store.load_archive(&bad).unwrap_err().to_string();
    assert!(error.contains("bad archive"), "{error}");
    assert_eq!(f.store.list().unwrap(), []);
    assert_eq!(f.leftovers(), Vec::<String>::new());
}

#[test]
fn removing_the_last_name_removes_what_only_that_image_needed() {
    if !root() {
        return;
    }
    let f = Fixture::new();
    let a = f.import("a", &[("a", b"a")]);
    let b = f.import("b", &[("b", b"b")]);
    f.store.tag("a", "also-a:2").unwrap();
    let none = BTreeSet::new();
    let removed = f.store.remove("a", &none).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len()), (1, 0));
    assert!(matches!(f.store.remove("also-a:2", &[a.id.clone()].into()), Err(ImageError::InUse { .. })));
    let removed = f.store.remove("also-a:2", &none).unwrap();
    assert_eq!(removed.deleted, [a.id]);
    assert!(removed.freed_bytes > 0 && !removed.deferred);
    assert!(matches!(f.store.remove("a", &none), Err(ImageError::NotFound(_))));
    assert_eq!(f.store.list().unwrap(), std::slice::from_ref(&b));
    assert_eq!(fs::read_dir(f.path("images/layers")).unwrap().count(), 1);
    assert_eq!(f.store.disk_usage().unwrap().reclaimable_bytes, 0);

    // A name that moves on leaves an image without one, which prune takes.
    f.import("b", &[("b", b"new")]);
    assert!(f.store.disk_usage().unwrap().reclaimable_bytes > 0);
    assert!(f.store.prune_except(&[b.id.clone()].into()).unwrap().deleted.is_empty());
    assert_eq!(f.store.prune().unwrap().deleted, [b.id]);
    assert_eq!(f.store.list().unwrap().len(), 1);
}

#[test]
fn archives_of_both_kinds_bring_the_image_back() {
    if !root() {
        return;
    }
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        let f = Fixture::new();
        let image = f.import("app:1", &[("bin/", b""), ("bin/app", b"#!"), ("bin/.wh.old", b"")]);
        f.store.tag("app:1", "reg.example:5000/team/app:v2").unwrap();
        let archive = f.path("app.tar");
        f.store.save(&["app:1", "reg.example:5000/team/app:v2"], &archive, format).unwrap();
        let plain = fs::read(&archive).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        for packed in [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap()] {
            let other = Fixture::new();
            let path = other.path("in");
            fs::write(&path, packed).unwrap();
            let ids: BTreeSet<_> = other.store.load_archive(&path).unwrap().into_iter().map(|i| i.id).collect();
            assert_eq!(ids, [image.id.clone()].into());
            let loaded = other.store.get("app:1").unwrap().unwrap();
            assert_eq!(loaded.references, ["docker.io/library/app:1", "reg.example:5000/team/app:v2"]);
            assert_eq!((&loaded.layers, &loaded.config), (&image.layers, &image.config));
            if format == ArchiveFormat::Oci {
                assert_eq!(loaded.manifest_digest, image.manifest_digest);
            }
            let fs_of = |f: &Fixture| f.path("images/layers").join(image.layers[0].hex()).join("fs");
            assert_eq!(tree(&fs_of(&other)), tree(&fs_of(&f)));
            assert_eq!(other.leftovers(), Vec::<String>::new());
        }
    }
}

#[test]
fn skopeo_reads_our_archives_and_we_read_its() {
    if !root() {
        return;
    }
    if Command::new("skopeo").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: skopeo is not installed");
        return;
    }
    let f = Fixture::new();
    let image = f.import("app:1", &[("bin/", b""), ("bin/app", b"#!")]);
    for (format, from) in [(ArchiveFormat::Docker, "docker-archive"), (ArchiveFormat::Oci, "oci-archive")] {
        let archive = f.path(&format!("{from}.tar"));
        f.store.save(&["app:1"], &archive, format).unwrap();
        for to in ["docker-archive", "oci-archive"] {
            if (from, to) == ("oci-archive", "docker-archive") {
                // skopeo does not put zstd layers into Docker's format.
                continue;
            }
            let copy = f.path(&format!("{from}-{to}.tar"));
            let output = Command::new("skopeo")
                .args(["--insecure-policy", "copy"])
                .arg(format!("{from}:{}", archive.display()))
                .arg(format!("{to}:{}:docker.io/library/app:copy", copy.display()))
                .output()
                .unwrap();
            assert!(output.status.success(), "{from} to {to}: {}", String::from_utf8_lossy(&output.stderr));
            let other = Fixture::new();
            let loaded = other.store.load_archive(&copy).unwrap();
            assert_eq!(loaded[0].layers, image.layers);
            assert_eq!(loaded[0].references, ["docker.io/library/app:copy"], "{to}");
        }
    }
}

#[test]
fn an_archive_that_lies_about_its_content_is_refused() {
    if !root() {
        return;
    }
    let f = Fixture::new();
    let image = f.import("app:1", &[("f", b"content")]);
    let archive = f.path("app.tar");
    f.store.save(&["app:1"], &archive, ArchiveFormat::Oci).unwrap();
    // The same archive with one byte of its layer changed.
    let manifest: serde_json::Value = {
        let hex = image.manifest_digest.hex();
        serde_json::from_slice(&fs::read(f.path("images/blobs/sha256").join(hex)).unwrap()).unwrap()
    };
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let mut forged = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(fs::File::open(&archive).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut header = entry.header().clone();
        let name = entry.path().unwrap().into_owned();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        if name == Path::new(&layer) {
            let middle = data.len() / 2;
            data[middle] ^= 1;
        }
        forged.append_data(&mut header, &name, &data[..]).unwrap();
    }
    let path = f.path("forged.tar");
    fs::write(&path, forged.into_inner().unwrap()).unwrap();
    let other = Fixture::new();
    let error = other.store.load_archive(&path).unwrap_err();
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    assert_eq!(other.store.list().unwrap(), []);
}

#[test]
fn a_container_sees_the_image_and_keeps_what_it_writes() {
    if !root() {
        return;
    }
    let f = Fixture::new();
    let image = f.import("app", &[("etc/", b""), ("etc/a", b"image"), ("etc/b", b"image")]);
    let rootfs = f.store.snapshot("c1", &image).unwrap();
    let target = f.path("merged");
    fs::create_dir(&target).unwrap();
    rootfs.mount(&target).unwrap();
    assert_eq!(fs::read(target.join("etc/a")).unwrap(), b"image");
    fs::write(target.join("etc/a"), "container").unwrap();
    fs::remove_file(target.join("etc/b")).unwrap();
    assert!(matches!(f.store.remove_snapshot("c1"), Err(ImageError::InUse { .. })));
    RootFs::unmount(&target).unwrap();
    RootFs::unmount(&target).unwrap();

    let again = ImageStore::open(&f.path("images")).unwrap().snapshot("c1", &image).unwrap();
    assert_eq!(again, rootfs);
    again.mount(&target).unwrap();
    assert_eq!(fs::read(target.join("etc/a")).unwrap(), b"container");
    assert!(!target.join("etc/b").exists());
    RootFs::unmount(&target).unwrap();
    assert!(f.store.snapshot_usage("c1").unwrap() > 0);

    let none = BTreeSet::new();
    assert!(matches!(f.store.remove("app", &none), Err(ImageError::InUse { .. })));
    assert_eq!(f.store.snapshots().unwrap(), ["c1"]);
    f.store.remove_snapshot("c1").unwrap();
    f.store.remove_snapshot("c1").unwrap();
    assert!(f.store.snapshots().unwrap().is_empty());
    f.store.remove("app", &none).unwrap();
    for key in ["", "..", ".hidden", "a/b", "a b"] {
        assert!(matches!(f.store.snapshot(key, &image), Err(ImageError::InvalidName { .. })), "{key}");
    }
}

#[test]
fn many_layers_and_awkward_paths_still_mount() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("with:colon,comma").join("x".repeat(100));
    let make = |name: &str| {
        let path = base.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let lower: Vec<_> = (0..120).map(|n| make(&format!("layer-{n}"))).collect();
    for (n, path) in lower.iter().enumerate() {
        fs::write(path.join(format!("f{n}")), "x").unwrap();
    }
    let rootfs = RootFs { lower, upper: make("upper"), work: make("work") };
    let target = make("target");
    rootfs.mount(&target).unwrap();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 120);
    RootFs::unmount(&target).unwrap();
}

/// Run by the test below in processes of their own.
#[test]
fn worker_of_the_concurrency_test() {
    let Ok(dir) = std::env::var("WINDLASS_IMAGE_WORKER") else { return };
    let dir = Path::new(&dir);
    let own = std::env::var("WINDLASS_IMAGE_WORKER_ID").unwrap();
    for round in 0..8 {
        let store = ImageStore::open(&dir.join("images")).unwrap();
        let tar = dir.join(format!("in-{own}.tar"));
        fs::write(&tar, tar_of(&[("shared", format!("{round}").as_bytes())])).unwrap();
        let own_name = format!("own-{own}:{round}");
        store.import_rootfs(&tar, "shared:latest", &ImportConfig::default()).unwrap();
        let image = store.import_rootfs(&tar, &own_name, &ImportConfig::default()).unwrap();
        store.snapshot(&format!("c-{own}-{round}"), &image).unwrap();
        store.list().unwrap();
        store.prune().unwrap();
        store.remove_snapshot(&format!("c-{own}-{round}")).unwrap();
        assert_eq!(store.get(&own_name).unwrap().unwrap().id, image.id);
    }
}

#[test]
fn processes_share_a_store_without_harming_each_other() {
    if !root() {
        return;
    }
    let f = Fixture::new();
    let children: Vec<_> = (0..3)
        .map(|n| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "worker_of_the_concurrency_test", "--nocapture"])
                .env("WINDLASS_IMAGE_WORKER", f.dir.path())
                .env("WINDLASS_IMAGE_WORKER_ID", n.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let images = f.store.list().unwrap();
    assert_eq!(images.len(), 8);
    for image in &images {
        assert_eq!(image.references.iter().filter(|r| r.contains("own-")).count(), 3);
        // Every layer is whole.
        let rootfs = f.store.snapshot("check", image).unwrap();
        assert!(rootfs.lower[0].join("shared").exists());
        f.store.remove_snapshot("check").unwrap();
    }
    assert!(!f.store.prune().unwrap().deferred);
    assert_eq!(f.leftovers(), Vec::<String>::new());
}

#[test]
fn what_a_dead_process_left_half_done_is_cleared_at_the_next_open() {
    let f = Fixture::new();
    fs::create_dir_all(f.path("images/tmp/999-0-0/fs")).unwrap();
    ImageStore::open(&f.path("images")).unwrap();
    assert_eq!(f.leftovers(), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_called_that_and_leaves_the_store_whole() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, Some("size=2m")).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), tar_of(&[("big", &support::noise(8 << 20, 5))])).unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let error = store.import_rootfs(outside.path(), "big", &ImportConfig::default()).unwrap_err();
    assert!(matches!(error, ImageError::NoSpace(_)), "{error}");
    assert!(store.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    nix::mount::umount(dir.path()).unwrap();
}
