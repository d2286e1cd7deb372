//! `windlass apply -f PATH [--wait]`: server-side apply of manifests, and a live account of what is waited for and why.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use base::instance::Instance;
use serde_json::Value;

use crate::cli::ApplyArgs;
use crate::kubeapi::{self, Applied};

pub(super) mod wait;

/// Largest manifest file, bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Applies every manifest, in file order, then waits if asked to.
pub async fn run(instance: &Instance, args: ApplyArgs) -> anyhow::Result<ExitCode> {
    let objects = read_all(&args.files)?;
    if objects.is_empty() {
        bail!("no manifests in {}", args.files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", "));
    }
    let client = kubeapi::admin(instance).await?;
    for object in &objects {
        let label = label(object);
        let done = kubeapi::apply(&client, object).await.with_context(|| format!("apply {label}"))?;
        let word = match done {
            Applied::Created => "created",
            Applied::Configured => "configured",
            Applied::Unchanged => "unchanged",
        };
        println!("{label} {word}");
    }
    if args.wait {
        wait::until_ready(&client, &objects, Duration::from_secs(args.timeout)).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `kind.group/name`, as kubectl prints it.
fn label(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or("?").to_lowercase();
    let group = object["apiVersion"].as_str().and_then(|v| v.split_once('/')).map(|(g, _)| format!(".{g}"));
    format!("{kind}{}/{}", group.unwrap_or_default(), object["metadata"]["name"].as_str().unwrap_or("?"))
}

fn read_all(files: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text).context("read standard input")?;
            objects.extend(parse(&text).context("read standard input")?);
            continue;
        }
        for path in expand(file)? {
            let size = std::fs::metadata(&path).with_context(|| format!("read {}", path.display()))?.len();
            if size > FILE_BYTES_MAX {
                bail!("{} has {size} bytes; a manifest may have {FILE_BYTES_MAX}", path.display());
            }
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            objects.extend(parse(&text).with_context(|| format!("read {}", path.display()))?);
        }
    }
    Ok(objects)
}

/// A file itself, or the manifests of a folder in name order.
fn expand(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "yaml" || x == "yml" || x == "json"))
        .collect();
    files.sort();
    Ok(files)
}

/// The objects of a YAML stream; a `List` is its items.
fn parse(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for value in serde_saphyr::from_multiple::<Value>(text)? {
        match value {
            Value::Null => {}
            Value::Object(ref o) if o.get("kind").is_some_and(|k| k == "List") => {
                objects.extend(o.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
            }
            Value::Object(_) => objects.push(value),
            other => bail!("a manifest must be an object, this is {other}"),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_yields_its_objects_and_list_items() {
        let text = "kind: A\nmetadata: {name: x}\n---\n---\nkind: List\nitems:\n- kind: B\n- kind: C\n";
        let kinds: Vec<_> = parse(text).unwrap().iter().map(|o| o["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
    }

    #[test]
    fn labels_read_like_kubectls() {
        let o = serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"}});
        assert_eq!(label(&o), "deployment.apps/api");
    }
}
