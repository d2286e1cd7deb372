//! The parsers, each with something to begin with. A target says what came of its input; a panic is a finding, and so is a
//! promise that is not kept.

mod builds;
mod docker;
mod documents;
mod images;
mod node;
mod projects;
mod text;

/// One parser.
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it feeds.
    pub about: &'static str,
    /// Its inputs are JSON, which is changed as JSON most of the time.
    pub json: bool,
    /// What to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Feeds an input and says what came of it.
    pub run: fn(&[u8]) -> String,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    documents::JSON,
    documents::YAML,
    documents::PROTOBUF,
    documents::OBJECT,
    documents::JSON_PATCH,
    documents::MERGE_PATCH,
    documents::STRATEGIC_PATCH,
    documents::APPLY,
    documents::DEFINITION,
    text::CEL,
    text::LABEL_SELECTOR,
    text::FIELD_SELECTOR,
    text::QUANTITY,
    text::NAMES,
    text::CRON,
    text::DURATION,
    text::URL,
    text::ACCEPT,
    builds::DOCKERFILE,
    builds::IGNORE,
    builds::WORDS,
    images::LAYER,
    images::ARCHIVE,
    images::DOCUMENT,
    images::NAME,
    docker::REQUEST,
    docker::CONTAINER,
    docker::STREAM,
    projects::COMPOSE,
    node::SPDY,
    node::WEBSOCKET,
];

fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().map(|line| line.as_bytes().to_vec()).collect()
}

/// How something went, in a word.
fn outcome<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_seeds_and_understands_some() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            let outcomes: Vec<String> = seeds.iter().map(|seed| (target.run)(seed)).collect();
            let understood = outcomes.iter().any(|o| o.starts_with("ok"));
            let says_ok = !matches!(target.name, "quantity" | "names" | "url" | "accept" | "websocket");
            assert!(understood || !says_ok, "{}: {outcomes:?}", target.name);
        }
    }
}
