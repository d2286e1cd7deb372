//! Names of custom kinds, kept once for the life of the process. What describes a built-in kind is `&'static`, and so must be
//! what describes a custom one; the same few names come back with every change of a definition. Schemas are not kept here.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError};

/// All names together may take this many bytes: some twenty thousand definitions. Definitions beyond it are not served.
const LIMIT: usize = 4 << 20;

#[derive(Default)]
struct Names {
    texts: HashSet<&'static str>,
    lists: HashSet<&'static [&'static str]>,
    bytes: usize,
}

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

/// The name, kept; `None` when there is no room for another one.
pub(super) fn text(text: &str) -> Option<&'static str> {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.texts.get(text) {
        return Some(known);
    }
    names.room(text.len() + size_of::<&str>())?;
    let kept: &'static str = Box::leak(text.into());
    names.texts.insert(kept);
    Some(kept)
}

/// A list of names, kept.
pub(super) fn list<'a>(list: impl IntoIterator<Item = &'a str>) -> Option<&'static [&'static str]> {
    let list: Vec<&'static str> = list.into_iter().map(text).collect::<Option<_>>()?;
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.lists.get(list.as_slice()) {
        return Some(known);
    }
    names.room(size_of_val(list.as_slice()) + size_of::<&[&str]>())?;
    let kept: &'static [&'static str] = Box::leak(list.into());
    names.lists.insert(kept);
    Some(kept)
}

impl Names {
    fn room(&mut self, bytes: usize) -> Option<()> {
        self.bytes = Some(self.bytes + bytes).filter(|total| *total <= LIMIT)?;
        Some(())
    }
}
