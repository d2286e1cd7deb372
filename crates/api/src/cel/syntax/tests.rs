use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use serde_json::json;

use super::super::{Error, compile, library};
use super::*;

/// A text that the engine's parser is asked about is no longer than this: it is slow, more so with what is wrong, and takes a
/// mebibyte of stack for a level.
const ASKED: usize = 300;

/// Every text that any test of this crate parses is held against the engine's parser: both take it or neither, and the trees are
/// the same. Loops of two variables are our own.
pub(super) fn alike(text: &str, ours: Result<&IdedExpr, &str>) {
    thread_local! {
        static ENGINE: cel::Env = library::environment();
    }
    let tokens = lexer::tokens(text);
    if text.len() > ASKED || tokens.len() > ASKED / 3 || deepest(&tokens) > 12 {
        return;
    }
    let theirs =
        stack::with_room(true, || ENGINE.with(|engine| engine.parser().parse(text).map_err(|e| e.to_string())));
    match (ours, theirs.unwrap()) {
        (Ok(ours), Ok(theirs)) => {
            let (ours, theirs) = (bare(ours.clone()), bare(theirs));
            assert!(ours == theirs || format!("{ours:?}").contains("@pair"), "{text}\n{ours:#?}\n{theirs:#?}");
        }
        (Err(_), Err(_)) => {}
        // Deeper than the engine's parser goes, or a loop of two variables.
        (Err(why), Ok(_)) => assert!(why.contains("limit exceeded") || why.contains("simple name"), "{text}\n{why}"),
        (Ok(_), Err(why)) => panic!("{text}\n{why}"),
    }
}

/// A tree without the ids of its nodes.
fn bare(mut node: IdedExpr) -> IdedExpr {
    node.id = 0;
    let each = |nodes: Vec<IdedExpr>| nodes.into_iter().map(bare).collect();
    match &mut node.expr {
        Expr::Call(call) => {
            call.args = each(std::mem::take(&mut call.args));
            call.target = call.target.take().map(|target| Box::new(bare(*target)));
        }
        Expr::Comprehension(c) => {
            for part in [&mut c.iter_range, &mut c.accu_init, &mut c.loop_cond, &mut c.loop_step, &mut c.result] {
                *part = bare(std::mem::take(part));
            }
        }
        Expr::List(list) => list.elements = each(std::mem::take(&mut list.elements)),
        Expr::Select(select) => *select.operand = bare(std::mem::take(&mut *select.operand)),
        Expr::Map(cel::common::ast::MapExpr { entries })
        | Expr::Struct(cel::common::ast::StructExpr { entries, .. }) => {
            for entry in entries {
                entry.id = 0;
                match &mut entry.expr {
                    EntryExpr::MapEntry(e) => {
                        e.key = bare(std::mem::take(&mut e.key));
                        e.value = bare(std::mem::take(&mut e.value));
                    }
                    EntryExpr::StructField(e) => e.value = bare(std::mem::take(&mut e.value)),
                }
            }
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
    node
}

/// Random numbers, the same ones each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    /// Up to three of something, with commas.
    fn some(&mut self, mut one: impl FnMut(&mut Self) -> String) -> String {
        (0..self.below(4)).map(|_| one(self)).collect::<Vec<_>>().join(", ")
    }

    /// An expression of the grammar, so many levels deep at most.
    fn expr(&mut self, levels: usize) -> String {
        if levels == 0 {
            return self.of(LEAVES).to_owned();
        }
        let of = levels - 1;
        let blank = self.of(&["", "", " ", " ", "\n", " // rest\n"]);
        match self.below(14) {
            0 => format!("{} ?{blank}{} : {}", self.operand(of), self.operand(of), self.expr(of)),
            1..=3 => {
                let operator =
                    self.of(&["&&", "||", "==", "!=", "<", "<=", ">", ">=", " in ", "+", "-", "*", "/", "%"]);
                let operators = (0..1 + self.below(4)).map(|_| format!("{operator}{blank}{}", self.operand(of)));
                let operators: String = operators.collect();
                format!("{}{operators}", self.operand(of))
            }
            4 => format!("{}{}", self.of(&["!", "!!", "-", "--", "---", "- -"]), self.operand(0)),
            5 => format!("{}.{}", self.operand(of), self.of(NAMES)),
            6 => format!("{}{blank}.{}({})", self.operand(of), self.of(NAMES), self.some(|r| r.expr(of))),
            7 => format!("{}{}{}]", self.operand(of), self.of(&["[", "[?"]), self.expr(of)),
            8 => format!("{}.?{}", self.operand(of), self.of(NAMES)),
            9 => format!("{}({})", self.of(&["f", ".f", "size", "has"]), self.some(|r| r.expr(of))),
            10 => {
                let items = self.some(|r| format!("{}{}", r.of(&["", "", "?"]), r.expr(of)));
                format!("[{items}{}]", self.of(&["", ","]))
            }
            11 => {
                let items = self.some(|r| format!("{}{}:{}", r.of(&["", "", "?"]), r.expr(of), r.expr(of)));
                format!("{{{items}{}}}", self.of(&["", ","]))
            }
            12 => {
                let name = self.of(&["Object", ".a.B", "a.b.c.D", "Object.spec"]);
                let items = self.some(|r| format!("{}{}: {}", r.of(&["", "", "?"]), r.of(NAMES), r.expr(of)));
                format!("{name}{blank}{{{items}}}")
            }
            _ => {
                let (range, body) = (self.operand(of), self.expr(of));
                let (call, args) = (self.of(LOOPS), self.of(&["x, ", "x, ", "x, y, ", "x, x > 1, ", "1, ", ""]));
                format!("{range}.{call}({args}{body})")
            }
        }
    }

    /// One that may stand beside an operator.
    fn operand(&mut self, levels: usize) -> String {
        if self.below(3) == 0 { self.of(LEAVES).to_owned() } else { format!("({})", self.expr(levels)) }
    }
}

const NAMES: &[&str] = &["a", "b", "name", "_x", "for", "startsWith", "exists"];
const LOOPS: &[&str] = &["all", "exists", "exists_one", "existsOne", "map", "filter", "optMap", "optFlatMap", "sortBy"];
const LEAVES: &[&str] = &[
    "self",
    "self.a",
    ".a",
    "x",
    "1",
    "-1",
    "- 1",
    "0x1F",
    "-0x1f",
    "12u",
    "0xfU",
    "1.5",
    "-1.5e3",
    ".5",
    "1e-2",
    "007",
    "true",
    "false",
    "null",
    "'a'",
    "\"it's\"",
    "r'\\'",
    "R\"\\d\"",
    "'''a\n'b'''",
    "\"\"\"\"\"\"",
    "r'''\\'''",
    "b'\\xff'",
    "B\"\\377\"",
    "br'\\x'",
    "'\\u00e9\\U0001F600\\x41\\101\\?\\`\\\"'",
    "\"é☃\"",
    "[]",
    "{}",
    "f()",
    "math.greatest(1, x)",
    "math.least([1, 2])",
    "has(self.a)",
    "'\r\n'''",
];

#[test]
fn what_the_grammar_has_is_read_as_the_engine_reads_it() {
    let mut random = Random(7);
    let (mut taken, mut refused) = (0, 0);
    while taken < 400 {
        let text = random.expr(3);
        if text.len() <= ASKED {
            // Macros and numbers have conditions beyond the grammar: `alike` sees that both refuse the same.
            *if parse(&text).is_ok() { &mut taken } else { &mut refused } += 1;
        }
    }
    assert!(refused < taken, "{refused} refused, {taken} taken");
}

#[test]
fn what_is_spoiled_is_refused_where_the_engine_refuses_it() {
    let mut random = Random(3);
    let pieces = [
        "(", ")", "[", "]", "{", "}", ".", ",", "?", ":", "-", "!", "'", "\"", "`a`", "1", "0x", "1e", "a", " in ",
        "for", "==", "=", "&", "@", "é", "\\", "\n", "//", "b'", "\"\"\"", "u", "{a: 1}", ".5", "a.b{",
    ];
    let mut refused = 0;
    for _ in 0..400 {
        let mut text = random.expr(2);
        while text.len() > 60 {
            text = random.expr(1);
        }
        for _ in 0..1 + random.below(2) {
            let at = random.below(text.len() + 1);
            let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            let end = (at + random.below(3)).min(text.len());
            let end = (end..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap();
            text.replace_range(at..end, random.of(&pieces));
        }
        refused += usize::from(parse(&text).is_err());
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn what_is_wrong_is_told_in_the_words_of_cel() {
    let operand = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
    for (text, wanted) in [
        ("self = 42", "1:6: Syntax error: token recognition error at: '= '\n | self = 42\n | .....^"),
        ("", &format!("1:1: Syntax error: mismatched input '<EOF>' expecting {operand}\n | \n | ^")),
        ("1 +", &format!("1:4: Syntax error: mismatched input '<EOF>' expecting {operand}\n | 1 +\n | ...^")),
        ("*a", &format!("1:1: Syntax error: extraneous input '*' expecting {operand}")),
        ("self a", "1:6: Syntax error: extraneous input 'a' expecting <EOF>"),
        ("(1", "1:3: Syntax error: mismatched input '<EOF>' expecting ')'"),
        ("é == 1", "1:1: Syntax error: token recognition error at: 'é'\n | é == 1\n | ^"),
        ("'é' ==\n  'a\n", "2:3: Syntax error: token recognition error at: ''a\n'\n |   'a\n | ..^"),
        ("'\\q'", "1:1: Syntax error: token recognition error at: ''\\q'"),
        ("a.for && for", "1:10: reserved identifier: for"),
        ("has(a)", "1:5: invalid argument to has() macro"),
        ("a.all(1, true)", "1:7: argument must be a simple name"),
        ("99999999999999999999", "1:1: invalid int literal"),
        ("a.`b-c`", "1:2: unsupported syntax: '`'"),
    ] {
        let Err(Error::Compile(found)) = parse(text) else { panic!("{text}") };
        assert!(found.starts_with(&format!("ERROR: <input>:{wanted}")), "{text}: {found}");
    }
}

/// So many levels of every shape in which an expression can be deep.
fn shapes(n: usize) -> Vec<String> {
    let around = |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    let row = |first: &str, next: &str| format!("{first}{}", next.repeat(n));
    vec![
        around("[", "1", "]"),
        around("{1: ", "1", "}"),
        around("Object{a: ", "1", "}"),
        around("size(", "'a'", ")"),
        around("self.all(x, ", "true", ")"),
        around("self.map(x, ", "x", ")"),
        around("self.exists_one(x, ", "true", ")"),
        around("self.all(i, x, ", "true", ")"),
        around("self.transformMap(k, v, ", "k", ")"),
        around("self.f(", "1", ")"),
        around("self[", "1", "]"),
        around("self.?a.optMap(x, ", "1", ")"),
        around("!(", "true", ")"),
        around("-(", "1", ")"),
        around("true ? (", "1", ") : 2"),
        around("1 + (", "1", ")"),
        row("1", " + 1"),
        row("1", "- 1"),
        row("1", " * 1"),
        row("1", " == 1"),
        row("1", " in [1]"),
        row("self", ".a"),
        row("self", ".?a"),
        row("self", ".f()"),
        row("self", "[0]"),
        row("self", ".map(x, x)"),
        row("optional.of(self)", ".optMap(x, x)"),
        row("self", ".sortBy(x, x)"),
        format!("{}1{}", "true ? 1 : ".repeat(n), ""),
    ]
}

#[test]
fn what_is_too_deep_is_refused() {
    let limit = format!("expression recursion limit exceeded: {DEPTH}");
    for shape in [DEPTH + 1, 3_000].into_iter().flat_map(shapes) {
        let Err(Error::Compile(why)) = compile(&shape, &["self"]) else { panic!("{shape}") };
        assert!(why.contains(&limit), "{why}");
    }
    for shape in [format!("{}1{}", "(".repeat(251), ")".repeat(251)), "(".repeat(90_000), "[{".repeat(40_000)] {
        let Err(Error::Compile(why)) = compile(&shape, &["self"]) else { panic!("{shape}") };
        assert!(why.contains(&limit), "{why}");
    }
}

#[test]
fn the_limit_itself_fits_on_the_stack() {
    // Tests have the stack that request handlers have. Some shapes take several levels for one.
    let mut deepest = 0;
    for n in [1, 2, 8, 9, 20, 27, 31, 32, 33, 41, 62, 83, 124, 166, 248, 249, 250] {
        for shape in shapes(n) {
            let Ok(program) = compile(&shape, &["self"]) else { continue };
            deepest = deepest.max(program.depth);
            let _ = program.eval(&[("self", &json!({"a": [0]}))]);
            let dynamic = [("self", crate::cel::check::Type::Dyn)];
            if let Ok(sound) = crate::cel::check::check(&program, &dynamic) {
                sound.cost(&program, &json!({"type": "object"}), true);
            }
        }
    }
    assert_eq!(deepest, DEPTH);
}

#[test]
fn long_texts_take_time_in_proportion() {
    let wide = [
        format!("true{}", " && true".repeat(12_000)),
        format!("self.a == 1{}", " || self.a == 2".repeat(6_000)),
        (0..4_000).map(|i| format!("self.a{i}.b == {i}")).collect::<Vec<_>>().join(" && "),
        format!("[{}]", "1,".repeat(49_000)),
        format!("{{{}}}", (0..9_000).map(|i| format!("'{i}': 1,")).collect::<String>()),
        format!("f({}1)", "a.b.c,".repeat(16_000)),
        format!("[{}]", "(1),(-x.y[0] ? [2] : {}),".repeat(3_500)),
        format!("'{}'", "\\n".repeat(49_000)),
        format!("1 //{}", "(".repeat(99_000)),
        format!("{}1", " \n".repeat(49_000)),
        format!("{}true", "!".repeat(99_000)),
        format!("{}1", "-".repeat(99_000)),
        // Not well-formed, at the end or everywhere.
        format!("[{}", "1,".repeat(49_000)),
        format!("{}$", "1 in 2 && ".repeat(9_000)),
        "\"\"\"x\" r'\\q' ".repeat(7_000),
        "a.b.".repeat(24_000),
        "@ö§$ ¿\0".repeat(10_000),
    ];
    let begun = std::time::Instant::now();
    for text in &wide {
        assert!(text.chars().count() <= LENGTH);
        let _ = parse(text);
    }
    // A fifth of a second for each without optimisation; what grows with the square takes minutes.
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    let Err(Error::Compile(why)) = parse(&"é".repeat(LENGTH + 1)) else { panic!("too long is taken") };
    assert!(why.contains("expression code point size exceeds limit: size: 100001, limit 100000"), "{why}");
}

#[test]
fn wide_expressions_are_not_deep() {
    for (text, most) in [
        (format!("true{}", " && true".repeat(5000)), 15),
        ((0..1000).map(|i| format!("self.a{i}.b == {i}")).collect::<Vec<_>>().join(" || "), 15),
        ("a.b.c == d.e.f && g.h - 1 > -i * j || !k".to_owned(), 8),
        (format!("{}1{}", "(".repeat(200), ")".repeat(200)), 1),
    ] {
        assert!(parse(&text).unwrap().depth <= most, "{text}");
    }
}
