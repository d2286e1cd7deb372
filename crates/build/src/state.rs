//! What an image says about running it, while instructions change it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::dockerfile::{Command, Health};

/// What runs shell lines when nothing else is said.
pub const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Configuration of a stage.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub env: Vec<(String, String)>,
    pub user: String,
    pub workdir: String,
    pub cmd: Vec<String>,
    /// `CMD` was said in this stage: `ENTRYPOINT` leaves it.
    pub cmd_is_own: bool,
    pub entrypoint: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub exposed: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
    pub stop_signal: String,
    pub healthcheck: Option<Value>,
    pub onbuild: Vec<String>,
    pub shell: Vec<String>,
    pub author: String,
    pub history: Vec<Value>,
    /// When the newest of its layers was made, RFC 3339.
    pub created: Option<String>,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
}

impl State {
    /// What an image's configuration document says (OCI image spec, config.md, and Docker's additions).
    pub fn of_image(document: &Value) -> Self {
        let config = &document["config"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pair = |entry: String| {
            let (name, value) = entry.split_once('=').unwrap_or((&entry, ""));
            (name.to_owned(), value.to_owned())
        };
        let labels = config["Labels"].as_object().into_iter().flatten();
        State {
            env: texts(&config["Env"]).into_iter().map(pair).collect(),
            user: text(&config["User"]),
            workdir: text(&config["WorkingDir"]),
            cmd: texts(&config["Cmd"]),
            cmd_is_own: false,
            entrypoint: texts(&config["Entrypoint"]),
            labels: labels.map(|(name, value)| (name.clone(), text(value))).collect(),
            exposed: keys(&config["ExposedPorts"]),
            volumes: keys(&config["Volumes"]),
            stop_signal: text(&config["StopSignal"]),
            healthcheck: config.get("Healthcheck").filter(|h| !h.is_null()).cloned(),
            onbuild: texts(&config["OnBuild"]),
            shell: texts(&config["Shell"]),
            author: text(&document["author"]),
            history: document["history"].as_array().cloned().unwrap_or_default(),
            created: document["created"].as_str().map(str::to_owned),
        }
    }

    /// Sets a variable; one that is there keeps its place.
    pub fn set_env(&mut self, name: &str, value: String) {
        match self.env.iter_mut().find(|(n, _)| n == name) {
            Some(slot) => slot.1 = value,
            None => self.env.push((name.to_owned(), value)),
        }
    }

    /// The value of a variable.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// What a command line becomes.
    pub fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) => self.shell_words(line),
        }
    }

    /// A line, given to the shell.
    pub fn shell_words(&self, line: &str) -> Vec<String> {
        let mut words: Vec<String> = match self.shell.is_empty() {
            true => SHELL.map(str::to_owned).to_vec(),
            false => self.shell.clone(),
        };
        words.push(line.to_owned());
        words
    }

    /// `HEALTHCHECK` as Docker keeps it.
    pub fn set_health(&mut self, health: Option<&Health>) {
        let Some(health) = health else {
            self.healthcheck = Some(json!({ "Test": ["NONE"] }));
            return;
        };
        let test: Vec<String> = match &health.command {
            Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
            Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
        };
        let mut value = json!({ "Test": test });
        let numbers = [
            ("Interval", health.interval),
            ("Timeout", health.timeout),
            ("StartPeriod", health.start_period),
            ("StartInterval", health.start_interval),
            ("Retries", health.retries),
        ];
        for (name, number) in numbers.into_iter().filter(|(_, n)| *n != 0) {
            value[name] = json!(number);
        }
        self.healthcheck = Some(value);
    }

    /// Adds a line of history.
    pub fn log(&mut self, created_by: &str, has_layer: bool) {
        let mut entry = Map::new();
        if let Some(created) = &self.created {
            entry.insert("created".to_owned(), json!(created));
        }
        entry.insert("created_by".to_owned(), json!(created_by));
        entry.insert("comment".to_owned(), json!("buildkit.dockerfile.v0"));
        if !has_layer {
            entry.insert("empty_layer".to_owned(), json!(true));
        }
        self.history.push(Value::Object(entry));
    }

    /// The configuration document, with sorted names: the same state gives the same bytes.
    pub fn document(&self, architecture: &str, diff_ids: &[&str]) -> Value {
        let mut config = Map::new();
        let mut set = |name: &str, value: Value, is_set: bool| {
            if is_set {
                config.insert(name.to_owned(), value);
            }
        };
        let object = |names: &BTreeSet<String>| -> Value {
            Value::Object(names.iter().map(|name| (name.clone(), json!({}))).collect())
        };
        let env: Vec<String> = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        set("Env", json!(env), !env.is_empty());
        set("User", json!(self.user), !self.user.is_empty());
        let workdir = if self.workdir.is_empty() { "/" } else { &self.workdir };
        set("WorkingDir", json!(workdir), true);
        set("Cmd", json!(self.cmd), !self.cmd.is_empty());
        set("Entrypoint", json!(self.entrypoint), !self.entrypoint.is_empty());
        set("Labels", json!(self.labels), !self.labels.is_empty());
        set("ExposedPorts", object(&self.exposed), !self.exposed.is_empty());
        set("Volumes", object(&self.volumes), !self.volumes.is_empty());
        set("StopSignal", json!(self.stop_signal), !self.stop_signal.is_empty());
        set("Healthcheck", json!(self.healthcheck), self.healthcheck.is_some());
        set("OnBuild", json!(self.onbuild), !self.onbuild.is_empty());
        set("Shell", json!(self.shell), !self.shell.is_empty());
        let mut document = json!({
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": self.history,
        });
        if let Some(created) = &self.created {
            document["created"] = json!(created);
        }
        if !self.author.is_empty() {
            document["author"] = json!(self.author);
        }
        document
    }
}

/// `80`, `80/udp`, `8000-8002/tcp` as the ports they are.
///
/// # Errors
/// What is no port, in Docker's words.
pub fn ports(text: &str) -> Result<Vec<String>, String> {
    let bad = || format!("invalid containerPort: {text}");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    // An address and a port of the host are Docker's to ignore: they are for `docker run`.
    let range = range.rsplit(':').next().unwrap_or(range);
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let (from, to): (u16, u16) = (from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?);
    if from == 0 || from > to {
        return Err(bad());
    }
    Ok((from..=to).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_its_document() {
        let mut state = State::default();
        state.set_env("A", "b=c".into());
        state.set_env("PATH", "/bin".into());
        state.set_env("A", "d".into());
        state.user = "app:extra".into();
        state.workdir = "/w".into();
        state.cmd = vec!["a".into()];
        state.labels.insert("x".into(), "y".into());
        state.exposed.extend(ports("80-81/udp").unwrap());
        state.volumes.insert("/v".into());
        state.onbuild.push("RUN x".into());
        state.set_health(Some(&Health {
            command: Command::Shell("test".into()),
            interval: 5,
            timeout: 0,
            start_period: 0,
            start_interval: 0,
            retries: 2,
        }));
        state.log("RUN x", true);
        let document = state.document("amd64", &["sha256:x"]);
        assert_eq!(State::of_image(&document), state);
        assert_eq!(document["config"]["Env"], json!(["A=d", "PATH=/bin"]));
        assert_eq!(
            document["config"]["Healthcheck"],
            json!({"Test": ["CMD-SHELL", "test"], "Interval": 5, "Retries": 2})
        );
        assert_eq!(document["config"]["ExposedPorts"], json!({"80/udp": {}, "81/udp": {}}));
    }

    #[test]
    fn ports_are_numbers_ranges_and_protocols() {
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(ports("7000-7001").unwrap(), ["7000/tcp", "7001/tcp"]);
        for bad in ["", "x", "0", "70000", "9-8", "80/icmp", "80-"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
