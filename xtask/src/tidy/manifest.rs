//! Rules on manifests: which crate may use which, and where versions stand.

use super::Finding;

/// A crate of the house: its name, its folder, and what of the house it may use. Lower layers first.
pub struct Place {
    pub name: &'static str,
    pub folder: &'static str,
    pub may_use: &'static [&'static str],
}

const fn place(name: &'static str, folder: &'static str, may_use: &'static [&'static str]) -> Place {
    Place { name, folder, may_use }
}

/// The layers. ARCHITECTURE.md says why.
pub const LAYERS: &[Place] = &[
    place("base", "crates/base", &[]),
    place("api", "crates/api", &["base"]),
    place("grpc", "crates/grpc", &["base"]),
    place("buildkit", "crates/buildkit", &["grpc"]),
    place("tls", "crates/tls", &[]),
    place("follow", "crates/follow", &[]),
    place("convert", "crates/convert", &[]),
    place("store", "crates/store", &["base", "grpc"]),
    place("image", "crates/image", &["base"]),
    place("net", "crates/net", &["base"]),
    place("shim", "crates/shim", &["base"]),
    place("reconcile", "crates/reconcile", &["api", "convert", "base"]),
    place("compose", "crates/compose", &["convert"]),
    place("build", "crates/build", &["image", "base"]),
    place("engine", "crates/engine", &["build", "image", "net", "shim", "store", "base"]),
    place("registry", "crates/registry", &["image", "base"]),
    place("apiserver", "crates/apiserver", &["store", "api", "tls", "base"]),
    place("control", "crates/control", &["reconcile", "api", "follow", "base"]),
    place("ingress", "crates/ingress", &["api", "base"]),
    place(
        "node",
        "crates/node",
        &["engine", "net", "reconcile", "ingress", "api", "convert", "follow", "grpc", "tls", "base"],
    ),
    place("dockerapi", "crates/dockerapi", &["engine", "buildkit", "grpc", "image", "net", "base"]),
    place("swarm", "crates/swarm", &["dockerapi", "convert", "follow"]),
    place(
        "windlass",
        "crates/windlass",
        &[
            "base",
            "api",
            "store",
            "image",
            "net",
            "convert",
            "compose",
            "shim",
            "reconcile",
            "build",
            "engine",
            "apiserver",
            "control",
            "ingress",
            "node",
            "registry",
            "dockerapi",
            "swarm",
        ],
    ),
    place("sim", "sim", &["reconcile", "api", "follow", "base"]),
    place("bench", "bench", &["store", "api", "reconcile"]),
    place("e2e", "tests/e2e", &["base", "grpc"]),
    place("fuzz", "fuzz", &["apiserver", "node", "dockerapi", "build", "compose", "image", "api"]),
    place("distribution", "examples/distribution", &[]),
    place("xtask", "xtask", &[]),
    place("rust-criu", "patches/rust-criu", &[]),
];

/// Whether a file or manifest may use `anyhow`: where errors are only shown to people.
pub fn may_use_anyhow(path: &str) -> bool {
    ["crates/windlass/", "xtask/", "bench/", "examples/", "tests/"].iter().any(|folder| path.starts_with(folder))
        || path.contains("/examples/")
}

/// A dependency as a manifest names it.
struct Dependency<'a> {
    line: usize,
    name: &'a str,
    /// Whether the version comes from the workspace.
    inherited: bool,
    dev: bool,
}

pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let Some(folder) = path.strip_suffix("/Cargo.toml") else { return Vec::new() };
    let finding = |line, rule, advice: String| Finding { path: path.to_owned(), line, rule, advice };
    let Some(place) = LAYERS.iter().find(|place| place.folder == folder) else {
        let advice = "a crate without a layer: give it one in ARCHITECTURE.md and in xtask/src/tidy/manifest.rs";
        return vec![finding(1, "layers", advice.to_owned())];
    };
    let mut found = Vec::new();
    for dependency in dependencies(text) {
        let Dependency { line, name, inherited, dev } = dependency;
        let ours = LAYERS.iter().any(|place| place.name == name);
        if ours && !place.may_use.contains(&name) {
            let advice = match place.may_use {
                [] => format!("{} may use no crate of the house, and uses {name}", place.name),
                may_use => format!("{} may use {} of the house, not {name}", place.name, may_use.join(", ")),
            };
            found.push(finding(line, "layers", advice));
        }
        if name == "anyhow" && !dev && !may_use_anyhow(path) {
            found.push(finding(line, "anyhow", "return thiserror enums; anyhow is for binaries".to_owned()));
        }
        if !inherited {
            let advice = format!("write `{name}.workspace = true`: versions stand in the root manifest");
            found.push(finding(line, "versions", advice));
        }
    }
    found
}

fn is_section(part: &str) -> bool {
    matches!(part, "dependencies" | "dev-dependencies" | "build-dependencies")
}

/// The dependencies of all sections, target-specific ones included.
fn dependencies(text: &str) -> Vec<Dependency<'_>> {
    let mut found = Vec::new();
    // The kind of section, and a dependency that is a section of its own.
    let (mut within, mut dev, mut depth) = (false, false, 0i32);
    let lines: Vec<&str> = text.lines().collect();
    for (n, raw) in lines.iter().enumerate() {
        let line = raw.split('#').next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')).filter(|_| depth == 0) {
            let mut parts = header.rsplit('.');
            let last = parts.next().unwrap_or_default();
            within = is_section(last);
            dev = header.contains("dev-dependencies");
            if parts.next().is_some_and(is_section) {
                let body = lines[n + 1..].iter().take_while(|l| !l.trim_start().starts_with('['));
                let inherited = body.into_iter().any(|l| l.replace(' ', "") == "workspace=true");
                found.push(Dependency { line: n + 1, name: last, inherited, dev });
            }
            continue;
        }
        if let Some((key, value)) = line.split_once('=').filter(|_| within && depth == 0) {
            let (name, rest) = key.trim().split_once('.').unwrap_or((key.trim(), ""));
            let whole: String = std::iter::once(value).chain(lines[n + 1..].iter().copied()).collect();
            let table = whole.split('}').next().unwrap_or_default().replace(' ', "");
            let inherited = rest == "workspace" || (value.contains('{') && table.contains("workspace=true"));
            found.push(Dependency { line: n + 1, name: name.trim_matches('"'), inherited, dev });
        }
        let count = |set: &[char]| i32::try_from(line.matches(set).count()).unwrap_or(i32::MAX);
        depth += count(&['{', '[']) - count(&['}', ']']);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(path, text).iter().map(|f| format!("{}:{}", f.line, f.rule)).collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn arrows_point_down() {
        let text = "[package]\nname = \"x\"\n\n[dependencies]\nbase.workspace = true\nnode = { workspace = true }\n";
        assert_eq!(found("crates/store/Cargo.toml", text), ["6:layers"]);
        assert_eq!(found("crates/windlass/Cargo.toml", text), NONE);
        assert_eq!(found("tests/e2e/Cargo.toml", text), ["6:layers"]);
    }

    #[test]
    fn every_section_counts() {
        let dev = "[dev-dependencies]\nengine.workspace = true\n";
        assert_eq!(found("crates/api/Cargo.toml", dev), ["2:layers"]);
        let target = "[target.'cfg(unix)'.dependencies]\nengine.workspace = true\n";
        assert_eq!(found("crates/api/Cargo.toml", target), ["2:layers"]);
        let own = "[dependencies.engine]\nworkspace = true\n";
        assert_eq!(found("crates/api/Cargo.toml", own), ["1:layers"]);
        let features =
            "[features]\nengine = []\n[dependencies]\ntokio = { workspace = true, features = [\n  \"fs\",\n] }\n";
        assert_eq!(found("crates/api/Cargo.toml", features), NONE);
    }

    #[test]
    fn anyhow_is_for_the_edges_and_tests() {
        let text = "[dependencies]\nanyhow.workspace = true\n";
        assert_eq!(found("crates/node/Cargo.toml", text), ["2:anyhow"]);
        assert_eq!(found("bench/Cargo.toml", text), NONE);
        assert_eq!(found("crates/node/Cargo.toml", "[dev-dependencies]\nanyhow.workspace = true\n"), NONE);
    }

    #[test]
    fn versions_stand_in_the_root() {
        let text = "[dependencies]\nserde = \"1\"\nhttp = { version = \"1\" }\n[dependencies.url]\nversion = \"2\"\n";
        assert_eq!(found("crates/node/Cargo.toml", text), ["2:versions", "3:versions", "4:versions"]);
        assert_eq!(found("Cargo.toml", "[workspace.dependencies]\nserde = \"1\"\n"), NONE);
    }

    #[test]
    fn every_crate_has_a_layer() {
        assert_eq!(found("crates/helpers/Cargo.toml", "[package]\nname = \"helpers\"\n"), ["1:layers"]);
    }

    #[test]
    fn layers_are_in_order() {
        for (n, place) in LAYERS.iter().enumerate() {
            for used in place.may_use {
                assert!(LAYERS[..n].iter().any(|lower| lower.name == *used), "{} uses {used}", place.name);
            }
        }
    }
}
