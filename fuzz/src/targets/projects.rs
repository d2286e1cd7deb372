//! Compose files.

use std::io::{Error, ErrorKind};
use std::path::Path;

use compose::{Host, Options, PathKind, load};

use super::{Target, outcome};

/// One file and nothing around it.
struct Alone<'a>(&'a [u8]);

impl Host for Alone<'_> {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        if path.ends_with("compose.yaml") { Ok(self.0.to_vec()) } else { Err(Error::from(ErrorKind::NotFound)) }
    }

    fn env(&self, name: &str) -> Option<String> {
        (name.len() == 1).then(|| name.to_lowercase())
    }

    fn kind(&self, path: &Path) -> Option<PathKind> {
        path.ends_with("compose.yaml").then_some(PathKind::File)
    }
}

/// Whole files: from text to objects.
pub const COMPOSE: Target = Target {
    name: "compose",
    about: "Compose files, made into objects",
    json: false,
    seeds: || {
        [
            "name: a\nservices:\n  b: &b\n    image: \"x:${V:-1}\"\n    ports: [\"80:80\", \"127.0.0.1:1-3:4-6/udp\", {target: 9, published: \"9\"}]\n  c: {<<: *b, ports: !reset []}\n",
            "services:\n  a:\n    build: {context: ., args: [A=$B]}\n    volumes: [v:/v, ./x:/y:ro, {type: tmpfs, target: /t, tmpfs: {size: 1m}}]\n    depends_on: {b: {condition: service_healthy}}\n  b: {image: x, healthcheck: {test: [CMD, a], interval: 1m3s}}\nvolumes: {v: }\n",
            "services:\n  a:\n    extends: b\n    command: sh -c 'a \"b\"'\n    secrets: [{source: s, target: t, mode: \"0400\"}]\n  b: {image: x, deploy: {replicas: 2, resources: {limits: {cpus: \"0.5\", memory: 5m}}}}\nsecrets: {s: {environment: S}}\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    run: |input| {
        let options = Options { dir: "/p".into(), ..Options::default() };
        outcome(load(&options, &Alone(input)).map(|project| project.objects()))
    },
};
