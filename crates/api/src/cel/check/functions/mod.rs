//! What functions take and give.
//!
//! A signature is `target.arguments>result` or `arguments>result`, one letter for each type: `i` int, `u` uint, `d` double,
//! `s` string, `b` bool, `y` bytes, `t` timestamp, `D` duration, `l` list, `m` map, `o` optional, `*` anything, `q` quantity,
//! `p` address, `c` network, `r` URL, `f` format, `v` version. Of results, `L` is a list of strings, `E` an element of the
//! target, `S` what the target is, `V` what an optional target holds.

pub(super) mod cost;

use super::types::{AUTHORIZER, DECISION, Type};

/// Functions by name.
#[rustfmt::skip]
const FUNCTIONS: &[(&str, &[&str])] = &[
    ("size", &["s>i", "y>i", "l>i", "m>i", "s.>i", "y.>i", "l.>i", "m.>i"]),
    ("contains", &["s.s>b"]), ("startsWith", &["s.s>b"]), ("endsWith", &["s.s>b"]),
    ("matches", &["s.s>b", "ss>b"]), ("find", &["s.s>s"]), ("findAll", &["s.s>L", "s.si>L"]),
    ("charAt", &["s.i>s"]), ("indexOf", &["s.s>i", "s.si>i", "l.*>i"]), ("lastIndexOf", &["s.s>i", "s.si>i", "l.*>i"]),
    ("join", &["l.>s", "l.s>s"]), ("lowerAscii", &["s.>s"]), ("upperAscii", &["s.>s"]), ("trim", &["s.>s"]),
    ("replace", &["s.ss>s", "s.ssi>s"]), ("split", &["s.s>L", "s.si>L"]), ("substring", &["s.i>s", "s.ii>s"]),
    ("format", &["s.l>s"]), ("strings.quote", &["s>s"]), ("reverse", &["s.>s", "l.>S"]),
    ("int", &["i>i", "u>i", "d>i", "s>i", "t>i"]), ("uint", &["u>u", "i>u", "d>u", "s>u"]),
    ("double", &["d>d", "i>d", "u>d", "s>d"]), ("bool", &["b>b", "s>b"]), ("bytes", &["y>y", "s>y"]),
    ("string", &["s>s", "b>s", "i>s", "u>s", "d>s", "y>s", "t>s", "D>s", "p>s", "c>s"]),
    ("dyn", &["*>*"]), ("type", &["*>*"]),
    ("timestamp", &["s>t", "t>t", "i>t"]), ("duration", &["s>D", "D>D"]),
    ("getFullYear", &["t.>i", "t.s>i"]), ("getMonth", &["t.>i", "t.s>i"]), ("getDate", &["t.>i", "t.s>i"]),
    ("getDayOfYear", &["t.>i", "t.s>i"]), ("getDayOfMonth", &["t.>i", "t.s>i"]), ("getDayOfWeek", &["t.>i", "t.s>i"]),
    ("getHours", &["t.>i", "t.s>i", "D.>i"]), ("getMinutes", &["t.>i", "t.s>i", "D.>i"]),
    ("getSeconds", &["t.>i", "t.s>i", "D.>i"]), ("getMilliseconds", &["t.>i", "t.s>i", "D.>i"]),
    ("optional.of", &["*>o"]), ("optional.none", &[">o"]), ("optional.ofNonZeroValue", &["*>o"]),
    ("hasValue", &["o.>b"]), ("value", &["o.>V"]), ("or", &["o.o>S"]), ("orValue", &["o.*>V"]),
    ("isSorted", &["l.>b"]), ("sum", &["l.>E"]), ("min", &["l.>E"]), ("max", &["l.>E"]),
    ("slice", &["l.ii>S"]), ("flatten", &["l.>l", "l.i>l"]), ("distinct", &["l.>S"]), ("sort", &["l.>S"]),
    ("lists.range", &["i>l"]), ("@sortByAssociatedKeys", &["l.l>S"]),
    ("sets.contains", &["ll>b"]), ("sets.equivalent", &["ll>b"]), ("sets.intersects", &["ll>b"]),
    ("quantity", &["s>q"]), ("isQuantity", &["s>b"]), ("sign", &["q.>i"]), ("isInteger", &["q.>b"]),
    ("asInteger", &["q.>i"]), ("asApproximateFloat", &["q.>d"]), ("add", &["q.q>q", "q.i>q"]), ("sub", &["q.q>q", "q.i>q"]),
    ("isLessThan", &["q.q>b", "v.v>b"]), ("isGreaterThan", &["q.q>b", "v.v>b"]), ("compareTo", &["q.q>i", "v.v>i"]),
    ("ip", &["s>p", "c.>p"]), ("isIP", &["s>b"]), ("ip.isCanonical", &["s>b"]), ("family", &["p.>i"]),
    ("isUnspecified", &["p.>b"]), ("isLoopback", &["p.>b"]), ("isLinkLocalMulticast", &["p.>b"]),
    ("isLinkLocalUnicast", &["p.>b"]), ("isGlobalUnicast", &["p.>b"]),
    ("cidr", &["s>c"]), ("isCIDR", &["s>b"]), ("containsIP", &["c.p>b", "c.s>b"]), ("containsCIDR", &["c.c>b", "c.s>b"]),
    ("masked", &["c.>c"]), ("prefixLength", &["c.>i"]),
    ("url", &["s>r"]), ("isURL", &["s>b"]), ("getScheme", &["r.>s"]), ("getHost", &["r.>s"]), ("getHostname", &["r.>s"]),
    ("getPort", &["r.>s"]), ("getEscapedPath", &["r.>s"]), ("getQuery", &["r.>m"]),
    ("format.named", &["s>o"]), ("validate", &["f.s>o"]),
    ("semver", &["s>v", "sb>v"]), ("isSemver", &["s>b", "sb>b"]), ("major", &["v.>i"]), ("minor", &["v.>i"]), ("patch", &["v.>i"]),
    ("@not_strictly_false", &["*>b"]), ("@asMap", &["l>m"]), ("@merged", &["l>m"]),
    ("-_", &["i>i", "d>d", "D>D"]), ("!_", &["b>b"]),
    ("_-_", &["ii>i", "uu>u", "dd>d", "tt>D", "tD>t", "DD>D"]), ("_*_", &["ii>i", "uu>u", "dd>d"]),
    ("_/_", &["ii>i", "uu>u", "dd>d"]), ("_%_", &["ii>i", "uu>u"]),
    ("_+_", &["ii>i", "uu>u", "dd>d", "ss>s", "yy>y", "DD>D", "tD>t", "Dt>t"]),
];

/// Questions about rights, in which each step but the last gives the question so far.
const QUESTIONS: [(&str, usize); 9] = [
    ("path", 1),
    ("group", 1),
    ("resource", 1),
    ("subresource", 1),
    ("namespace", 1),
    ("name", 1),
    ("fieldSelector", 1),
    ("labelSelector", 1),
    ("serviceAccount", 2),
];

/// Namespaces of functions that are not in the table.
const OPEN: [&str; 2] = ["math.", "format."];

/// What a call gives, or `None` when no signature fits.
pub(super) enum Found<'s> {
    Gives(Type<'s>),
    NoOverload,
    Unknown,
}

/// Looks a call up. `name` has its namespace.
pub(super) fn call<'s>(name: &str, target: Option<&Type<'s>>, args: &[Type<'s>]) -> Found<'s> {
    if let Some(found) = target.and_then(|target| right(name, target, args)) {
        return found;
    }
    let Some((_, signatures)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
        return match name {
            name if name.starts_with("format.") => Found::Gives(Type::Named(FORMAT)),
            name if OPEN.iter().any(|open| name.starts_with(open)) => Found::Gives(Type::Dyn),
            _ => Found::Unknown,
        };
    };
    let mut gives = signatures.iter().filter_map(|signature| fits(signature, target, args));
    let Some(first) = gives.next() else { return Found::NoOverload };
    // With operands of unknown types several may fit.
    Found::Gives(if gives.all(|other| same(&first, &other)) { first } else { Type::Dyn })
}

/// What is said of rights, of which no rule outside of admission knows.
fn right<'s>(name: &str, target: &Type<'s>, args: &[Type<'s>]) -> Option<Found<'s>> {
    let strings = args.iter().all(|arg| is('s', arg));
    let step = QUESTIONS.iter().find(|(known, _)| *known == name).map(|(_, count)| *count);
    let gives = match (target, name) {
        (Type::Named(AUTHORIZER), "check") => (args.len() == 1 && strings).then_some(Type::Named(DECISION)),
        (Type::Named(AUTHORIZER), _) => (args.len() == step? && strings).then_some(Type::Named(AUTHORIZER)),
        (Type::Named(DECISION), "allowed" | "errored") => args.is_empty().then_some(Type::Bool),
        (Type::Named(DECISION), "reason" | "error") => args.is_empty().then_some(Type::String),
        _ => return None,
    };
    Some(gives.map_or(Found::NoOverload, Found::Gives))
}

fn same(a: &Type<'_>, b: &Type<'_>) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b) && a.agrees(b)
}

fn fits<'s>(signature: &str, target: Option<&Type<'s>>, args: &[Type<'s>]) -> Option<Type<'s>> {
    let (takes, gives) = signature.split_once('>')?;
    let takes = match (takes.split_once('.'), target) {
        (Some((wanted, takes)), Some(target)) if is(wanted.chars().next()?, target) => takes,
        (None, None) => takes,
        _ => return None,
    };
    let fit = takes.chars().count() == args.len() && takes.chars().zip(args).all(|(wanted, arg)| is(wanted, arg));
    if !fit {
        return None;
    }
    Some(match (gives, target) {
        ("S", Some(target)) => target.clone(),
        ("E", Some(Type::List(item, _))) => (**item).clone(),
        ("V", Some(Type::Optional(value))) => (**value).clone(),
        ("i", _) => Type::Int,
        ("u", _) => Type::UInt,
        ("d", _) => Type::Double,
        ("s", _) => Type::String,
        ("b", _) => Type::Bool,
        ("y", _) => Type::Bytes,
        ("t", _) => Type::Timestamp,
        ("D", _) => Type::Duration,
        ("l", _) => Type::List(Box::new(Type::Dyn), 1),
        ("L", _) => Type::List(Box::new(Type::String), 1),
        ("m", _) => Type::Map(Box::new(Type::Dyn), Box::new(Type::Dyn), 1),
        ("o", _) => Type::Optional(Box::new(args.first().filter(|_| takes == "*").cloned().unwrap_or(Type::Dyn))),
        (letter, _) => letter.chars().next().and_then(named).map_or(Type::Dyn, Type::Named),
    })
}

const FORMAT: &str = "kubernetes.NamedFormat";

fn named(letter: char) -> Option<&'static str> {
    Some(match letter {
        'q' => "kubernetes.Quantity",
        'p' => "net.IP",
        'c' => "net.CIDR",
        'r' => "kubernetes.URL",
        'f' => FORMAT,
        'v' => "kubernetes.Semver",
        _ => return None,
    })
}

fn is(letter: char, ty: &Type<'_>) -> bool {
    match (letter, ty) {
        (_, Type::Dyn) | ('*', _) => true,
        ('i', Type::Int) | ('u', Type::UInt) | ('d', Type::Double) | ('s', Type::String) | ('b', Type::Bool) => true,
        ('y', Type::Bytes) | ('t', Type::Timestamp) | ('D', Type::Duration) => true,
        ('l', Type::List(..)) | ('m', Type::Map(..)) | ('o', Type::Optional(_)) => true,
        (letter, Type::Named(name)) => named(letter) == Some(name),
        _ => false,
    }
}
