//! `windlass up` and its kin: a project of three services, one of which is built here.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::command::{LIMIT, Output};
use e2e::http::{Load, get_ok};
use e2e::{IMAGE, Instance, eventually, free_port, patient};
use serde_json::Value;

/// How long a release may take on a slow machine, its build included.
const RELEASE: Duration = Duration::from_secs(300);

const DOCKERFILE: &str = r#"ARG BASE
FROM ${BASE}
ARG VERSION
RUN mkdir -p /www && echo "$VERSION" > /www/index.html
COPY serve.sh /serve.sh
EXPOSE 8000
CMD ["/bin/sh", "/serve.sh"]
"#;

/// Process 1 hears SIGTERM only if it asks for it.
const SERVE: &str = "echo \"serving $(cat /www/index.html) for $GREETING with $(cat /run/secrets/token)\"\n\
    printf ' %s' \"$GREETING\" >> /www/index.html\n\
    trap 'exit 0' TERM\nhttpd -f -p 8000 -h /www &\nwhile :; do wait $!; done\n";

const COMPOSE: &str = r#"
name: PROJECT
services:
  web:
    build: {context: ./web, args: {BASE: "IMAGE", VERSION: "${VERSION:?which}"}}
    environment: [GREETING=$$hello]
    secrets: [token]
    ports: ["127.0.0.1:PORT:8000"]
    depends_on: {prepare: {condition: service_completed_successfully}}
    healthcheck: {test: wget -qO- http://127.0.0.1:8000/ | grep -q hello, interval: 2s, timeout: 2s, retries: 2}
    deploy: {replicas: 2}
    stop_grace_period: 2s
  prepare:
    image: IMAGE
    command: [sh, -c, "wget -qO- http://store:9000/ready && echo prepared"]
    depends_on: {store: {condition: service_healthy}}
  store:
    image: IMAGE
    command: sh -c "trap 'exit 0' TERM; [ -e /data/ready ] || date > /data/ready; httpd -f -p 9000 -h /data & while :; do wait; done"
    volumes: [data:/data]
    healthcheck: {test: [CMD, test, -s, /data/ready], interval: 1s}
    stop_grace_period: 2s
    ulimits: {nofile: 1024}
volumes:
  data: {x-windlass-size: 16m}
secrets:
  token: {file: ./token}
"#;

struct Project {
    instance: Instance,
    dir: PathBuf,
    port: std::net::SocketAddr,
}

impl Project {
    /// Waits until a release is what answers: pods of the one before finish what was begun, and take what comes until the
    /// forwarding table has changed.
    fn serves(&self, wanted: &str) -> Result<()> {
        eventually(patient(LIMIT), "the release answers", || {
            let said = self.served()?;
            ensure!(said == wanted, "{said} answers");
            Ok(())
        })
    }

    fn start(name: &str) -> Result<Project> {
        let instance = Instance::builder(name).start()?;
        let (dir, port) = (instance.dir().join(name), free_port()?);
        std::fs::create_dir_all(dir.join("web"))?;
        let project = Project { instance, dir, port };
        project.write("web/Dockerfile", DOCKERFILE)?;
        project.write("web/serve.sh", SERVE)?;
        project.write("token", "t0p")?;
        let text = COMPOSE.replace("IMAGE", IMAGE).replace("PORT", &port.port().to_string()).replace("PROJECT", name);
        project.write("compose.yaml", &text)?;
        project.version("one")?;
        Ok(project)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        std::fs::write(self.dir.join(path), text).with_context(|| format!("write {path}"))
    }

    fn version(&self, version: &str) -> Result<()> {
        self.write(".env", &format!("VERSION={version}\n"))
    }

    /// A verb of this project.
    fn run(&self, verb: &str, args: &[&str]) -> Result<Output> {
        let dir = self.dir.display().to_string();
        let file = if verb == "logs" { "--file" } else { "-f" };
        self.instance.windlass_with(&[&[verb, file, &dir], args].concat(), None, patient(RELEASE))
    }

    fn up(&self) -> Result<Output> {
        let output = self.run("up", &["--detach"])?;
        ensure!(output.code() == 0, "{output:?}");
        Ok(output)
    }

    fn served(&self) -> Result<String> {
        get_ok(self.port, "localhost", "/").map(|body| body.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    fn load(&self) -> Load {
        let port = self.port;
        Load::start(40, 4, move |_| get_ok(port, "localhost", "/").map(drop))
    }

    fn objects(&self, namespace: &str, kinds: &str) -> Result<Vec<Value>> {
        let text = self.instance.kubectl().ok(&["get", kinds, "-n", namespace, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

/// Whether a file was written by the store before a time that it shows, and is still that.
fn first_line(path: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(path)?.lines().next().unwrap_or_default().to_owned())
}

pub fn a_compose_project_comes_up_is_reached_looked_at_and_goes() -> Result<()> {
    let shop = Project::start("cshop")?;
    let holder = TcpListener::bind(shop.port)?;
    let taken = shop.run("up", &["--detach"])?;
    ensure!(taken.code() == 3 && taken.stderr.contains(&format!("port {}", shop.port.port())), "{taken:?}");
    drop(holder);
    let said = shop.up()?;
    ensure!(said.stderr.contains("services.store.ulimits"), "what is lost is told: {}", said.stderr);
    let address = format!("http://localhost:{}", shop.port.port());
    ensure!(said.stdout.contains("release 1") && said.stdout.contains(&address), "{}", said.stdout);
    shop.serves("one $hello")?;

    // What is published on the loopback is not for others.
    let path = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
    let node: std::net::IpAddr = shop.instance.kubectl().ok(&["get", "nodes", "-o", path])?.trim().parse()?;
    let outside = std::net::SocketAddr::new(node, shop.port.port());
    ensure!(
        node.is_loopback() || TcpStream::connect_timeout(&outside, Duration::from_secs(2)).is_err(),
        "{outside} answers"
    );

    // What is the same is left alone.
    let again = shop.up()?;
    ensure!(!again.stdout.contains("changed") && again.stdout.contains("release 1"), "{}", again.stdout);
    let listed = shop.run("ps", &[])?.ok()?;
    for wanted in ["2/2 ready", "completed", "StatefulSet"] {
        ensure!(listed.contains(wanted), "{listed}");
    }
    eventually(patient(LIMIT), "the logs", || {
        let logs = shop.run("logs", &[])?.ok()?;
        ensure!(logs.contains("serving one for $hello with t0p") && logs.contains("prepared"), "{logs}");
        Ok(())
    })?;
    let few = shop.run("logs", &["prepare"])?.ok()?;
    ensure!(few.contains("prepared") && !few.contains("serving"), "{few}");

    // Stock Kubernetes' own client takes what is printed, and finds nothing to change.
    let printed = shop.run("convert", &[])?.ok()?;
    let kubectl = shop.instance.kubectl();
    let taken = kubectl
        .run_for(
            &["apply", "--server-side", "--field-manager=windlass", "--dry-run=server", "-f", "-"],
            Some(printed.as_bytes()),
            LIMIT,
        )?
        .ok()?;
    ensure!(taken.contains("deployment.apps/web serverside-applied"), "{taken}");
    let differences = kubectl.run_for(
        &["diff", "--server-side", "--field-manager=windlass", "-f", "-"],
        Some(printed.as_bytes()),
        LIMIT,
    )?;
    ensure!(differences.code() == 0, "{differences:?}");

    shop.run("rm", &[])?.ok()?;
    ensure!(
        shop.objects("cshop", "pods,deployments,statefulsets,jobs,services,configmaps,secrets")?
            .iter()
            .all(|o| o["metadata"]["name"] == "kube-root-ca.crt"),
        "something is left"
    );
    ensure!(shop.objects("cshop", "persistentvolumeclaims")?.len() == 1, "the volume is gone");
    shop.run("rm", &["--volumes"])?.ok()?;
    kubectl.ok(&["wait", "namespace/cshop", "--for=delete", "--timeout=60s"])?;
    ensure!(shop.run("ps", &[])?.ok()?.contains("nothing of cshop"));
    shop.instance.down()
}

pub fn releases_of_a_compose_project_drop_nothing_and_bad_ones_are_rolled_back() -> Result<()> {
    let shop = Project::start("croll")?;
    shop.up()?;
    let ready = shop.objects("croll", "pods")?;
    let store =
        ready.iter().find(|p| p["metadata"]["name"] == "store-0").context("the store")?["metadata"]["uid"].clone();

    let load = shop.load();
    shop.version("two")?;
    shop.up()?;
    shop.serves("two $hello")?;
    load.stop().flawless(20)?;

    // One that never becomes healthy is taken back, and nobody notices.
    let load = shop.load();
    let good = std::fs::read_to_string(shop.dir.join("web/serve.sh"))?;
    shop.write("web/serve.sh", "echo broken; exit 3\n")?;
    let bad = shop.run("up", &["--detach"])?;
    ensure!(bad.code() == 1, "{bad:?}");
    for wanted in ["exit code 3", "rolling back to release 2", "release 2 of croll is in force again"] {
        ensure!(bad.stderr.contains(wanted), "{}", bad.stderr);
    }
    shop.serves("two $hello")?;
    load.stop().flawless(20)?;
    shop.write("web/serve.sh", &good)?;

    let load = shop.load();
    let back = shop.run("rollback", &[])?.ok()?;
    ensure!(back.contains("from release 2 to 1") && back.contains("release 3"), "{back}");
    shop.serves("one $hello")?;
    load.stop().flawless(20)?;

    // Who was not changed was not touched; who is no longer named goes.
    let pods = shop.objects("croll", "pods")?;
    let now = pods.iter().find(|p| p["metadata"]["name"] == "store-0").context("the store")?;
    ensure!(now["metadata"]["uid"] == store, "the store was replaced");
    let text = first_line(&shop.dir.join(".env"))?;
    ensure!(text == "VERSION=two", "{text}");
    let only = format!(
        "name: croll\nservices:\n  alone:\n    image: {IMAGE}\n    command: sh -c \"trap 'exit 0' TERM; while :; do sleep 1; done\"\n    stop_grace_period: 2s\n"
    );
    shop.write("compose.yaml", &only)?;
    let said = shop.up()?;
    ensure!(said.stdout.contains("deployment.apps/web removed"), "{}", said.stdout);
    let names: Vec<String> = shop
        .objects("croll", "deployments,statefulsets,jobs,services")?
        .iter()
        .map(|o| {
            format!("{}/{}", o["kind"].as_str().unwrap_or_default(), o["metadata"]["name"].as_str().unwrap_or_default())
        })
        .collect();
    ensure!(names == ["Deployment/alone", "Service/alone"], "{names:?}");
    shop.run("rm", &["--volumes"])?.ok()?;
    shop.instance.down()
}

pub fn what_up_cannot_do_is_said_and_nothing_is_begun() -> Result<()> {
    let instance = Instance::builder("cwrong").without_image().prepare()?;
    let dir = instance.dir().join("x");
    std::fs::create_dir_all(&dir)?;
    let run = |verb: &str, text: &str| {
        std::fs::write(dir.join("compose.yaml"), text)?;
        instance.windlass(&[verb, "-f", &dir.display().to_string()])
    };
    let wrong = run("convert", "services:\n  a: {image: x, prots: [1]}\n")?;
    ensure!(wrong.code() == 1 && wrong.stderr.contains("compose.yaml:2:"), "{wrong:?}");
    ensure!(wrong.stderr.contains("services.a.prots: unknown key"), "{wrong:?}");
    let refused = run("convert", "services:\n  a: {image: x, devices: [/dev/sda]}\n")?;
    ensure!(refused.code() == 1 && refused.stderr.contains("device plugins"), "{refused:?}");
    let nobody = run("up", "services: {a: {image: x}}")?;
    ensure!(nobody.code() == 3 && nobody.stderr.contains("windlass server --detach"), "{nobody:?}");
    let fine = run("convert", "services: {a: {image: x, ports: ['80:80']}}")?;
    ensure!(fine.code() == 0 && fine.stdout.contains("kind: Deployment"), "{fine:?}");
    std::fs::remove_file(dir.join("compose.yaml"))?;
    let empty = instance.windlass(&["up", "-f", &dir.display().to_string()])?;
    ensure!(empty.code() == 3 && empty.stderr.contains("no Compose file"), "{empty:?}");
    instance.down()
}

pub fn a_folder_of_manifests_comes_up_changes_and_goes() -> Result<()> {
    let instance = Instance::builder("cfiles").start()?;
    let dir = instance.dir().join("k8s");
    std::fs::create_dir_all(&dir)?;
    let write = |name: &str, object: &Value| {
        std::fs::write(dir.join(name), serde_json::to_vec(object)?).map_err(anyhow::Error::from)
    };
    let web = e2e::deployment("web", 1, serde_json::json!([e2e::httpd("hello")]));
    write("web.json", &web)?;
    write("other.json", &serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}))?;
    let folder = dir.display().to_string();
    let run = |verb: &str, more: &[&str]| {
        instance.windlass_with(&[&[verb, "-f", &folder], more].concat(), None, patient(RELEASE))
    };
    let said = run("up", &["-d"])?.ok()?;
    ensure!(said.contains("deployment.apps/web created") && said.contains("1/1 ready"), "{said}");
    std::fs::remove_file(dir.join("other.json"))?;
    let said = run("up", &["-d"])?.ok()?;
    ensure!(said.contains("configmap/other removed") && said.contains("release 2"), "{said}");
    ensure!(!said.contains("deployment.apps/web"), "{said}");
    run("rm", &[])?.ok()?;
    let left = instance.kubectl().ok(&["get", "deployments,pods,secrets", "-o", "name"])?;
    ensure!(left.trim().is_empty(), "{left}");
    instance.down()
}
