//! What is asked of a build: the attributes of the frontend `dockerfile.v0`, and of exporters. Pure.

use std::collections::BTreeMap;

use engine::build::dockerfile::Network;
use engine::build::{Named, Options, is_git};
use image::Reference;
use serde_json::{Value, json};

use crate::images::asked::{CONTEXT_MAX, NAMES_MAX};

/// Attributes that say nothing about the result: where the sources came from, and hints.
const HINTS: [&str; 5] = ["vcs:", "sharedkey:", "frontend.caps", "cache-from", "cache-imports"];
/// Arguments that are no arguments but change the frontend, which has none of it.
const SPECIAL: [&str; 5] = [
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
];

/// Where the context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// In the session, under this name.
    Session(String),
    /// In the session, as a stream of an archive: path and host of its address.
    Upload(String, String),
    /// To be fetched.
    Url(String),
    /// To be fetched with git.
    Git(String),
}

/// What is made of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// An image of the store.
    Image,
    /// Files, into a folder of the client.
    Local,
    /// Files, as an archive, to the client.
    Tar,
    /// Nothing.
    Nothing,
}

/// A build that is asked for.
#[derive(Debug)]
pub struct Asked {
    /// For the builder, but for what comes from the session.
    pub options: Options,
    /// Where the context is.
    pub context: Where,
    /// The session's name for the Dockerfile's folder; `None` when it is in a context that is fetched.
    pub dockerfile: Option<String>,
    /// The Dockerfile in its folder.
    pub filename: String,
    /// Other contexts that are in the session: what they are called here and there.
    pub locals: BTreeMap<String, String>,
    /// Sessions of folders that are not in the build's own, by the folder's name.
    pub sessions: BTreeMap<String, String>,
    /// What is made of it.
    pub export: Export,
    /// What the client should know.
    pub warnings: Vec<String>,
}

fn refused(what: &str) -> String {
    format!("{what} is not supported by Windlass")
}

fn truth(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "t" | "true")
}

/// `name=address,name=address`, as CSV.
fn hosts(text: &str) -> Result<Vec<(String, std::net::IpAddr)>, String> {
    let entries = text.split(',').map(|entry| entry.trim_matches('"')).filter(|entry| !entry.is_empty());
    let read = |entry: &str| {
        let (name, address) = entry.split_once('=').ok_or_else(|| format!("invalid key-value pair {entry}"))?;
        let address = address.parse().map_err(|_| format!("failed to parse IP {address}"))?;
        Ok((name.to_owned(), address))
    };
    entries.map(read).collect()
}

fn context(address: &str) -> Result<Where, String> {
    if is_git(address) {
        return Ok(Where::Git(address.to_owned()));
    }
    let rest = address.strip_prefix("http://").or(address.strip_prefix("https://"));
    let Some(rest) = rest else { return Err(refused(&format!("the context {address:?}"))) };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(match host {
        "buildkit-session" => Where::Upload(format!("/{path}"), host.to_owned()),
        _ => Where::Url(address.to_owned()),
    })
}

impl Asked {
    /// Of the frontend's and the exporter's attributes, and of what the user allows.
    ///
    /// # Errors
    /// What would not be obeyed, or cannot be read.
    pub fn read(
        attrs: &BTreeMap<String, String>,
        exporters: &[(String, BTreeMap<String, String>)],
        entitlements: &[String],
    ) -> Result<Asked, String> {
        let mut asked = Asked {
            options: Options::new(),
            context: Where::Session("context".to_owned()),
            dockerfile: Some("dockerfile".to_owned()),
            filename: "Dockerfile".to_owned(),
            locals: BTreeMap::new(),
            sessions: BTreeMap::new(),
            export: Export::Nothing,
            warnings: Vec::new(),
        };
        asked.options.context_max_bytes = CONTEXT_MAX;
        for (name, value) in attrs {
            asked.attribute(name, value)?;
        }
        let key = attrs.get("contextkey").map_or("context", String::as_str);
        if let Some(address) = attrs.get(key) {
            asked.context = context(address)?;
            asked.dockerfile = attrs.get("dockerfilekey").cloned();
        }
        for allowed in entitlements {
            match allowed.as_str() {
                "security.insecure" => asked.options.allow_insecure = true,
                "network.host" => {}
                other => return Err(refused(&format!("the entitlement {other}"))),
            }
        }
        match exporters {
            [] => {}
            [(kind, attrs)] => asked.exporter(kind, attrs)?,
            _ => return Err(refused("more than one output of a build")),
        }
        if let Some(text) = asked.options.args.get("SOURCE_DATE_EPOCH").filter(|t| !t.is_empty()) {
            let bad = |_| format!("invalid SOURCE_DATE_EPOCH: {text}");
            asked.options.epoch = Some(text.parse().map_err(bad)?);
        }
        Ok(asked)
    }

    fn attribute(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some(arg) = name.strip_prefix("build-arg:") {
            let on = arg == "BUILDKIT_MULTI_PLATFORM" || arg == "BUILDKIT_INLINE_CACHE";
            if SPECIAL.contains(&arg) || (on && truth(value)) {
                return Err(refused(&format!("the build argument {arg}")));
            }
            self.options.args.insert(arg.to_owned(), value.to_owned());
            return Ok(());
        }
        if let Some(label) = name.strip_prefix("label:") {
            self.options.labels.insert(label.to_owned(), value.to_owned());
            return Ok(());
        }
        if let Some(context) = name.strip_prefix("context:") {
            return self.named(context, value);
        }
        if let Some(folder) = name.strip_prefix("local-sessionid:") {
            self.sessions.insert(folder.to_owned(), value.to_owned());
            return Ok(());
        }
        if HINTS.iter().any(|hint| name.starts_with(hint)) {
            if name.starts_with("cache-") && !value.is_empty() {
                self.warnings.push("cache-from is not asked: steps are found by what they are made from".to_owned());
            }
            return Ok(());
        }
        if name.starts_with("attest:") && value != "disabled=true" {
            return Err(refused(name));
        }
        let network = match value {
            "" | "default" | "sandbox" => Some(Network::Default),
            "host" => Some(Network::Host),
            "none" => Some(Network::None),
            _ => None,
        };
        match (name, value) {
            ("filename", _) => self.filename = value.to_owned(),
            ("target", _) => self.options.target = Some(value.to_owned()).filter(|t| !t.is_empty()),
            ("platform", _) => self.options.platform = Some(value.to_owned()),
            ("no-cache", "") => self.options.no_cache = true,
            ("no-cache", stages) => return Err(refused(&format!("no-cache of some stages ({stages})"))),
            ("image-resolve-mode", "pull") => self.options.pull = true,
            ("image-resolve-mode", "" | "default" | "local") => {}
            ("force-network-mode", _) => {
                self.options.network = network.ok_or_else(|| refused(&format!("network mode {value:?} of a build")))?;
            }
            ("add-hosts", _) => self.options.hosts = hosts(value)?,
            ("requestid", _) => return Err(refused(&format!("the request {value}"))),
            ("multi-platform", value) if !truth(value) => {}
            // Read where all are known.
            ("context" | "contextkey" | "dockerfilekey", _) => {}
            (_, "") => {}
            (other, _) => return Err(refused(&format!("{other} of a build"))),
        }
        Ok(())
    }

    /// Another context.
    fn named(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some(image) = value.strip_prefix("docker-image://") {
            self.options.contexts.insert(name.to_owned(), Named::Image(image.to_owned()));
        } else if let Some(local) = value.strip_prefix("local:") {
            self.locals.insert(name.to_owned(), local.to_owned());
        } else {
            return Err(refused(&format!("the build context {name}={value}")));
        }
        Ok(())
    }

    fn exporter(&mut self, kind: &str, attrs: &BTreeMap<String, String>) -> Result<(), String> {
        self.export = match kind {
            "moby" | "image" => Export::Image,
            "local" => Export::Local,
            "tar" => Export::Tar,
            other => return Err(refused(&format!("the exporter {other}"))),
        };
        for (name, value) in attrs {
            match (name.as_str(), self.export) {
                ("name", Export::Image) => self.options.names = names(value)?,
                // The client of the exporter `moby` pushes itself, after the build.
                ("push", Export::Image) if kind == "moby" || !truth(value) => {}
                ("store" | "load", Export::Image) if truth(value) => {}
                ("unpack" | "dangling-name-prefix" | "name-canonical" | "oci-mediatypes", Export::Image) => {}
                ("dest", _) => {}
                ("mode", Export::Local) if value == "copy" => {}
                ("platform-split", Export::Local | Export::Tar) if !truth(value) => {}
                (_, _) if value.is_empty() => {}
                (other, _) => return Err(refused(&format!("{other}={value} of the exporter {kind}"))),
            }
        }
        Ok(())
    }

    /// What the names of the folder are that is kept for the next build of the same.
    pub fn key(shared_key: &str, dir: &str, follow: &[String], exclude: &[String]) -> Option<String> {
        let all: Value = json!([shared_key, dir, follow, exclude]);
        let digest = image::Digest::of(all.to_string().as_bytes());
        (!shared_key.is_empty()).then(|| digest.hex()[..32].to_owned())
    }
}

fn names(text: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for text in text.split(',').filter(|t| !t.is_empty()) {
        let reference: Reference = text.parse().map_err(|e| base::chain(&e))?;
        if reference.digest().is_some() {
            return Err("build tag cannot contain a digest".to_owned());
        }
        let normal = reference.to_string();
        if !names.contains(&normal) {
            names.push(normal);
        }
    }
    if names.len() > NAMES_MAX {
        return Err(format!("more than {NAMES_MAX} names for an image"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn read(attrs: &[(&str, &str)]) -> Result<Asked, String> {
        Asked::read(&map(attrs), &[("moby".to_owned(), map(&[]))], &[])
    }

    #[test]
    fn what_buildx_sends_is_taken() {
        let asked = read(&[
            ("add-hosts", "a=1.2.3.4,b=::1"),
            ("build-arg:A", "1"),
            ("filename", "Other"),
            ("force-network-mode", "none"),
            ("image-resolve-mode", "local"),
            ("label:l", "v"),
            ("no-cache", ""),
            ("target", "t"),
            ("vcs:revision", "abc"),
            ("vcs:localdir:context", "."),
            ("context:base", "docker-image://busybox"),
            ("context:files", "local:files"),
        ])
        .unwrap();
        let options = &asked.options;
        assert_eq!((asked.filename.as_str(), options.target.as_deref()), ("Other", Some("t")));
        assert_eq!((options.hosts.len(), options.network, options.no_cache), (2, Network::None, true));
        assert_eq!((options.args["A"].as_str(), options.labels["l"].as_str()), ("1", "v"));
        assert_eq!(options.contexts["base"], Named::Image("busybox".into()));
        assert_eq!(asked.locals["files"], "files");
        assert_eq!((asked.context, asked.export), (Where::Session("context".into()), Export::Image));
    }

    #[test]
    fn a_context_elsewhere_has_its_dockerfile_unless_the_session_has_one() {
        let git = read(&[("context", "https://example.com/a.git#main")]).unwrap();
        assert_eq!((git.dockerfile, git.context), (None, Where::Git("https://example.com/a.git#main".into())));
        let own = read(&[("context", "https://example.com/a.tgz"), ("dockerfilekey", "dockerfile")]).unwrap();
        assert_eq!(own.dockerfile.as_deref(), Some("dockerfile"));
        let upload = read(&[("context", "http://buildkit-session/abc")]).unwrap();
        assert_eq!(upload.context, Where::Upload("/abc".into(), "buildkit-session".into()));
    }

    #[test]
    fn what_is_not_obeyed_is_refused_by_its_name() {
        for (name, value) in [
            ("shm-size", "1"),
            ("ulimit", "nofile=1:2"),
            ("memory", "100"),
            ("cgroup-parent", "x"),
            ("attest:sbom", ""),
            ("attest:provenance", "mode=max"),
            ("multi-platform", "true"),
            ("no-cache", "one,two"),
            ("requestid", "frontend.lint"),
            ("build-arg:BUILDKIT_SYNTAX", "x"),
            ("context:x", "oci-layout://y"),
            ("force-network-mode", "bridge"),
            ("context", "/etc"),
            ("something-new", "1"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.ends_with("is not supported by Windlass"), "{name}: {error}");
        }
        let exporter = |kind: &str, attrs: &[(&str, &str)]| {
            Asked::read(&map(&[]), &[(kind.to_owned(), map(attrs))], &[]).map(|asked| asked.options.names)
        };
        assert_eq!(exporter("moby", &[("name", "a,b:1"), ("push", "true")]).unwrap().len(), 2);
        for (kind, attrs) in [
            ("oci", &[][..]),
            ("image", &[("push", "true")]),
            ("moby", &[("compression", "zstd")]),
            ("local", &[("mode", "delete")]),
        ] {
            assert!(exporter(kind, attrs).is_err(), "{kind}");
        }
        assert!(Asked::read(&map(&[]), &[], &["device".to_owned()]).is_err());
    }
}
