//! Rules on the pages at the root: they name what is there.

use std::collections::BTreeMap;

use super::Finding;
use super::manifest::LAYERS;

pub fn check(files: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut report = |path: &str, advice: String| {
        found.push(Finding { path: path.to_owned(), line: 1, rule: "docs", advice });
    };
    let page = |name: &str| files.get(name).map(String::as_str);
    for (name, advice) in [
        ("README.md", "missing: say what this is, how to run it and how to test it"),
        ("ARCHITECTURE.md", "missing: say which crates there are, what each owns and may use"),
    ] {
        if page(name).is_none() {
            report(name, advice.to_owned());
        }
    }
    let Some(architecture) = page("ARCHITECTURE.md") else { return found };
    let there = LAYERS.iter().filter(|place| files.contains_key(&format!("{}/Cargo.toml", place.folder)));
    for place in there {
        if !mentions(architecture, place.name, place.folder) {
            report("ARCHITECTURE.md", format!("does not say what `{}` ({}) is for", place.name, place.folder));
        }
    }
    for named in folders_named(architecture) {
        if !files.keys().any(|path| path.starts_with(&format!("{named}/"))) {
            report("ARCHITECTURE.md", format!("names {named}, which is not there"));
        }
    }
    found
}

/// By its folder, or by its name between backticks.
fn mentions(page: &str, name: &str, folder: &str) -> bool {
    page.contains(&format!("`{name}`")) || folders(page).any(|word| word == folder)
}

fn folders(page: &str) -> impl Iterator<Item = &str> {
    page.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-'))).map(|w| w.trim_end_matches('/'))
}

/// The crates that a page names by their folder.
fn folders_named(page: &str) -> impl Iterator<Item = &str> {
    folders(page).filter(|word| word.strip_prefix("crates/").is_some_and(|rest| !rest.contains('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        check(&files).into_iter().map(|f| format!("{} {}", f.path, f.advice)).collect()
    }

    const CRATES: [(&str, &str); 3] =
        [("crates/base/Cargo.toml", ""), ("crates/net/Cargo.toml", ""), ("README.md", "")];

    #[test]
    fn every_crate_is_described() {
        let page = |text| [&CRATES[..], &[("ARCHITECTURE.md", text)]].concat();
        assert_eq!(advice(&page("`base` and crates/net/")), Vec::<String>::new());
        assert_eq!(
            advice(&page("base, crates/network and the network")),
            [
                "ARCHITECTURE.md does not say what `base` (crates/base) is for",
                "ARCHITECTURE.md does not say what `net` (crates/net) is for",
                "ARCHITECTURE.md names crates/network, which is not there",
            ]
        );
    }

    #[test]
    fn both_pages_are_there() {
        assert_eq!(advice(&CRATES).len(), 1);
        assert_eq!(advice(&[]).len(), 2);
    }
}
