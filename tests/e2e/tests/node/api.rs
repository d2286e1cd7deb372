//! The API without kubectl: these tests make very many small requests, and a process for each would be most of their time.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Ctx, eventually};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// How long anything that must happen may take.
pub const LIMIT: Duration = Duration::from_secs(90);

/// A client of the administrator for the namespace of a test.
pub struct Api {
    runtime: tokio::runtime::Runtime,
    client: Client,
    /// The namespace.
    pub ns: String,
    made: RefCell<Vec<String>>,
}

/// Code and body.
type Answer = (u16, Value);

/// Whether a pod that ended well, by what it printed, is what was wanted.
pub type Wanted = Box<dyn Fn(&Value, &str) -> bool>;

/// The name of an object.
pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// `{.status.containerStatuses[0]}` of a pod.
pub fn first_status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// How often the first container was started again.
pub fn restarts(pod: &Value) -> i64 {
    first_status(pod)["restartCount"].as_i64().unwrap_or(0)
}

/// Whether a condition is true.
pub fn is(object: &Value, condition: &str) -> bool {
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.any(|c| c["type"] == condition && c["status"] == "True")
}

impl Api {
    /// Of that test.
    pub fn new(ctx: &Ctx) -> Result<Api> {
        Api::of(&ctx.instance, &ctx.ns)
    }

    /// Of an instance and a namespace.
    pub fn of(instance: &e2e::Instance, ns: &str) -> Result<Api> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let path = instance.names().data_dir().join("admin.kubeconfig");
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(path)?;
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Api { runtime, client, ns: ns.to_owned(), made: RefCell::default() })
    }

    /// A path in the namespace.
    pub fn at(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.ns)
    }

    fn text(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Result<(u16, String)> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind).body(body)?;
        self.runtime.block_on(async {
            let asked = tokio::time::timeout(LIMIT, self.client.request_text(request)).await;
            match asked.with_context(|| format!("{method} {path}: no answer"))? {
                Ok(text) => Ok((200, text)),
                Err(kube::Error::Api(status)) => Ok((status.code, serde_json::to_string(&status)?)),
                Err(error) => Err(error).with_context(|| format!("{method} {path}")),
            }
        })
    }

    fn call(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Answer> {
        let (code, text) = self.text(method, path, kind, body.to_string().into_bytes())?;
        Ok((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// What is at a path; `null` when nothing is.
    pub fn get(&self, path: &str) -> Result<Value> {
        match self.call("GET", path, "application/json", &Value::Null)? {
            (200, value) => Ok(value),
            (404, _) => Ok(Value::Null),
            (code, value) => bail!("GET {path}: {code} {value}"),
        }
    }

    /// A pod of the namespace.
    pub fn pod(&self, name: &str) -> Result<Value> {
        self.get(&self.at(&format!("pods/{name}")))
    }

    /// Creates, whatever the answer.
    pub fn post(&self, path: &str, object: &Value) -> Result<Answer> {
        self.call("POST", path, "application/json", object)
    }

    /// Creates an object of the core group in the namespace.
    pub fn create(&self, plural: &str, object: &Value) -> Result<Value> {
        let (code, value) = self.post(&self.at(plural), object)?;
        ensure!(code == 200, "{plural} {}: {code} {value}", name_of(object));
        if plural == "pods" {
            self.made.borrow_mut().push(name_of(object).to_owned());
        }
        Ok(value)
    }

    /// Replaces, whatever the answer.
    pub fn put(&self, path: &str, object: &Value) -> Result<Answer> {
        self.call("PUT", path, "application/json", object)
    }

    /// A strategic merge patch that must succeed.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let (code, value) = self.call("PATCH", path, "application/strategic-merge-patch+json", patch)?;
        ensure!(code == 200, "PATCH {path}: {code} {value}");
        Ok(value)
    }

    /// Deletes; with options.
    pub fn delete(&self, path: &str, options: &Value) -> Result<Answer> {
        self.call("DELETE", path, "application/json", options)
    }

    /// The log of a container.
    pub fn log(&self, pod: &str, container: &str) -> Result<String> {
        let path = self.at(&format!("pods/{pod}/log?container={container}"));
        match self.text("GET", &path, "application/json", Vec::new())? {
            (200, text) => Ok(text),
            (code, text) => bail!("log of {pod}: {code} {text}"),
        }
    }

    /// Waits until an object is as wanted; its last state is in the error.
    pub fn until(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(LIMIT, what, || {
            let object = self.get(path)?;
            ensure!(wanted(&object), "{path} is {object}");
            Ok(object)
        })
    }

    /// The same of a pod.
    pub fn until_pod(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.until(&self.at(&format!("pods/{name}")), &format!("{name}: {what}"), wanted)
    }

    /// Creates a pod and waits until it is ready.
    pub fn ready(&self, pod: &Value) -> Result<Value> {
        self.create("pods", pod)?;
        self.until_pod(name_of(pod), "ready", |p| is(p, "Ready"))
    }

    /// Waits until a pod is no more.
    pub fn gone(&self, name: &str) -> Result<()> {
        self.until_pod(name, "gone", Value::is_null).map(drop)
    }

    /// Waits until a pod has ended well, and answers the log of a container.
    pub fn output(&self, name: &str, container: &str) -> Result<String> {
        let over = |p: &Value| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let pod = self.until_pod(name, "over", over)?;
        let log = self.log(name, container)?;
        ensure!(pod["status"]["phase"] == "Succeeded", "{name} failed: {log}\n{}", pod["status"]);
        Ok(log)
    }

    /// Runs pods of one container `main` side by side, and checks what each prints.
    pub fn outputs(&self, rows: Vec<(Value, Wanted)>) -> Result<()> {
        for (pod, _) in &rows {
            self.create("pods", pod)?;
        }
        for (pod, wanted) in &rows {
            let said = self.output(name_of(pod), "main")?;
            ensure!(wanted(&self.pod(name_of(pod))?, &said), "{}: {said:?}", name_of(pod));
        }
        Ok(())
    }

    /// Reasons and messages of the events about an object.
    pub fn events(&self, name: &str) -> Result<Vec<(String, String)>> {
        let list = self.get(&self.at(&format!("events?fieldSelector=involvedObject.name%3D{name}")))?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().map(|e| (text(&e["reason"]), text(&e["message"]))).collect())
    }

    /// Deletes the pods that were made here, at once.
    pub fn clear(&self) -> Result<()> {
        for name in self.made.take() {
            self.delete(&self.at(&format!("pods/{name}")), &json!({"gracePeriodSeconds": 0}))?;
        }
        Ok(())
    }
}

/// A row that wants exactly this text.
pub fn says(text: impl Into<String>) -> Wanted {
    let text = text.into();
    Box::new(move |_, said| said == text)
}

/// A row that wants all these parts.
pub fn has(parts: &[&str]) -> Wanted {
    let parts: Vec<String> = parts.iter().map(|p| (*p).to_owned()).collect();
    Box::new(move |_, said| parts.iter().all(|p| said.contains(p.as_str())))
}
