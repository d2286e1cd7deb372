//! Logs over HTTP.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;

use super::fake::{RUNNING, exited};
use super::{ADMIN, Fixture, fixture};
use engine::runtime::ContainerState;

const PATH: &str = "/containerLogs/ns/web/c";

fn add(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "2026-01-01T00:00:00.000000001Z stdout F {text}").unwrap();
}

/// Reads the body until it ends with `end`.
async fn until(body: &mut Incoming, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let frame = body.frame().await.unwrap_or_else(|| panic!("ended at {text:?}")).unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    text
}

async fn with_log(state: ContainerState) -> (Fixture, tempfile::TempDir) {
    let (f, dir) = (fixture(vec![]).await, tempfile::tempdir().unwrap());
    f.fake.web(dir.path().join("0.log"), state);
    (f, dir)
}

#[tokio::test]
async fn following_sees_growth_and_rotation_and_ends_with_the_container() {
    let (f, dir) = with_log(RUNNING).await;
    let log = dir.path().join("0.log");
    add(&log, "zero");
    add(&log, "one");
    let mut body = f.open(ADMIN, &format!("{PATH}?follow=true&tailLines=1")).await.into_body();
    until(&mut body, "one\n").await;
    add(&log, "two");
    assert_eq!(until(&mut body, "two\n").await, "two\n");
    // Twice, so that the follower may find a whole file that it never saw as the current one.
    for (stamp, next) in [("20260101-000000.000000001", "four"), ("20260101-000000.000000002", "six")] {
        add(&log, "before");
        fs::rename(&log, dir.path().join(format!("0.log.{stamp}"))).unwrap();
        add(&log, next);
    }
    assert_eq!(until(&mut body, "six\n").await, "before\nfour\nbefore\nsix\n");
    add(&log, "last words");
    f.fake.end();
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "last words\n");
}

#[tokio::test]
async fn following_what_has_ended_ends_at_once() {
    let (f, dir) = with_log(exited()).await;
    add(&dir.path().join("0.log"), "done");
    assert_eq!(f.get(ADMIN, &format!("{PATH}?follow=1")).await, (StatusCode::OK, "done\n".to_owned()));
}

#[tokio::test]
async fn following_waits_for_a_log_that_is_not_there_yet() {
    let (f, dir) = with_log(RUNNING).await;
    let mut body = f.open(ADMIN, &format!("{PATH}?follow=1")).await.into_body();
    add(&dir.path().join("0.log"), "first");
    assert_eq!(until(&mut body, "\n").await, "first\n");
}

#[tokio::test]
async fn a_follower_that_leaves_is_forgotten() {
    let (f, dir) = with_log(RUNNING).await;
    add(&dir.path().join("0.log"), "x");
    let mut body = f.open(ADMIN, &format!("{PATH}?follow=1")).await.into_body();
    until(&mut body, "x\n").await;
    assert_eq!(f.fake.events.receiver_count(), 1);
    drop(body);
    f.fake.events.closed().await;
}

#[tokio::test]
async fn rotated_files_come_before_the_current_one() {
    let (f, dir) = with_log(RUNNING).await;
    add(&dir.path().join("0.log.20260101-000000.000000002"), "b");
    add(&dir.path().join("0.log.20260101-000000.000000001"), "a");
    add(&dir.path().join("0.log.tmp"), "not a log");
    add(&dir.path().join("0.log"), "c");
    assert_eq!(f.get(ADMIN, PATH).await.1, "a\nb\nc\n");
    assert_eq!(f.get(ADMIN, &format!("{PATH}?tailLines=2")).await.1, "b\nc\n");
    assert_eq!(f.get(ADMIN, &format!("{PATH}?limitBytes=3")).await.1, "a\nb");
}

#[tokio::test]
async fn the_previous_run_has_its_own_log() {
    let (f, dir) = with_log(exited()).await;
    let none = "previous terminated container \"c\" in pod \"web\" not found";
    let previous = format!("{PATH}?previous=true");
    assert_eq!(f.get(ADMIN, &previous).await, (StatusCode::BAD_REQUEST, none.to_owned()));
    add(&dir.path().join("0.log"), "old");
    add(&dir.path().join("1.log"), "new");
    f.fake.attempt(1, dir.path().join("1.log"), RUNNING);
    assert_eq!(f.get(ADMIN, &previous).await.1, "old\n");
    assert_eq!(f.get(ADMIN, PATH).await.1, "new\n");
    // Made but not started: what ran last is what there is, both ways.
    f.fake.attempt(2, dir.path().join("2.log"), ContainerState::Created);
    f.fake.containers.lock()[1].state = exited();
    assert_eq!(f.get(ADMIN, &previous).await.1, "new\n");
    assert_eq!(f.get(ADMIN, PATH).await.1, "new\n");
}

#[tokio::test]
async fn what_has_no_log_yet_is_refused_in_the_kubelets_words() {
    let pod = |reason: &str| -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "uid"},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason}},
            }]},
        }))
        .unwrap()
    };
    for (reason, said) in [
        ("ContainerCreating", "ContainerCreating"),
        ("ErrImagePull", "image can't be pulled"),
        ("ImagePullBackOff", "trying and failing to pull image"),
    ] {
        let f = fixture(vec![pod(reason)]).await;
        let want = format!("container \"c\" in pod \"web\" is waiting to start: {said}");
        assert_eq!(f.get(ADMIN, PATH).await, (StatusCode::BAD_REQUEST, want));
        let want = "container \"d\" not found in pod \"web\"".to_owned();
        assert_eq!(f.get(ADMIN, "/containerLogs/ns/web/d").await, (StatusCode::NOT_FOUND, want));
    }
}
