//! What is in an image, by what its package managers wrote down: an SPDX 2.3 document.
//!
//! Read are `dpkg` (status, and the folder that images without a package manager have) and `apk`. What was put into an image
//! without a package manager is not found, and not said to be.

mod files;
mod packages;

use serde_json::{Value, json};

use crate::error::Result;
use crate::store::{ImageInfo, ImageStore};
use files::Files;
use packages::{Distribution, Package};

/// Packages of one image at most.
const PACKAGES_MAX: usize = 100_000;
const APK: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];
const DPKG: &str = "var/lib/dpkg/status";
const DPKG_FOLDER: &str = "var/lib/dpkg/status.d";
const RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

impl ImageStore {
    /// The packages of an image as an SPDX 2.3 document. The same image gives the same document.
    ///
    /// # Errors
    /// When its layers cannot be read.
    pub fn sbom(&self, image: &ImageInfo) -> Result<Value> {
        let layers: Vec<_> = image.layers.iter().rev().map(|layer| self.layout.layer_fs(layer)).collect();
        let files = Files::new(&layers);
        let mut release = None;
        for path in RELEASE {
            release = release.or(files.read(path)?);
        }
        let distribution = release.map(|text| Distribution::read(&text)).unwrap_or_default();
        let mut packages = Vec::new();
        for path in APK {
            packages.extend(files.read(path)?.map(|text| packages::apk(&text)).unwrap_or_default());
        }
        packages.extend(files.read(DPKG)?.map(|text| packages::dpkg(&text)).unwrap_or_default());
        for name in files.list(DPKG_FOLDER)?.iter().filter(|name| !name.ends_with(".md5sums")) {
            let text = files.read(&format!("{DPKG_FOLDER}/{name}"))?.unwrap_or_default();
            packages.extend(packages::dpkg(&text));
        }
        packages.sort();
        packages.dedup();
        packages.truncate(PACKAGES_MAX);
        Ok(document(image, &distribution, &packages))
    }
}

fn document(image: &ImageInfo, distribution: &Distribution, packages: &[Package]) -> Value {
    let name = image.references.first().cloned().unwrap_or_else(|| image.id.to_string());
    let mut all = vec![json!({
        "SPDXID": "SPDXRef-Image", "name": name, "versionInfo": image.manifest_digest.as_str(),
        "downloadLocation": "NOASSERTION", "filesAnalyzed": false, "primaryPackagePurpose": "CONTAINER",
        "checksums": [{"algorithm": "SHA256", "checksumValue": image.manifest_digest.hex()}],
    })];
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")];
    for (n, package) in packages.iter().enumerate() {
        let id = format!("SPDXRef-Package-{n}");
        relations.push(relation("SPDXRef-Image", "CONTAINS", &id));
        let mut one = json!({
            "SPDXID": id, "name": package.name, "versionInfo": package.version, "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false, "licenseConcluded": "NOASSERTION", "copyrightText": "NOASSERTION",
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                "referenceLocator": package.url(distribution)}],
        });
        // A license is told as it is written: not everything that is written there is an expression of SPDX.
        if !package.license.is_empty() {
            one["licenseComments"] = package.license.as_str().into();
        }
        if !package.maintainer.is_empty() {
            one["supplier"] = format!("Person: {}", package.maintainer.replace('<', "(").replace('>', ")")).into();
        }
        all.push(one);
    }
    json!({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": name,
        "documentNamespace": format!("https://windlass.dev/spdx/{}", image.id.hex()),
        "creationInfo": {
            "created": image.created.as_deref().map_or_else(|| "1970-01-01T00:00:00Z".to_owned(), whole_seconds),
            "creators": [concat!("Tool: windlass-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": all, "relationships": relations,
    })
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

/// SPDX has times without fractions, in UTC.
fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, rest)) if rest.ends_with('Z') => format!("{seconds}Z"),
        _ => time.to_owned(),
    }
}
