//! kubectl as people run it, and what one test needs of it: a namespace of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command::{self, Output};
use crate::{Instance, eventually, patient};

/// kubectl of the PATH with a kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    cache: PathBuf,
    namespace: Option<String>,
}

impl Kubectl {
    /// With a kubeconfig and a folder for what it learns of the server.
    pub fn new(kubeconfig: &Path, cache: &Path) -> Self {
        Kubectl { kubeconfig: kubeconfig.to_path_buf(), cache: cache.to_path_buf(), namespace: None }
    }

    /// The same in a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Kubectl { namespace: Some(namespace.into()), ..self.clone() }
    }

    /// The command, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", &self.cache).env_remove("KUBE_EDITOR");
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command.args(args);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.run_for(args, None, command::LIMIT)
    }

    /// The same with standard input and a limit.
    pub fn run_for(&self, args: &[&str], stdin: Option<&[u8]>, limit: Duration) -> Result<Output> {
        command::run(&mut self.command(args), stdin, limit)
    }

    /// What it prints, when it must succeed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.ok()
    }

    /// What it prints on standard error, when it must fail.
    pub fn fails(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.failed()
    }

    /// The same in a pseudo terminal of its own; standard output and error are one.
    pub fn in_terminal(&self, args: &[&str], typed: &[u8]) -> Result<Output> {
        let inner = command::line(&self.command(args));
        let mut command = Command::new("script");
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBECACHEDIR", &self.cache);
        command.args(["--quiet", "--return", "--command", &inner, "/dev/null"]);
        command::run(&mut command, Some(typed), command::LIMIT)
    }
}

/// What a test gets: the shared instance, and a namespace that nobody else uses.
pub struct Ctx {
    /// The instance all tests of the suite share.
    pub instance: Arc<Instance>,
    /// The namespace.
    pub ns: String,
    k: Kubectl,
}

impl std::ops::Deref for Ctx {
    type Target = Kubectl;

    fn deref(&self) -> &Kubectl {
        &self.k
    }
}

impl Ctx {
    /// Makes the namespace and waits for its service account, which every pod runs as.
    pub fn new(instance: Arc<Instance>, test: &str) -> Result<Ctx> {
        let ctx = Ctx::existing(instance, test);
        ctx.ok(&["create", "namespace", &ctx.ns])?;
        ctx.wait_for("serviceaccount/default", "create", Duration::from_secs(30))?;
        Ok(ctx)
    }

    /// The same namespace again.
    pub(crate) fn existing(instance: Arc<Instance>, test: &str) -> Ctx {
        let ns: String = test.replace('_', "-").chars().take(63).collect();
        let ns = ns.trim_end_matches('-').to_owned();
        let k = instance.kubectl().in_namespace(&ns);
        Ctx { instance, ns, k }
    }

    /// `kubectl apply` of these objects.
    pub fn apply(&self, objects: &[Value]) -> Result<String> {
        // kubectl gives the schema it would check them by 32 s to arrive, which a slow machine may need to make it.
        let checked = if patient(Duration::from_secs(1)) > Duration::from_secs(1) { "false" } else { "true" };
        self.feed(&["apply", &format!("--validate={checked}"), "-f", "-"], objects)?.ok()
    }

    /// kubectl with these objects on its standard input.
    pub fn feed(&self, args: &[&str], objects: &[Value]) -> Result<Output> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.run_for(args, Some(&serde_json::to_vec(&list)?), command::LIMIT)
    }

    /// `kubectl wait RESOURCE --for=CONDITION`, at most 60 s.
    pub fn wait(&self, resource: &str, condition: &str) -> Result<()> {
        self.wait_for(resource, condition, Duration::from_secs(60))
    }

    /// The same with another limit.
    pub fn wait_for(&self, resource: &str, condition: &str, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", patient(limit).as_secs());
        let condition = format!("--for={condition}");
        let args = ["wait", resource, &condition, &timeout];
        self.run_for(&args, None, limit + Duration::from_secs(15))?.ok()?;
        Ok(())
    }

    /// Applies, and waits until the pod is ready.
    pub fn ready_pod(&self, pod: Value) -> Result<()> {
        let name = name_of(&pod)?;
        self.apply(&[pod])?;
        self.wait(&format!("pod/{name}"), "condition=Ready")
    }

    /// Applies, waits until the pod has ended well, and answers its log.
    pub fn output_of(&self, pod: Value) -> Result<String> {
        let name = name_of(&pod)?;
        self.apply(&[pod])?;
        self.wait(&format!("pod/{name}"), "jsonpath={.status.phase}=Succeeded")
            .with_context(|| self.run(&["logs", &name, "--all-containers"]).map(|o| o.stdout).unwrap_or_default())?;
        self.ok(&["logs", &name])
    }

    /// What a shell script prints in the pod's container.
    pub fn sh(&self, pod: &str, script: &str) -> Result<String> {
        Ok(self.ok(&["exec", pod, "--", "sh", "-c", script])?.trim().to_owned())
    }

    /// A field of an object, by JSONPath; empty when it is absent.
    pub fn field(&self, resource: &str, path: &str) -> Result<String> {
        self.ok(&["get", resource, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// The object as JSON.
    pub fn json(&self, resource: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.ok(&["get", resource, "-o", "json"])?)?)
    }

    /// Objects of a kind with a label selector.
    pub fn list(&self, kind: &str, selector: &str) -> Result<Vec<Value>> {
        let text = self.ok(&["get", kind, "-l", selector, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until there are no objects of a kind with that selector.
    pub fn none_left(&self, kind: &str, selector: &str) -> Result<()> {
        eventually(Duration::from_secs(60), &format!("no {kind} with {selector:?} is left"), || {
            let left = self.ok(&["get", kind, "-l", selector, "-o", "name"])?;
            ensure!(left.trim().is_empty(), "left: {}", left.trim());
            Ok(())
        })
    }

    /// What a reader of a failure wants to see.
    pub fn diagnosis(&self) -> String {
        let print = |args: &[&str]| self.run(args).map(|o| o.stdout + &o.stderr).unwrap_or_default();
        let objects = print(&["get", "all,pvc,endpointslices", "-o", "wide"]);
        let events = print(&["get", "events", "--sort-by=.lastTimestamp"]);
        let pods = print(&["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status}{\"\\n\"}{end}"]);
        format!("--- objects of {}\n{objects}--- events\n{events}--- pods\n{pods}", self.ns)
    }
}

/// The name of an object.
fn name_of(object: &Value) -> Result<String> {
    Ok(object["metadata"]["name"].as_str().context("the manifest has a name")?.to_owned())
}
