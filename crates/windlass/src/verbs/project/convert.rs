//! `windlass convert`: the manifests that `up` would apply.

use std::process::ExitCode;

use anyhow::Context;
use base::instance::Instance;
use serde_json::json;

use super::{images, source};
use crate::cli::{ConvertArgs, OutputFormat};

/// Runs the verb. Needs no instance; images that were built here get the name that pods would have.
pub fn run(instance: &Instance, args: ConvertArgs) -> anyhow::Result<ExitCode> {
    let mut source = source::read(&args.project, &[])?;
    if let Some(project) = &mut source.compose {
        let missing = images::name(instance, project)?;
        for service in missing {
            let image = &project.services[&service].image;
            source
                .notes
                .push(format!("services.{service}: {image} is not built yet; the cluster needs it under this name"));
        }
        let ordered: Vec<&str> =
            project.services.values().filter(|s| !s.depends_on.is_empty()).map(|s| s.name.as_str()).collect();
        if !ordered.is_empty() {
            source.notes.push(format!(
                "depends_on of {}: windlass up waits; applied otherwise, all start at once",
                ordered.join(", ")
            ));
        }
        source.refresh();
    }
    source.notes.iter().for_each(|note| eprintln!("warning: {note}"));
    let objects = source.objects();
    match args.output {
        OutputFormat::Json => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            println!("{}", serde_json::to_string_pretty(&list)?);
        }
        OutputFormat::Yaml => {
            for object in &objects {
                print!("---\n{}", serde_saphyr::to_string(object).context("write YAML")?);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
