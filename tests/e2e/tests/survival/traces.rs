//! Where the time of a pod goes, as an OpenTelemetry collector is told.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use e2e::{Instance, eventually, httpd, pod};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// A collector: keeps every span it is sent, with the service it came from. Its thread ends with the test's process.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Collector {
    fn start() -> Result<Collector> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (address, spans) = (listener.local_addr()?, Arc::<Mutex<Vec<_>>>::default());
        let kept = spans.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that is cut is the exporter's business.
                if let Ok(taken) = take(stream) {
                    kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(taken);
                }
            }
        });
        Ok(Collector { address, spans })
    }

    fn of_trace(&self, trace: &str) -> Vec<(String, Value)> {
        let all = self.spans.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.iter().filter(|(_, span)| span["traceId"] == *trace).cloned().collect()
    }
}

/// The spans of one request, each with its service.
fn take(mut stream: TcpStream) -> Result<Vec<(String, Value)>> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut bytes = Vec::new();
    let body = loop {
        let mut chunk = [0; 16 << 10];
        let n = stream.read(&mut chunk)?;
        ensure!(n > 0, "cut");
        bytes.extend_from_slice(&chunk[..n]);
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        ensure!(head.starts_with("post /v1/traces ") && head.contains("content-type: application/json"), "{head}");
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).context("a length")?;
        if bytes.len() - end - 4 >= length.trim().parse()? {
            break bytes.split_off(end + 4);
        }
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")?;
    let request: Value = serde_json::from_slice(&body)?;
    let mut spans = Vec::new();
    for resource in request["resourceSpans"].as_array().into_iter().flatten() {
        let attributes = resource["resource"]["attributes"].as_array().cloned().unwrap_or_default();
        let service = attributes.iter().find(|a| a["key"] == "service.name").context("a service")?;
        let service = service["value"]["stringValue"].as_str().unwrap_or_default();
        let scopes = resource["scopeSpans"].as_array().into_iter().flatten();
        let found = scopes.flat_map(|s| s["spans"].as_array().into_iter().flatten());
        spans.extend(found.map(|span| (service.to_owned(), span.clone())));
    }
    Ok(spans)
}

fn nanoseconds(span: &Value, key: &str) -> Result<u128> {
    span[key].as_str().context("a time")?.parse().context("nanoseconds")
}

pub fn a_pods_way_to_ready_is_one_trace() -> Result<()> {
    let collector = Collector::start()?;
    let instance = Instance::builder("traces")
        .flag("--tracing-endpoint")
        .flag(&format!("http://{}", collector.address))
        .start()?;
    let outcome = traced(&instance, &collector);
    if outcome.is_err() {
        eprintln!("{}", instance.log_tail());
    }
    outcome?;
    instance.down()
}

fn traced(instance: &Instance, collector: &Collector) -> Result<()> {
    let kubectl = instance.kubectl();
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    let mut web = pod("web", "true", json!({"volumes": [{"name": "scratch", "emptyDir": {}}]}));
    web["spec"]["containers"] = json!([httpd("up")]);
    kubectl.run_for(&["apply", "-f", "-"], Some(web.to_string().as_bytes()), LIMIT)?.ok()?;
    kubectl.run_for(&["wait", "pod/web", "--for=condition=Ready", "--timeout=60s"], None, LIMIT * 2)?.ok()?;
    let uid = kubectl.ok(&["get", "pod", "web", "-o", "jsonpath={.metadata.uid}"])?;
    let trace = uid.replace('-', "");
    let named = |name: &str| -> Vec<(String, Value)> {
        collector.of_trace(&trace).into_iter().filter(|(_, s)| s["name"] == name).collect()
    };
    let root = eventually(LIMIT, "the pod's own span is exported", || {
        // It ends after all that is below it; who asked the API server may come by another way.
        ensure!(!named("KubernetesAPI").is_empty(), "no request of the node is there");
        Ok(named("pod").pop().context("it is not there")?.1)
    })?;
    let ended = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    ensure!(root.get("parentSpanId").is_none() && named("pod").len() == 1, "{root}");
    let (first, last) = (nanoseconds(&root, "startTimeUnixNano")?, nanoseconds(&root, "endTimeUnixNano")?);
    ensure!(began <= first && first < last && last <= ended, "{root}");
    let attributes: BTreeMap<&str, &str> = root["attributes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| Some((a["key"].as_str()?, a["value"]["stringValue"].as_str()?)))
        .collect();
    ensure!(attributes["k8s.pod.name"] == "web" && attributes["k8s.pod.uid"] == uid, "{attributes:?}");
    for name in ["volumes", "sandbox", "image", "create container", "start container", "probe", "status"] {
        let (service, span) = named(name).first().cloned().with_context(|| format!("no span {name:?}"))?;
        ensure!(service == "kubelet" && span["parentSpanId"] == root["spanId"], "{service}: {span}");
        let (from, to) = (nanoseconds(&span, "startTimeUnixNano")?, nanoseconds(&span, "endTimeUnixNano")?);
        ensure!(first <= from && from <= to && to <= last, "{span} is not within {root}");
    }
    // Each begins after what it stands on: the runtime may tell that something is there before who made it has returned.
    let starts = |name: &str| nanoseconds(&named(name)[0].1, "startTimeUnixNano");
    for steps in [
        ["sandbox", "create container"],
        ["volumes", "create container"],
        ["create container", "start container"],
        ["start container", "probe"],
    ] {
        let [before, after] = steps;
        ensure!(starts(before)? <= starts(after)?, "{after} began before {before}");
    }
    // What the node asked of the API server is below the node's own span.
    let (service, request) = named("KubernetesAPI").pop().context("a request")?;
    let statuses: Vec<Value> = named("status").into_iter().map(|(_, s)| s["spanId"].clone()).collect();
    ensure!(service == "apiserver" && statuses.contains(&request["parentSpanId"]), "{service}: {request}");
    ensure!(request["kind"] == 2, "{request}");
    a_clients_trace_is_gone_on_with(instance, collector)
}

/// A request with a `traceparent`, as any client may send one.
fn a_clients_trace_is_gone_on_with(instance: &Instance, collector: &Collector) -> Result<()> {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mut proxy = instance.kubectl().command(&["proxy", "--port=0"]);
    let mut child = proxy.stdout(std::process::Stdio::piped()).spawn()?;
    let asked = (|| -> Result<()> {
        let mut line = [0; 256];
        let n = child.stdout.as_mut().context("piped")?.read(&mut line)?;
        let line = String::from_utf8_lossy(&line[..n]).into_owned();
        let address: SocketAddr = line.trim().rsplit(' ').next().context("Starting to serve on ADDRESS")?.parse()?;
        let header = format!("00-{trace}-b7ad6b7169203331-01");
        let headers = [("traceparent", header.as_str())];
        let answer = e2e::http::request(address, "GET", "127.0.0.1", "/api/v1/namespaces/default", &headers, b"")?;
        ensure!(answer.status == 200, "{}", answer.body);
        Ok(())
    })();
    child.kill()?;
    child.wait()?;
    asked?;
    eventually(LIMIT, "the request is in the client's trace", || {
        let (service, span) = collector.of_trace(trace).pop().context("it is not there")?;
        ensure!(service == "apiserver" && span["parentSpanId"] == "b7ad6b7169203331", "{service}: {span}");
        let path = json!({"key": "url.path", "value": {"stringValue": "/api/v1/namespaces/default"}});
        ensure!(span["attributes"].as_array().is_some_and(|a| a.contains(&path)), "{span}");
        Ok(())
    })
}
