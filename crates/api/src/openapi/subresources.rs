//! Operations on subresources: those that exchange objects, and those that connect to what the object stands for.

use serde_json::{Map, Value, json};

use super::paths::{CREATE_QUERY, Frame, Operation, PATCH_QUERY, PATCH_TYPES, capital, path_parameters, write};
use super::schemas::{definition, reference};
use crate::kinds::Subresource;

/// Name, type and words of a query parameter.
type Parameter = (&'static str, &'static str, &'static str);

const CONTAINER: Parameter = ("container", "string", "The container; may be left out when there is one only.");
const STREAMS: [Parameter; 4] = [
    ("stdin", "boolean", "Whether input is sent."),
    ("stdout", "boolean", "Whether output is sent back."),
    ("stderr", "boolean", "Whether errors are sent back."),
    ("tty", "boolean", "Whether there is a terminal."),
];

/// Options of a connection, which stand in the query.
fn options(sub: &str) -> Vec<Parameter> {
    let mut out = Vec::new();
    match sub {
        "exec" => {
            out.push(("command", "string", "What is run, as a list of words; not in a shell."));
            out.push(CONTAINER);
            out.extend(STREAMS);
        }
        "attach" => {
            out.push(CONTAINER);
            out.extend(STREAMS);
        }
        "portforward" => out.push(("ports", "integer", "Ports that are forwarded; needed with web sockets.")),
        "proxy" => out.push(("path", "string", "Path to be asked for; the part after `proxy` in the URL.")),
        "log" => out.extend([
            CONTAINER,
            ("follow", "boolean", "Whether the answer goes on as the log does."),
            ("insecureSkipTLSVerifyBackend", "boolean", "Whether the node's certificate goes unchecked."),
            ("limitBytes", "integer", "Most bytes of the answer."),
            ("previous", "boolean", "The log of the container before this one."),
            ("sinceSeconds", "integer", "Only lines of so many seconds before now."),
            ("stream", "string", "All, Stdout or Stderr."),
            ("tailLines", "integer", "Only so many lines of the end."),
            ("timestamps", "boolean", "Whether each line begins with its time."),
        ]),
        _ => {}
    }
    out
}

/// Adds the paths of a subresource.
pub(super) fn add(out: &mut Map<String, Value>, base: &str, frame: &Frame<'_>, sub: &Subresource) {
    let exchanged = definition(sub.group, sub.version, sub.kind).filter(|_| sub.name != "log");
    let mut item = Map::new();
    for verb in sub.verbs {
        let one = match &exchanged {
            Some(definition) => exchange(frame, sub, verb, definition),
            None if sub.name == "log" => Some(("get", log(frame, sub))),
            None => method(verb).map(|method| (method, connect(frame, sub, method, ""))),
        };
        item.extend(one.map(|(method, op)| (method.to_owned(), write(op))));
    }
    if sub.name == "proxy" {
        for method in ["head", "options"] {
            item.insert(method.to_owned(), write(connect(frame, sub, method, "")));
        }
    }
    let mut parameters = path_parameters(frame.kind.kind, frame.kind.namespaced, true);
    if let Some(list) = parameters.as_array_mut() {
        list.extend(options(sub.name).into_iter().map(query));
    }
    let path = format!("{base}/{{name}}/{}", sub.name);
    if sub.name == "proxy" {
        let mut below: Map<String, Value> = Map::new();
        for method in item.keys() {
            below.insert(method.clone(), write(connect(frame, sub, method, "WithPath")));
        }
        let mut parameters = parameters.clone();
        if let Some(list) = parameters.as_array_mut() {
            list.push(json!({"name": "path", "in": "path", "required": true, "description": "path to the resource",
                "schema": {"type": "string", "uniqueItems": true}}));
        }
        below.insert("parameters".to_owned(), parameters);
        out.insert(format!("{path}/{{path}}"), Value::Object(below));
    }
    item.insert("parameters".to_owned(), parameters);
    out.insert(path, Value::Object(item));
}

fn query((name, ty, words): Parameter) -> Value {
    json!({"name": name, "in": "query", "description": words, "schema": {"type": ty, "uniqueItems": true}})
}

fn method(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "create" => "post",
        "get" => "get",
        "update" => "put",
        "patch" => "patch",
        "delete" => "delete",
        _ => return None,
    })
}

fn blank<'a>(frame: &Frame<'a>, sub: &Subresource) -> Operation<'a> {
    Operation {
        action: "get",
        words: format!("{} of {}", sub.name, frame.kind.kind),
        id: String::new(),
        gvk: (sub.group, sub.version, sub.kind),
        of: (frame.kind.group, frame.kind.version),
        query: &[],
        body: None,
        patch: &[],
        returns: String::new(),
    }
}

fn exchange<'a>(
    frame: &Frame<'a>,
    sub: &Subresource,
    verb: &str,
    definition: &str,
) -> Option<(&'static str, Operation<'a>)> {
    let (action, word, query): (_, _, &[_]) = match verb {
        "create" => ("post", "create", CREATE_QUERY),
        "get" => ("get", "read", &[]),
        "update" => ("put", "replace", CREATE_QUERY),
        "patch" => ("patch", "patch", PATCH_QUERY),
        _ => return None,
    };
    let body = match verb {
        "get" => None,
        "patch" => Some(json!({"description": "A patch in one of the accepted formats.", "type": "object"})),
        _ => Some(reference(definition)),
    };
    let op = Operation {
        action,
        words: format!("{word} {} of the specified {}", sub.name, frame.kind.kind),
        id: format!("{word}{}{}", frame.words, capital(sub.name)),
        query,
        body,
        patch: if verb == "patch" { PATCH_TYPES } else { &[] },
        returns: definition.to_owned(),
        ..blank(frame, sub)
    };
    Some((method(verb)?, op))
}

fn log<'a>(frame: &Frame<'a>, sub: &Subresource) -> Operation<'a> {
    let words = format!("read log of the specified {}", frame.kind.kind);
    Operation { words, id: format!("read{}Log", frame.words), ..blank(frame, sub) }
}

fn connect<'a>(frame: &Frame<'a>, sub: &Subresource, method: &str, suffix: &str) -> Operation<'a> {
    // `CoreV1` + `Get` + `NamespacedPod`.
    let (head, tail) = frame.words.split_at(frame.tag_words().len());
    Operation {
        action: "connect",
        words: format!("connect {} requests to {} of {}", method.to_uppercase(), sub.name, frame.kind.kind),
        id: format!("connect{head}{}{tail}{}{suffix}", capital(method), capital(sub.name)),
        ..blank(frame, sub)
    }
}
