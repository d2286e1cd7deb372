//! The Rust client in the same process, as the controllers use it.

use std::pin::pin;

use crate::common::*;
use apiserver::UserInfo;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::json;

#[tokio::test]
async fn typed_calls_and_watchers_work_over_the_service() {
    let cluster = Cluster::start().await;
    let user = UserInfo::control_plane("system:kube-controller-manager");
    let client = Client::new(cluster.server.in_process(user), "default");
    assert_eq!(client.apiserver_version().await.unwrap().minor, "36");
    let api: Api<Deployment> = Api::default_namespaced(client.clone());
    let object: Deployment = serde_json::from_value(deployment("d")).unwrap();
    let made = api.create(&PostParams::default(), &object).await.unwrap();
    assert_eq!(made.spec.unwrap().replicas, Some(1));
    let scaled =
        api.patch_scale("d", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}}))).await.unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(3));
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "status": {"replicas": 2}});
    let apply = PatchParams::apply("controller").force();
    api.patch_status("d", &apply, &Patch::Apply(&status)).await.unwrap();
    assert_eq!(api.get("d").await.unwrap().status.unwrap().replicas, Some(2));
    assert_eq!(api.list(&ListParams::default().labels("x=y")).await.unwrap().items.len(), 0);
    let error = api.get("nope").await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 404));
    api.delete("d", &DeleteParams::default()).await.unwrap();

    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = pin!(watcher(maps.clone(), config));
        loop {
            if let watcher::Event::InitDone = events.next().await.unwrap().unwrap() {
                break;
            }
        }
        let name = format!("m-{}", rand::random::<u16>());
        maps.create(&PostParams::default(), &serde_json::from_value(config_map(&name)).unwrap()).await.unwrap();
        match events.try_next().await.unwrap().unwrap() {
            watcher::Event::Apply(map) => assert_eq!(map.metadata.name, Some(name)),
            other => panic!("{other:?}"),
        }
    }
}
