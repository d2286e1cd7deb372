//! `cargo xtask tidy`: the house rules that the compiler does not know. One line per finding,
//! `path:line: rule: what to do`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

mod conformance;
mod docs;
mod lex;
mod manifest;
mod source;

/// A rule broken somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// From the root of the workspace.
    path: String,
    /// From 1.
    line: usize,
    rule: &'static str,
    advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.advice)
    }
}

/// Checks the tree, prints what it finds, and says whether all is well.
pub fn run(root: &Path) -> Result<bool> {
    let files = read(root)?;
    let findings = check(&files);
    for finding in &findings {
        println!("{finding}");
    }
    eprintln!("tidy: {} files, {} findings", files.len(), findings.len());
    Ok(findings.is_empty())
}

/// Writes the page that says which entries of Kubernetes' conformance list have a test.
pub fn conformance(root: &Path) -> Result<()> {
    let page = conformance::render(&read(root)?);
    let path = root.join(conformance::PAGE);
    std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))
}

/// All rules over all files: path from the root → text.
fn check(files: &BTreeMap<String, String>) -> BTreeSet<Finding> {
    let mut findings = BTreeSet::new();
    let sources: Vec<_> =
        files.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(p, t)| source::Source::new(p, t)).collect();
    let only_for_tests: BTreeSet<String> = sources.iter().flat_map(source::Source::test_modules).collect();
    for source in sources {
        findings.extend(source.tested_if(&only_for_tests).check());
    }
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
        findings.extend(manifest::check(path, text));
    }
    findings.extend(docs::check(files));
    findings.extend(conformance::check(files));
    findings
}

/// What is checked: Rust, manifests, the pages at the root and the generated one, without hidden folders and build output.
fn read(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                // A folder called `target` is build output where a manifest stands beside it.
                let built = name == "target" && folder.join("Cargo.toml").exists();
                if !name.starts_with('.') && !built {
                    folders.push(path);
                }
                continue;
            }
            let inside = path.strip_prefix(root).expect("the walk began at the root").to_string_lossy().into_owned();
            let page = inside == conformance::PAGE || (folder == root && name.ends_with(".md"));
            if name.ends_with(".rs") || name == "Cargo.toml" || page {
                let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                files.insert(inside, text);
            }
        }
    }
    Ok(files)
}
