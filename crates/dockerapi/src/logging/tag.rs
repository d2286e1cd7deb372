//! What lines are called, and what is said of the container with them.

use std::collections::BTreeMap;

use crate::containers::record::Record;
use crate::fault::{Fault, Result};

/// What Docker calls lines unless told otherwise.
const TAG: &str = "{{.ID}}";

/// The parts of a template: text, and names in braces.
fn parts(template: &str) -> Option<Vec<(bool, &str)>> {
    let (mut parts, mut rest) = (Vec::new(), template);
    while let Some((text, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}")?;
        parts.extend([(false, text), (true, name.trim())]);
        rest = after;
    }
    parts.push((false, rest));
    Some(parts)
}

fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

fn field(record: &Record, name: &str) -> Option<String> {
    Some(match name {
        ".ID" => short(&record.id).to_owned(),
        ".FullID" => record.id.clone(),
        ".Name" => record.name.clone(),
        ".ImageID" => short(&record.image_id).to_owned(),
        ".ImageFullID" => record.image_id.clone(),
        ".ImageName" => record.image.clone(),
        ".DaemonName" => "docker".to_owned(),
        _ => return None,
    })
}

/// Whether a template is one that can be filled in.
///
/// # Errors
/// 400 names what it asks for.
pub fn check(template: &str) -> Result<()> {
    let nobody = Record::default();
    let parts = parts(template).ok_or_else(|| Fault::bad(format!("invalid log tag {template:?}: unclosed action")))?;
    match parts.iter().find(|(named, text)| *named && field(&nobody, text).is_none()) {
        None => Ok(()),
        Some((_, text)) => Err(Fault::refused(&format!("{{{{{text}}}}} in the log option tag"))),
    }
}

/// What the lines of a container are called.
pub fn tag(record: &Record) -> String {
    let template = record.host.log_config.config.get("tag").map_or(TAG, String::as_str);
    let filled = parts(template).unwrap_or_default().into_iter().map(|(named, text)| match named {
        true => field(record, text).unwrap_or_default(),
        false => text.to_owned(),
    });
    filled.collect()
}

/// The labels and variables that `labels` and `env` name, as far as the container has them.
pub fn attributes(record: &Record) -> BTreeMap<String, String> {
    let option = |name: &str| record.host.log_config.config.get(name).map(String::as_str).unwrap_or_default();
    let names =
        |list: &'static str| option(list).split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let labels = names("labels").into_iter().filter_map(|n| Some((n.clone(), record.config.labels.get(&n)?.clone())));
    let mut found: BTreeMap<String, String> = labels.collect();
    let variables = record.config.env.iter().filter_map(|e| e.split_once('='));
    let wanted = names("env");
    found.extend(variables.filter(|(k, _)| wanted.iter().any(|w| w == k)).map(|(k, v)| (k.to_owned(), v.to_owned())));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_made_of_what_is_known_of_the_container() {
        let mut record = Record { id: "0123456789abcdef".into(), name: "web".into(), ..Record::default() };
        record.image_id = "sha256:fedcba9876543210".into();
        assert_eq!(tag(&record), "0123456789ab");
        record.host.log_config.config.insert("tag".into(), "shop.{{ .Name }}/{{.ImageID}}-{{.FullID}}".into());
        assert_eq!(tag(&record), "shop.web/fedcba987654-0123456789abcdef");
        assert!(check("{{.Name}}").is_ok() && check("plain").is_ok());
        assert!(check("{{.Name").is_err() && check("{{json .}}").is_err());
    }

    #[test]
    fn labels_and_variables_are_said_that_were_asked_for() {
        let mut record = Record::default();
        record.config.labels.insert("tier".into(), "front".into());
        record.config.labels.insert("other".into(), "x".into());
        record.config.env = vec!["A=1=2".into(), "B=2".into()];
        record.host.log_config.config.insert("labels".into(), "tier,none".into());
        record.host.log_config.config.insert("env".into(), "A".into());
        let said: Vec<_> = attributes(&record).into_iter().collect();
        assert_eq!(said, [("A".to_owned(), "1=2".to_owned()), ("tier".to_owned(), "front".to_owned())]);
    }
}
