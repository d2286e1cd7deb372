//! Images of services that are built from a Dockerfile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::convert::{Health, HealthTest};
use anyhow::{Context as _, bail};
use base::instance::Instance;
use compose::{Build, Project, Service};
use engine::build::{Named, Options, Source};
use engine::image::ImageStore;

use crate::verbs::build::{Outcome, context, execute};

/// Hex digits of an image's id in its tag.
const SHORT: usize = 12;

/// Builds what the project builds, each image once. Pods get it by a tag that is made of its id, so that a new image is a new release
/// and an old release finds its own. Answers an exit code when a build failed, which it has said itself.
pub fn build(instance: &Instance, project: &mut Project) -> anyhow::Result<Option<u8>> {
    let mut made: BTreeMap<String, String> = BTreeMap::new();
    for service in project.services.values_mut() {
        let Some(build) = &service.build else { continue };
        if !made.contains_key(&service.image) {
            eprintln!("building {} for {}", service.image, service.name);
            match execute(instance, context(&build.context), &options(build, &service.image)?, BTreeMap::new(), false)?
            {
                Outcome::Failed(code) => return Ok(Some(code)),
                Outcome::Built(None) => bail!("the build of {} made no image", service.name),
                Outcome::Built(Some(_)) => {}
            }
            made.insert(service.image.clone(), pinned(instance, &service.image)?.context("the image was just built")?);
        }
        service.workload.main().image = made[&service.image].clone();
    }
    // Who uses an image that another service builds gets the one that was built.
    for service in project.services.values_mut() {
        if let Some(tag) = made.get(&service.image) {
            service.workload.main().image.clone_from(tag);
            take_health(instance, service)?;
        }
    }
    Ok(None)
}

/// Names the images that were built before; answers the services whose image was not.
pub fn name(instance: &Instance, project: &mut Project) -> anyhow::Result<Vec<String>> {
    let built: Vec<String> = project.services.values().filter(|s| s.build.is_some()).map(|s| s.image.clone()).collect();
    let mut missing = Vec::new();
    for service in project.services.values_mut().filter(|s| built.contains(&s.image)) {
        match pinned(instance, &service.image)? {
            Some(tag) => {
                service.workload.main().image = tag;
                take_health(instance, service)?;
            }
            None => missing.push(service.name.clone()),
        }
    }
    Ok(missing)
}

/// The name of an image of this host by its id, which it has from now on.
fn pinned(instance: &Instance, image: &str) -> anyhow::Result<Option<String>> {
    let root = instance.data_dir().join("images");
    if !root.exists() {
        return Ok(None);
    }
    let store = ImageStore::open(&root).with_context(|| format!("open the image store {}", root.display()))?;
    let Some(found) = store.get(image)? else { return Ok(None) };
    let id = found.id.to_string();
    let hex: String = id.split_once(':').map_or(id.as_str(), |(_, h)| h).chars().take(SHORT).collect();
    let tag = tagged(image, &hex);
    store.tag(image, &tag)?;
    Ok(Some(tag))
}

/// The image's HEALTHCHECK, where the file says none. Of images that are built here only: another may not be here yet, and what it says
/// would make a release of the next `up`.
fn take_health(instance: &Instance, service: &mut Service) -> anyhow::Result<()> {
    let ends = matches!(service.workload.kind, ::convert::Kind::Once { .. });
    if service.health_said || ends {
        return Ok(());
    }
    let store = ImageStore::open(&instance.data_dir().join("images"))?;
    let Some(found) = store.get(&service.workload.main().image)? else { return Ok(()) };
    let config: serde_json::Value = serde_json::from_slice(&store.raw_config(&found.id)?)?;
    if let Some(health) = health(&config["config"]["Healthcheck"]) {
        service.workload.main().health = Some(health);
    }
    Ok(())
}

/// A HEALTHCHECK as an image has it; times are nanoseconds, 0 is Docker's default.
fn health(check: &serde_json::Value) -> Option<Health> {
    let mut words: Vec<String> = serde_json::from_value(check["Test"].clone()).ok()?;
    let test = match words.first()?.as_str() {
        "CMD" if words.len() > 1 => HealthTest::Exec(words.split_off(1)),
        "CMD-SHELL" if words.len() == 2 => HealthTest::Shell(words.remove(1)),
        _ => return None,
    };
    let seconds = |key: &str, usual: u32| match check[key].as_u64() {
        None | Some(0) => usual,
        Some(nanos) => u32::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u32::MAX),
    };
    let retries = check["Retries"].as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(3);
    let start_period = seconds("StartPeriod", 1);
    Some(Health {
        test,
        interval: seconds("Interval", 30),
        timeout: seconds("Timeout", 30),
        retries,
        start_period,
        restart: false,
    })
}

/// A name with another tag.
fn tagged(image: &str, tag: &str) -> String {
    let plain = image.split_once('@').map_or(image, |(name, _)| name);
    let name = plain.rsplit_once(':').filter(|(_, t)| !t.contains('/')).map_or(plain, |(name, _)| name);
    format!("{name}:{tag}")
}

fn options(build: &Build, image: &str) -> anyhow::Result<Options> {
    let mut options = Options::new();
    let in_context = build.dockerfile.clone().unwrap_or_else(|| "Dockerfile".to_owned());
    options.source = match &build.inline {
        Some(text) => Source::Text { name: "Dockerfile".to_owned(), text: text.clone(), ignore: None },
        None => source(&build.context, &in_context)?,
    };
    options.target.clone_from(&build.target);
    options.args.clone_from(&build.args);
    options.labels.clone_from(&build.labels);
    options.names = std::iter::once(image.to_owned()).chain(build.tags.iter().cloned()).collect();
    for (name, value) in &build.contexts {
        let named = match value.strip_prefix("docker-image://") {
            Some(reference) => Named::Image(reference.to_owned()),
            None => Named::Dir(PathBuf::from(value)),
        };
        options.contexts.insert(name.clone(), named);
    }
    options.secrets.clone_from(&build.secrets);
    options.no_cache = build.no_cache;
    options.pull = build.pull;
    options.hosts.clone_from(&build.hosts);
    options.network = match build.network.as_deref() {
        None => options.network,
        Some("none") => engine::build::dockerfile::Network::None,
        Some(_) => engine::build::dockerfile::Network::Host,
    };
    Ok(options)
}

/// A Dockerfile may be outside of its context.
fn source(context: &str, dockerfile: &str) -> anyhow::Result<Source> {
    let path = Path::new(dockerfile);
    if !path.is_absolute() && !path.starts_with("..") {
        return Ok(Source::InContext(dockerfile.to_owned()));
    }
    let path = Path::new(context).join(path);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(Source::Text { name: dockerfile.to_owned(), text, ignore: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_of_an_image_is_read() {
        let check = serde_json::json!({"Test": ["CMD-SHELL", "true"], "Interval": 1_500_000_000u64});
        let read = health(&check).unwrap();
        assert_eq!(read.test, HealthTest::Shell("true".into()));
        assert_eq!((read.interval, read.timeout, read.retries), (2, 30, 3));
        assert!(health(&serde_json::json!({"Test": ["NONE"]})).is_none() && health(&serde_json::Value::Null).is_none());
    }

    #[test]
    fn a_tag_takes_the_place_of_a_tag_and_not_of_a_port() {
        assert_eq!(tagged("shop-web", "a1"), "shop-web:a1");
        assert_eq!(tagged("reg:5000/shop/web:1.0", "a1"), "reg:5000/shop/web:a1");
        assert_eq!(tagged("reg:5000/web", "a1"), "reg:5000/web:a1");
    }
}
