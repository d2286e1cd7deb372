//! Facts about Kubernetes' protobuf encoding, taken from its `generated.proto` files and the Go types beside them into the
//! table that `api::protobuf` decodes.
//!
//! The proto files give numbers, names and types; the Go files what those do not say: the JSON name, whether JSON leaves a
//! zero out, and which messages JSON shows in their parent. Only facts: no descriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

const OUTPUT: &str = "crates/api/src/protobuf/kubernetes.fields";
/// Its `@` lines say which kinds there are.
const SCHEMA: &str = "crates/api/src/schema/kubernetes.schema";

/// Messages wanted although no kind of the schema reaches them.
const EXTRA: &[&str] = &[
    "meta.v1.List",
    "meta.v1.CreateOptions",
    "meta.v1.DeleteOptions",
    "meta.v1.PartialObjectMetadata",
    "meta.v1.PartialObjectMetadataList",
    "meta.v1.PatchOptions",
    "meta.v1.Status",
    "meta.v1.UpdateOptions",
    "meta.v1.WatchEvent",
];

/// Prefixes of packages that say nothing: the rest is still unique, and equal to the schema's names.
const PREFIXES: &[&str] = &[
    "k8s.io.apimachinery.pkg.apis.",
    "k8s.io.apimachinery.pkg.util.",
    "k8s.io.apimachinery.pkg.",
    "k8s.io.apiextensions_apiserver.pkg.apis.",
    "k8s.io.kube_aggregator.pkg.apis.",
    "k8s.io.api.",
];

/// Types with a JSON form of their own.
const SPECIAL: &[(&str, &str)] = &[
    ("api.resource.Quantity", "quantity"),
    ("apiextensions.v1.JSON", "json"),
    ("intstr.IntOrString", "intstr"),
    ("meta.v1.FieldsV1", "json"),
    ("meta.v1.MicroTime", "microtime"),
    ("meta.v1.Time", "time"),
    ("runtime.RawExtension", "json"),
];

const SCALARS: &[&str] = &["string", "bytes", "bool", "int32", "int64", "double"];

/// Messages that JSON shows as one of two things.
const UNIONS: &[(&str, &str)] = &[
    ("apiextensions.v1.JSONSchemaPropsOrArray", "or-list"),
    ("apiextensions.v1.JSONSchemaPropsOrBool", "or-bool"),
    ("apiextensions.v1.JSONSchemaPropsOrStringArray", "or-list"),
];

/// A field as its proto file declares it.
struct Field {
    number: u32,
    name: String,
    /// `[T]`, `{T}` or `T`.
    ty: String,
}

/// What the Go type says of a field.
struct Tags {
    /// The JSON name; empty when JSON shows the content in the parent.
    json: String,
    /// JSON leaves a zero out, and it cannot be told from an absent value.
    drop_zero: bool,
}

type Messages = BTreeMap<String, Vec<Field>>;
/// By message, then by number. Only structs have an entry.
type Facts = BTreeMap<String, BTreeMap<u32, Tags>>;

/// `cargo xtask codegen --protos DIR`: rewrites the table of fields.
///
/// # Errors
/// When a file cannot be read, or says what the table cannot express.
pub fn run(dir: &Path, root: &Path) -> Result<()> {
    let (mut messages, mut facts) = (Messages::new(), Facts::new());
    collect(dir, &mut messages, &mut facts)?;
    let schema = std::fs::read_to_string(root.join(SCHEMA)).context(SCHEMA)?;
    let kinds = schema.lines().filter(|l| l.starts_with('@')).filter_map(|l| l.rsplit(' ').next());
    let roots: Vec<&str> = kinds.filter(|n| messages.contains_key(*n)).chain(EXTRA.iter().copied()).collect();
    let text = generate(&messages, &facts, &roots)?;
    std::fs::write(root.join(OUTPUT), &text).context(OUTPUT)?;
    println!("{OUTPUT}: {} lines, {} bytes", text.lines().count(), text.len());
    Ok(())
}

/// Reads the folders below `dir` that hold a `generated.proto`, and the Go files there.
fn collect(dir: &Path, messages: &mut Messages, facts: &mut Facts) -> Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .with_context(|| dir.display().to_string())?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries.iter().filter(|e| e.is_dir()) {
        collect(entry, messages, facts)?;
    }
    let proto = dir.join("generated.proto");
    if !proto.is_file() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&proto).with_context(|| proto.display().to_string())?;
    let package = read_proto(&text, messages).with_context(|| proto.display().to_string())?;
    for entry in entries.iter().filter(|e| e.extension().is_some_and(|x| x == "go")) {
        let name = entry.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if !name.starts_with("generated.") && !name.starts_with("zz_") && !name.ends_with("_test.go") {
            let text = std::fs::read_to_string(entry).with_context(|| entry.display().to_string())?;
            read_go(&text, &package, facts).with_context(|| entry.display().to_string())?;
        }
    }
    Ok(())
}

fn short(name: &str) -> &str {
    PREFIXES.iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name)
}

/// Adds the messages of a proto file; gives its package.
fn read_proto(text: &str, messages: &mut Messages) -> Result<String> {
    let mut package = String::new();
    let mut open: Option<(String, Vec<Field>)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("package ") {
            package = short(name.trim_end_matches(';')).to_owned();
        } else if let Some(name) = line.strip_prefix("message ") {
            let name = name.trim_end_matches(['{', ' ', '}']);
            open = Some((format!("{package}.{name}"), Vec::new()));
        } else if line == "}" {
            messages.extend(open.take());
        } else if let Some((_, fields)) = &mut open
            && !line.is_empty()
            && !line.starts_with("//")
        {
            fields.push(proto_field(line, &package).with_context(|| line.to_owned())?);
        }
    }
    Ok(package)
}

fn proto_field(line: &str, package: &str) -> Result<Field> {
    let (declared, number) = line.trim_end_matches(';').rsplit_once(" = ").context("no number")?;
    let (ty, name) = declared.rsplit_once(' ').context("no name")?;
    let resolve = |ty: &str| match ty.strip_prefix('.') {
        Some(full) => short(full).to_owned(),
        None if SCALARS.contains(&ty) => ty.to_owned(),
        None => format!("{package}.{ty}"),
    };
    let ty = if let Some(ty) = ty.strip_prefix("optional ") {
        resolve(ty)
    } else if let Some(ty) = ty.strip_prefix("repeated ") {
        format!("[{}]", resolve(ty))
    } else if let Some(value) = ty.strip_prefix("map<string, ") {
        format!("{{{}}}", resolve(value.trim_end_matches('>')))
    } else {
        bail!("a field that is neither optional, repeated nor a map with text for keys");
    };
    Ok(Field { number: number.parse().context("number")?, name: name.to_owned(), ty })
}

/// Adds what the structs of a Go file say.
fn read_go(text: &str, package: &str, facts: &mut Facts) -> Result<()> {
    let mut open: Option<String> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("type ")
            && let Some(name) = [" struct {", " struct {}", " struct{}"].iter().find_map(|s| rest.strip_suffix(s))
        {
            let name = format!("{package}.{name}");
            facts.entry(name.clone()).or_default();
            open = rest.ends_with('{').then_some(name);
        } else if line == "}" {
            open = None;
        } else if let Some(name) = &open
            && let Some((number, tags)) = go_field(line.trim())
            && let Some(fields) = facts.get_mut(name)
            && fields.insert(number, tags).is_some()
        {
            bail!("{name} has two fields with number {number}");
        }
    }
    Ok(())
}

/// `Name Type "json:... protobuf:..."`, or the same without a name. `None` for what is not in the protobuf encoding.
fn go_field(line: &str) -> Option<(u32, Tags)> {
    if line.starts_with("//") {
        return None;
    }
    let (declared, rest) = line.split_once('`')?;
    let tag = |key: &str| {
        let (_, rest) = rest.split_once(&format!("{key}:\""))?;
        rest.split('"').next()
    };
    let protobuf = tag("protobuf")?;
    let number = protobuf.split(',').nth(1)?.parse().ok()?;
    let json = tag("json").unwrap_or_default();
    let (name, options) = json.split_once(',').unwrap_or((json, ""));
    let inline = options.split(',').any(|o| o == "inline");
    let pointer = declared.split_whitespace().last()?.starts_with('*');
    let omits = options.split(',').any(|o| o == "omitempty" || o == "omitzero");
    let name = if inline { "" } else { name };
    Some((number, Tags { json: name.to_owned(), drop_zero: omits && !pointer }))
}

/// The table of what `roots` reach.
fn generate(messages: &Messages, facts: &Facts, roots: &[&str]) -> Result<String> {
    let mut out = String::from("# Generated by `cargo xtask codegen`; the format is described in table.rs.\n");
    let mut seen: BTreeSet<&str> = roots.iter().copied().collect();
    let mut queue: Vec<&str> = seen.iter().copied().collect();
    let mut done: BTreeMap<&str, String> = BTreeMap::new();
    while let Some(name) = queue.pop() {
        let fields = messages.get(name).with_context(|| format!("{name} is referred to but not defined"))?;
        let tags = facts.get(name).filter(|_| !UNIONS.iter().any(|(n, _)| *n == name));
        let mut text = format!("={name}");
        if let Some((_, union)) = UNIONS.iter().find(|(n, _)| *n == name) {
            write!(text, " {union}")?;
        } else if tags.is_none() {
            let [Field { number: 1, .. }] = fields.as_slice() else { bail!("{name} has no Go type and is no list") };
            text.push_str(" list");
        }
        text.push('\n');
        for field in fields {
            let target = field.ty.trim_matches(['[', ']', '{', '}']);
            let special = SPECIAL.iter().find(|(n, _)| *n == target).map(|(_, short)| *short);
            text.push_str(&line(name, field, target, special, tags)?);
            if special.is_none()
                && !SCALARS.contains(&target)
                && let Some((target, _)) = messages.get_key_value(target)
                && seen.insert(target)
            {
                queue.push(target);
            }
        }
        done.insert(name, text);
    }
    done.values().for_each(|text| out.push_str(text));
    Ok(out)
}

fn line(
    message: &str,
    field: &Field,
    target: &str,
    special: Option<&str>,
    tags: Option<&BTreeMap<u32, Tags>>,
) -> Result<String> {
    let ty = field.ty.replace(target, special.unwrap_or(target));
    let missing = || format!("{message}: field {} is not in the Go type", field.name);
    let tags = tags.map(|t| t.get(&field.number).with_context(missing)).transpose()?;
    let plain = ty.starts_with(['[', '{']) || (target.contains('.') && special.is_none());
    Ok(match tags {
        Some(tags) if tags.json.is_empty() => format!("{} ^ {ty}\n", field.number),
        Some(tags) if tags.drop_zero && !plain => format!("{} {} {ty} -\n", field.number, tags.json),
        Some(tags) => format!("{} {} {ty}\n", field.number, tags.json),
        None => format!("{} {} {ty}\n", field.number, field.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = "package k8s.io.api.core.v1;\n\
        // secret words\n\
        message Thing {\n\
        // secret words\n\
        optional string name = 1;\n\
        optional int32 count = 2;\n\
        optional ThingSource thingSource = 3;\n\
        map<string, .k8s.io.apimachinery.pkg.api.resource.Quantity> sizes = 4;\n\
        repeated Words words = 5;\n\
        }\n\
        message ThingSource {\noptional bool on = 1;\n}\n\
        message Words {\nrepeated string items = 1;\n}\n";

    const GO: &str = "package v1\n\
        type Thing struct {\n\
        \tmetav1.TypeMeta `json:\",inline\"`\n\
        \t// secret words\n\
        \tName string `json:\"name,omitempty\" protobuf:\"bytes,1,opt,name=name\"`\n\
        \tCount *int32 `json:\"replicas,omitempty\" protobuf:\"varint,2,opt,name=count\"`\n\
        \tThingSource `json:\",inline\" protobuf:\"bytes,3,opt,name=thingSource\"`\n\
        \tSizes ResourceList `json:\"sizes,omitempty\" protobuf:\"bytes,4,rep,name=sizes\"`\n\
        \tWords []Words `json:\"words,omitempty\" protobuf:\"bytes,5,rep,name=words\"`\n\
        }\n\
        type ThingSource struct {\n\
        \tOn bool `json:\"on\" protobuf:\"varint,1,opt,name=on\"`\n\
        }\n";

    #[test]
    fn facts_become_lines_and_descriptions_do_not() {
        let (mut messages, mut facts) = (Messages::new(), Facts::new());
        let package = read_proto(PROTO, &mut messages).expect("a well-formed file");
        read_go(GO, &package, &mut facts).expect("a well-formed file");
        let text = generate(&messages, &facts, &["core.v1.Thing"]).expect("all is defined");
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "=core.v1.Thing",
                "1 name string -",
                "2 replicas int32",
                "3 ^ core.v1.ThingSource",
                "4 sizes {quantity}",
                "5 words [core.v1.Words]",
                "=core.v1.ThingSource",
                "1 on bool",
                "=core.v1.Words list",
                "1 items [string]",
            ]
        );
    }

    #[test]
    fn a_field_that_the_go_type_does_not_have_is_an_error() {
        let (mut messages, mut facts) = (Messages::new(), Facts::new());
        read_proto(PROTO, &mut messages).expect("a well-formed file");
        facts.insert("core.v1.Thing".into(), BTreeMap::new());
        assert!(generate(&messages, &facts, &["core.v1.Thing"]).is_err());
    }
}
