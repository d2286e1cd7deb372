//! What several watches see of the same objects.

use crate::common::*;
use serde_json::{Value, json};

/// Opens a watch over config maps whose label `watch` has one of the values, from a revision or from now.
async fn watching(admin: &Client, values: &str, revision: &str) -> Watch {
    let from = if revision.is_empty() { String::new() } else { format!("&resourceVersion={revision}") };
    admin.watch(&format!("{CONFIG_MAPS}?watch=true&labelSelector=watch+in+({values}){from}")).await
}

async fn put(admin: &Client, name: &str, label: &str, mutation: &str) -> Value {
    let mut object = labelled(name, "watch", label);
    object["data"] = json!({"mutation": mutation});
    let answer = admin.put(&format!("{CONFIG_MAPS}/{name}"), &object).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    answer.body
}

async fn removed(admin: &Client, name: &str) {
    assert_eq!(admin.delete(&format!("{CONFIG_MAPS}/{name}")).await.code, 200);
}

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

/// The next event is of that type and shows the object as it was written.
async fn sees(watch: &mut Watch, kind: &str, object: &Value) {
    let event = watch.next().await.unwrap();
    assert_eq!((event["type"].as_str(), &event["object"]), (Some(kind), object));
}

/// The next event is the end of that object.
async fn sees_end(watch: &mut Watch, name: &str) {
    assert_eq!(watch.brief().await, ("DELETED".into(), name.into()));
}

// conformance: [sig-api-machinery] Watchers should observe add, update, and delete watch notifications on configmaps
#[tokio::test]
async fn each_watch_hears_of_what_its_selector_picks_and_of_nothing_else() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut a = watching(&admin, "a", "").await;
    let mut b = watching(&admin, "b", "").await;
    let mut both = watching(&admin, "a,b", "").await;
    let made = admin.create(CONFIG_MAPS, &labelled("of-a", "watch", "a")).await;
    sees(&mut a, "ADDED", &made).await;
    sees(&mut both, "ADDED", &made).await;
    for mutation in ["1", "2"] {
        let changed = put(&admin, "of-a", "a", mutation).await;
        sees(&mut a, "MODIFIED", &changed).await;
        sees(&mut both, "MODIFIED", &changed).await;
    }
    removed(&admin, "of-a").await;
    sees_end(&mut a, "of-a").await;
    sees_end(&mut both, "of-a").await;
    let made = admin.create(CONFIG_MAPS, &labelled("of-b", "watch", "b")).await;
    // Its first event: it heard of nothing that is of the other label.
    sees(&mut b, "ADDED", &made).await;
    sees(&mut both, "ADDED", &made).await;
    removed(&admin, "of-b").await;
    sees_end(&mut b, "of-b").await;
    sees_end(&mut both, "of-b").await;
    let last = admin.create(CONFIG_MAPS, &labelled("last", "watch", "a")).await;
    sees(&mut a, "ADDED", &last).await;
}

// conformance: [sig-api-machinery] Watchers should be able to start watching from a specific resource version
#[tokio::test]
async fn a_watch_from_a_revision_begins_with_the_change_after_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(CONFIG_MAPS, &labelled("c", "watch", "a")).await;
    let first = put(&admin, "c", "a", "1").await;
    let second = put(&admin, "c", "a", "2").await;
    removed(&admin, "c").await;
    let mut watch = watching(&admin, "a", revision(&first)).await;
    sees(&mut watch, "MODIFIED", &second).await;
    sees_end(&mut watch, "c").await;
    let next = admin.create(CONFIG_MAPS, &labelled("d", "watch", "a")).await;
    sees(&mut watch, "ADDED", &next).await;
}

// conformance: [sig-api-machinery] Watchers should be able to restart watching from the last resource version observed by the previous watch
#[tokio::test]
async fn a_watch_goes_on_where_another_ended() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut watch = watching(&admin, "a", "").await;
    let made = admin.create(CONFIG_MAPS, &labelled("c", "watch", "a")).await;
    let first = put(&admin, "c", "a", "1").await;
    sees(&mut watch, "ADDED", &made).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]), (&json!("MODIFIED"), &first));
    drop(watch);
    let second = put(&admin, "c", "a", "2").await;
    let mut watch = watching(&admin, "a", revision(&event["object"])).await;
    removed(&admin, "c").await;
    sees(&mut watch, "MODIFIED", &second).await;
    sees_end(&mut watch, "c").await;
}

// conformance: [sig-api-machinery] Watchers should observe an object deletion if it stops meeting the requirements of the selector
#[tokio::test]
async fn an_object_that_is_no_longer_selected_is_deleted_until_it_is_selected_again() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut watch = watching(&admin, "a", "").await;
    let made = admin.create(CONFIG_MAPS, &labelled("c", "watch", "a")).await;
    let first = put(&admin, "c", "a", "1").await;
    put(&admin, "c", "wrong", "1").await;
    sees(&mut watch, "ADDED", &made).await;
    sees(&mut watch, "MODIFIED", &first).await;
    sees_end(&mut watch, "c").await;
    put(&admin, "c", "wrong", "2").await;
    let restored = put(&admin, "c", "a", "2").await;
    let third = put(&admin, "c", "a", "3").await;
    removed(&admin, "c").await;
    // The next event, so the change in between was not shown.
    sees(&mut watch, "ADDED", &restored).await;
    sees(&mut watch, "MODIFIED", &third).await;
    sees_end(&mut watch, "c").await;
}

/// Creates, changes and deletes config maps, one for each permit, until there are no more to come.
async fn produce(admin: Client, permits: std::sync::Arc<tokio::sync::Semaphore>) {
    let (mut alive, mut made) = (Vec::<String>::new(), 0_usize);
    for turn in 0_usize.. {
        let Ok(permit) = permits.acquire().await else { return };
        permit.forget();
        match (turn * 7 + turn / 5) % 3 {
            1 if !alive.is_empty() => {
                let name = &alive[turn % alive.len()];
                put(&admin, name, "a", &turn.to_string()).await;
            }
            2 if !alive.is_empty() => {
                let name: String = alive.swap_remove(turn % alive.len());
                removed(&admin, &name).await;
            }
            _ => {
                let name = format!("cm-{made}");
                admin.create(CONFIG_MAPS, &config_map(&name)).await;
                alive.push(name);
                made += 1;
            }
        }
    }
}

// conformance: [sig-api-machinery] Watchers should receive events on concurrent watches in same order
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_from_the_revision_of_each_event_agree_on_all_later_ones() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut from = revision(&admin.get(CONFIG_MAPS).await.body).to_owned();
    // A little ahead of the watches, and no more: one that is too far behind is ended.
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(8));
    let producer = tokio::spawn(produce(admin.clone(), permits.clone()));
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(admin.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}")).await);
        let mut next = None;
        for (n, watch) in watches.iter_mut().enumerate() {
            let event = watch.next().await.unwrap();
            let seen = (event["type"].clone(), revision(&event["object"]).to_owned());
            assert_eq!(next.get_or_insert_with(|| seen.clone()), &seen, "watch {n}");
        }
        let (_, revision) = next.unwrap();
        assert!(revision.parse::<u64>().unwrap() > from.parse().unwrap(), "{revision} after {from}");
        from = revision;
        permits.add_permits(1);
    }
    permits.close();
    producer.await.unwrap();
}
