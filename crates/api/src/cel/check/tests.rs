//! Costs of rules, as Kubernetes estimates them for the same schemas.

use serde_json::{Value, json};

use super::{Type, check};
use crate::cel::compile;

fn cost(schema: &Value, rule: &str) -> u64 {
    let ty = Type::of(schema, false).unwrap();
    let program = compile(rule, &["self", "oldSelf"]).unwrap();
    let sound = check(&program, &[("self", ty.clone()), ("oldSelf", ty)]).unwrap();
    sound.cost(&program, schema, false)
}

/// A schema of a type, or of a format of text, with a limit on what it holds.
fn of(ty: &str, most: Option<u64>) -> Value {
    let mut out = match ty {
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        "duration" | "date" | "date-time" | "byte" => json!({"type": "string", "format": ty}),
        _ => json!({"type": ty}),
    };
    if let Some(most) = most {
        out["maxLength"] = most.into();
    }
    out
}

fn list(items: Value, most: Option<u64>) -> Value {
    let mut out = json!({"type": "array", "items": items});
    if let Some(most) = most {
        out["maxItems"] = most.into();
    }
    out
}

fn map(values: Value, most: Option<u64>) -> Value {
    let mut out = json!({"type": "object", "additionalProperties": values});
    if let Some(most) = most {
        out["maxProperties"] = most.into();
    }
    out
}

fn thing() -> Value {
    let fields = json!({"required": {"type": "string"}, "optional": {"type": "string"}});
    json!({"type": "object", "properties": fields, "required": ["required"]})
}

/// Rule, maker of a schema, its cost without a limit, a limit, and the cost with it.
type Case = (&'static str, fn(Option<u64>) -> Value, u64, u64, u64);

fn check_all(cases: &[Case]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(rule, schema, free, limit, limited)| {
            let (open, closed) = (schema(None), schema(Some(*limit)));
            let found = (cost(&open, rule), cost(&closed, rule));
            (found != (*free, *limited)).then(|| format!("{rule} {open}: {found:?}, wanted {:?}", (free, limited)))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const ALL: &str = "self.all(x, true)";

#[test]
fn loops_cost_what_their_lists_and_maps_can_hold() {
    let cases: &[Case] = &[
        (ALL, |n| list(of("number", None), n), 4_718_591, 10, 32),
        (ALL, |n| list(of("string", None), n), 3_145_727, 20, 62),
        (ALL, |n| list(of("boolean", None), n), 1_887_437, 5, 17),
        (ALL, |n| list(list(of("number", None), None), n), 3_145_727, 100, 302),
        (ALL, |n| list(thing(), n), 555_128, 50, 152),
        (ALL, |n| list(of("int-or-string", None), n), 4_718_591, 10, 32),
        (ALL, |n| list(of("duration", None), n), 2_359_295, 5, 17),
        (ALL, |n| list(of("date", None), n), 725_936, 15, 47),
        (ALL, |n| list(of("date-time", None), n), 428_963, 25, 77),
        (ALL, |n| map(of("number", None), n), 1_348_169, 10, 32),
        (ALL, |n| map(of("string", None), n), 1_179_647, 3, 11),
        (ALL, |n| map(of("boolean", None), n), 943_718, 100, 302),
        (ALL, |n| map(of("int-or-string", None), n), 1_348_169, 15, 47),
        (ALL, |n| map(map(of("number", None), None), n), 1_179_647, 10, 32),
        (ALL, |n| map(list(of("number", None), None), n), 1_179_647, 25, 77),
        (ALL, |n| map(of("duration", None), n), 1_048_577, 5, 17),
        (ALL, |n| map(of("date", None), n), 524_288, 10, 32),
        (ALL, |n| map(of("date-time", None), n), 349_526, 25, 77),
        ("self.all(x, x == 0.0)", |n| list(of("number", None), n), 6_291_454, 3 << 21, 25_165_826),
        ("self.all(x, x.y == 25.2)", |n| list(map(of("number", None), None), n), 6_291_452, 12, 74),
        ("has(self.x)", |n| map(of("number", None), n), 1, 100, 1),
    ];
    check_all(cases);
    let numbers = |most| list(of("number", None), Some(most));
    assert_eq!(cost(&numbers(10), "self.all(x, self.all(y, true))"), 352);
    assert_eq!(cost(&numbers(10), "self.all(x, self.all(y, self.all(z, true)))"), 3_552);
    assert!(cost(&list(of("number", None), None), "self.all(x, self.all(y, true))") > 10_000_000);
}

#[test]
fn text_costs_by_its_length() {
    let text: fn(Option<u64>) -> Value = |n| of("string", n);
    let cases: &[Case] = &[
        ("self.contains('test')", text, 314_574, 10, 5),
        ("self.startsWith('test')", text, 2, 15, 2),
        ("self.endsWith('test')", text, 2, 30, 2),
        ("size(self + 'hello') > size('hello')", text, 314_578, 4, 7),
        ("self.matches('x')", text, 314_574, 50, 22),
        ("''.matches('(((((((((())))))))))[0-9]')", text, 7, 10, 7),
        ("self.matches('')", text, 1, 100, 1),
        ("self == 'x'", text, 2, 0, 1),
        ("self == b'x'", |n| of("byte", n), 2, 0, 1),
        ("self.find('[0-9]+') == ''", text, 629_147, 10, 11),
        ("self.lowerAscii() == 'lower!'", text, 314_575, 10, 6),
        ("isQuantity(self)", |n| of("int-or-string", n), 314_574, 20, 9),
        ("self.join(' ') == 'aa bb'", |n| list(of("string", n), n), 329_853_068_905, 10, 43),
        ("self.isSorted() == true", |n| list(of("string", n), n), 329_854_432_052, 10, 52),
        (
            "self.str.split(self.separator) == []",
            |n| json!({"type": "object", "properties": {"str": of("string", n), "separator": of("string", n)}}),
            629_160,
            10,
            22,
        ),
        (
            "self.str.replace(self.before, self.after) == 'does not matter'",
            |n| {
                let (before, after) = (of("string", Some(2)), of("string", Some(4)));
                json!({"type": "object", "properties": {"str": of("string", n), "before": before, "after": after}})
            },
            629_154,
            4,
            12,
        ),
        (
            "self.contains('A')",
            |n| {
                let mut words = of("string", n);
                words["enum"] = json!(["A", "B", "C", "LongValue"]);
                words
            },
            2,
            1000,
            401,
        ),
    ];
    check_all(cases);
}

#[test]
fn elements_and_fields_are_as_large_as_the_schema_lets_them_be() {
    let cases: &[Case] = &[
        ("self[1] == 0.0", |n| list(of("number", None), n), 2, 5000, 2),
        ("self[1] == self[1]", |n| list(of("string", None), n), 314_577, 8, 314_577),
        ("self[3] == 0.0", |n| list(of("number", None), n), 2, 0, 2),
        ("self['x'] == 0.0", |n| map(of("number", None), n), 2, 0, 2),
        ("self[0] == 5", |n| list(of("int-or-string", None), n), 3, 10, 3),
        ("self[0] == false", |n| list(of("boolean", None), n), 2, 25, 2),
        ("self[0] == null", |n| list(thing(), n), 2, 422, 2),
        ("self[0][0] == -1.0", |n| list(list(of("number", None), None), n), 3, 51, 3),
        ("self[0].x > 2.0", |n| list(map(of("number", None), None), n), 4, 3000, 4),
        ("self[0].getHours() == 2", |n| list(of("duration", None), n), 4, 525, 4),
        ("self[2].getDayOfMonth() == 13", |n| list(of("date", None), n), 4, 42, 4),
        ("self[2].getMinutes() == 45", |n| list(of("date-time", None), n), 4, 99, 4),
        ("oldSelf.size() == self.size()", |n| map(of("integer", None), n), 5, 10, 5),
        ("self['a'] == self['b']", |n| map(of("date-time", None), n), 8, 7, 8),
        ("self['c'] == self['d']", |n| map(of("duration", None), n), 8, 42, 8),
        ("self.all(x, x['y'].required == 'z')", |n| list(map(thing(), n), n), 7_340_027, 10, 72),
        ("self.all(x, x['y'].required == 'z')", |n| list(map(thing(), n), None), 7_340_027, 10, 7_340_027),
        ("self.all(x, x.contains(self[x]))", |n| map(of("string", n), n), 2_752_507, 10, 72),
    ];
    check_all(cases);
}

#[test]
fn what_a_rule_makes_itself_is_as_large_as_it_says() {
    let nothing = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    for (rule, want) in [
        ("'abc' in ['abc', 'd']", 12),
        ("[1, 2, 3].size() == 3", 12),
        ("{'a': 1}.size() == 1", 32),
        ("true ? 'aaaaaaaaaaa' == 'bbbbbbbbbbb' : true", 2),
        ("true || false", 0),
        ("dyn('a') == 'a'", 2),
        ("self.?a.orValue('') == 'x'", 4),
    ] {
        assert_eq!(cost(&nothing, rule), want, "{rule}");
    }
    let texts = list(of("string", Some(5)), Some(4));
    // As dear as the loop of one variable: the second one costs nothing by itself.
    assert_eq!(cost(&texts, "self.all(i, x, x == 'a')"), cost(&texts, "self.all(x, x == 'a')"));
}
