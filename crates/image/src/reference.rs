//! Image references, read as Docker reads them (distribution/reference): `busybox` is
//! `docker.io/library/busybox:latest`; the first component is a registry only if it has a dot or a colon or is
//! `localhost`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{ImageError, Result};

/// The registry meant when none is named.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The rule's limit for registry and path together.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A normalized reference: registry, repository path, and tag or digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// No repository, but the registry alone.
    pub(crate) fn of_registry(registry: &str) -> Result<Self> {
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if !valid_registry(registry) {
            let reason = "the registry must be a host name or address, with an optional port";
            return Err(ImageError::InvalidReference { reference: registry.chars().take(300).collect(), reason });
        }
        Ok(Reference { registry: registry.to_owned(), path: String::new(), tag: None, digest: None })
    }

    /// A repository of the registry; the caller knows that the path is one.
    pub(crate) fn within(self, path: &str) -> Self {
        Reference { path: path.to_owned(), ..self }
    }

    /// Host and port, `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path of the repository in its registry, e.g. `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, `None` when a digest alone was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and path.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// Registry and path as people write them: without `docker.io/` and `library/`.
    pub fn familiar_name(&self) -> String {
        // A path that begins like a registry would be read as one.
        if self.registry != DEFAULT_REGISTRY || leading_registry(&self.path).is_some() {
            return self.repository();
        }
        self.path.strip_prefix("library/").filter(|p| !p.contains('/')).unwrap_or(&self.path).to_owned()
    }

    /// The short form people write, e.g. `busybox:latest`.
    pub fn familiar(&self) -> String {
        let name = self.familiar_name();
        match (&self.tag, &self.digest) {
            (_, Some(digest)) => format!("{name}@{digest}"),
            (Some(tag), None) => format!("{name}:{tag}"),
            (None, None) => name,
        }
    }

    /// What to ask the registry for: the digest if there is one, else the tag.
    pub(crate) fn selector(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// The same repository at a digest.
    pub(crate) fn at(&self, digest: &Digest) -> Reference {
        Reference { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// The registry's host without its port.
    pub(crate) fn host(&self) -> &str {
        host_of(&self.registry)
    }

    /// Whether the registry is this machine, where plain HTTP is allowed (as Docker does for 127.0.0.0/8).
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn host_of(registry: &str) -> &str {
    match registry.rfind(']') {
        Some(end) => &registry[..=end],
        None => registry.split(':').next().unwrap_or(registry),
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        match (&self.tag, &self.digest) {
            (_, Some(digest)) => write!(f, "@{digest}"),
            (Some(tag), None) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(s: &str) -> Result<Self> {
        let bad = |reason| ImageError::InvalidReference { reference: s.chars().take(300).collect(), reason };
        let (rest, digest) = match s.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| bad("the digest must be sha256 and 64 hex digits"))?))
            }
            None => (s, None),
        };
        // A colon after the last slash starts the tag; before it, a port.
        let (name, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            valid_tag(tag).then_some(()).ok_or_else(|| bad("the tag must be 1 to 128 of [A-Za-z0-9_.-]"))?;
        }
        let (registry, path) = split_registry(name);
        if registry.len() + 1 + path.len() > NAME_MAX {
            return Err(bad("the name is longer than 255 characters"));
        }
        if !valid_registry(&registry) {
            return Err(bad("the registry must be a host name or address, with an optional port"));
        }
        if path.is_empty() || !path.split('/').all(valid_component) {
            let upper = path.bytes().any(|b| b.is_ascii_uppercase());
            return Err(bad(if upper { "repository name must be lowercase" } else { "invalid repository name" }));
        }
        let tag = match (tag, &digest) {
            (Some(tag), None) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            // With a digest the tag says nothing more.
            (_, Some(_)) => None,
        };
        Ok(Reference { registry, path, tag, digest })
    }
}

/// The registry that stands before a name or a term, if one does.
pub(crate) fn leading_registry(name: &str) -> Option<(&str, &str)> {
    let named = |first: &str| {
        first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
    };
    name.split_once('/').filter(|(first, _)| named(first))
}

fn split_registry(name: &str) -> (String, String) {
    let (registry, path) = leading_registry(name).unwrap_or((DEFAULT_REGISTRY, name));
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    if registry == DEFAULT_REGISTRY && !path.contains('/') && !path.is_empty() {
        return (registry.to_owned(), format!("library/{path}"));
    }
    (registry.to_owned(), path.to_owned())
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= TAG_MAX && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

fn valid_registry(registry: &str) -> bool {
    let host = host_of(registry);
    let port = &registry[host.len()..];
    let port_ok = match port.strip_prefix(':') {
        Some(p) => p.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    port_ok && v6.map_or_else(|| host.split('.').all(label), |h| h.parse::<std::net::Ipv6Addr>().is_ok())
}

/// `[a-z0-9]+` joined by one of `.`, `_`, `__` or any number of `-`.
fn valid_component(component: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |s: &str| s.is_empty() || matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    !component.is_empty()
        && component.starts_with(alnum)
        && component.ends_with(alnum)
        && component.split(alnum).all(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalized_as_docker_does() {
        let digest = Digest::of(b"x");
        for (given, normal, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest", "bitnami/redis:latest"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest", "127.0.0.1:5000/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("ghcr.io/a_b/c__d/e--f.g", "ghcr.io/a_b/c__d/e--f.g:latest", "ghcr.io/a_b/c__d/e--f.g:latest"),
            ("windlass.local/postgres:15", "windlass.local/postgres:15", "windlass.local/postgres:15"),
            ("docker.io/ex.com/a", "docker.io/ex.com/a:latest", "docker.io/ex.com/a:latest"),
        ] {
            let r: Reference = given.parse().unwrap();
            assert_eq!(r.to_string(), normal, "{given}");
            assert_eq!(r.familiar(), familiar, "{given}");
            assert_eq!(normal.parse::<Reference>().unwrap(), r);
        }
        let r: Reference = format!("busybox:1.36@{digest}").parse().unwrap();
        assert_eq!(r.to_string(), format!("docker.io/library/busybox@{digest}"));
    }

    #[test]
    fn text_that_is_no_reference_is_refused_with_a_reason() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "Busybox",
            "a:",
            "a:b c",
            "a@sha256:12",
            "a..b",
            "a-",
            "_a",
            "a/../b",
            "ex.com/",
            "ex.com:x/a",
            "a:b:c",
            "-x.com/a",
            "[::g]/a",
        ] {
            let err = bad.parse::<Reference>().unwrap_err();
            assert!(matches!(err, ImageError::InvalidReference { .. }), "{bad}: {err}");
        }
        assert!(format!("a/{}", "b".repeat(255)).parse::<Reference>().is_err());
        assert!("Foo/bar".parse::<Reference>().unwrap().registry() == "Foo");
    }

    #[test]
    fn loopback_registries_are_recognized() {
        for (given, loopback) in [
            ("localhost:5000/a", true),
            ("127.9.0.1/a", true),
            ("[::1]:1/a", true),
            ("a", false),
            ("10.0.0.1:5000/a", false),
            ("localhost.example/a", false),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().is_loopback(), loopback, "{given}");
        }
    }
}
