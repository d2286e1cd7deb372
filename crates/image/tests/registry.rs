//! Pull and push against a real registry on loopback, and against ones that lie.

#![allow(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

mod support;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use image::{Auth, Digest, ImageError, ImageStore, Options, ProgressEvent};
use support::{Answer, Fixture, Registry, Small, liar, noise, root, tar_of, tree};

fn names(f: &Fixture, image: &image::ImageInfo) -> Vec<(String, String)> {
    image.layers.iter().flat_map(|l| tree(&f.path("images/layers").join(l.hex()).join("fs"))).collect()
}

/// Attempts cost time; these tests want the error.
fn hasty(f: &Fixture) -> ImageStore {
    ImageStore::open_with(&f.path("images"), Options { attempts: 2, ..Options::default() }).unwrap()
}

#[tokio::test]
async fn what_is_pushed_can_be_pulled() {
    if !root() {
        return;
    }
    let Some(registry) = Registry::start(None) else { return };
    let f = Fixture::new();
    let name = registry.reference("team/app:1");
    let image = f.import(&name, &[("bin/", b""), ("bin/app", &noise(3 << 20, 1))]);
    let held = |f: &Fixture, named: &[String]| {
        f.store.held(named).unwrap().into_iter().map(|h| (h.id, h.used, h.local)).collect::<Vec<_>>()
    };
    assert_eq!(held(&f, &[]), [(image.id.clone(), false, true)], "made here");
    let digest = f.store.push(&name, None, &()).await.unwrap();
    assert_eq!(digest, image.manifest_digest);

    let other = Fixture::new();
    let events = Mutex::new(Vec::new());
    let pulled = other.store.pull(&name, None, &|e: ProgressEvent| events.lock().unwrap().push(e)).await.unwrap();
    assert_eq!((&pulled.id, &pulled.config), (&image.id, &image.config));
    assert_eq!(pulled.repo_digests, [format!("{}@{digest}", registry.reference("team/app"))]);
    assert_eq!(names(&other, &pulled), names(&f, &image));
    assert_eq!(held(&f, &[]), [(image.id.clone(), false, false)], "the registry has it now");
    assert_eq!(held(&other, &[]), [(image.id.clone(), false, false)], "it can be pulled again");
    assert_eq!(held(&other, &[name.clone(), "none:1".into()]), [(image.id.clone(), true, false)]);
    let events = events.into_inner().unwrap();
    assert!(matches!(events.last(), Some(ProgressEvent::Done { .. })), "{events:?}");
    assert!(events.iter().any(|e| matches!(e, ProgressEvent::Transfer { .. })));
    assert_eq!(other.leftovers(), Vec::<String>::new());

    // By digest, and once more: nothing moves.
    let by_digest = format!("{}@{digest}", registry.reference("team/app"));
    assert_eq!(other.store.get(&by_digest).unwrap().unwrap().id, image.id);
    let events = Mutex::new(Vec::new());
    other.store.pull(&by_digest, None, &|e: ProgressEvent| events.lock().unwrap().push(e)).await.unwrap();
    assert!(events.lock().unwrap().iter().all(|e| !matches!(e, ProgressEvent::Transfer { .. })));

    // Under a second repository the layers are mounted.
    let second = registry.reference("team/second:1");
    other.store.tag(&name, &second).unwrap();
    assert_eq!(held(&other, &[]), [(image.id.clone(), false, true)], "one of its names is in no registry");
    let events = Mutex::new(Vec::new());
    other.store.push(&second, None, &|e: ProgressEvent| events.lock().unwrap().push(e)).await.unwrap();
    assert!(events.lock().unwrap().iter().all(|e| !matches!(e, ProgressEvent::Transfer { .. })));
    Fixture::new().store.pull(&second, None, &()).await.unwrap();
}

#[tokio::test]
async fn what_skopeo_puts_there_can_be_pulled() {
    if !root() || std::process::Command::new("skopeo").arg("-v").output().is_err() {
        println!("skipped: skopeo is not installed");
        return;
    }
    let Some(registry) = Registry::start(None) else { return };
    let f = Fixture::new();
    let image = f.import("app:1", &[("a", b"1")]);
    let archive = f.path("a.tar");
    f.store.save(&["app:1"], &archive, image::ArchiveFormat::Docker).unwrap();
    for format in ["v2s2", "oci"] {
        let name = registry.reference(&format!("skopeo/{format}:1"));
        let output = std::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--dest-tls-verify=false", "--format", format])
            .args([format!("docker-archive:{}", archive.display()), format!("docker://{name}")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let other = Fixture::new();
        assert_eq!(other.store.pull(&name, None, &()).await.unwrap().layers, image.layers);
    }
}

#[tokio::test]
async fn a_missing_tag_and_a_missing_image_say_so() {
    let Some(registry) = Registry::start(None) else { return };
    let f = Fixture::new();
    let name = registry.reference("nobody/nothing:9");
    let error = f.store.pull(&name, None, &()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("manifest for {name} not found: manifest unknown"));
    assert!(matches!(f.store.push(&name, None, &()).await, Err(ImageError::NotFound(_))));
    let error = f.store.pull("Not A Name", None, &()).await.unwrap_err();
    assert!(matches!(error, ImageError::InvalidReference { .. }));
}

#[tokio::test]
async fn a_registry_with_passwords_lets_in_who_has_one() {
    if !root() {
        return;
    }
    let Some(registry) = Registry::start(Some(("user", "secret"))) else { return };
    let f = Fixture::new();
    let name = registry.reference("private/app:1");
    f.import(&name, &[("a", b"1")]);
    let auth = |password: &str| Some(Auth::Basic { username: "user".into(), password: password.into() });
    let refused = f.store.push(&name, None, &()).await.unwrap_err().to_string();
    assert!(refused.starts_with("push access denied for"), "{refused}");
    f.store.push(&name, auth("secret"), &()).await.unwrap();

    let other = Fixture::new();
    let refused = other.store.pull(&name, None, &()).await.unwrap_err().to_string();
    let repository = registry.reference("private/app");
    let wanted =
        format!("pull access denied for {repository}, repository does not exist or may require 'docker login'");
    assert_eq!(refused, wanted);
    let error = other.store.pull(&name, auth("wrong"), &()).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert!(other.store.list().unwrap().is_empty());
    other.store.pull(&name, auth("secret"), &()).await.unwrap();

    let config = format!(r#"{{"auths":{{"{}":{{"username":"user","password":"secret"}}}}}}"#, registry.address);
    let saved = Auth::from_docker_config(config.as_bytes(), &name.parse().unwrap()).unwrap();
    assert_eq!(saved, auth("secret"));
}

#[tokio::test]
async fn tokens_are_fetched_as_docker_hub_wants_them() {
    if !root() {
        return;
    }
    let small = Small::new(&tar_of(&[("a", b"1")]));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (seen, port) = (asked.clone(), Arc::new(Mutex::new(String::new())));
    let own = port.clone();
    let address = liar(move |path, _, authorization| {
        if path.starts_with("/token") {
            seen.lock().unwrap().push(path.to_owned());
            return Answer::ok("application/json", br#"{"access_token":"let-me-in","expires_in":300}"#.to_vec());
        }
        if authorization == Some("Bearer let-me-in") {
            return small.answer(path);
        }
        let mut answer = Answer::status(401, "{}");
        let challenge = format!(r#"Bearer realm="http://{}/token",service="registry.test""#, own.lock().unwrap());
        answer.headers.push(("www-authenticate".into(), challenge));
        answer
    });
    port.lock().unwrap().clone_from(&address);
    let f = Fixture::new();
    f.store.pull(&format!("{address}/library/a:1"), None, &()).await.unwrap();
    let asked = asked.lock().unwrap();
    assert_eq!(*asked, ["/token?scope=repository%3Alibrary%2Fa%3Apull&service=registry.test"]);
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_leave_nothing() {
    if !root() {
        return;
    }
    let digest = |body: &[u8]| Digest::of(body).to_string();
    for target in ["manifest", "config", "layer", "diff id"] {
        let mut small = Small::new(&tar_of(&[("a", b"1")]));
        let by_digest = digest(&small.manifest);
        let (config, layer) = (digest(&small.config), digest(&small.layer));
        if target == "diff id" {
            // Digests all agree, but the layer is not what the configuration says it unpacks to.
            let other = Small::new(&tar_of(&[("b", b"2")]));
            let text = String::from_utf8(small.manifest.clone()).unwrap();
            let sizes = text.replace(&layer, &digest(&other.layer));
            small.manifest = sizes
                .replace(&format!("\"size\":{}}}]", small.layer.len()), &format!("\"size\":{}}}]", other.layer.len()))
                .into();
            small.layer = other.layer;
        }
        let address = liar(move |path, _, _| {
            let mut answer = small.answer(path);
            let wrong = match target {
                "manifest" => path.contains("/manifests/"),
                "config" => path.ends_with(&config),
                "layer" => path.ends_with(&layer),
                _ => false,
            };
            if wrong {
                let last = answer.body.len() - 2;
                answer.body[last] ^= 1;
            }
            answer
        });
        let f = Fixture::new();
        let name = if target == "manifest" { format!("{address}/a@{by_digest}") } else { format!("{address}/a") };
        let error = f.store.pull(&name, None, &()).await.unwrap_err();
        assert!(matches!(error, ImageError::DigestMismatch { .. }), "{target}: {error}");
        assert!(f.store.list().unwrap().is_empty());
        assert_eq!(f.leftovers(), Vec::<String>::new(), "{target}");
        f.store.prune().unwrap();
        for dir in ["blobs/sha256", "layers"] {
            assert_eq!(fs::read_dir(f.path("images").join(dir)).unwrap().count(), 0, "{target}");
        }
    }
}

#[tokio::test]
async fn an_interrupted_pull_installs_nothing_and_the_next_one_goes_on() {
    if !root() {
        return;
    }
    let small = Small::new(&tar_of(&[("big", &noise(3 << 20, 7))]));
    let layer = Digest::of(&small.layer).to_string();
    let half = small.layer.len() / 2;
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (flag, sent) = (broken.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = sent.clone();
    let address = liar(move |path, range, _| {
        let mut answer = small.answer(path);
        if !path.ends_with(&layer) {
            return answer;
        }
        let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        if let Some(from) = from {
            answer.status = 206;
            answer.body.drain(..from);
        }
        if flag.load(Ordering::SeqCst) {
            // The first attempt gets half, the others nothing.
            answer.cut = Some(if from.is_none() { half } else { 0 });
        }
        counted.fetch_add(answer.cut.unwrap_or(answer.body.len()), Ordering::SeqCst);
        answer
    });
    let f = Fixture::new();
    let name = format!("{address}/a");
    let error = hasty(&f).pull(&name, None, &()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(f.store.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(f.path("images/layers")).unwrap().count(), 0);
    assert_eq!(f.leftovers().len(), 1, "the half that came is kept");

    broken.store(false, Ordering::SeqCst);
    f.store.pull(&name, None, &()).await.unwrap();
    let total = Small::new(&tar_of(&[("big", &noise(3 << 20, 7))])).layer.len();
    assert_eq!(sent.load(Ordering::SeqCst), total, "no byte of the layer was sent twice");
    assert_eq!(f.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_dropped_pull_installs_nothing() {
    if !root() {
        return;
    }
    let Some(registry) = Registry::start(None) else { return };
    let f = Fixture::new();
    let name = registry.reference("a:1");
    f.import(&name, &[("big", &noise(8 << 20, 3))]);
    f.store.push(&name, None, &()).await.unwrap();
    let other = Fixture::new();
    let begun = tokio::sync::Notify::new();
    let progress = |e: ProgressEvent| {
        if matches!(e, ProgressEvent::Transfer { .. }) {
            begun.notify_one();
        }
    };
    tokio::select! {
        _ = other.store.pull(&name, None, &progress) => panic!("the pull was to be dropped in the middle"),
        () = begun.notified() => {}
    }
    assert!(other.store.list().unwrap().is_empty());
    let (one, two) = (other.store.clone(), ImageStore::open(&other.path("images")).unwrap());
    let (a, b) = tokio::join!(one.pull(&name, None, &()), two.pull(&name, None, &()));
    assert_eq!(a.unwrap().id, b.unwrap().id);
    assert_eq!(other.store.list().unwrap().len(), 1);
}

#[tokio::test]
async fn limits_and_foreign_content_are_refused_by_name() {
    if !root() {
        return;
    }
    let small = Arc::new(Small::new(&tar_of(&[("a", b"1")])));
    let (endless, served) = (small.clone(), small.clone());
    let address = liar(move |path, _, _| {
        match path {
        p if p.contains("/huge/manifests") => Answer::ok(support::MANIFEST, vec![b' '; 5 << 20]),
        p if p.contains("/chart/manifests") => {
            let text = String::from_utf8(endless.manifest.clone()).unwrap();
            Answer::ok(support::MANIFEST, text.replace("image.config.v1", "helm.config.v1").into())
        }
        p if p.contains("/v1/manifests") => {
            Answer::ok("application/vnd.docker.distribution.manifest.v1+prettyjws", b"{}".to_vec())
        }
        p if p.contains("/exotic/manifests") => Answer::ok(
            "application/vnd.oci.image.index.v1+json",
            br#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha512:1","size":1,"platform":{"os":"linux","architecture":"s390x"}}]}"#.to_vec(),
        ),
        p if p.contains("/longer/blobs") => {
            let mut answer = served.answer(p);
            answer.body.extend_from_slice(b"more");
            answer
        }
        p if p.contains("/down/") => Answer::status(503, r#"{"errors":[{"code":"UNAVAILABLE","message":"try later"}]}"#),
        p => served.answer(p),
    }
    });
    let f = Fixture::new();
    let store = hasty(&f);
    for (name, wanted) in [
        ("huge", "exceeds the limit"),
        ("chart", "unsupported media type"),
        ("v1", "unsupported media type"),
        ("exotic", "it has linux/s390x"),
        ("longer", "exceeds the limit"),
        ("down", "503: try later"),
    ] {
        let error = store.pull(&format!("{address}/{name}"), None, &()).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{name}: {error}");
    }
    let error = store.pull("127.0.0.1:1/nobody", None, &()).await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
    assert!(store.list().unwrap().is_empty());
    store.pull(&format!("{address}/fine"), None, &()).await.unwrap();
}
