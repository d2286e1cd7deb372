//! The example platform on a Windlass of its own: released under load, and through an outage of its ERP.
//!
//! The heaviest suite. `WINDLASS_E2E_OUTAGE_SECONDS` shortens the outage (default 60); `DISTRIBUTION_BINARY` names the
//! program that goes into the image; otherwise it is the one beside `windlass`, or the image's script compiles it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::http::{self, Load};
use e2e::{Instance, Suite, eventually, skip, tests};
use serde_json::{Value, json};

/// Compiling, and a first debootstrap, on a small machine.
const IMAGES_MAX: Duration = Duration::from_secs(900);
const UP_MAX: Duration = Duration::from_secs(240);
const HOST: &str = "orders.localhost";

fn main() -> ExitCode {
    Suite::new("distribution")
        .threads(1)
        .with(tests![alone:
            the_platform_takes_an_order_under_the_restricted_standard,
            the_platform_is_released_under_load_and_survives_an_outage_of_its_erp,
        ])
        .limit(IMAGES_MAX + UP_MAX + Duration::from_secs(600))
        .main()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn build_images(instance: &Instance) -> Result<()> {
    let mut command = Command::new(repository().join("examples/distribution/images/build.sh"));
    command.args(["--name", instance.name(), "--data-dir"]).arg(instance.names().data_dir());
    let windlass = e2e::windlass().context("no windlass binary")?;
    command.arg("--windlass").arg(&windlass);
    let beside = windlass.with_file_name("distribution");
    if std::env::var_os("DISTRIBUTION_BINARY").is_none() && beside.is_file() {
        command.arg("--binary").arg(beside);
    }
    let output = e2e::command::run(&mut command, None, IMAGES_MAX)?;
    if output.stderr.contains("debootstrap failed") || output.stderr.contains("no apt source") {
        return Err(skip("the PostgreSQL image needs a Debian mirror, and there is none"));
    }
    output.ok().map(drop)
}

/// The platform, as the test sees it from the host.
struct Platform<'a> {
    instance: &'a Instance,
}

impl Platform<'_> {
    fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.instance.kubectl().in_namespace("distribution").ok(args)
    }

    /// A Service's cluster address: the host is a client like others.
    fn service(&self, name: &str) -> Result<SocketAddr> {
        let ip = self.kubectl(&["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"])?;
        Ok(SocketAddr::new(ip.parse()?, 8080))
    }

    fn json(&self, service: &str, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&http::get_ok(self.service(service)?, service, path)?)?)
    }

    fn behave(&self, behaviour: Value) -> Result<()> {
        let body = behaviour.to_string();
        let headers = [("Content-Type", "application/json")];
        let put = http::request(self.service("erp")?, "PUT", "erp", "/admin/behaviour", &headers, body.as_bytes())?;
        ensure!((200..300).contains(&put.status), "the ERP answered {}: {}", put.status, put.body);
        Ok(())
    }

    /// Posts new orders at a rate through the ingress; each must be accepted as new.
    fn orders(&self, series: &'static str, per_second: u32) -> Load {
        let ingress = self.instance.http();
        Load::start(per_second, 24, move |n| {
            let body = json!({"customer": "Harbour Foods", "lines": [{"sku": "PAL-1200", "quantity": 1 + n % 5, "price_cents": 1890}]});
            let key = format!("{series}-{n}");
            let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key.as_str())];
            let answer = http::request(ingress, "POST", HOST, "/orders", &headers, body.to_string().as_bytes())?;
            ensure!(answer.status == 201, "answered {}: {}", answer.status, answer.body);
            Ok(())
        })
    }

    fn queue_is_empty(&self, limit: Duration) -> Result<()> {
        eventually(limit, "the queue drains", || {
            let queue = self.json("erp-sync", "/queue")?;
            ensure!(queue["depth"] == 0 && queue["dead_letters"] == 0, "{queue}");
            Ok(())
        })
    }
}

fn the_platform_is_released_under_load_and_survives_an_outage_of_its_erp() -> Result<()> {
    on_an_instance(platform)
}

fn the_platform_takes_an_order_under_the_restricted_standard() -> Result<()> {
    on_an_instance(restricted)
}

fn on_an_instance(test: fn(&Instance) -> Result<()>) -> Result<()> {
    let instance = Instance::builder("distribution").without_image().prepare()?;
    build_images(&instance)?;
    instance.spawn()?;
    instance.wait_ready()?;
    let outcome = test(&instance);
    if outcome.is_err() {
        let show = |args: &[&str]| {
            instance.kubectl().in_namespace("distribution").run(args).map(|o| o.stdout).unwrap_or_default()
        };
        eprintln!("{}{}{}", show(&["get", "all", "-o", "wide"]), show(&["get", "events"]), instance.log_tail());
    }
    outcome?;
    instance.down()
}

fn platform(instance: &Instance) -> Result<()> {
    let manifests = repository().join("examples/distribution/k8s").display().to_string();
    let seconds = UP_MAX.as_secs().to_string();
    let apply = ["apply", "-f", &manifests, "--wait", "--timeout", &seconds];
    instance.windlass_with(&apply, None, UP_MAX + Duration::from_secs(30))?.ok()?;
    let platform = Platform { instance };
    eventually(Duration::from_secs(30), "the ingress answers", || http::get_ok(instance.http(), HOST, "/orders"))?;
    platform.queue_is_empty(Duration::from_secs(60))?;
    let released = released_under_load(&platform)?;
    through_an_outage(&platform, released)
}

/// Whether the kernel can map the owners of files into a pod's users: since Linux 6.3.
fn maps_users() -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 3))
}

/// Every pod complies with the standard and has users of its own, the database with its volume included, and an order is taken
/// and delivered; also after the database was started again.
fn restricted(instance: &Instance) -> Result<()> {
    let own_users = maps_users()?;
    if !own_users {
        println!("this kernel cannot give pods users of their own: hostUsers is left out");
    }
    let overlay = if own_users { "restricted" } else { "restricted-host-users" };
    let overlay = repository().join("examples/distribution/overlays").join(overlay).display().to_string();
    let manifests = instance.kubectl().ok(&["kustomize", "--load-restrictor", "LoadRestrictionsNone", &overlay])?;
    let seconds = UP_MAX.as_secs().to_string();
    let apply = ["apply", "-f", "-", "--wait", "--timeout", &seconds];
    instance.windlass_with(&apply, Some(manifests.as_bytes()), UP_MAX + Duration::from_secs(30))?.ok()?;
    let platform = Platform { instance };
    let label = "jsonpath={.metadata.labels.pod-security\\.kubernetes\\.io/enforce}";
    ensure!(platform.kubectl(&["get", "namespace", "distribution", "-o", label])? == "restricted");
    let of_pods = "jsonpath={range .items[*]}{.metadata.name} {.spec.hostUsers}{\"\\n\"}{end}";
    let pods = platform.kubectl(&["get", "pods", "-o", of_pods])?;
    let wanted = if own_users { " false" } else { " " };
    ensure!(pods.lines().count() >= 7 && pods.lines().all(|l| l.ends_with(wanted)), "{pods}");
    // What does not comply is kept out.
    let root = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": {
        "containers": [{"name": "main", "image": "windlass.local/postgres:15"}]}});
    let refused = instance.kubectl().in_namespace("distribution");
    let refused = refused.run_for(&["create", "-f", "-"], Some(root.to_string().as_bytes()), UP_MAX)?.failed()?;
    ensure!(refused.contains("violates PodSecurity"), "{refused}");
    eventually(Duration::from_secs(30), "the ingress answers", || http::get_ok(instance.http(), HOST, "/orders"))?;
    let load = platform.orders("restricted", 10);
    load.go_on(1)?;
    load.stop().flawless(1)?;
    platform.queue_is_empty(Duration::from_secs(60))?;
    let delivered = platform.json("erp", "/deliveries/summary")?["orders"].as_i64().context("a count")?;
    ensure!(delivered >= 1, "{delivered} orders were delivered");
    // The volume still belongs to the database when other users are given to its pod.
    platform.kubectl(&["delete", "pod", "postgres-0"])?;
    platform.kubectl(&["rollout", "status", "statefulset/postgres", "--timeout=120s"])?;
    eventually(Duration::from_secs(60), "the orders are there", || {
        let total = platform.json("orders-api", "/orders")?["total"].as_i64().context("a total")?;
        ensure!(total >= delivered, "{total} of {delivered}");
        Ok(())
    })
}

/// A rolling update of the order service at 200 requests a second: none fails. Answers how many orders there are.
fn released_under_load(platform: &Platform<'_>) -> Result<i64> {
    let before = platform.json("orders-api", "/orders")?["total"].as_i64().context("a total")?;
    let load = platform.orders("release", 200);
    load.go_on(400)?;
    platform.kubectl(&["set", "env", "deployment/orders-api", "RELEASE=next"])?;
    platform.kubectl(&["rollout", "status", "deployment/orders-api", "--timeout=80s"])?;
    // Until the last of the old pods is gone.
    eventually(Duration::from_secs(60), "only the new pods are left", || {
        let pods = platform.kubectl(&["get", "pods", "-l", "app.kubernetes.io/name=orders-api", "-o", "name"])?;
        ensure!(pods.lines().count() == 2, "{pods}");
        Ok(())
    })?;
    load.go_on(400)?;
    let report = load.stop();
    println!("release: {} orders, slowest {} ms", report.sent, report.slowest.as_millis());
    report.flawless(1000)?;
    let orders = before + i64::try_from(report.sent)?;
    ensure!(platform.json("orders-api", "/orders")?["total"] == orders, "accepted orders are missing");
    platform.queue_is_empty(Duration::from_secs(120))?;
    ensure!(platform.json("erp", "/deliveries/summary")?["orders"] == orders);
    Ok(orders)
}

/// While the ERP is out, orders are accepted; when it is back, each reaches it exactly once.
fn through_an_outage(platform: &Platform<'_>, before: i64) -> Result<()> {
    let seconds = std::env::var("WINDLASS_E2E_OUTAGE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let duplicates = platform.json("erp", "/deliveries/summary")?["duplicates"].clone();
    platform.behave(json!({"outage": true}))?;
    let rate = 20;
    let load = platform.orders("outage", rate);
    load.go_on(u64::from(rate) * seconds)?;
    let queue = platform.json("erp-sync", "/queue")?;
    ensure!(queue["depth"].as_i64().is_some_and(|d| d > 0), "the outage had no effect: {queue}");
    platform.behave(json!({}))?;
    let report = load.stop();
    report.flawless(u64::from(rate) * seconds)?;
    platform.queue_is_empty(Duration::from_secs(180))?;
    let summary = platform.json("erp", "/deliveries/summary")?;
    println!("outage of {seconds} s: {} orders accepted, {summary}", report.sent);
    ensure!(summary["orders"] == before + i64::try_from(report.sent)?, "{summary}");
    ensure!(summary["duplicates"] == duplicates, "{summary}");
    Ok(())
}
