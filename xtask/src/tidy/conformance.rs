//! Which entries of Kubernetes' conformance list a test of this repository holds, as the tests themselves say it:
//!
//! ```text
//! // conformance: [sig-apps] ReplicaSet should adopt matching pods on creation and release no longer matching pods
//! #[tokio::test]
//! async fn adopts_and_releases() {
//! ```
//!
//! The entries are the codenames of Kubernetes 1.36 without the tags at their end, one per line of `xtask/conformance.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Finding, lex};

/// The page that is written from the markers.
pub const PAGE: &str = "docs/conformance.md";

const ENTRIES: &str = include_str!("../../conformance.txt");
const MARK: &str = "// conformance:";
const RULE: &str = "conformance";

/// A claim: this function holds this entry.
#[derive(Debug, PartialEq, Eq)]
struct Marker<'a> {
    path: &'a str,
    /// From 1.
    line: usize,
    entry: &'a str,
    /// `None` when no test stands below.
    test: Option<&'a str>,
}

/// What is wrong with the markers, and whether the page is of now.
pub fn check(files: &BTreeMap<String, String>) -> Vec<Finding> {
    check_against(files, &entries(ENTRIES))
}

/// The page.
pub fn render(files: &BTreeMap<String, String>) -> String {
    page(&entries(ENTRIES), &markers(files))
}

fn entries(list: &str) -> BTreeSet<&str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

fn check_against(files: &BTreeMap<String, String>, entries: &BTreeSet<&str>) -> Vec<Finding> {
    let markers = markers(files);
    let finding = |path: &str, line, advice| Finding { path: path.to_owned(), line, rule: RULE, advice };
    let mut found = Vec::new();
    for marker in &markers {
        if !entries.contains(marker.entry) {
            let near =
                nearest(marker.entry, entries).map_or(String::new(), |near| format!("; the nearest is `{near}`"));
            found.push(finding(marker.path, marker.line, format!("no entry is called `{}`{near}", marker.entry)));
        }
        if marker.test.is_none() {
            let advice = "stands above no test: put it right above the attributes of a test function";
            found.push(finding(marker.path, marker.line, advice.to_owned()));
        }
    }
    // Without a marker there is nothing that a page could say.
    let old = files.get(PAGE).map(String::as_str);
    if old.is_some_and(|old| old != page(entries, &markers)) || (old.is_none() && !markers.is_empty()) {
        found.push(finding(PAGE, 1, "is not what the markers say: run `cargo xtask conformance`".to_owned()));
    }
    found
}

fn markers(files: &BTreeMap<String, String>) -> Vec<Marker<'_>> {
    let places = ["crates/", "sim/", "tests/"];
    let sources = files.iter().filter(|(path, _)| path.ends_with(".rs") && places.iter().any(|p| path.starts_with(p)));
    sources.flat_map(|(path, text)| markers_in(path, text, files)).collect()
}

/// The markers of a file.
fn markers_in<'a>(path: &'a str, text: &'a str, files: &BTreeMap<String, String>) -> Vec<Marker<'a>> {
    if !text.contains(MARK) {
        return Vec::new();
    }
    let lines: Vec<&str> = text.lines().collect();
    let marked = lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.trim().strip_prefix(MARK)?)));
    let test = |at: usize| {
        test_below(&lines[at + 1..]).filter(|test| test.attribute || registered(path, test.name, files)).map(|t| t.name)
    };
    marked.map(|(at, entry)| Marker { path, line: at + 1, entry: without_tags(entry), test: test(at) }).collect()
}

struct Below<'a> {
    name: &'a str,
    /// Whether an attribute says that it is a test.
    attribute: bool,
}

/// The function below comments and attributes.
fn test_below<'a>(lines: &[&'a str]) -> Option<Below<'a>> {
    let mut attribute = false;
    // An attribute that goes over several lines.
    let mut open = 0usize;
    for line in lines {
        let line = line.trim();
        if open > 0 || line.starts_with("#[") {
            attribute |= is_test_attribute(line);
            open = (open + line.matches('[').count()).saturating_sub(line.matches(']').count());
        } else if !line.starts_with("//") {
            return function(line).map(|name| Below { name, attribute });
        }
    }
    None
}

/// `#[test]`, `#[tokio::test]`, `#[tokio::test(start_paused = true)]`.
fn is_test_attribute(line: &str) -> bool {
    line.strip_prefix("#[").is_some_and(|inside| {
        let name = inside.split(['(', ']', ' ']).next().unwrap_or("");
        name == "test" || name.ends_with("::test")
    })
}

fn function(line: &str) -> Option<&str> {
    let words = ["pub(crate) ", "pub(super) ", "pub ", "async "];
    let rest = words.iter().fold(line, |line, word| line.strip_prefix(word).unwrap_or(line)).strip_prefix("fn ")?;
    let end = rest.find(|c: char| !(c == '_' || c.is_alphanumeric()))?;
    (end > 0).then(|| &rest[..end])
}

/// Whether the `main.rs` of a test program with a harness of its own names it among its tests.
fn registered(path: &str, name: &str, files: &BTreeMap<String, String>) -> bool {
    let Some((folder, _)) = path.rsplit_once('/') else { return false };
    let in_tests = folder.split('/').rev().nth(1) == Some("tests");
    let Some(main) = files.get(&format!("{folder}/main.rs")).filter(|_| in_tests) else { return false };
    let code = lex::code(main);
    let Some(list) = code.find("tests![") else { return false };
    lex::words(&code[list..], name).any(|at| !code[list..list + at].ends_with("fn "))
}

/// Without `[Slow]`, `[Conformance]` and other tags at the end.
fn without_tags(name: &str) -> &str {
    let mut name = name.trim();
    while let Some((rest, _)) = name.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) {
        if rest.is_empty() || !rest.ends_with(' ') {
            break;
        }
        name = rest.trim_end();
    }
    name
}

fn nearest<'a>(name: &str, entries: &BTreeSet<&'a str>) -> Option<&'a str> {
    entries.iter().copied().min_by_key(|entry| distance(name.as_bytes(), entry.as_bytes()))
}

/// How many bytes to put in, take out or change (Levenshtein).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// An entry without its group, and the tests that hold it.
type Row<'a> = (&'a str, Option<&'a BTreeSet<String>>);

fn page(entries: &BTreeSet<&str>, markers: &[Marker<'_>]) -> String {
    let mut tests: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for marker in markers {
        if let Some(test) = marker.test {
            tests.entry(marker.entry).or_default().insert(format!("`{}::{test}`", marker.path));
        }
    }
    let mut groups: BTreeMap<&str, Vec<Row<'_>>> = BTreeMap::new();
    for entry in entries {
        let (group, name) = entry.strip_prefix('[').and_then(|rest| rest.split_once("] ")).unwrap_or(("other", entry));
        groups.entry(group).or_default().push((name, tests.get(entry)));
    }
    let held = |rows: &[Row<'_>]| rows.iter().filter(|(_, tests)| tests.is_some()).count();
    let all: usize = groups.values().map(|rows| held(rows)).sum();
    let mut out = format!(
        "# Kubernetes' conformance list\n\n<!-- Written by `cargo xtask conformance` from the markers in the tests. -->\n\n\
         {all} of {} entries (Kubernetes 1.36) have a test here. These are Windlass' own tests of what an entry \
         describes; they are not a run of Kubernetes' conformance suite.\n\n| | entries with a test | of |\n|---|---|---|\n",
        entries.len()
    );
    for (group, rows) in &groups {
        let _ = writeln!(out, "| [{group}](#{group}) | {} | {} |", held(rows), rows.len());
    }
    for (group, rows) in &groups {
        let _ = write!(out, "\n## {group}\n{} of {} entries have a test.\n\n", held(rows), rows.len());
        out.push_str("| entry | tests |\n|---|---|\n");
        for (name, tests) in rows {
            let tests = tests.map_or("–".to_owned(), |t| t.iter().cloned().collect::<Vec<_>>().join("<br>"));
            let _ = writeln!(out, "| {} | {tests} |", escaped(name));
        }
    }
    out
}

/// For a cell of a table in Markdown.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| matches!(c, '*' | '|' | '<' | '_').then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str =
        "[sig-a] One should [Feature:X] work\n[sig-a] Two should *not* work\n[sig-b] Three should work\n";

    fn files(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    fn found(tree: &[(&str, &str)]) -> Vec<String> {
        let mut tree = files(tree);
        let now = page(&entries(LIST), &markers(&tree));
        tree.insert(PAGE.to_owned(), now);
        check_against(&tree, &entries(LIST)).into_iter().map(|f| f.to_string()).collect()
    }

    const TEST: &str = "crates/a/tests/b.rs";
    const NONE: [&str; 0] = [];

    #[test]
    fn a_marker_names_the_test_below_it() {
        let text = "
    // conformance: [sig-b] Three should work
    // conformance: [sig-a] One should [Feature:X] work [LinuxOnly] [Conformance]
    /// Says why.
    // allow-long: one story
    #[cfg_attr(
        windows,
        ignore = \"[no]\"
    )]
    #[tokio::test(start_paused = true)]
    async fn works_so() {}
    ";
        let tree = files(&[(TEST, text)]);
        let marker = |line, entry| Marker { path: TEST, line, entry, test: Some("works_so") };
        assert_eq!(
            markers(&tree),
            [marker(2, "[sig-b] Three should work"), marker(3, "[sig-a] One should [Feature:X] work")]
        );
        assert_eq!(found(&[(TEST, text)]), NONE);
    }

    #[test]
    fn what_is_no_test_holds_nothing() {
        let mark = "// conformance: [sig-b] Three should work\n";
        for below in ["fn helper() {}", "#[inline]\nfn helper() {}", "struct S;", "", "\n#[test]\nfn far() {}"] {
            let advice = "stands above no test: put it right above the attributes of a test function";
            assert_eq!(
                found(&[(TEST, &format!("{mark}{below}"))]),
                [format!("{TEST}:1: conformance: {advice}")],
                "{below}"
            );
        }
        // What lies elsewhere claims nothing.
        assert_eq!(found(&[("xtask/src/x.rs", mark)]), NONE);
    }

    #[test]
    fn a_suite_with_a_harness_of_its_own_lists_its_tests() {
        let text = "// conformance: [sig-b] Three should work\npub fn works(ctx: &Ctx) -> Result<()> {}";
        let path = "tests/e2e/tests/pods/life.rs";
        let main = |list: &str| format!("fn main() {{ Suite::new().with(tests![shared: {list}]) }}");
        let with = |list: &str| found(&[(path, text), ("tests/e2e/tests/pods/main.rs", &main(list))]).len();
        assert_eq!((with("life::works,"), with("life::works_not,"), with("")), (0, 1, 1));
        assert_eq!(found(&[(path, text)]).len(), 1);
    }

    #[test]
    fn an_unknown_entry_is_told_with_the_nearest() {
        let text = "// conformance: [sig-a] Two should not work\n#[test]\nfn a() {}";
        assert_eq!(
            found(&[(TEST, text)]),
            [format!(
                "{TEST}:1: conformance: no entry is called `[sig-a] Two should not work`; the nearest is `[sig-a] Two \
                 should *not* work`"
            )]
        );
    }

    #[test]
    fn the_page_counts_and_must_be_of_now() {
        let text = "// conformance: [sig-a] Two should *not* work\n#[test]\nfn a() {}";
        let mut tree = files(&[(TEST, text), ("sim/tests/c.rs", text)]);
        let now = page(&entries(LIST), &markers(&tree));
        for part in [
            "1 of 3 entries (Kubernetes 1.36)",
            "| [sig-a](#sig-a) | 1 | 2 |\n| [sig-b](#sig-b) | 0 | 1 |\n",
            "| One should [Feature:X] work | – |\n",
            "| Two should \\*not\\* work | `crates/a/tests/b.rs::a`<br>`sim/tests/c.rs::a` |\n",
        ] {
            assert!(now.contains(part), "{part} in {now}");
        }
        for (page, findings) in [(Some(now.clone()), 0), (Some(format!("{now} ")), 1), (None, 1)] {
            tree.remove(PAGE);
            tree.extend(page.map(|page| (PAGE.to_owned(), page)));
            assert_eq!(check_against(&tree, &entries(LIST)).len(), findings);
        }
    }

    #[test]
    fn the_list_is_whole() {
        let list = entries(ENTRIES);
        assert_eq!((list.len(), ENTRIES.lines().count()), (446, 446));
        assert!(list.iter().all(|entry| entry.starts_with("[sig-") && without_tags(entry) == *entry));
    }

    #[test]
    fn distances() {
        for (a, b, n) in [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("abc", "abc", 0)] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), n, "{a} {b}");
        }
    }
}
