//! Image verbs, without a server.

use anyhow::{Result, ensure};
use e2e::{IMAGE, Instance};

pub fn images_are_imported_tagged_saved_loaded_and_removed() -> Result<()> {
    let instance = Instance::builder("images").prepare()?;
    let verb = |args: &[&str]| instance.windlass(&[&["image"], args].concat())?.ok();
    let list = verb(&["list"])?;
    let row = list.lines().find(|l| l.starts_with("windlass.local/busybox")).unwrap_or_default();
    ensure!(row.split_whitespace().nth(1) == Some("1"), "{list}");
    let id = verb(&["list", "--quiet"])?.trim().to_owned();
    ensure!(id.len() == 12 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id:?}");

    // As with docker, a name without a registry is Docker Hub's.
    verb(&["tag", IMAGE, "box:two"])?;
    let list = verb(&["ls"])?;
    ensure!(list.lines().any(|l| l.split_whitespace().take(2).eq(["box", "two"])), "{list}");
    ensure!(verb(&["list", "--quiet"])?.trim() == id, "one image with two names has two ids");

    let archive = instance.dir().join("box.tar").display().to_string();
    verb(&["save", "box:two", "--output", &archive])?;
    ensure!(verb(&["rm", "box:two"])?.contains("Untagged: "));
    ensure!(verb(&["rm", IMAGE])?.contains("Deleted: "));
    ensure!(verb(&["list", "--quiet"])?.trim().is_empty());
    ensure!(verb(&["load", &archive])?.contains("Loaded image: box:two"));
    ensure!(verb(&["list", "--quiet"])?.trim() == id, "the image came back as another");
    verb(&["prune"])?;
    ensure!(verb(&["list", "--quiet"])?.trim() == id, "prune took a named image");

    for (args, say) in
        [(&["tag", "none:1", "x:1"][..], "none:1"), (&["rm", "none:1"], "none:1"), (&["tag", IMAGE, "BAD!"], "")]
    {
        let error = instance.windlass(&[&["image"], args].concat())?;
        ensure!(error.code() == 1 && error.stderr.contains(say), "{args:?}: {error:?}");
    }
    instance.down()
}

pub fn a_broken_archive_is_refused_and_leaves_no_image() -> Result<()> {
    let instance = Instance::builder("broken").without_image().prepare()?;
    let file = instance.dir().join("broken.tar");
    std::fs::write(&file, [0x42_u8; 4096])?;
    let path = file.display().to_string();
    for args in [&["load", &path][..], &["import", &path, "--tag", "broken:1"]] {
        let output = instance.windlass(&[&["image"], args].concat())?;
        ensure!(output.code() == 1 && output.stderr.starts_with("windlass: "), "{args:?}: {output:?}");
    }
    ensure!(instance.windlass(&["image", "list", "--quiet"])?.ok()?.trim().is_empty());
    instance.down()
}
