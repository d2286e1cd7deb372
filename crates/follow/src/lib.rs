//! Watches of the API server, for whatever kind.
//!
//! `kube`'s watcher is compiled anew for each kind it is used with, and reads each of them in three ways (from a list, from an
//! event, and from an event whose type comes late). With thirty kinds that was half of what the controllers compile to. Here one
//! watcher follows objects whose text is left as it is; the text becomes an object at the end, in one way.

use std::borrow::Cow;

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope};
use kube::runtime::watcher::{self, Config, Error, Event};
use kube::{Api, Resource};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object of which no more is known than its revision.
#[derive(Debug, Clone)]
struct Unread {
    /// Has the revision and nothing else: what a watcher goes by.
    meta: ObjectMeta,
    text: Box<RawValue>,
}

impl<'de> Deserialize<'de> for Unread {
    /// Only from JSON's text: an event says first of what type it is, as Kubernetes' API servers have it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow)]
            metadata: Revision<'a>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Revision<'a> {
            #[serde(borrow, default)]
            resource_version: Option<Cow<'a, str>>,
        }
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let head: Head<'_> = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let resource_version = head.metadata.resource_version.map(Cow::into_owned);
        Ok(Unread { meta: ObjectMeta { resource_version, ..ObjectMeta::default() }, text })
    }
}

impl Resource for Unread {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// Follows the objects of a kind, of one namespace or of all; what comes is what [`kube::runtime::watcher()`] has. It does not
/// wait before it tries again after an error.
///
/// # Errors
/// In the stream: those of that watcher, and an object that is none of this kind. The watch goes on after each.
pub fn watch<K>(
    client: kube::Client,
    namespace: Option<&str>,
    config: Config,
) -> impl Stream<Item = Result<Event<K>, Error>> + Send + Unpin + use<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let of = ApiResource::erase::<K>(&());
    let api: Api<Unread> = match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &of),
        None => Api::all_with(client, &of),
    };
    // A pointer, so that what follows is small for each kind.
    watcher::watcher(api, config).boxed().map(|event| {
        Ok(match event? {
            Event::Apply(object) => Event::Apply(read(&object)?),
            Event::Delete(object) => Event::Delete(read(&object)?),
            Event::Init => Event::Init,
            Event::InitApply(object) => Event::InitApply(read(&object)?),
            Event::InitDone => Event::InitDone,
        })
    })
}

fn read<K: DeserializeOwned>(object: &Unread) -> Result<K, Error> {
    serde_json::from_str(object.text.get()).map_err(|e| Error::WatchFailed(kube::Error::SerdeError(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use kube::core::{ObjectList, WatchEvent};

    const TEXT: &str = r#"{"kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"7"},"data":{"k":"\u00e9"}}"#;

    #[test]
    fn lists_and_events_keep_the_text() {
        let list =
            format!(r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"9"}},"items":[{TEXT}]}}"#);
        let list: ObjectList<Unread> = serde_json::from_str(&list).unwrap();
        assert_eq!(list.items[0].meta.resource_version.as_deref(), Some("7"));
        let event = format!(r#"{{"type":"MODIFIED","object":{TEXT}}}"#);
        let WatchEvent::Modified(object) = serde_json::from_str::<WatchEvent<Unread>>(&event).unwrap() else {
            panic!("another event")
        };
        assert_eq!((object.meta.resource_version.as_deref(), object.text.get()), (Some("7"), TEXT));
        let map: ConfigMap = read(&object).unwrap();
        assert_eq!(map.data.unwrap()["k"], "é");
    }

    #[test]
    fn what_is_none_of_the_kind_is_an_error() {
        let odd = r#"{"metadata":{"name":"a"},"spec":7}"#;
        let odd: Unread = serde_json::from_str(odd).unwrap();
        assert!(matches!(read::<Pod>(&odd), Err(Error::WatchFailed(_))));
        for broken in ["7", "{}", r#"{"metadata":{"resourceVersion":7}}"#] {
            assert!(serde_json::from_str::<Unread>(broken).is_err(), "{broken}");
        }
    }
}
