//! The nodes of an expression as they are made: where each is in the text, and how deep it goes.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue};

/// What is wrong with a text, and where, in bytes.
#[derive(Debug)]
pub(super) struct Fault {
    pub at: usize,
    pub what: String,
}

pub(super) type Made = Result<IdedExpr, Fault>;

/// A loop takes as much stack as so many other nodes.
const LOOP: usize = 3;

/// Places and depths of nodes by their ids, which begin at 1.
pub(super) struct Nodes {
    places: Vec<usize>,
    depths: Vec<usize>,
    /// Of the deepest.
    pub deepest: usize,
}

impl Nodes {
    pub fn new() -> Self {
        Nodes { places: vec![0], depths: vec![0], deepest: 0 }
    }

    /// An id at a place in the text, for what has no depth of its own.
    pub fn id(&mut self, at: usize) -> u64 {
        self.places.push(at);
        self.depths.push(0);
        self.places.len() as u64 - 1
    }

    pub fn node(&mut self, at: usize, expr: Expr) -> IdedExpr {
        let depth = self.below(&expr) + if matches!(expr, Expr::Comprehension(_)) { LOOP } else { 1 };
        self.deepest = self.deepest.max(depth);
        let id = self.id(at);
        self.depths[id as usize] = depth;
        IdedExpr { id, expr }
    }

    /// Where a node is in the text, in bytes.
    pub fn place(&self, node: &IdedExpr) -> usize {
        self.places.get(node.id as usize).copied().unwrap_or(0)
    }

    pub fn depth(&self, node: &IdedExpr) -> usize {
        self.depths.get(node.id as usize).copied().unwrap_or(0)
    }

    pub fn into_places(self) -> Vec<usize> {
        self.places
    }

    /// How deep what is in a node goes.
    fn below(&self, expr: &Expr) -> usize {
        let deepest = |nodes: &mut dyn Iterator<Item = &IdedExpr>| nodes.map(|n| self.depth(n)).max().unwrap_or(0);
        let entry = |entry: &EntryExpr| match entry {
            EntryExpr::MapEntry(e) => self.depth(&e.key).max(self.depth(&e.value)),
            EntryExpr::StructField(e) => self.depth(&e.value),
        };
        match expr {
            Expr::Call(call) => deepest(&mut call.target.as_deref().into_iter().chain(&call.args)),
            Expr::Comprehension(c) => {
                deepest(&mut [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result].into_iter())
            }
            Expr::List(list) => deepest(&mut list.elements.iter()),
            Expr::Map(map) => map.entries.iter().map(|e| entry(&e.expr)).max().unwrap_or(0),
            Expr::Struct(of) => of.entries.iter().map(|e| entry(&e.expr)).max().unwrap_or(0),
            Expr::Select(select) => self.depth(&select.operand),
            Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => 0,
        }
    }
}

/// Makes nodes at one place: that of the call which becomes them.
pub(super) struct Maker<'n> {
    pub nodes: &'n mut Nodes,
    pub at: usize,
}

impl Maker<'_> {
    pub fn node(&mut self, expr: Expr) -> IdedExpr {
        self.nodes.node(self.at, expr)
    }

    pub fn call(&mut self, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
        self.node(Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }))
    }

    pub fn method(&mut self, target: IdedExpr, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
        self.node(Expr::Call(CallExpr { func_name: name.to_owned(), target: Some(Box::new(target)), args }))
    }

    pub fn ident(&mut self, name: &str) -> IdedExpr {
        self.node(Expr::Ident(name.to_owned()))
    }

    pub fn boolean(&mut self, value: bool) -> IdedExpr {
        self.node(Expr::Literal(LiteralValue::Boolean(value.into())))
    }

    pub fn integer(&mut self, value: i64) -> IdedExpr {
        self.node(Expr::Literal(LiteralValue::Int(value.into())))
    }

    pub fn list(&mut self, elements: Vec<IdedExpr>) -> IdedExpr {
        self.node(Expr::List(ListExpr::new(elements)))
    }

    pub fn comprehension(&mut self, comprehension: ComprehensionExpr) -> IdedExpr {
        self.node(Expr::Comprehension(Box::new(comprehension)))
    }

    /// `body` with a name for a value.
    pub fn bound(&mut self, name: &str, value: IdedExpr, body: IdedExpr) -> IdedExpr {
        let bind = ComprehensionExpr {
            iter_range: self.list(Vec::new()),
            iter_var: "#unused".to_owned(),
            iter_var2: None,
            accu_var: name.to_owned(),
            accu_init: value,
            loop_cond: self.boolean(false),
            loop_step: self.ident(name),
            result: body,
        };
        self.comprehension(bind)
    }

    /// What a variable is to be called.
    pub fn name(&self, node: &IdedExpr) -> Result<String, Fault> {
        match &node.expr {
            Expr::Ident(name) => Ok(name.clone()),
            _ => Err(self.fault(node, "argument must be a simple name")),
        }
    }

    pub fn fault(&self, node: &IdedExpr, what: impl Into<String>) -> Fault {
        Fault { at: self.nodes.place(node), what: what.into() }
    }
}
