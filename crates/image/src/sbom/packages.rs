//! What package managers write down, and package URLs (purl-spec).

use std::collections::BTreeMap;

/// A package that is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// `deb` or `apk`.
    pub(super) kind: &'static str,
    pub(super) architecture: String,
    pub(super) license: String,
    pub(super) maintainer: String,
}

/// What `os-release` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Distribution {
    id: String,
    version: String,
}

impl Distribution {
    pub(super) fn read(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_ascii_lowercase()
        };
        Distribution { id: value("ID"), version: value("VERSION_ID") }
    }
}

impl Package {
    /// `pkg:deb/debian/bash@5.2?arch=amd64&distro=debian-12`.
    pub(super) fn url(&self, distribution: &Distribution) -> String {
        let vendor = match (distribution.id.as_str(), self.kind) {
            ("", "apk") => "alpine",
            ("", _) => "debian",
            (id, _) => id,
        };
        let mut url = format!("pkg:{}/{}/{}@{}", self.kind, escape(vendor), escape(&self.name), escape(&self.version));
        let release = [distribution.id.as_str(), &distribution.version].join("-");
        let distro = if distribution.id.is_empty() || distribution.version.is_empty() { "" } else { &release };
        let qualifiers = [("arch", self.architecture.as_str()), ("distro", distro)];
        for (n, (key, value)) in qualifiers.iter().filter(|(_, value)| !value.is_empty()).enumerate() {
            url += &format!("{}{key}={}", if n == 0 { '?' } else { '&' }, escape(value));
        }
        url
    }
}

fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_~:".contains(&b);
    text.bytes().fold(String::new(), |out, b| {
        if plain(b) { out + &char::from(b).to_string() } else { out + &format!("%{b:02X}") }
    })
}

/// Paragraphs of `Field: value` (deb-control(5)); what goes on in further lines is left out.
fn fields(paragraph: &str) -> BTreeMap<&str, &str> {
    let lines = paragraph.lines().filter(|line| !line.starts_with([' ', '\t']));
    lines.filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim())).collect()
}

/// The packages that dpkg has installed.
pub(super) fn dpkg(status: &str) -> Vec<Package> {
    let read = |paragraph: &str| {
        let fields = fields(paragraph);
        let field = |key: &str| fields.get(key).copied().unwrap_or_default().to_owned();
        // Of an image without a package manager the packages have no status.
        let installed = fields.get("Status").is_none_or(|status| status.ends_with(" installed"));
        let package = Package {
            name: field("Package"),
            version: field("Version"),
            kind: "deb",
            architecture: field("Architecture"),
            license: String::new(),
            maintainer: field("Maintainer"),
        };
        Some(package).filter(|p| installed && !p.name.is_empty() && !p.version.is_empty())
    };
    status.split("\n\n").filter_map(read).collect()
}

/// The packages that apk has installed.
pub(super) fn apk(installed: &str) -> Vec<Package> {
    let read = |paragraph: &str| {
        let mut package = Package { kind: "apk", ..Package::default() };
        for (key, value) in paragraph.lines().filter_map(|line| line.split_once(':')) {
            let place = match key {
                "P" => &mut package.name,
                "V" => &mut package.version,
                "A" => &mut package.architecture,
                "L" => &mut package.license,
                "m" => &mut package.maintainer,
                _ => continue,
            };
            value.clone_into(place);
        }
        Some(package).filter(|p| !p.name.is_empty() && !p.version.is_empty())
    };
    installed.split("\n\n").filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_as_their_managers_write_them() {
        let status = "Package: libstdc++6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 12.2.0-14+deb12u1\n\
                      Maintainer: A <a@example.com>\nDescription: x\n Package: not this\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: base\nVersion: 1:2~3\n";
        let found = dpkg(status);
        assert_eq!(found.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["libstdc++6", "base"]);
        let debian = Distribution::read("PRETTY_NAME=\"x\"\nVERSION_ID=\"12\"\nID=debian\nID_LIKE=y\n");
        assert_eq!(
            found[0].url(&debian),
            "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"
        );
        assert_eq!(found[1].url(&Distribution::default()), "pkg:deb/debian/base@1:2~3");
        let found = apk("C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nm:B <b@example.com>\nF:lib\n\nP:only\n\n");
        assert_eq!((found.len(), found[0].license.as_str()), (1, "MIT"));
        assert_eq!(found[0].url(&Distribution::default()), "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64");
        assert!(dpkg("").is_empty() && apk("\n\n\0").is_empty());
    }
}
