//! What comes from registries and in archives of images.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::{Target, lines};

const BLOCK: usize = 512;
/// What stands beside the folder that is unpacked into, and stays as it is.
const WITNESS: &[u8] = b"not to be reached";

/// A folder in memory with `root` to unpack into and `outside`, which nothing may touch.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("windlass-fuzz-{}-{n}", std::process::id()));
        std::fs::create_dir_all(path.join("root")).expect("a folder can be made");
        std::fs::write(path.join("outside"), WITNESS).expect("a file can be written");
        Scratch(path)
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// # Panics
    /// When anything but the root was changed.
    fn untouched(&self) {
        let names = std::fs::read_dir(&self.0).expect("the folder is there").flatten().map(|e| e.file_name());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        assert_eq!(names, ["outside", "root"], "something was made outside");
        let outside = self.0.join("outside");
        let meta = std::fs::symlink_metadata(&outside).expect("it is there");
        assert!(meta.is_file() && meta.nlink() == 1, "what is outside was linked or replaced: {meta:?}");
        assert_eq!(std::fs::read(&outside).expect("it can be read"), WITNESS, "what is outside was written to");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It lies in memory, and the process ends soon.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The owner that this process may give a file.
fn own() -> (u64, u64) {
    std::fs::metadata("/proc/self").map_or((0, 0), |meta| (meta.uid().into(), meta.gid().into()))
}

fn entry(kind: tar::EntryType, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_uid(own().0);
    header.set_gid(own().1);
    header.set_mtime(1_700_000_000);
    let old = header.as_old_mut();
    // Names no decent tool would write.
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    entry(tar::EntryType::Regular, name, "", data)
}

fn layers() -> Vec<Vec<u8>> {
    use tar::EntryType as T;
    let link = |name: &str, to: &str| entry(T::Symlink, name, to, b"");
    let hard = |name: &str, to: &str| entry(T::Link, name, to, b"");
    let dir = |name: &str| entry(T::Directory, name, "", b"");
    let pax = |pairs: &[(&str, &str)]| {
        let line = |(key, value): &(&str, &str)| {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits, of which there are two.
            format!("{} {key}={value}\n", rest + 2)
        };
        let text: String = pairs.iter().map(line).collect();
        entry(T::XHeader, "pax", "", text.as_bytes())
    };
    let mut layers = vec![
        [dir("d/"), file("d/f", b"x"), hard("d/h", "d/f"), link("d/l", "../f")].concat(),
        [link("a", "../outside"), file("a", b"y"), hard("b", "../outside"), file("../outside", b"z")].concat(),
        [link("up", ".."), file("up/outside", b"y"), hard("h", "up/outside"), file("/abs", b"z")].concat(),
        [link("x", "y"), link("y", "x"), file("x/f", b"y"), link("s", "/"), dir("s/new")].concat(),
        [file("d/f", b"x"), file("d/.wh.f", b""), file("d/.wh..wh..opq", b""), file(".wh.d", b""), file(".wh.", b"")]
            .concat(),
        [file("f", b"x"), dir("f/"), file("f/g", b""), link("f", "g"), hard("f", "f"), entry(T::Fifo, "f", "", b"")]
            .concat(),
        [pax(&[("path", "../outside")]), file("n", b""), pax(&[("SCHILY.xattr.user.a", "b")]), file("x", b"")].concat(),
        [pax(&[("size", "9999999999999")]), file("n", b"abc")].concat(),
        [pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]), file("n", b"1\n0\n3\nabc")].concat(),
        [entry(T::GNULongName, "././@LongLink", "", &[b'a'; 300]), file("n", b"")].concat(),
        [entry(T::GNUSparse, "s", "", b"abc"), entry(T::Char, "c", "", b""), entry(T::XGlobalHeader, "g", "", b"")]
            .concat(),
    ];
    // Half a megabyte of nothing, in a thousandth of that.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = packed.write_all(&file("zeros", &vec![0; 512 << 10])).and_then(|()| packed.finish());
    layers.extend(written);
    layers
}

/// Headers get the checksum that they should have: what is wrong with it is seen first, and nothing else is.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (input.to_vec(), 0);
    while let Some(block) = out.get_mut(at..at + BLOCK) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if block.iter().any(|b| *b != 0) {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        let size = usize::try_from(header.entry_size().unwrap_or(0)).unwrap_or(usize::MAX);
        at = at.saturating_add(BLOCK).saturating_add(size.min(input.len()).next_multiple_of(BLOCK));
    }
    out
}

/// Layers, and contexts of builds.
pub const LAYER: Target = Target {
    name: "layer",
    about: "layers and contexts of builds, unpacked beside a file that they may not reach",
    json: false,
    seeds: layers,
    run: |input| {
        let input = if input.starts_with(&[0x1f, 0x8b]) { input.to_vec() } else { with_checksums(input) };
        let mut said = String::new();
        for plain in [false, true] {
            let scratch = Scratch::new();
            said = image::fuzz::layer(&input, &scratch.root(), plain);
            scratch.untouched();
        }
        said
    },
};

/// Members of an archive: label, name and content, in which `@label@` is the digest of a member before, and `@@` in a name its own.
fn archives() -> Vec<Vec<u8>> {
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:@layer@"]}});
    let layer = json!(["layer", "blobs/sha256/@@", {"tar": [["a", "x"], ["d/b", "y"]]}]);
    let of = |media: &str, label: &str| json!({"mediaType": media, "digest": format!("sha256:@{label}@"), "size": 1});
    let oci = "application/vnd.oci.image";
    let manifest = json!({"schemaVersion": 2, "mediaType": format!("{oci}.manifest.v1+json"),
        "config": of(&format!("{oci}.config.v1+json"), "config"), "layers": [of(&format!("{oci}.layer.v1.tar"), "layer")]});
    let mut named = of(&format!("{oci}.manifest.v1+json"), "manifest");
    named["annotations"] = json!({"io.containerd.image.name": "a:1", "org.opencontainers.image.ref.name": "1"});
    named["platform"] = json!({"architecture": "amd64", "os": "linux"});
    let head =
        [layer.clone(), json!(["config", "blobs/sha256/@@", config]), json!(["manifest", "blobs/sha256/@@", manifest])];
    let index = json!({"schemaVersion": 2, "mediaType": format!("{oci}.index.v1+json"), "manifests": [named]});
    let flat = [&head[..], &[json!(["index", "index.json", index])]].concat();
    let nested = json!({"schemaVersion": 2, "manifests": [of(&format!("{oci}.index.v1+json"), "index")]});
    let deep =
        [&head[..], &[json!(["index", "blobs/sha256/@@", index]), json!(["top", "index.json", nested])]].concat();
    let docker = json!([["layer", "l/layer.tar", {"tar": [["a", "x"]]}], ["config", "@@.json", config],
        ["again", "m/layer.tar", {"link": "../l/layer.tar"}],
        ["m", "manifest.json", [{"Config": "@config@.json", "RepoTags": ["a:1"], "Layers": ["m/layer.tar"]}]]]);
    [json!(flat), json!(deep), docker].map(|archive| archive.to_string().into_bytes()).to_vec()
}

fn hex_of(bytes: &[u8]) -> String {
    image::Digest::of(bytes).hex().to_owned()
}

/// The archive that such a list describes.
fn archive(members: &[Value]) -> Vec<u8> {
    let mut digests: BTreeMap<String, String> = BTreeMap::new();
    let mut out = Vec::new();
    for member in members {
        let label = member[0].as_str().unwrap_or_default();
        let fill =
            |text: String| digests.iter().fold(text, |text, (label, hex)| text.replace(&format!("@{label}@"), hex));
        let (mut kind, mut link) = (tar::EntryType::Regular, String::new());
        let data = match &member[2] {
            Value::String(text) => fill(text.clone()).into_bytes(),
            Value::Object(map) if map.contains_key("tar") => {
                let files = map["tar"].as_array().map(Vec::as_slice).unwrap_or_default();
                let one = |f: &Value| {
                    file(&short(f[0].as_str().unwrap_or("f")), f[1].as_str().unwrap_or_default().as_bytes())
                };
                files.iter().flat_map(one).collect()
            }
            Value::Object(map) if map.contains_key("link") => {
                (kind, link) = (tar::EntryType::Symlink, short(map["link"].as_str().unwrap_or_default()));
                Vec::new()
            }
            other => fill(other.to_string()).into_bytes(),
        };
        let hex = hex_of(&data);
        let name = fill(member[1].as_str().unwrap_or_default().replace("@@", &hex));
        out.extend(entry(kind, &short(&name), &link, &data));
        if label.len() > 2 && digests.len() < 16 {
            digests.insert(label.to_owned(), hex);
        }
    }
    out
}

/// As much of a name as a header has room for.
fn short(text: &str) -> String {
    text.chars().filter(char::is_ascii).take(100).collect()
}

/// What `docker save` and others write.
pub const ARCHIVE: Target = Target {
    name: "image-archive",
    about: "archives of images, Docker's and OCI's, loaded into a store",
    json: true,
    seeds: archives,
    run: |input| {
        let Ok(Value::Array(members)) = serde_json::from_slice(input) else { return "no list".to_owned() };
        let scratch = Scratch::new();
        let said = image::fuzz::archive(&archive(&members[..members.len().min(64)]), &scratch.root());
        scratch.untouched();
        said
    },
};

/// Manifests, indexes, configurations.
pub const DOCUMENT: Target = Target {
    name: "image-document",
    about: "manifests, indexes and configurations of images",
    json: true,
    seeds: || {
        let digest = format!("sha256:{}", "a".repeat(64));
        let of = |media: &str| json!({"mediaType": media, "digest": digest, "size": 7, "annotations": {"a": "b"}});
        let oci = "application/vnd.oci.image";
        let docker = "application/vnd.docker";
        [
            json!({"schemaVersion": 2, "config": of(&format!("{oci}.config.v1+json")), "layers": [of(&format!("{oci}.layer.v1.tar+zstd"))]}),
            json!({"schemaVersion": 2, "mediaType": format!("{docker}.distribution.manifest.v2+json"),
                "config": of(&format!("{docker}.container.image.v1+json")), "layers": [of(&format!("{docker}.image.rootfs.diff.tar.gzip"))]}),
            json!({"schemaVersion": 2, "manifests": [{"mediaType": format!("{oci}.manifest.v1+json"), "digest": digest, "size": 7,
                "platform": {"architecture": "amd64", "os": "linux", "variant": "v1"}}, of(&format!("{oci}.index.v1+json"))]}),
            json!({"architecture": "arm64", "os": "linux", "created": "2024-01-01T00:00:00Z", "variant": "v8",
                "config": {"User": "1:1", "Env": ["A=b"], "Cmd": ["x"], "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "Labels": {"a": "b"}},
                "rootfs": {"type": "layers", "diff_ids": [digest]}, "history": [{"created_by": "x", "empty_layer": true}]}),
        ]
        .map(|document| document.to_string().into_bytes())
        .to_vec()
    },
    run: image::fuzz::document,
};

/// Names of images.
pub const NAME: Target = Target {
    name: "image-name",
    about: "names of images, and headers of registries",
    json: false,
    seeds: || {
        let mut seeds = lines(
            "busybox\nindex.docker.io/a:1\nghcr.io/a_b/c__d/e--f.g\n[::1]:5000/a\nlocalhost/x:y\nFoo/bar\n\
             Bearer realm=\"https://a/token\",service=\"b\",scope=\"c\\\"d\"\nBasic realm=x\nattachment; filename=\"a/../b\"\n",
        );
        seeds.push(format!("127.0.0.1:5000/a/b:1@sha256:{}", "0".repeat(64)).into_bytes());
        seeds
    },
    run: |input| image::fuzz::name(&String::from_utf8_lossy(input)),
};
