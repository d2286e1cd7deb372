//! The grammar (cel-go's CEL.g4).

use cel::common::ast::{
    EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue, MapEntryExpr, MapExpr, SelectExpr, StructExpr,
    StructFieldExpr, operators,
};

use super::lexer::{Kind, Token};
use super::nodes::{Fault, Made, Nodes};
use super::{DEPTH, literal, macros};
use crate::cel::convert;

/// What an operand begins with, as errors name it.
const OPERAND: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const NAME: &str = "IDENTIFIER";
/// Operators of two operands by how much they bind, the ones that bind least first, and the functions they are.
const BINARY: [&[(&str, &str)]; 3] = [
    &[
        ("<", operators::LESS),
        ("<=", operators::LESS_EQUALS),
        (">=", operators::GREATER_EQUALS),
        (">", operators::GREATER),
        ("==", operators::EQUALS),
        ("!=", operators::NOT_EQUALS),
        ("in", operators::IN),
    ],
    &[("+", operators::ADD), ("-", operators::SUBSTRACT)],
    &[("*", operators::MULTIPLY), ("/", operators::DIVIDE), ("%", operators::MODULO)],
];
pub(super) fn parse(text: &str, tokens: Vec<Token>) -> Result<(IdedExpr, Nodes), Fault> {
    let mut parser = Parser { text, tokens, at: 0, open: 0, nodes: Nodes::new() };
    let expr = parser.expr()?;
    match parser.token().kind {
        Kind::End => Ok((expr, parser.nodes)),
        _ => Err(parser.unexpected("<EOF>")),
    }
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token>,
    at: usize,
    /// Expressions around this one.
    open: usize,
    nodes: Nodes,
}

impl<'t> Parser<'t> {
    /// The token so many further on; the last one has no end.
    fn ahead(&self, by: usize) -> Token {
        let last = Token { kind: Kind::End, start: self.text.len(), end: self.text.len() };
        self.tokens.get(self.at + by).copied().unwrap_or(last)
    }

    fn token(&self) -> Token {
        self.ahead(0)
    }

    fn is(&self, symbol: &str) -> bool {
        self.token().is(symbol)
    }

    fn next(&mut self) -> Token {
        let token = self.token();
        self.at += 1;
        token
    }

    fn take(&mut self, symbol: &str) -> Option<Token> {
        self.is(symbol).then(|| self.next())
    }

    fn expect(&mut self, symbol: &str) -> Result<Token, Fault> {
        self.take(symbol).ok_or_else(|| self.unexpected(&format!("'{symbol}'")))
    }

    fn text_of(&self, token: Token) -> &'t str {
        self.text.get(token.start..token.end).unwrap_or_default()
    }

    /// That this token is none of those that may come here.
    fn unexpected(&self, expected: &str) -> Fault {
        let (token, next) = (self.token(), self.ahead(1));
        let text = self.text_of(token);
        let what = match token.kind {
            Kind::Broken => format!("token recognition error at: '{text}'"),
            Kind::End => format!("mismatched input '<EOF>' expecting {expected}"),
            _ => {
                // One token too many is told in other words.
                let extraneous = match expected {
                    OPERAND => self.begins_operand(next),
                    "<EOF>" => next.kind == Kind::End,
                    NAME => next.kind == Kind::Word,
                    symbol => next.kind != Kind::End && symbol.trim_matches('\'') == self.text_of(next),
                };
                format!("{} input '{text}' expecting {expected}", if extraneous { "extraneous" } else { "mismatched" })
            }
        };
        self.fault(token.start, format!("Syntax error: {what}"))
    }

    fn begins_operand(&self, token: Token) -> bool {
        match token.kind {
            Kind::Symbol(symbol) => matches!(symbol, "[" | "{" | "(" | "." | "-" | "!" | "true" | "false" | "null"),
            kind => !matches!(kind, Kind::End | Kind::Broken | Kind::Quoted),
        }
    }

    fn fault(&self, at: usize, what: impl Into<String>) -> Fault {
        Fault { at, what: what.into() }
    }

    fn too_deep(&self, at: usize) -> Fault {
        self.fault(at, format!("expression recursion limit exceeded: {DEPTH}"))
    }

    /// A node, unless it goes too deep.
    fn node(&mut self, at: usize, expr: Expr) -> Made {
        let node = self.nodes.node(at, expr);
        self.shallow(at, node)
    }

    /// A call, or what it stands for.
    fn call(&mut self, at: usize, name: &str, target: Option<IdedExpr>, args: Vec<IdedExpr>) -> Made {
        let node = macros::call(&mut self.nodes, at, name, target, args)?;
        self.shallow(at, node)
    }

    fn shallow(&self, at: usize, node: IdedExpr) -> Made {
        if self.nodes.depth(&node) > DEPTH { Err(self.too_deep(at)) } else { Ok(node) }
    }

    /// `or ? or : expr`. A row of them is taken in a loop.
    fn expr(&mut self) -> Made {
        self.open += 1;
        if self.open > DEPTH {
            return Err(self.too_deep(self.token().start));
        }
        let mut choices = Vec::new();
        let last = loop {
            let operand = self.logical(operators::LOGICAL_OR)?;
            let Some(question) = self.take("?") else { break operand };
            let yes = self.logical(operators::LOGICAL_OR)?;
            self.expect(":")?;
            choices.push((operand, question.start, yes));
        };
        self.open -= 1;
        choices.into_iter().rev().try_fold(last, |no, (condition, at, yes)| {
            self.call(at, operators::CONDITIONAL, None, vec![condition, yes, no])
        })
    }

    /// A row of `||`, or of `&&`, of which a balanced tree is made.
    fn logical(&mut self, operator: &str) -> Made {
        let or = operator == operators::LOGICAL_OR;
        let (mut terms, mut places) = (Vec::new(), Vec::new());
        loop {
            terms.push(Some(if or { self.logical(operators::LOGICAL_AND)? } else { self.binary(0)? }));
            let Some(token) = self.take(if or { "||" } else { "&&" }) else { break };
            places.push(token.start);
        }
        self.balanced(operator, &mut terms, &places)
    }

    fn balanced(&mut self, operator: &str, terms: &mut [Option<IdedExpr>], places: &[usize]) -> Made {
        if places.is_empty() {
            return Ok(terms.first_mut().and_then(Option::take).unwrap_or_default());
        }
        let middle = places.len() / 2;
        let (left, right) = terms.split_at_mut(middle + 1);
        let left = self.balanced(operator, left, &places[..middle])?;
        let right = self.balanced(operator, right, &places[middle + 1..])?;
        self.call(places[middle], operator, None, vec![left, right])
    }

    /// Operators of at least that rank with their operands.
    fn binary(&mut self, least: usize) -> Made {
        let mut left = self.unary()?;
        loop {
            let token = self.token();
            let found = BINARY.iter().enumerate().skip(least).find_map(|(rank, operators)| {
                operators.iter().find(|(symbol, _)| token.is(symbol)).map(|(_, function)| (rank, *function))
            });
            let Some((rank, function)) = found else { return Ok(left) };
            self.next();
            let right = self.binary(rank + 1)?;
            left = self.call(token.start, function, None, vec![left, right])?;
        }
    }

    /// A row of `!` or of `-` before an operand; two of them are none. One minus before a number is the number's.
    fn unary(&mut self) -> Made {
        let first = self.token();
        let (symbol, function) = match first.kind {
            Kind::Symbol("!") => ("!", operators::LOGICAL_NOT),
            Kind::Symbol("-") if !matches!(self.ahead(1).kind, Kind::Int | Kind::Float) => ("-", operators::NEGATE),
            _ => return self.member(),
        };
        let mut odd = false;
        while self.take(symbol).is_some() {
            odd = !odd;
        }
        let operand = self.member()?;
        if odd { self.call(first.start, function, None, vec![operand]) } else { Ok(operand) }
    }

    /// An operand with selections, calls and indexes behind it.
    fn member(&mut self) -> Made {
        let mut operand = self.primary()?;
        loop {
            operand = if let Some(dot) = self.take(".") {
                self.select(operand, dot.start)?
            } else if let Some(open) = self.take("[") {
                let optional = self.take("?").is_some();
                let index = self.expr()?;
                self.expect("]")?;
                let function = if optional { operators::OPT_INDEX } else { operators::INDEX };
                self.call(open.start, function, None, vec![operand, index])?
            } else {
                return Ok(operand);
            };
        }
    }

    /// What comes after a dot.
    fn select(&mut self, operand: IdedExpr, dot: usize) -> Made {
        let optional = self.take("?").is_some();
        let call = !optional && self.ahead(1).is("(");
        let field = self.field(dot)?.to_owned();
        if call {
            let open = self.next();
            let args = self.args()?;
            return self.call(open.start, &field, Some(operand), args);
        }
        if optional {
            let field = self.node(dot, Expr::Literal(LiteralValue::String(field.into())))?;
            return self.call(dot, operators::OPT_SELECT, None, vec![operand, field]);
        }
        self.node(dot, Expr::Select(SelectExpr { operand: Box::new(operand), field, test: false }))
    }

    /// The name of a field; `at` is where a name in back quotes is told of, which Kubernetes does not have.
    fn field(&mut self, at: usize) -> Result<&'t str, Fault> {
        match self.token().kind {
            Kind::Word => {
                let token = self.next();
                Ok(self.text_of(token))
            }
            Kind::Quoted => Err(self.fault(at, "unsupported syntax: '`'")),
            _ => Err(self.unexpected(NAME)),
        }
    }

    /// Arguments up to the closing bracket.
    fn args(&mut self) -> Result<Vec<IdedExpr>, Fault> {
        let mut args = Vec::new();
        if self.take(")").is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect(")")?;
        Ok(args)
    }

    fn primary(&mut self) -> Made {
        let token = self.token();
        match token.kind {
            Kind::Word | Kind::Symbol(".") => self.named(),
            Kind::Symbol("(") => {
                self.next();
                let expr = self.expr()?;
                self.expect(")")?;
                Ok(expr)
            }
            Kind::Symbol("[") => self.list(),
            Kind::Symbol("{") => self.map(),
            _ => self.literal(),
        }
    }

    /// A variable, a function or a message.
    fn named(&mut self) -> Made {
        let dot = self.take(".").map_or("", |_| ".");
        if self.token().kind != Kind::Word {
            return Err(self.unexpected(NAME));
        }
        if let Some(words) = self.message() {
            return self.fields(format!("{dot}{words}"));
        }
        let word = self.next();
        let name = format!("{dot}{}", self.text_of(word));
        if convert::RESERVED.contains(&self.text_of(word)) {
            return Err(self.fault(word.start, format!("reserved identifier: {name}")));
        }
        match self.take("(") {
            Some(open) => {
                let args = self.args()?;
                self.call(open.start, &name, None, args)
            }
            None => self.node(word.start, Expr::Ident(name)),
        }
    }

    /// The name of a message's type, if that is what comes: names with dots between them up to a brace.
    fn message(&mut self) -> Option<String> {
        let mut last = 0;
        while self.ahead(last + 1).is(".") && self.ahead(last + 2).kind == Kind::Word {
            last += 2;
        }
        if !self.ahead(last + 1).is("{") {
            return None;
        }
        let words = (0..=last).map(|by| self.text_of(self.ahead(by))).collect();
        self.at += last + 1;
        Some(words)
    }

    /// The fields of a message.
    fn fields(&mut self, type_name: String) -> Made {
        let open = self.expect("{")?;
        let mut entries = Vec::new();
        self.separated("}", |parser| {
            let optional = parser.take("?").is_some();
            let at = parser.token().start;
            let field = parser.field(at)?.to_owned();
            let colon = parser.expect(":")?;
            let id = parser.nodes.id(colon.start);
            let value = parser.expr()?;
            let expr = EntryExpr::StructField(StructFieldExpr { field, value, optional });
            entries.push(IdedEntryExpr { id, expr });
            Ok(())
        })?;
        self.node(open.start, Expr::Struct(StructExpr { type_name, entries }))
    }

    fn list(&mut self) -> Made {
        let open = self.expect("[")?;
        let (mut elements, mut optionals) = (Vec::new(), Vec::new());
        self.separated("]", |parser| {
            if parser.take("?").is_some() {
                optionals.push(elements.len());
            }
            elements.push(parser.expr()?);
            Ok(())
        })?;
        self.node(open.start, Expr::List(ListExpr::new_with_optionals(elements, optionals)))
    }

    fn map(&mut self) -> Made {
        let open = self.expect("{")?;
        let mut entries = Vec::new();
        self.separated("}", |parser| {
            let optional = parser.take("?").is_some();
            let key = parser.expr()?;
            let colon = parser.expect(":")?;
            let id = parser.nodes.id(colon.start);
            let value = parser.expr()?;
            entries.push(IdedEntryExpr { id, expr: EntryExpr::MapEntry(MapEntryExpr { key, value, optional }) });
            Ok(())
        })?;
        self.node(open.start, Expr::Map(MapExpr { entries }))
    }

    /// Things with commas between them, and maybe one behind the last, up to a closing bracket. A comma alone is none.
    fn separated(&mut self, close: &str, mut one: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        if !self.is(",") {
            while !self.is(close) {
                one(self)?;
                if !self.is(",") || self.ahead(1).is(close) {
                    break;
                }
                self.next();
            }
        }
        self.take(",");
        self.expect(close).map(drop)
    }

    fn literal(&mut self) -> Made {
        let first = self.token();
        let signed = first.is("-") && matches!(self.ahead(1).kind, Kind::Int | Kind::Float);
        let token = if signed { self.ahead(1) } else { first };
        let text = self.text_of(token);
        let value = match token.kind {
            Kind::Int => literal::int(text, signed),
            Kind::Uint => literal::uint(text),
            Kind::Float => literal::float(text, signed),
            Kind::Text => literal::text(text),
            Kind::Bytes => literal::bytes(text),
            Kind::Symbol("true") => Ok(LiteralValue::Boolean(true.into())),
            Kind::Symbol("false") => Ok(LiteralValue::Boolean(false.into())),
            Kind::Symbol("null") => Ok(LiteralValue::Null),
            _ => return Err(self.unexpected(OPERAND)),
        };
        self.at += if signed { 2 } else { 1 };
        let value = value.map_err(|what| self.fault(token.start, what))?;
        self.node(token.start, Expr::Literal(value))
    }
}
