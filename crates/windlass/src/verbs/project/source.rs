//! What a folder holds, and the project that it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::cli::{MoreArgs, ProjectArgs};
use crate::exit::Unfit;
use crate::verbs::apply;

/// Label of what `up` made of manifests, with the project's name.
const PROJECT: &str = "windlass.dev/project";
/// Names of a kustomization.
const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Objects that belong together: a service, or all manifests.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Its objects, in the order in which they are applied.
    pub objects: Vec<Value>,
    /// Units that must be healthy, or have ended well, before it is applied.
    pub needs: Vec<String>,
}

/// A project.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub project: String,
    /// Where it is, and where its releases are remembered.
    pub namespace: String,
    /// Labels that all its objects have.
    pub labels: Vec<(String, String)>,
    /// What is applied before everything else.
    pub base: Vec<Value>,
    /// In the order in which they are applied.
    pub units: Vec<Unit>,
    /// What is lost.
    pub notes: Vec<String>,
    /// What it was made from, if that was a Compose file.
    pub compose: Option<compose::Project>,
}

impl Source {
    /// The label selector of everything in it.
    pub fn selector(&self) -> String {
        self.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
    }

    /// All objects, in order.
    pub fn objects(&self) -> Vec<Value> {
        self.base.iter().chain(self.units.iter().flat_map(|u| &u.objects)).cloned().collect()
    }

    /// Makes the objects of a Compose project anew, after its images were named.
    pub fn refresh(&mut self) {
        let Some(project) = &self.compose else { return };
        self.base = project.base();
        self.units = units(project);
    }
}

/// The host, for the crate that reads Compose files.
struct Here;

impl compose::Host for Here {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn kind(&self, path: &Path) -> Option<compose::PathKind> {
        let kind = std::fs::metadata(path).ok()?.file_type();
        Some(match (kind.is_dir(), kind.is_file()) {
            (true, _) => compose::PathKind::Folder,
            (_, true) => compose::PathKind::File,
            _ => compose::PathKind::Other,
        })
    }
}

/// Reads what the arguments name. `services`: those whose profiles count as active.
pub fn read(args: &ProjectArgs, services: &[String]) -> anyhow::Result<Source> {
    let dir = std::env::current_dir().context("where is this")?;
    if args.files.is_empty() {
        let named = std::env::var_os("COMPOSE_FILE").is_some_and(|v| !v.is_empty());
        if named || !compose::find(&dir, &Here).is_empty() {
            return from_compose(&dir, Vec::new(), &args.more, services);
        }
        return from_folder(&dir, &args.more);
    }
    if let [one] = &args.files[..]
        && one.is_dir()
    {
        let inner = dir.join(one);
        let found = compose::find(&inner, &Here);
        if found.is_empty() {
            return from_folder(&inner, &args.more);
        }
        return from_compose(&dir, found, &args.more, services);
    }
    let manifests = args.files.iter().map(|f| is_manifest(f)).collect::<anyhow::Result<Vec<bool>>>()?;
    if manifests.iter().all(|m| *m) {
        return from_manifests(&dir, &args.files, &args.more);
    }
    if manifests.iter().any(|m| *m) {
        bail!("some of the files are manifests and some are Compose files: bring them up one after the other");
    }
    from_compose(&dir, args.files.clone(), &args.more, services)
}

/// A project of which only the name is known, if the files are gone; else what the files say.
pub fn read_or_named(args: &ProjectArgs) -> anyhow::Result<Source> {
    match (read(args, &[]), &args.more.project_name) {
        (Ok(source), _) => Ok(source),
        (Err(_), Some(name)) if args.files.is_empty() => Ok(named(name)),
        (Err(e), _) => Err(e),
    }
}

fn named(project: &str) -> Source {
    Source {
        project: project.to_owned(),
        namespace: ::convert::name(project),
        labels: labels_of(project),
        base: Vec::new(),
        units: Vec::new(),
        notes: Vec::new(),
        compose: None,
    }
}

fn labels_of(project: &str) -> Vec<(String, String)> {
    let (key, value) = compose::MANAGED_BY;
    vec![(key.to_owned(), value.to_owned()), (::convert::PROJECT.to_owned(), ::convert::label_value(project))]
}

fn from_compose(dir: &Path, files: Vec<PathBuf>, args: &MoreArgs, services: &[String]) -> anyhow::Result<Source> {
    let options = compose::Options {
        dir: dir.to_path_buf(),
        files,
        project_dir: args.project_directory.clone(),
        name: args.project_name.clone(),
        env_files: args.env_file.clone(),
        profiles: args.profile.clone(),
        services: services.to_vec(),
    };
    let project = compose::load(&options, &Here)?;
    if project.namespace == "default" || project.namespace.starts_with("kube-") {
        bail!(
            "the project cannot be named {:?}: it has a namespace of its own; choose another name with -p",
            project.name
        );
    }
    let notes = project.notes.clone();
    Ok(Source {
        notes,
        base: project.base(),
        units: units(&project),
        compose: Some(project.clone()),
        ..named(&project.name)
    })
}

fn units(project: &compose::Project) -> Vec<Unit> {
    let unit = |name: String| {
        let service = &project.services[&name];
        let waited = service.depends_on.iter().filter(|(_, d)| d.condition != compose::Condition::Started);
        let needs = waited.map(|(other, _)| other.clone()).collect();
        Unit { objects: service.objects(), needs, name }
    };
    project.waves().into_iter().flatten().map(unit).collect()
}

fn is_manifest(path: &Path) -> anyhow::Result<bool> {
    if path == Path::new("-") || path.is_dir() {
        return Ok(true);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().any(|l| l.trim_start_matches('"').starts_with("apiVersion")) || text.trim_start().starts_with('{'))
}

fn from_folder(dir: &Path, args: &MoreArgs) -> anyhow::Result<Source> {
    if KUSTOMIZATIONS.iter().any(|n| dir.join(n).is_file()) {
        let objects = kustomize(dir)?;
        return Ok(of_objects(dir, objects, args));
    }
    from_manifests(dir, &[dir.to_path_buf()], args)
}

fn from_manifests(dir: &Path, files: &[PathBuf], args: &MoreArgs) -> anyhow::Result<Source> {
    let mut objects = apply::read_all(files)?;
    objects.retain(|o| o["apiVersion"].is_string() && o["kind"].is_string());
    if objects.is_empty() {
        return Err(Unfit::error(
            format!("{} has no Compose file, kustomization or manifest", dir.display()),
            "go to a folder that has one, or name it with -f",
        ));
    }
    let place = match files {
        [one] if one.is_dir() => dir.join(one),
        _ => dir.to_path_buf(),
    };
    Ok(of_objects(&place, objects, args))
}

/// Manifests as they are, but for the label of the project.
fn of_objects(dir: &Path, mut objects: Vec<Value>, args: &MoreArgs) -> Source {
    let project = args.project_name.clone().unwrap_or_else(|| {
        let folder = dir.file_name().map_or("manifests".into(), |n| n.to_string_lossy());
        // Folders of manifests are often called the same, and live in one namespace.
        format!("{}-{:08x}", ::convert::name(&folder), ::convert::checksum(&dir.to_string_lossy()))
    });
    let label = ::convert::label_value(&project);
    let mut namespace = None;
    for object in &mut objects {
        if !object["metadata"]["labels"].is_object() {
            object["metadata"]["labels"] = json!({});
        }
        object["metadata"]["labels"][PROJECT] = label.clone().into();
        namespace = namespace.or_else(|| object["metadata"]["namespace"].as_str().map(str::to_owned));
    }
    // Namespaces and definitions before what needs them.
    let early = |o: &Value| ["Namespace", "CustomResourceDefinition"].contains(&o["kind"].as_str().unwrap_or_default());
    let (base, objects): (Vec<Value>, Vec<Value>) = objects.into_iter().partition(early);
    Source {
        project,
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
        labels: vec![(PROJECT.to_owned(), label)],
        base,
        units: vec![Unit { name: "manifests".to_owned(), objects, needs: Vec::new() }],
        notes: Vec::new(),
        compose: None,
    }
}

fn kustomize(dir: &Path) -> anyhow::Result<Vec<Value>> {
    let mut command = match (crate::preflight::program("kustomize"), crate::preflight::program("kubectl")) {
        (Some(program), _) => {
            let mut command = Command::new(program);
            command.arg("build");
            command
        }
        (None, Some(program)) => {
            let mut command = Command::new(program);
            command.arg("kustomize");
            command
        }
        (None, None) => {
            return Err(Unfit::error(
                format!("{} is a kustomization, and there is no kustomize or kubectl here", dir.display()),
                "install kubectl",
            ));
        }
    };
    let output = command.arg(dir).output().context("run kustomize")?;
    if !output.status.success() {
        bail!("kustomize: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    apply::parse(&String::from_utf8(output.stdout).context("kustomize")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_get_the_label_of_their_project_and_namespaces_come_first() {
        let objects = vec![
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}}),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}),
        ];
        let args = MoreArgs { project_name: Some("p".into()), ..MoreArgs::default() };
        let source = of_objects(Path::new("/x"), objects.clone(), &args);
        assert_eq!((source.namespace.as_str(), source.selector().as_str()), ("n", "windlass.dev/project=p"));
        let kinds: Vec<_> = source.objects().iter().map(|o| o["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["Namespace", "ConfigMap"]);
        let named = |dir: &str| of_objects(Path::new(dir), objects.clone(), &MoreArgs::default()).project;
        assert_ne!(named("/a/k8s"), named("/b/k8s"));
    }
}
