//! What is made of the last stage.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use image::{ArchiveFormat, ImageInfo, Reference};

use crate::error::{BuildError, Result};
use crate::files::root::Root;
use crate::files::{Owner, Put, Request, choose, put};
use crate::options::Output;
use crate::pattern::Ignore;
use crate::solve::{Built, Finished, Solver, host_platform};
use crate::step::Mounted;

/// Writes it.
pub fn write(solver: &Solver<'_>, finished: &Finished, names: &[Reference]) -> Result<Built> {
    solver.check_canceled()?;
    match solver.wants() {
        Output::CacheOnly => Ok(Built { image: None }),
        Output::Image => Ok(Built { image: Some(image(solver, finished, names)?) }),
        Output::Oci(path) => archive(solver, finished, names, path, ArchiveFormat::Oci),
        Output::Docker(path) => archive(solver, finished, names, path, ArchiveFormat::Docker),
        Output::Local(path) => local(solver, finished, path),
        Output::Tar(path) => tar(solver, finished, path),
    }
}

fn image(solver: &Solver<'_>, finished: &Finished, names: &[Reference]) -> Result<ImageInfo> {
    solver.steps.within("exporting to image".to_owned(), |step| {
        let mut state = finished.state.clone();
        state.labels.extend(solver.options.labels.clone());
        if state.env("PATH").is_none() {
            state.env.insert(0, ("PATH".to_owned(), PATH.to_owned()));
        }
        let platform = host_platform();
        let architecture = platform.split('/').nth(1).unwrap_or_default();
        let diff_ids: Vec<&str> = finished.layers.iter().map(|l| l.diff_id.as_str()).collect();
        let document = serde_json::to_vec(&state.document(architecture, &diff_ids))
            .map_err(|e| BuildError::new(format!("image configuration: {e}")))?;
        step.say("exporting layers");
        let image = solver.env.store.install_built(&document, &finished.layers, names)?;
        step.say(&format!("writing image {}", image.id));
        for name in names {
            step.say(&format!("naming to {name}"));
        }
        Ok(image)
    })
}

/// What Docker gives images that say nothing themselves.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn archive(
    solver: &Solver<'_>,
    finished: &Finished,
    names: &[Reference],
    path: &Path,
    format: ArchiveFormat,
) -> Result<Built> {
    let image = image(solver, finished, names)?;
    let id = image.id.to_string();
    let references: Vec<String> = match names {
        [] => vec![id],
        names => names.iter().map(ToString::to_string).collect(),
    };
    let references: Vec<&str> = references.iter().map(String::as_str).collect();
    solver.steps.within("sending tarball".to_owned(), |_| Ok(solver.env.store.save(&references, path, format)?))?;
    Ok(Built { image: Some(image) })
}

fn local(solver: &Solver<'_>, finished: &Finished, path: &Path) -> Result<Built> {
    solver.steps.within("exporting to client directory".to_owned(), |_| {
        fs::create_dir_all(path).map_err(|e| BuildError::io("make", path, &e))?;
        let view = Mounted::new(solver, &finished.layers)?;
        let nothing = Ignore::default();
        let sources = [".".to_owned()];
        let root = Arc::new(view.root()?);
        let request = Request { root, sources: &sources, ignore: &nothing, exclude: &nothing, parents: false };
        let into = Root::open(path).map_err(|e| BuildError::io("open", path, &e))?;
        let how = Put { into: &into, target: "/", owner: Owner::default(), modes: None, parents: false };
        put(&choose(&request)?, &how).map_err(|e| BuildError::io("export to", path, &e))
    })?;
    Ok(Built { image: None })
}

fn tar(solver: &Solver<'_>, finished: &Finished, path: &Path) -> Result<Built> {
    solver.steps.within("exporting to client tarball".to_owned(), |_| {
        let view = Mounted::new(solver, &finished.layers)?;
        let fail = |e: std::io::Error| BuildError::io("write", path, &e);
        let file = BufWriter::with_capacity(1 << 20, fs::File::create(path).map_err(fail)?);
        let mut out = solver.env.store.pack(&view.path, solver.options.epoch, file)?;
        out.flush().map_err(fail)
    })?;
    Ok(Built { image: None })
}
