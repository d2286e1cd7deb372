//! Long lists in pieces.

use crate::common::*;
use serde_json::{Value, json};

const TEMPLATES: &str = "/api/v1/namespaces/default/podtemplates";
const ALL: usize = 400;

fn template(i: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": format!("template-{i:04}")},
        "template": {"spec": {"containers": [{"name": "test", "image": "test2"}]}},
    })
}

async fn many(admin: &Client) {
    for i in 0..ALL {
        admin.create(TEMPLATES, &template(i)).await;
    }
}

/// Checks a piece that begins with the `from`th object; the number after its last, and the token for what follows.
fn piece(list: &Value, from: usize, limit: usize) -> (usize, Option<String>) {
    let items = list["items"].as_array().unwrap();
    assert!(items.len() <= limit, "{}", items.len());
    for (i, item) in items.iter().enumerate() {
        assert_eq!(item["metadata"]["name"], format!("template-{:04}", from + i));
    }
    let next = from + items.len();
    let token = list["metadata"]["continue"].as_str().map(str::to_owned);
    let remaining = list["metadata"]["remainingItemCount"].as_u64();
    assert_eq!(remaining, token.as_ref().map(|_| u64::try_from(ALL - next).unwrap()));
    (next, token)
}

/// The rest of a list, all of it of one revision, which is given.
async fn rest(admin: &Client, mut found: usize, mut token: Option<String>, limit: usize, revision: &Value) {
    while let Some(next) = token {
        let list = admin.get(&format!("{TEMPLATES}?limit={limit}&continue={next}")).await;
        assert_eq!((list.code, &list.body["metadata"]["resourceVersion"]), (200, revision), "{}", list.body);
        (found, token) = piece(&list.body, found, limit);
    }
    assert_eq!(found, ALL);
}

// conformance: [sig-api-machinery] Servers with support for API chunking should return chunks of results for list calls
#[tokio::test]
async fn a_list_comes_in_pieces_of_one_revision_or_whole() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    many(&admin).await;
    for _ in 0..3 {
        let first = admin.get(&format!("{TEMPLATES}?limit=17")).await.body;
        let (found, token) = piece(&first, 0, 17);
        assert_eq!(found, 17);
        rest(&admin, found, token, 17, &first["metadata"]["resourceVersion"]).await;
    }
    // Also when there are others by then.
    let first = admin.get(&format!("{TEMPLATES}?limit=17")).await.body;
    let (found, token) = piece(&first, 0, 17);
    assert_eq!(admin.delete(&format!("{TEMPLATES}/template-0399")).await.code, 200);
    rest(&admin, found, token, 17, &first["metadata"]["resourceVersion"]).await;
    admin.create(TEMPLATES, &template(ALL - 1)).await;
    for limit in [format!("?limit={}", ALL + 1), String::new()] {
        let whole = admin.get(&format!("{TEMPLATES}{limit}")).await.body;
        assert_eq!(piece(&whole, 0, ALL + 1), (ALL, None));
    }
}

// conformance: [sig-api-machinery] Servers with support for API chunking should support continue listing from the last key if the original version has been compacted away, though the list is inconsistent
#[tokio::test]
async fn a_list_goes_on_from_its_last_key_when_its_revision_is_gone() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    many(&admin).await;
    let limit = ALL / 10;
    let first = admin.get(&format!("{TEMPLATES}?limit={limit}")).await.body;
    let (found, token) = piece(&first, 0, limit);
    let second = format!("{TEMPLATES}?limit={limit}&continue={}", token.unwrap());
    assert_eq!(admin.get(&second).await.code, 200);
    // What five minutes do, the test does at once. Something else is written, as in any cluster; the list itself stays.
    admin.create(CONFIG_MAPS, &config_map("later")).await;
    cluster.store.compact(cluster.store.revision()).await.unwrap();
    let gone = admin.get(&second).await;
    assert_eq!((gone.code, gone.body["reason"].as_str()), (410, Some("Expired")), "{}", gone.body);
    let token = gone.body["metadata"]["continue"].as_str().expect("a token to go on with");
    let list = admin.get(&format!("{TEMPLATES}?limit={limit}&continue={token}")).await.body;
    assert_ne!(list["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (next, token) = piece(&list, found, limit);
    assert_eq!(next, 2 * limit);
    rest(&admin, next, token, limit, &list["metadata"]["resourceVersion"]).await;
}
