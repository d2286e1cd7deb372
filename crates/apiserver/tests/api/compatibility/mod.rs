//! What of the API is there: every resource that discovery names, with every verb, really asked. `docs/resources.md` is
//! what this test saw; `UPDATE_EXPECT=1` writes it anew.

mod samples;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use crate::common::*;
use verbs::{Asked, World};

/// `apiVersion resource verbs…`: what is stable in the OpenAPI document of Kubernetes 1.36.
const STABLE: &str = include_str!("stable.txt");
/// What a resource can be made to do.
const ALL: &str = "create, get, list, watch, update, patch (json, merge, strategic, apply), delete, deletecollection";

/// One resource or subresource.
pub struct Row {
    name: String,
    /// The verbs that discovery names.
    told: BTreeSet<String>,
    asked: Vec<Asked>,
    remark: String,
}

impl Row {
    /// Verbs as discovery has them: a patch works when each of its forms does.
    fn works(&self) -> BTreeSet<String> {
        let (mut works, mut fails) = (BTreeSet::new(), BTreeSet::new());
        for asked in &self.asked {
            let verb = asked.verb.split(' ').next().unwrap().to_owned();
            if asked.refusal.is_none() { &mut works } else { &mut fails }.insert(verb);
        }
        works.into_iter().filter(|verb| !fails.contains(verb)).collect()
    }

    fn line(&self) -> String {
        let works: Vec<&str> = self.asked.iter().filter(|a| a.refusal.is_none()).map(|a| a.verb).collect();
        let mut refused: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for asked in &self.asked {
            if let Some(refusal) = &asked.refusal {
                refused.entry(refusal).or_default().push(asked.verb);
            }
        }
        let refused: Vec<String> =
            refused.into_iter().map(|(with, verbs)| format!("{}: {with}", shown(&verbs))).collect();
        let works = if shown(&works) == ALL { "all".to_owned() } else { shown(&works) };
        format!("| {} | {works} | {} | {} |", self.name, refused.join("; "), self.remark)
    }
}

/// `patch json`, `patch merge` → `patch (json, merge)`.
fn shown(verbs: &[&str]) -> String {
    let forms: Vec<&str> = verbs.iter().filter_map(|v| v.strip_prefix("patch ")).collect();
    let mut out: Vec<String> = Vec::new();
    for verb in verbs {
        match verb.strip_prefix("patch ") {
            None => out.push((*verb).to_owned()),
            Some(form) if forms.first() == Some(&form) => out.push(format!("patch ({})", forms.join(", "))),
            Some(_) => {}
        }
    }
    out.join(", ")
}

/// Every group-version with what discovery says of it.
async fn discovered(admin: &Client) -> Vec<(String, Vec<Value>)> {
    let groups = admin.get("/apis").await.body;
    let versions = groups["groups"].as_array().unwrap().iter().flat_map(|g| g["versions"].as_array().unwrap());
    let named = versions.map(|v| v["groupVersion"].as_str().unwrap().to_owned());
    let mut out = Vec::new();
    for api_version in std::iter::once("v1".to_owned()).chain(named) {
        let root = if api_version.contains('/') { "apis" } else { "api" };
        let mut list = admin.get(&format!("/{root}/{api_version}")).await;
        assert_eq!(list.code, 200, "{api_version}");
        let Value::Array(resources) = list.body["resources"].take() else { panic!("{api_version}: {}", list.body) };
        out.push((api_version, resources));
    }
    out
}

fn told(resource: &Value) -> BTreeSet<String> {
    resource["verbs"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn page(groups: &[(String, Vec<Row>)]) -> String {
    let mut out = format!(
        "# Resources\n\n<!-- Written by a test: `UPDATE_EXPECT=1 cargo test -p apiserver --test api -- compatibility`. -->\n\n\
         Each line is what a test saw that did all of it with a small object in a running server: the verbs that work, and what\n\
         the others are refused with. `all`: {ALL}.\n\
         The remark is the `Warning` that creating the object answers with. Custom resources and what other servers serve come\n\
         beside these.\n\n",
    );
    let _ = writeln!(out, "All that is stable in Kubernetes 1.36 is here.");
    for (api_version, rows) in groups {
        let _ = write!(out, "\n## {api_version}\n| resource | works | refused | remark |\n|---|---|---|---|\n");
        for row in rows {
            let _ = writeln!(out, "{}", row.line());
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_of_every_resource_does_what_discovery_says() {
    let world = World::start().await;
    let mut groups = Vec::new();
    for (api_version, resources) in discovered(&world.admin).await {
        let mut rows = Vec::new();
        for resource in &resources {
            let name = resource["name"].as_str().unwrap();
            let (asked, remark) = match name.split_once('/') {
                None => world.resource(&api_version, name).await,
                Some((parent, part)) => (world.subresource(&api_version, parent, part).await, String::new()),
            };
            rows.push(Row { name: name.to_owned(), told: told(resource), asked, remark });
        }
        groups.push((api_version, rows));
    }
    let all = groups.iter().flat_map(|(api_version, rows)| rows.iter().map(move |row| (api_version, row)));
    let other = all.filter(|(_, row)| row.works() != row.told);
    let other: Vec<String> =
        other.map(|(v, row)| format!("{v} {}: told {:?}, {:?}", row.name, row.told, row.asked)).collect();
    assert!(other.is_empty(), "{}", other.join("\n"));
    for line in STABLE.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (api_version, resource) = (words[0], words[1]);
        let rows = groups.iter().find(|(v, _)| v == api_version).map(|(_, rows)| rows.as_slice()).unwrap_or_default();
        match rows.iter().find(|row| row.name == resource) {
            None => panic!("{api_version} {resource} is not served"),
            Some(row) => {
                let works = row.works();
                let missing: Vec<&&str> = words[2..].iter().filter(|verb| !works.contains(**verb)).collect();
                assert!(missing.is_empty(), "{line}: without {missing:?}");
            }
        }
    }
    expect_test::expect_file!["../../../../../docs/resources.md"].assert_eq(&page(&groups));
}
