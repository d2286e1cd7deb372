//! `format.dns1123Label().validate('a')`: named formats of texts.

use base64::Engine as _;
use cel::common::types::{CelOptional, CelString, Type};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError, Value, add_overload};

use super::value::value;
use super::{failed, urls};
use crate::names;

#[derive(Debug, Clone)]
pub(super) struct Format {
    name: &'static str,
    check: fn(&str) -> Vec<String>,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

value!(Format, "kubernetes.NamedFormat");

const FORMATS: &[Format] = &[
    Format { name: "dns1123Label", check: names::dns1123_label },
    Format { name: "dns1123Subdomain", check: names::dns1123_subdomain },
    Format { name: "dns1035Label", check: names::dns1035_label },
    Format { name: "qualifiedName", check: names::qualified_name },
    Format { name: "dns1123LabelPrefix", check: |text| names::dns1123_label(&masked(text)) },
    Format { name: "dns1123SubdomainPrefix", check: |text| names::dns1123_subdomain(&masked(text)) },
    Format { name: "dns1035LabelPrefix", check: |text| names::dns1035_label(&masked(text)) },
    Format { name: "labelValue", check: names::label_value },
    Format { name: "uri", check: |text| urls::Url::parse(text).err().into_iter().collect() },
    Format { name: "uuid", check: |text| unless(is_uuid(text), "does not match the UUID format") },
    Format { name: "byte", check: |text| unless(is_base64(text), "invalid base64") },
    Format { name: "date", check: |text| unless(is_date(text), "invalid date") },
    Format { name: "datetime", check: |text| unless(is_datetime(text), "invalid datetime") },
];

/// A name with something to come after it may end in a dash.
fn masked(text: &str) -> String {
    text.strip_suffix('-').filter(|rest| !rest.is_empty()).map_or_else(|| text.to_owned(), |rest| format!("{rest}a"))
}

fn unless(good: bool, words: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![words.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_base64(text: &str) -> bool {
    !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_datetime(text: &str) -> bool {
    text.len() > 10 && text.parse::<jiff::Timestamp>().is_ok()
}

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(Format::TYPE)?;
    add_overload!(env, fn named: (CelString) -> CelOptional, name = "format.named")?;
    let text = cel::common::types::STRING_TYPE;
    env.add_member_overload("validate", "format-validate", Format::TYPE, vec![text], validate)?;
    let constant = |env: &mut Env, name: &str, make: cel::common::functions::Function| {
        let name = format!("format.{name}");
        env.add_overload(&name, &name, Vec::<Type>::new(), make)
    };
    macro_rules! constants {
        ($($index:literal),*) => {
            $(constant(env, FORMATS[$index].name, |_| Ok(CowVal::owned(FORMATS[$index].clone())))?;)*
        };
    }
    constants!(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
    Ok(())
}

fn named(name: &CelString<'_>) -> CelOptional<'static> {
    match FORMATS.iter().find(|f| f.name == name.inner()) {
        Some(format) => CelOptional::of(Box::new(format.clone())),
        None => CelOptional::none(),
    }
}

/// What is wrong with the text, or nothing.
fn validate<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let wrong = || failed("validate", "no such overload");
    let format = args.first().and_then(|a| a.downcast_ref::<Format>()).ok_or_else(wrong)?;
    let text = args.get(1).and_then(|a| a.downcast_ref::<CelString<'_>>()).ok_or_else(wrong)?;
    let found = (format.check)(text.inner());
    if found.is_empty() {
        return Ok(CowVal::owned(CelOptional::none()));
    }
    let list: Box<dyn Val> = Value::from(found).try_into()?;
    Ok(CowVal::owned(CelOptional::of(list)))
}
