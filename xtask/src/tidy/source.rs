//! Rules on Rust files.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Finding;
use super::lex;

const FILE_LINES: usize = 600;
const TEST_FILE_LINES: usize = 1200;
const FN_LINES: usize = 70;

/// What decisions may not touch: they get time, chance and the world as arguments.
const IMPURE: &[&str] = &[
    "tokio",
    "std::fs",
    "std::net::TcpStream",
    "std::process",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "rand",
    "new_v4",
];

/// A file, its code without comments and literals, and what of it is only for tests.
pub struct Source<'a> {
    path: &'a str,
    text: &'a str,
    code: String,
    /// Start of each line.
    lines: Vec<usize>,
    tests: Vec<Range<usize>>,
    is_test: bool,
}

impl<'a> Source<'a> {
    pub fn new(path: &'a str, text: &'a str) -> Self {
        let code = lex::code(text);
        let lines = std::iter::once(0).chain(code.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut source = Source { path, text, code, lines, tests: Vec::new(), is_test: is_test_path(path) };
        source.tests = source.test_items();
        source
    }

    /// The same, taken as a test file when it is a module of one of these.
    pub fn tested_if(mut self, modules: &BTreeSet<String>) -> Self {
        self.is_test |= modules.iter().any(|module| {
            self.path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
        self
    }

    /// Paths, without `.rs`, of the files that hold modules compiled only for tests.
    pub fn test_modules(&self) -> Vec<String> {
        let (folder, name) = self.path.rsplit_once('/').unwrap_or(("", self.path));
        let stem = name.trim_end_matches(".rs");
        let own = if matches!(stem, "lib" | "main" | "mod") { folder.to_owned() } else { format!("{folder}/{stem}") };
        self.tests
            .iter()
            .filter_map(|range| {
                let item = self.code[range.clone()].rsplit(']').next()?;
                let name = item.trim().trim_start_matches("pub(crate) ").strip_prefix("mod ")?;
                let file = !self.code[range.clone()].contains('{');
                file.then(|| format!("{own}/{}", name.trim_end_matches(';').trim()))
            })
            .collect()
    }

    pub fn check(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        self.check_length(&mut found);
        self.check_functions(&mut found);
        self.check_words(&mut found);
        found
    }

    fn finding(&self, at: usize, rule: &'static str, advice: impl Into<String>) -> Finding {
        Finding { path: self.path.to_owned(), line: self.line(at), rule, advice: advice.into() }
    }

    /// The number, from 1, of the line that holds a byte.
    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&start| start <= at)
    }

    fn in_test(&self, at: usize) -> bool {
        self.is_test || self.tests.iter().any(|range| range.contains(&at))
    }

    /// Items marked `#[cfg(test)]` or `#[test]`, from the mark to their end.
    fn test_items(&self) -> Vec<Range<usize>> {
        let marks = ["#[cfg(test)]", "#[cfg(all(test", "#[test]", "#[tokio::test"];
        let found = marks.iter().flat_map(|mark| self.code.match_indices(mark).map(|(at, _)| at));
        found
            .map(|at| {
                let block = lex::block(&self.code, at);
                at..block.end.max(block.start + 1).min(self.code.len())
            })
            .collect()
    }

    fn check_length(&self, found: &mut Vec<Finding>) {
        let limit = if self.is_test { TEST_FILE_LINES } else { FILE_LINES };
        let lines = self.text.lines().count();
        let allowed = self.text.lines().take(20).any(is_allowed_long);
        if lines > limit && !allowed {
            let advice = format!("{lines} lines, at most {limit}: split it by what changes together");
            found.push(self.finding(0, "file-length", advice));
        }
    }

    fn check_functions(&self, found: &mut Vec<Finding>) {
        for at in lex::words(&self.code, "fn") {
            let named = self.code[at + 2..].trim_start().starts_with(|c: char| c == '_' || c.is_alphabetic());
            let body = lex::block(&self.code, at);
            if !named || body.is_empty() {
                continue;
            }
            let lines = self.line(body.end - 1) - self.line(at) + 1;
            if lines > FN_LINES && !self.allowed_above(self.line(at)) {
                let advice = format!(
                    "{lines} lines, at most {FN_LINES}: split it, or say why not in `// allow-long: why` above it"
                );
                found.push(self.finding(at, "fn-length", advice));
            }
        }
    }

    /// Whether the comments and attributes right above a line say why it is long.
    fn allowed_above(&self, line: usize) -> bool {
        let lines: Vec<_> = self.text.lines().take(line - 1).collect();
        let above = lines.iter().rev().take_while(|text| {
            let text = text.trim_start();
            text.starts_with("//") || text.starts_with("#[")
        });
        above.into_iter().any(|text| is_allowed_long(text))
    }

    fn check_words(&self, found: &mut Vec<Finding>) {
        let mut refuse = |words: &[&str], tests_too: bool, rule, advice: &str| {
            for word in words {
                for at in lex::words(&self.code, word).filter(|&at| tests_too || !self.in_test(at)) {
                    found.push(self.finding(at, rule, advice.replace("{}", word.trim_start_matches('.'))));
                }
            }
        };
        let under = |folder: &str| self.path.starts_with(folder);
        refuse(
            &["todo!", "unimplemented!", "dbg!"],
            true,
            "unfinished",
            "`{}` must not stay: finish it or take it out",
        );
        refuse(&[".unwrap()"], false, "unwrap", "use `expect(\"why it cannot happen\")` or return the error");
        if !under("crates/shim/") && !under("crates/net/src/sys/") && self.path != "crates/net/src/sys.rs" {
            refuse(&["unsafe"], true, "unsafe", "only crates/shim and crates/net/src/sys may: use nix or rustix");
        }
        if under("crates/api/src/") || under("crates/reconcile/src/") {
            refuse(IMPURE, false, "purity", "no `{}` here: the caller passes time, chance and data in");
        }
        if under("crates/reconcile/") {
            refuse(
                &["HashMap", "HashSet"],
                true,
                "order",
                "`{}` iterates in any order: use the BTree kind, so that the same state gives the same plan",
            );
        }
        if !super::manifest::may_use_anyhow(self.path) {
            refuse(&["anyhow"], false, "anyhow", "`{}` hides what failed: return a thiserror enum");
        }
    }
}

fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
}

fn is_allowed_long(line: &str) -> bool {
    line.trim_start().strip_prefix("// allow-long:").is_some_and(|why| !why.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<String> {
        let found = Source::new(path, text).check();
        found.iter().map(|f| format!("{}:{}", f.line, f.rule)).collect()
    }

    const NOWHERE: &str = "crates/engine/src/x.rs";
    const NONE: [&str; 0] = [];

    #[test]
    fn unfinished_work_is_found_but_not_in_words_about_it() {
        assert_eq!(rules(NOWHERE, "fn a() {\n    todo!()\n}"), ["2:unfinished"]);
        assert_eq!(rules(NOWHERE, "// todo!()\nfn a() { b(\"dbg!(x)\") }"), NONE);
    }

    #[test]
    fn unwrap_is_for_tests() {
        assert_eq!(rules(NOWHERE, "fn a() { b.unwrap(); c.unwrap_or(1) }"), ["1:unwrap"]);
        let inside = "#[cfg(test)]\nmod tests {\n    fn a() { b.unwrap() }\n}\nfn c() { d.unwrap() }";
        assert_eq!(rules(NOWHERE, inside), ["5:unwrap"]);
        assert_eq!(rules("crates/engine/src/x/tests.rs", "fn a() { b.unwrap() }"), NONE);
        assert_eq!(rules("crates/engine/tests/x.rs", "fn a() { b.unwrap() }"), NONE);
    }

    #[test]
    fn modules_declared_for_tests_are_test_files() {
        let parent =
            Source::new("crates/engine/src/x.rs", "#[cfg(test)]\nmod fake;\nmod real;\n#[cfg(test)]\nmod t { }");
        let modules: BTreeSet<_> = parent.test_modules().into_iter().collect();
        assert_eq!(modules, BTreeSet::from(["crates/engine/src/x/fake".to_owned()]));
        for (path, expected) in [
            ("crates/engine/src/x/fake.rs", 0),
            ("crates/engine/src/x/fake/disk.rs", 0),
            ("crates/engine/src/x/faked.rs", 1),
            ("crates/engine/src/x/real.rs", 1),
        ] {
            let found = Source::new(path, "fn a() { b.unwrap() }").tested_if(&modules).check();
            assert_eq!(found.len(), expected, "{path}");
        }
    }

    #[test]
    fn unsafe_has_two_homes() {
        let text = "fn a() { unsafe { b() } }";
        assert_eq!(rules(NOWHERE, text), ["1:unsafe"]);
        assert_eq!(rules("crates/shim/src/x.rs", text), NONE);
        assert_eq!(rules("crates/net/src/sys/x.rs", text), NONE);
        assert_eq!(rules("crates/net/src/system.rs", text), ["1:unsafe"]);
        assert_eq!(rules(NOWHERE, "#![deny(unsafe_code)]"), NONE);
    }

    #[test]
    fn decisions_are_pure_and_ordered() {
        let text = "use tokio::sync;\nfn a() { Instant::now(); }\nfn b(operand: u8) {}";
        assert_eq!(rules("crates/reconcile/src/x.rs", text), ["1:purity", "2:purity"]);
        assert_eq!(rules("crates/api/src/x.rs", "fn a() { rand::random() }"), ["1:purity"]);
        assert_eq!(rules(NOWHERE, text), NONE);
        assert_eq!(rules("crates/reconcile/src/x.rs", "use std::collections::HashMap;"), ["1:order"]);
        assert_eq!(rules("crates/api/src/x.rs", "use std::collections::HashMap;"), NONE);
    }

    #[test]
    fn anyhow_is_for_the_edges() {
        let text = "fn a() -> anyhow::Result<()> { b() }";
        assert_eq!(rules(NOWHERE, text), ["1:anyhow"]);
        for path in ["crates/windlass/src/x.rs", "xtask/src/x.rs", "bench/src/x.rs", "examples/a/src/x.rs"] {
            assert_eq!(rules(path, text), NONE, "{path}");
        }
    }

    #[test]
    fn files_have_a_length() {
        let lines = |n: usize| "//\n".repeat(n);
        assert_eq!(rules(NOWHERE, &lines(600)), NONE);
        assert_eq!(rules(NOWHERE, &lines(601)), ["1:file-length"]);
        assert_eq!(rules("crates/engine/src/tests.rs", &lines(1200)), NONE);
        assert_eq!(rules("crates/engine/src/tests.rs", &lines(1201)), ["1:file-length"]);
        assert_eq!(rules(NOWHERE, &format!("//! Table.\n// allow-long: one table\n{}", lines(700))), NONE);
        assert_eq!(rules(NOWHERE, &format!("// allow-long:\n{}", lines(700))), ["1:file-length"]);
    }

    #[test]
    fn functions_have_a_length() {
        let function = |lines: usize| format!("fn a() {{\n{}}}\n", "    b();\n".repeat(lines - 2));
        assert_eq!(rules(NOWHERE, &function(70)), NONE);
        assert_eq!(rules(NOWHERE, &format!("\n{}", function(71))), ["2:fn-length"]);
        let allowed = format!("/// Does it.\n// allow-long: one state machine\n#[inline]\npub {}", function(90));
        assert_eq!(rules(NOWHERE, &allowed), NONE);
        // The reason must be given, and stand right above.
        assert_eq!(rules(NOWHERE, &format!("// allow-long: \n{}", function(90))), ["2:fn-length"]);
        assert_eq!(rules(NOWHERE, &format!("// allow-long: x\nfn c() {{}}\n{}", function(90))), ["3:fn-length"]);
        // A type is not a function.
        assert_eq!(rules(NOWHERE, &format!("struct S {{ a: fn(u8) }}\n{}", "//\n".repeat(90))), NONE);
    }
}
