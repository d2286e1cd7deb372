//! The platform against a real PostgreSQL.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_is_one_order_however_many_ask_at_once() {
    let Some(db) = Postgres::start() else { return };
    // Two instances that start at once migrate one after the other.
    let (a, b) = tokio::join!(orders_api(&db), orders_api(&db));
    let http = client();
    let body = order("Harbour Foods");
    let posts = (0..40).map(|n| post_order(&http, if n % 2 == 0 { &a.url } else { &b.url }, "same", &body));
    let answers = futures::future::join_all(posts).await;
    let created = answers.iter().filter(|a| a.status == 201).count();
    assert_eq!((created, answers.iter().filter(|a| a.status == 200).count()), (1, 39));
    let ids: BTreeSet<String> =
        answers.iter().map(|a| serde_json::from_slice::<Value>(&a.body).unwrap()["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(post_order(&http, &a.url, "same", &order("Someone Else")).await.status, 422);
    assert_eq!(db.sql("select count(*) from shop.orders").await, ["1"]);
    assert_eq!(db.sql("select count(*) from shop.outbox").await, ["1"]);

    let list = get(&http, &format!("{}/orders", b.url)).await;
    assert_eq!((list["total"].as_i64(), list["orders"][0]["total_cents"].as_i64()), (Some(1), Some(300)));
    let id = list["orders"][0]["id"].as_str().unwrap();
    assert_eq!(get(&http, &format!("{}/orders/{id}", a.url)).await["customer"], "Harbour Foods");
    for (path, status) in [("/orders/none", 404), ("/orders/0f3b6a52-0000-4000-8000-000000000000", 404)] {
        assert_eq!(http.call(Method::GET, &format!("{}{path}", a.url), None).await.unwrap().status, status);
    }
    let no_key = http.call(Method::POST, &format!("{}/orders", a.url), Some(&json!({}))).await.unwrap();
    assert_eq!(no_key.status, 400);
    assert_eq!(post_order(&http, &a.url, "k", "{}").await.status, 400);
    let metrics = http.call(Method::GET, &format!("{}/metrics", a.url), None).await.unwrap();
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(
        text.contains("orders_conflict_total 1") && text.contains("# TYPE orders_accepted_total counter"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_reaches_the_erp_once_through_an_outage() {
    let Some(db) = Postgres::start() else { return };
    let (api, erp) = tokio::join!(orders_api(&db), erp(&db));
    let settings = sync_settings(&db, &erp);
    let (one, _two) = tokio::join!(erp_sync(settings.clone()), erp_sync(settings));
    let http = client();
    let summary = format!("{}/deliveries/summary", erp.url);
    let queue = format!("{}/queue", one.url);
    for n in 0..20 {
        assert_eq!(post_order(&http, &api.url, &format!("before-{n}"), &order("c")).await.status, 201);
    }
    until("the first orders are delivered", || async { get(&http, &queue).await["depth"] == 0 }).await;

    behave(&http, &erp, json!({ "outage": true })).await;
    for n in 0..40 {
        assert_eq!(post_order(&http, &api.url, &format!("during-{n}"), &order("c")).await.status, 201);
    }
    let retried = "select count(*) from shop.outbox where state = 'pending' and attempts > 1";
    until("all were tried in vain", || async { db.sql(retried).await == ["40"] }).await;
    assert_eq!(get(&http, &summary).await, json!({ "orders": 20, "deliveries": 20, "duplicates": 0 }));
    assert!(get(&http, &queue).await["lag_seconds"].as_f64().unwrap() > 0.0);

    behave(&http, &erp, json!({ "outage": false, "latency_ms": 20, "error_rate": 0.3 })).await;
    until("the queue is empty", || async { get(&http, &queue).await["depth"] == 0 }).await;
    assert_eq!(get(&http, &summary).await, json!({ "orders": 60, "deliveries": 60, "duplicates": 0 }));
    assert_eq!(db.sql("select count(*) from shop.orders where status = 'delivered'").await, ["60"]);

    // Answers that get lost cannot but repeat the delivery; the order still has effect once.
    behave(&http, &erp, json!({ "lost_answer_rate": 0.5 })).await;
    for n in 0..20 {
        post_order(&http, &api.url, &format!("lost-{n}"), &order("c")).await;
    }
    until("the queue is empty", || async { get(&http, &queue).await["depth"] == 0 }).await;
    let after = get(&http, &summary).await;
    assert_eq!(after["orders"], 80);
    assert_eq!(after["deliveries"].as_i64().unwrap() - after["duplicates"].as_i64().unwrap(), 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_waits_for_a_person_and_can_be_replayed() {
    let Some(db) = Postgres::start() else { return };
    let (api, erp) = tokio::join!(orders_api(&db), erp(&db));
    let sync = erp_sync(distribution::sync::Settings { max_attempts: 3, ..sync_settings(&db, &erp) }).await;
    let http = client();
    let letters = format!("{}/dead-letters", sync.url);
    for (behaviour, attempts) in [(json!({ "refuse": true }), 1), (json!({ "outage": true }), 3)] {
        behave(&http, &erp, behaviour).await;
        let answer = post_order(&http, &api.url, &format!("key-{attempts}"), &order("c")).await;
        let id = serde_json::from_slice::<Value>(&answer.body).unwrap()["id"].as_str().unwrap().to_owned();
        let status = format!("{}/orders/{id}", api.url);
        until("it is a dead letter", || async { get(&http, &letters).await[0]["order_id"] == *id }).await;
        let letter = get(&http, &letters).await[0].clone();
        assert_eq!(letter["attempts"], attempts);
        assert_eq!(get(&http, &status).await["status"], "dead");
        let queue = get(&http, &format!("{}/queue", sync.url)).await;
        assert_eq!((queue["depth"].as_i64(), queue["dead_letters"].as_i64()), (Some(0), Some(1)));

        behave(&http, &erp, json!({})).await;
        let replay = format!("{letters}/{}/replay", letter["id"]);
        assert_eq!(http.call(Method::POST, &replay, None).await.unwrap().status, 202);
        until("it is delivered", || async { get(&http, &status).await["status"] == "delivered" }).await;
        assert_eq!(http.call(Method::POST, &replay, None).await.unwrap().status, 404);
    }
    let summary = get(&http, &format!("{}/deliveries/summary", erp.url)).await;
    assert_eq!(summary, json!({ "orders": 2, "deliveries": 2, "duplicates": 0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_claims_of_a_killed_sync_are_taken_over() {
    let Some(db) = Postgres::start() else { return };
    let (api, erp) = tokio::join!(orders_api(&db), erp(&db));
    let http = client();
    behave(&http, &erp, json!({ "latency_ms": 3000, "outage": true })).await;
    let args = ["--erp-url", &erp.url, "--timeout-ms", "2500", "--lease-ms", "3000"].map(str::to_owned);
    let mut victim = Program::start("erp-sync", &args, &db);
    for n in 0..5 {
        post_order(&http, &api.url, &format!("k{n}"), &order("c")).await;
    }
    let claimed = "select count(*) from shop.outbox where claimed_by is not null";
    until("it has claimed all", || async { db.sql(claimed).await == ["5"] }).await;
    victim.signal(Signal::SIGKILL);
    victim.child.wait().unwrap();
    behave(&http, &erp, json!({})).await;

    let heir = erp_sync(sync_settings(&db, &erp)).await;
    let queue = format!("{}/queue", heir.url);
    until("the heir has delivered all", || async { get(&http, &queue).await["depth"] == 0 }).await;
    let summary = get(&http, &format!("{}/deliveries/summary", erp.url)).await;
    assert_eq!(summary, json!({ "orders": 5, "deliveries": 5, "duplicates": 0 }));
    let metrics = http.call(Method::GET, &format!("{}/metrics", heir.url), None).await.unwrap();
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(text.contains("claims_reclaimed_total 5"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_no_request() {
    let Some(db) = Postgres::start() else { return };
    let args = ["--drain-delay-seconds", "2"].map(str::to_owned);
    let mut api = Program::start("orders-api", &args, &db);
    let http = client();
    let ready = format!("{}/readyz", api.url);
    until("it is ready", || async { http.call(Method::GET, &ready, None).await.is_ok_and(|a| a.status == 200) }).await;
    let load = distribution::load::Settings {
        url: format!("{}/orders", api.url),
        host: Some("orders.localhost".into()),
        rate: 50.0,
        duration: 1.0,
        in_flight: 64,
        timeout_ms: 5000,
        get: false,
        fail_on_error: false,
    };
    api.signal(Signal::SIGTERM);
    until("it says it is not ready", || async {
        http.call(Method::GET, &ready, None).await.is_ok_and(|a| a.status == 503)
    })
    .await;
    let report = distribution::load::generate(&load).await.unwrap();
    assert_eq!((report.ok, report.failed, report.created), (50, 0, 50), "{report:?}");
    assert!(report.latency_ms.p50 > 0.0);
    let exit = tokio::task::spawn_blocking(move || api.child.wait().unwrap());
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), exit).await.unwrap().unwrap().code(), Some(0));
    assert_eq!(db.sql("select count(*) from shop.orders").await, ["50"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_portal_shows_the_platform_and_replays() {
    let Some(db) = Postgres::start() else { return };
    let (api, erp) = tokio::join!(orders_api(&db), erp(&db));
    let sync = erp_sync(sync_settings(&db, &erp)).await;
    let http = client();
    behave(&http, &erp, json!({ "refuse": true })).await;
    distribution::seed::run(distribution::seed::Settings {
        orders_url: api.url.clone(),
        orders: 3,
        patience_seconds: 20,
    })
    .await
    .unwrap();
    let letters = format!("{}/dead-letters", sync.url);
    until("all are dead letters", || async { get(&http, &letters).await.as_array().unwrap().len() == 3 }).await;

    let lifecycle = distribution::serve::Lifecycle::new();
    let settings = distribution::portal::Settings {
        serve: serve(),
        orders_url: api.url.clone(),
        sync_url: sync.url.clone(),
        erp_url: erp.url.clone(),
    };
    let (server, routes) = distribution::portal::build(settings, lifecycle.clone()).await.unwrap();
    let portal = format!("http://{}", server.address().unwrap());
    let running = tokio::spawn(server.run(routes));
    let page = http.call(Method::GET, &portal, None).await.unwrap();
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    for part in ["Harbour Foods", "refuses orders", "/replay", "<strong>3</strong>"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    behave(&http, &erp, json!({})).await;
    for letter in get(&http, &letters).await.as_array().unwrap() {
        let url = format!("{portal}/dead-letters/{}/replay", letter["id"]);
        assert_eq!(http.call(Method::POST, &url, None).await.unwrap().status, 303);
    }
    let overview = format!("{portal}/api/overview");
    until("the page shows all as recorded", || async {
        get(&http, &overview).await["deliveries"]["Ok"] == json!({ "orders": 3, "deliveries": 3, "duplicates": 0 })
    })
    .await;
    // An open page does not keep the process from ending.
    let stream = tokio::net::TcpStream::connect(portal.trim_start_matches("http://")).await.unwrap();
    stream.writable().await.unwrap();
    stream.try_write(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    stream.readable().await.unwrap();
    lifecycle.drain();
    tokio::time::timeout(Duration::from_secs(4), running).await.expect("it ends by itself").unwrap().unwrap();
}
