//! Secrets and configs: Secrets and ConfigMaps whose content does not change.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use convert::Data;
use dockerapi::swarm::{Asked, Fault, Result, Said};
use http::StatusCode;
use serde_json::{Value, json};

use crate::cluster::{self, CONFIG_MAPS, Kind, LABEL, NAMESPACE, RECORD, SECRETS, text};
use crate::model::{FileOf, ServiceSpec};
use crate::record::pick;
use crate::workload::DATA;
use crate::{Swarm, check, created, now, ok};

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct What {
    /// Docker's word.
    word: &'static str,
    /// What it is in the cluster.
    kind: Kind,
    /// Most bytes (Docker's limits).
    most: usize,
}

pub const SECRET: What = What { word: "secret", kind: SECRETS, most: 500 * 1024 };
pub const CONFIG: What = What { word: "config", kind: CONFIG_MAPS, most: 1000 * 1024 };

fn record(object: &Value) -> Value {
    serde_json::from_str(text(&object["metadata"]["annotations"][RECORD])).unwrap_or_default()
}

fn name(object: &Value) -> String {
    text(&record(object)["spec"]["Name"]).to_owned()
}

impl What {
    /// As Docker shows it; what is secret never leaves the cluster.
    fn document(self, object: &Value) -> Value {
        let record = record(object);
        let mut spec = record["spec"].clone();
        if self == CONFIG {
            spec["Data"] = self.content(object);
        }
        json!({
            "ID": cluster::id(object), "Version": {"Index": record["version"]}, "Spec": spec,
            "CreatedAt": object["metadata"]["creationTimestamp"], "UpdatedAt": record["updated"],
        })
    }

    /// The content, base64.
    fn content(self, object: &Value) -> Value {
        match (self == SECRET, object["data"][DATA].as_str()) {
            (false, Some(plain)) => STANDARD.encode(plain).into(),
            (true, Some(encoded)) => encoded.into(),
            (_, None) => object["binaryData"][DATA].clone(),
        }
    }

    fn references(self, spec: &ServiceSpec) -> &[FileOf] {
        let Some(container) = &spec.task_template.container_spec else { return &[] };
        if self == SECRET { &container.secrets } else { &container.configs }
    }

    /// The object that is to be made.
    fn object(self, spec: &Value) -> Result<Value> {
        let invalid = |why: String| Fault::bad(format!("rpc error: code = InvalidArgument desc = {why}"));
        let name = text(&spec["Name"]);
        check_name(self.word, name)?;
        for option in ["Driver", "Templating"] {
            if !spec[option].is_null() && spec[option]["Name"] != "" {
                return Err(Fault::refused(&format!("{option} of a {}", self.word)));
            }
        }
        let bytes = STANDARD.decode(text(&spec["Data"])).map_err(|e| Fault::bad(format!("invalid JSON: Data: {e}")))?;
        if (self == SECRET && bytes.is_empty()) || bytes.len() > self.most {
            let least = if self == SECRET { "larger than 0 and " } else { "" };
            return Err(invalid(format!("{} data must be {least}less than {} bytes", self.word, self.most)));
        }
        let kept = json!({"Name": name, "Labels": spec["Labels"].as_object().cloned().unwrap_or_default()});
        let record = json!({"spec": kept, "version": 1, "updated": now()});
        Ok(convert::data(&Data {
            name: convert::name(name),
            namespace: Some(NAMESPACE.to_owned()),
            labels: BTreeMap::from([(LABEL.to_owned(), self.word.to_owned())]),
            annotations: BTreeMap::from([(RECORD.to_owned(), record.to_string())]),
            secret: self == SECRET,
            immutable: true,
            entries: BTreeMap::from([(DATA.to_owned(), bytes)]),
        }))
    }
}

fn check_name(word: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric();
    let good = name.starts_with(plain) && name.ends_with(plain) && name.chars().all(|c| plain(c) || "-_.".contains(c));
    if good && name.len() <= 64 {
        return Ok(());
    }
    let why = format!(
        "invalid {word} name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]"
    );
    Err(Fault::bad(format!("rpc error: code = InvalidArgument desc = {why}")))
}

impl Swarm {
    /// Answers what is asked of secrets or configs.
    pub(crate) async fn of_data(&self, what: What, asked: &Asked, path: &[&str]) -> Result<Said> {
        match (asked.method.as_str(), path) {
            ("GET", []) => {
                let filters = asked.query.filters(&["id", "name", "names", "label"])?;
                let fits = |object: &&Value| {
                    let (id, name) = (cluster::id(object), name(object));
                    let labels = serde_json::from_value(record(object)["spec"]["Labels"].clone()).unwrap_or_default();
                    filters.any("id", |v| id.starts_with(v))
                        && filters.any("name", |v| name.starts_with(v))
                        && filters.any("names", |v| name == v)
                        && filters.labels(&labels)
                };
                let all = self.all_data(what).await?;
                ok(all.iter().filter(fits).map(|o| what.document(o)).collect::<Vec<_>>())
            }
            ("POST", ["create"]) => self.create_data(what, &asked.body).await,
            ("GET", [wanted]) => ok(what.document(&self.find_data(what, wanted).await?)),
            ("POST", [wanted, "update"]) => self.update_data(what, wanted, asked).await,
            ("DELETE", [wanted]) => self.remove_data(what, wanted).await,
            _ => Err(Fault::missing("page not found")),
        }
    }

    async fn all_data(&self, what: What) -> Result<Vec<Value>> {
        Ok(self.cluster.list(what.kind, &format!("{LABEL}={}", what.word)).await?)
    }

    async fn find_data(&self, what: What, wanted: &str) -> Result<Value> {
        let all = self.all_data(what).await?;
        pick(&all, what.word, wanted, cluster::id, name).cloned()
    }

    async fn create_data(&self, what: What, spec: &Value) -> Result<Said> {
        let object = what.object(spec)?;
        match self.cluster.create(what.kind, &object).await {
            Err(refused) if refused.is_taken() => {
                let (word, name) = (what.word, text(&spec["Name"]));
                Err(Fault::conflict(format!("rpc error: code = AlreadyExists desc = {word} {name} already exists")))
            }
            made => created(json!({"ID": cluster::id(&made?)})),
        }
    }

    /// Only labels can be changed, as with Docker.
    async fn update_data(&self, what: What, wanted: &str, asked: &Asked) -> Result<Said> {
        let _one = self.making.lock().await;
        let object = self.find_data(what, wanted).await?;
        let mut record = record(&object);
        let version = asked.query.number::<u64>("version")?;
        if version.is_none() || version != record["version"].as_u64() {
            return Err(crate::services::out_of_sequence());
        }
        let same = |field: &str, own: &Value| matches!(text(&asked.body[field]), "") || asked.body[field] == *own;
        if !same("Name", &record["spec"]["Name"]) || !same("Data", &what.content(&object)) {
            return Err(Fault::bad("rpc error: code = InvalidArgument desc = only updates to Labels are allowed"));
        }
        record["spec"]["Labels"] = asked.body["Labels"].as_object().cloned().unwrap_or_default().into();
        record["version"] = (version.unwrap_or_default() + 1).into();
        record["updated"] = now().into();
        let revision = &object["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": revision, "annotations": {RECORD: record.to_string()}}});
        self.cluster.patch(what.kind, text(&object["metadata"]["name"]), &patch).await?;
        Ok(Said::Nothing(StatusCode::OK))
    }

    async fn remove_data(&self, what: What, wanted: &str) -> Result<Said> {
        let _one = self.making.lock().await;
        let object = self.find_data(what, wanted).await?;
        let (id, name) = (cluster::id(&object), name(&object));
        let mut users = Vec::new();
        for service in self.services().await? {
            let spec = ServiceSpec::read(&service.record.spec)?;
            if what.references(&spec).iter().any(|f| f.id == id || f.name == name) {
                users.push(service.name().to_owned());
            }
        }
        if !users.is_empty() {
            let (word, s, users) = (what.word, if users.len() > 1 { "s" } else { "" }, users.join(", "));
            let why = format!("{word} '{name}' is in use by the following service{s}: {users}");
            return Err(Fault::bad(format!("rpc error: code = InvalidArgument desc = {why}")));
        }
        self.cluster.delete(what.kind, text(&object["metadata"]["name"])).await?;
        Ok(Said::Nothing(StatusCode::NO_CONTENT))
    }

    /// Whether all that a service mounts is there.
    pub(crate) async fn look_for_files(&self, spec: &ServiceSpec) -> Result<()> {
        for what in [SECRET, CONFIG] {
            let wanted = what.references(spec);
            if wanted.is_empty() {
                continue;
            }
            let all = self.all_data(what).await?;
            for file in wanted {
                check::file(file)?;
                let found = all.iter().any(|o| cluster::id(o) == file.id && name(o) == file.name);
                if !found {
                    let (word, name) = (what.word, &file.name);
                    let why = format!("{word} not found: {name}");
                    return Err(Fault::bad(format!("rpc error: code = InvalidArgument desc = {why}")));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_shown_and_a_config_is() {
        let spec = json!({"Name": "shop_key", "Data": STANDARD.encode("word"), "Labels": {"a": "b"}});
        for (what, data) in [(SECRET, Value::Null), (CONFIG, spec["Data"].clone())] {
            let object = what.object(&spec).unwrap();
            assert_eq!((text(&object["metadata"]["name"]), &object["immutable"]), ("shop-key", &json!(true)));
            let shown = what.document(&object);
            assert_eq!((&shown["Spec"]["Data"], &shown["Spec"]["Labels"]["a"]), (&data, &json!("b")));
            assert_eq!(shown["Version"]["Index"], 1);
        }
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let of = |spec: Value| SECRET.object(&spec).unwrap_err().message;
        assert!(of(json!({"Name": "a", "Data": ""})).contains("larger than 0"));
        assert!(of(json!({"Name": "-a", "Data": "YQ=="})).contains("invalid secret name"));
        assert!(of(json!({"Name": "a", "Data": "YQ==", "Driver": {"Name": "vault"}})).contains("Driver"));
        assert!(of(json!({"Name": "a", "Data": "YQ==", "Templating": {"Name": "golang"}})).contains("Templating"));
    }
}
