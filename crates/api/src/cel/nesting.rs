//! How deep an expression goes, before anything recurses over it.
//!
//! Parser, evaluator and destructor of the engine recurse over the expression, and a stack that runs over ends the process.
//! So its depth is bounded from its text: brackets in brackets, and operators of equal rank in a row, of which each is the
//! operand of the next. The parser needs a hundred times as much stack as the others: what is not shallow gets one of its own.

use super::Error;

/// Deepest expression. Kubernetes' engine has 250; what people write stays below 20, and 40 take a mebibyte to evaluate
/// without optimisation.
const LIMIT: usize = 32;
/// What becomes a loop, and so many levels more: evaluating one takes that much more stack.
const LOOPS: [&[u8]; 9] =
    [b"all", b"exists", b"exists_one", b"existsOne", b"filter", b"map", b"transformList", b"transformMap", b"sortBy"];
const LOOP: usize = 5;

/// Ranks of operators, the ones that bind least first.
const RANKS: usize = 8;
const CONDITIONAL: usize = 0;
const OR: usize = 1;
const AND: usize = 2;
const RELATION: usize = 3;
const SUM: usize = 4;
const PRODUCT: usize = 5;
const PREFIX: usize = 6;
const MEMBER: usize = 7;

/// What is between two brackets, or outside of all: how many operators of each rank stand in a row, and how many at most.
#[derive(Default)]
struct Level {
    row: [usize; RANKS],
    most: [usize; RANKS],
}

impl Level {
    fn operator(&mut self, rank: usize) {
        self.row[rank] += 1;
        self.most[rank] = self.most[rank].max(self.row[rank]);
        // What binds more begins anew behind it.
        self.row[rank + 1..].fill(0);
    }

    fn depth(&self) -> usize {
        // The engine makes balanced trees of rows of these.
        let balanced = |rank: usize| matches!(rank, OR | AND);
        let depth =
            |(rank, &most): (usize, &usize)| if balanced(rank) && most > 0 { 1 + most.ilog2() as usize } else { most };
        self.most.iter().enumerate().map(depth).sum()
    }
}

/// Up to this depth a mebibyte is enough for the parser, without optimisation too.
const SHALLOW: usize = 4;
/// The parser's stack for the deepest expression, bytes. Only what is used takes memory.
const STACK: usize = 64 << 20;

/// Compiles an expression of that depth on a stack on which it has room.
pub(super) fn with_stack<T: Send>(depth: usize, compile: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    if depth <= SHALLOW {
        return compile();
    }
    let failed = |why: &str| Error::Compile(format!("expression cannot be compiled: {why}"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel".to_owned()).stack_size(STACK);
        let compiling = thread.spawn_scoped(scope, compile).map_err(|e| failed(&e.to_string()))?;
        compiling.join().map_err(|_| failed("the parser panicked"))?
    })
}

/// How deep an expression goes at most.
///
/// # Errors
/// [`Error::Compile`]: deeper than [`LIMIT`], or with a literal that does not end.
pub(super) fn depth(expression: &str) -> Result<usize, Error> {
    let bytes = expression.as_bytes();
    let (mut levels, mut at) = (vec![Level::default()], 0);
    // Whether an operand ended just before: then a minus is no prefix.
    let (mut operand, mut deepest) = (false, 0);
    while let Some(&byte) = bytes.get(at) {
        let (mut width, mut after) = (1, false);
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => after = operand,
            b'/' if bytes[at..].starts_with(b"//") => {
                width = bytes[at..].iter().position(|b| *b == b'\n').unwrap_or(bytes.len() - at);
                after = operand;
            }
            b'"' | b'\'' => {
                width = literal(bytes, at)? - at;
                after = true;
            }
            b'(' | b'[' | b'{' => {
                let levels_of = opened(&bytes[..at], operand);
                if let Some(level) = levels.last_mut() {
                    (0..levels_of).for_each(|_| level.operator(MEMBER));
                }
                levels.push(Level::default());
            }
            b')' | b']' | b'}' => {
                if levels.len() > 1 {
                    levels.pop();
                }
                after = true;
            }
            b',' => levels.last_mut().into_iter().for_each(|level| level.row = [0; RANKS]),
            _ => match (operator(bytes, at, operand), levels.last_mut()) {
                (Some((rank, length)), Some(level)) => {
                    level.operator(rank);
                    width = length;
                }
                _ => after = true,
            },
        }
        let depth = levels.iter().map(|level| 1 + level.depth()).sum::<usize>() - 1;
        if depth > LIMIT {
            return Err(Error::Compile(format!("expression recursion limit exceeded: {LIMIT}")));
        }
        deepest = deepest.max(depth);
        operand = after;
        at += width;
    }
    Ok(deepest)
}

/// What a bracket adds to the row of what stands before it: a call, an index and the fields of a message belong to that.
fn opened(before: &[u8], operand: bool) -> usize {
    let word = before.iter().rev().take_while(|b| is_word(Some(b))).count();
    if LOOPS.contains(&&before[before.len() - word..]) { LOOP } else { usize::from(operand) }
}

/// The rank and length of the operator that begins there.
fn operator(bytes: &[u8], at: usize, operand: bool) -> Option<(usize, usize)> {
    let next = bytes.get(at + 1).copied().unwrap_or(0);
    Some(match bytes[at] {
        b'?' => (CONDITIONAL, 1),
        b'|' if next == b'|' => (OR, 2),
        b'&' if next == b'&' => (AND, 2),
        b'=' | b'!' | b'<' | b'>' if next == b'=' => (RELATION, 2),
        b'<' | b'>' => (RELATION, 1),
        b'i' if next == b'n' && !operand_goes_on(bytes, at) && !is_word(bytes.get(at + 2)) => (RELATION, 2),
        b'-' if !operand => (PREFIX, 1),
        b'!' => (PREFIX, 1),
        b'+' | b'-' => (SUM, 1),
        b'*' | b'/' | b'%' => (PRODUCT, 1),
        b'.' => (MEMBER, 1),
        _ => return None,
    })
}

fn is_word(byte: Option<&u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// Whether the byte is not the first of its word.
fn operand_goes_on(bytes: &[u8], at: usize) -> bool {
    at > 0 && is_word(bytes.get(at - 1))
}

/// The position after a literal of text or bytes. One that the lexer would not take is refused: what it makes of the rest
/// then is anybody's guess.
fn literal(bytes: &[u8], start: usize) -> Result<usize, Error> {
    let broken = || Error::Compile("Syntax error: a literal does not end, or has an unknown escape".to_owned());
    let quote = bytes[start];
    let prefix = bytes[..start].iter().rev().take_while(|b| is_word(Some(b))).count();
    let letters = &bytes[start - prefix..start];
    let raw = prefix <= 2
        && letters.iter().all(|b| matches!(b, b'r' | b'R' | b'b' | b'B'))
        && letters.iter().any(|b| matches!(b, b'r' | b'R'));
    let triple = bytes[start..].starts_with(&[quote; 3]);
    let end: &[u8] = if triple { &[quote; 3] } else { &[quote] };
    let mut at = start + end.len();
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.starts_with(end) {
            return Ok(at + end.len());
        }
        at += match rest {
            [] => return Err(broken()),
            [b'\n' | b'\r', ..] if !triple => return Err(broken()),
            [b'\\', ..] if !raw => 1 + escape(&rest[1..]).ok_or_else(broken)?,
            _ => 1,
        };
    }
}

/// The length of an escape after its backslash.
fn escape(rest: &[u8]) -> Option<usize> {
    let digits = match rest.first()? {
        b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'\\' | b'\'' | b'"' | b'`' | b'?' => return Some(1),
        b'x' | b'X' => 2,
        b'u' => 4,
        b'U' => 8,
        b'0'..=b'3' => {
            return rest.get(1..3)?.iter().all(|b| (b'0'..=b'7').contains(b)).then_some(3);
        }
        _ => return None,
    };
    rest.get(1..=digits)?.iter().all(u8::is_ascii_hexdigit).then_some(1 + digits)
}

#[cfg(test)]
mod tests {
    use super::super::compile;
    use super::*;

    /// So many levels of every shape in which an expression can be deep.
    fn shapes(n: usize) -> Vec<String> {
        let around = |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
        let row = |first: &str, next: &str| format!("{first}{}", next.repeat(n));
        vec![
            around("(", "1", ")"),
            around("[", "1", "]"),
            around("{1: ", "1", "}"),
            around("size(", "'a'", ")"),
            around("self.all(x, ", "true", ")"),
            around("self.map(x, ", "x", ")"),
            around("self.f(", "1", ")"),
            around("self[", "1", "]"),
            around("!", "true", ""),
            around("- ", "1", ""),
            around("true ? ", "1", " : 2"),
            row("1", " + 1"),
            row("1", "- 1"),
            row("1", " * 1"),
            row("1", " == 1"),
            row("1", " in [1]"),
            row("self", ".a"),
            row("self", ".?a"),
            row("self", ".f()"),
            row("self", "[0]"),
            row("true", " ? 1 : true"),
            format!("{}1", "f(')' + ".repeat(n)),
            format!("{}1", "f(r'\\' + ".repeat(n)),
            format!("{}1", "f(\"\"\")\"\"\" + ".repeat(n)),
        ]
    }

    #[test]
    fn what_is_deep_is_refused_before_it_is_parsed() {
        for shape in [LIMIT + 1, 5000].into_iter().flat_map(shapes) {
            let error = depth(&shape).expect_err(&shape);
            assert_eq!(error, Error::Compile(format!("expression recursion limit exceeded: {LIMIT}")), "{shape}");
            assert!(compile(&shape, &["self"]).is_err());
        }
    }

    #[test]
    fn the_limit_itself_fits_on_the_stack() {
        // Tests have the stack that request handlers have; some levels count for more than one.
        for shape in [1, 2, 4, 5, SHALLOW, 10, 15, 16, LIMIT - 1, LIMIT].into_iter().flat_map(shapes) {
            if let Ok(program) = compile(&shape, &["self"]) {
                let _ = program.eval(&[("self", &serde_json::json!({"a": [0]}))]);
            }
        }
    }

    #[test]
    fn wide_expressions_are_not_deep() {
        let wide = [
            format!("true{}", " && true".repeat(5000)),
            format!("self.a == 1{}", " || self.a == 2".repeat(3000)),
            (0..1000).map(|i| format!("self.a{i}.b == {i}")).collect::<Vec<_>>().join(", "),
            "'((((((' + \"[[[[\" + r'\\' + '''\n{{{{''' + b'\\x00((('".to_owned(),
            format!("// {}\n1", "(".repeat(1000)),
            "a.b.c == d.e.f && g.h - 1 > -i * j || !k".to_owned(),
        ];
        for expression in wide {
            assert!(depth(&expression).is_ok_and(|d| d < 18), "{expression}");
            let _ = compile(&expression, &["self"]).map(|p| p.eval(&[("self", &serde_json::json!({"a": 3}))]));
        }
        for broken in ["'a", "'''a'", "\"\\q\"", "'\n'", "'\\u12'", "'\\8'"] {
            assert!(depth(broken).is_err(), "{broken}");
        }
    }
}
