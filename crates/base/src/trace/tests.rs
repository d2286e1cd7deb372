use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const UID: &str = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736";

#[test]
fn a_traceparent_is_read_as_w3c_has_it() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let ids = Ids { trace: trace_of_uid(UID), span: 0x00f0_67aa_0ba9_02b7 };
    assert_eq!(parse_traceparent(good), Some((ids, true)));
    assert_eq!(ids.traceparent(), good);
    assert_eq!(parse_traceparent(&good.replace("-01", "-00")), Some((ids, false)));
    assert_eq!(parse_traceparent(&good.replace("00-4", "cc-4").replace("-01", "-01-more")), Some((ids, true)));
    for bad in [
        "",
        "00",
        &good.replace("00-4", "ff-4"),
        &good.replace("-01", "-01-more"),
        &good.to_uppercase(),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
    ] {
        assert_eq!(parse_traceparent(bad), None, "{bad}");
    }
}

#[test]
fn an_endpoint_is_plain_http_with_defaults() {
    let shown = |url: &str| url.parse::<Endpoint>().map(|e| e.to_string()).map_err(|e| e.to_string());
    assert_eq!(shown("http://127.0.0.1:4000").unwrap(), "http://127.0.0.1:4000/v1/traces");
    assert_eq!(shown("http://collector/").unwrap(), "http://collector:4318/v1/traces");
    assert_eq!(shown("http://[::1]").unwrap(), "http://[::1]:4318/v1/traces");
    assert_eq!(shown("http://[::1]:9/otlp/v1/traces").unwrap(), "http://[::1]:9/otlp/v1/traces");
    for bad in ["https://collector", "collector:4318", "http://", "http://a b", "http://host:x", "http://u@host"] {
        assert!(shown(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_off_records_nothing_and_makes_nothing() {
    let tracer = Tracer::default();
    let mut span = tracer.root(1, "a");
    span.set("key", || -> String { panic!("made for nobody") });
    assert!(!span.is_on() && span.ids().is_none() && !span.parent().child("b").is_on());
    assert!(!tracer.request(Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), "c").is_on());
}

/// Answers one request after the other and gives their bodies.
async fn collector(listener: TcpListener, status: &'static str) -> serde_json::Value {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    let body = loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "cut");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).unwrap().parse::<usize>().unwrap();
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        if body.len() == length {
            break serde_json::from_str(body).unwrap();
        }
    };
    stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes()).await.unwrap();
    body
}

#[tokio::test]
async fn spans_reach_a_collector_nested_and_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (tracer, export) = Tracer::new(endpoint, "agent", "node-1", PER_MILLION);
    let root = tracer.root(trace_of_uid(UID), "pod").with("k8s.pod.name", || "web");
    let ids = root.ids().unwrap();
    let mut child = root.parent().child("image");
    child.fail(|| "x".repeat(10_000));
    let asked = tracer.request(Some(&child.ids().unwrap().traceparent()), "PATCH");
    let (child_ids, asked_ids) = (child.ids().unwrap(), asked.ids().unwrap());
    drop((asked, child, root));
    let off = tracer.request(Some(&ids.traceparent().replace("-01", "-00")), "GET");
    assert!(!off.is_on(), "the caller does not record");
    drop((off, tracer));
    let (body, ()) = tokio::join!(collector(listener, "200 OK"), export);
    let resource = &body["resourceSpans"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "agent");
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    let named = |name: &str| spans.iter().find(|s| s["name"] == name).unwrap();
    let (pod, image, patch) = (named("pod"), named("image"), named("PATCH"));
    assert_eq!(spans.len(), 3);
    assert!(spans.iter().all(|s| s["traceId"] == UID.replace('-', "")));
    assert_eq!((pod.get("parentSpanId"), &pod["kind"]), (None, &1.into()));
    assert_eq!(image["parentSpanId"], format!("{:016x}", ids.span));
    assert_eq!((&patch["parentSpanId"], &patch["kind"]), (&format!("{:016x}", child_ids.span).into(), &2.into()));
    assert_eq!(patch["spanId"], format!("{:016x}", asked_ids.span));
    assert_eq!((&image["status"]["code"], image["status"]["message"].as_str().unwrap().len()), (&2.into(), 512));
    assert_eq!(pod["attributes"][0], serde_json::json!({"key": "k8s.pod.name", "value": {"stringValue": "web"}}));
    let time = |s: &serde_json::Value, key: &str| s[key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(time(pod, "startTimeUnixNano") <= time(image, "startTimeUnixNano"));
    assert!(time(pod, "endTimeUnixNano") >= time(pod, "startTimeUnixNano"));
}

#[tokio::test]
async fn what_a_collector_does_not_take_is_dropped_and_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (tracer, export) = Tracer::new(endpoint, "agent", "node-1", PER_MILLION);
    // Nobody exports yet: the queue fills up, and nothing waits.
    for n in 1..=(QUEUE as u128 + 10) {
        drop(tracer.root(n, "pod"));
    }
    assert_eq!(tracer.dropped(), 10);
    let Tracer(Some(inner)) = tracer else { panic!("it is on") };
    let dropped = inner.dropped.clone();
    drop(inner);
    let refusing = async {
        collector(listener, "503 Service Unavailable").await;
    };
    // The first batch is refused, and then nobody listens.
    tokio::join!(refusing, export);
    assert_eq!(dropped.load(Ordering::Relaxed), QUEUE as u64 + 10);
}

#[test]
fn a_trace_is_recorded_by_all_or_by_none() {
    let (tracer, _export) = Tracer::new("http://127.0.0.253:9".parse().unwrap(), "a", "b", 250_000);
    let on = (1..=1_000_000u128).step_by(997).filter(|n| tracer.root(*n, "pod").is_on()).count();
    assert!((240..=260).contains(&on), "{on}");
    assert!(!tracer.root(0, "pod").is_on(), "no trace has the id zero");
}
