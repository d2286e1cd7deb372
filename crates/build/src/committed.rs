//! Images that no Dockerfile describes: made of a container, or of an archive. What they say about running them is what was
//! there, changed by instructions (`docker commit --change`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::configure::Scope;
use crate::dockerfile::{Op, parse_one};
use crate::error::{BuildError, Result};
use crate::pattern::clean;
use crate::solve::host_platform;
use crate::state::State;

/// What is made an image of.
#[derive(Debug, Clone, Default)]
pub struct Commit<'a> {
    /// Configuration document of the image below; null where there is none.
    pub below: Value,
    /// What the container says instead (`config` of such a document); null keeps what is below.
    pub config: Value,
    /// Instructions.
    pub changes: &'a [String],
    /// Who made it.
    pub author: &'a str,
    /// For the history.
    pub comment: &'a str,
    /// What ran in the container.
    pub created_by: &'a str,
    /// When, RFC 3339.
    pub created: &'a str,
    /// Whether there is a layer above those of the image below.
    pub has_layer: bool,
}

/// The words with which instructions begin that may change an image so.
const ALLOWED: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl Commit<'_> {
    /// The configuration document of the image with these layers (OCI image spec, config.md).
    ///
    /// # Errors
    /// An instruction that is none, or that makes files.
    pub fn document(&self, diff_ids: &[&str]) -> Result<Value> {
        let mut below = if self.below.is_object() { self.below.clone() } else { json!({}) };
        if self.config.is_object() {
            let shell = below["config"]["Shell"].take();
            below["config"] = self.config.clone();
            if below["config"]["Shell"].is_null() {
                below["config"]["Shell"] = shell;
            }
        }
        let mut state = State::of_image(&below);
        for text in self.changes.iter().map(|c| c.trim()).filter(|c| !c.is_empty()) {
            change(&mut state, text)?;
        }
        state.created = Some(self.created.to_owned());
        if !self.author.is_empty() {
            state.author = self.author.to_owned();
        }
        let mut step = Map::new();
        let mut say = |name: &str, text: &str| {
            if !text.is_empty() {
                step.insert(name.to_owned(), json!(text));
            }
        };
        say("created", self.created);
        say("created_by", self.created_by);
        say("comment", self.comment);
        say("author", self.author);
        if !self.has_layer {
            step.insert("empty_layer".to_owned(), json!(true));
        }
        state.history.push(Value::Object(step));
        let platform = host_platform();
        Ok(state.document(platform.split('/').nth(1).unwrap_or_default(), diff_ids))
    }
}

fn change(state: &mut State, text: &str) -> Result<()> {
    let word = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    if !ALLOWED.contains(&word.as_str()) {
        return Err(BuildError::new(format!("{word} is not a valid change command")));
    }
    let op = parse_one(text).map_err(BuildError::new)?;
    let values: BTreeMap<String, String> = state.env.iter().cloned().collect();
    let scope = Scope { values, escape: '\\' };
    if let Op::Workdir(path) = &op {
        let path = scope.word(path)?;
        let joined = if path.starts_with('/') { path } else { format!("{}/{path}", state.workdir) };
        state.workdir = format!("/{}", clean(&joined));
        return Ok(());
    }
    state.configure(&op, &scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(config: Value, changes: &[&str]) -> Result<Value> {
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        let below = json!({ "history": [{ "created_by": "below" }], "config": { "Cmd": ["old"], "Shell": ["/bin/ash", "-c"] } });
        let commit = Commit {
            below,
            config,
            changes: &changes,
            comment: "why",
            created_by: "sh -c x",
            created: "2026-01-01T00:00:00Z",
            has_layer: true,
            ..Commit::default()
        };
        commit.document(&["sha256:a", "sha256:b"])
    }

    #[test]
    fn instructions_change_what_the_container_said() {
        let config = json!({ "Cmd": ["sh"], "Env": ["A=1"], "WorkingDir": "/w", "User": "" });
        let changes = ["ENV B=${A}2", "workdir sub", "EXPOSE 80", "LABEL a=b", "USER app", "ENTRYPOINT echo hi"];
        let made = document(config, &changes).unwrap();
        let config = &made["config"];
        assert_eq!(config["Env"], json!(["A=1", "B=12"]));
        assert_eq!(config["WorkingDir"], "/w/sub");
        assert_eq!((&config["Labels"], &config["User"]), (&json!({ "a": "b" }), &json!("app")));
        assert_eq!(config["ExposedPorts"], json!({ "80/tcp": {} }));
        assert_eq!((&config["Entrypoint"], &config["Cmd"]), (&json!(["/bin/ash", "-c", "echo hi"]), &Value::Null));
        assert_eq!(made["history"][1]["comment"], "why");
        assert_eq!(made["rootfs"]["diff_ids"], json!(["sha256:a", "sha256:b"]));
    }

    #[test]
    fn what_makes_files_is_no_change() {
        assert_eq!(document(Value::Null, &[]).unwrap()["config"]["Cmd"], json!(["old"]));
        for (bad, word) in [("RUN x", "RUN"), ("COPY a b", "COPY"), ("FROM a", "FROM"), ("NOPE", "NOPE")] {
            let message = document(Value::Null, &[bad]).unwrap_err().message;
            assert_eq!(message, format!("{word} is not a valid change command"));
        }
        assert!(document(Value::Null, &["EXPOSE nope"]).is_err());
    }
}
