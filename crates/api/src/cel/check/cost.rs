//! What an expression costs at most, by the sizes that a schema allows (KEP-2876). The figures are those of Kubernetes and of
//! the estimator of its CEL engine: a rule that one of the two accepts, the other accepts too.
//!
//! A size is known from the text of the expression, from the place in the schema that it names, or not at all: then it has no
//! bound, and neither has what is done with it.

use std::collections::HashMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::functions::cost as function;
use super::sizes::Place;
use super::types::Type;

/// Costs of reading a variable or field, and of making a list, map or message.
const READ: u64 = 1;
const LIST: u64 = 10;
const MAP: u64 = 30;
const MESSAGE: u64 = 40;
/// Of text, for each character that is looked at.
pub(super) const TRAVERSAL: f64 = 0.1;

/// How large a value is: `size()` of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub least: u64,
    pub most: u64,
}

impl Size {
    pub const UNKNOWN: Size = Size { least: 0, most: u64::MAX };

    pub fn of(size: u64) -> Self {
        Size { least: size, most: size }
    }

    pub fn plus(self, other: Size) -> Self {
        Size { least: self.least.saturating_add(other.least), most: self.most.saturating_add(other.most) }
    }

    pub fn times(self, other: Size) -> Self {
        Size { least: self.least.saturating_mul(other.least), most: self.most.saturating_mul(other.most) }
    }

    pub fn or(self, other: Size) -> Self {
        Size { least: self.least.min(other.least), most: self.most.max(other.most) }
    }
}

/// A number multiplied, rounded up.
pub(super) fn scaled(number: u64, factor: f64) -> u64 {
    // Saturates.
    (number as f64 * factor).ceil() as u64
}

/// The sizes of what is in a list or map.
#[derive(Debug, Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Size,
    value: Size,
}

impl Entries {
    fn or(self, other: Entries) -> Entries {
        Entries { is_list: self.is_list, key: self.key.or(other.key), value: self.value.or(other.value) }
    }
}

/// Which values an expression stands for.
#[derive(Debug, Clone, Copy)]
enum Path<'s> {
    /// Made by the expression itself.
    None,
    /// Those at a place of the schema, or at none that it has.
    At(Option<Place<'s>>),
}

/// A variable that a loop or a macro binds.
struct Local<'s> {
    name: String,
    path: Path<'s>,
    size: Option<Size>,
    entries: Option<Entries>,
    /// Key and value, of a variable that holds both.
    parts: Option<Box<[Local<'s>; 2]>>,
}

impl<'s> Local<'s> {
    fn new(name: &str, path: Path<'s>, size: Option<Size>) -> Self {
        Local { name: name.to_owned(), path, size, entries: None, parts: None }
    }
}

/// A walk over an expression.
pub(super) struct Estimate<'a, 's> {
    types: &'a HashMap<u64, Type<'s>>,
    /// What `self` is.
    root: Place<'s>,
    locals: Vec<Local<'s>>,
    paths: HashMap<u64, Path<'s>>,
    sizes: HashMap<u64, Size>,
    entries: HashMap<u64, Entries>,
}

impl<'a, 's> Estimate<'a, 's> {
    pub fn new(types: &'a HashMap<u64, Type<'s>>, root: Place<'s>) -> Self {
        let (locals, paths, sizes, entries) = Default::default();
        Estimate { types, root, locals, paths, sizes, entries }
    }

    /// What evaluating a node costs at most.
    pub fn cost(&mut self, node: &IdedExpr) -> u64 {
        match &node.expr {
            Expr::Literal(_) | Expr::Unspecified => 0,
            Expr::Ident(name) => {
                let path = self.local(name).map_or(Path::At(Some(self.root)), |local| local.path);
                self.paths.insert(node.id, path);
                READ
            }
            Expr::Select(select) => {
                let operand = self.cost(&select.operand);
                if select.test {
                    return operand;
                }
                let path = self.child(self.path(&select.operand), |place| place.field(&select.field));
                self.paths.insert(node.id, path);
                let reads = matches!(self.ty(&select.operand), Type::Map(..) | Type::Object { .. });
                operand.saturating_add(if reads { READ } else { 0 })
            }
            Expr::Call(call) => self.call(node, call),
            Expr::List(list) => {
                let mut item: Option<Size> = None;
                let mut sum = LIST;
                for element in &list.elements {
                    sum = sum.saturating_add(self.cost(element));
                    let size = self.size_or_unknown(element);
                    item = Some(item.map_or(size, |item| item.or(size)));
                }
                let value = item.unwrap_or(Size::of(0));
                self.entries.insert(node.id, Entries { is_list: true, key: Size::of(1), value });
                sum
            }
            Expr::Map(map) => self.map(node, map.entries.iter().map(|entry| &entry.expr)),
            Expr::Struct(of) => of.entries.iter().fold(MESSAGE, |sum, entry| match &entry.expr {
                EntryExpr::MapEntry(e) => sum.saturating_add(self.cost(&e.value)),
                EntryExpr::StructField(e) => sum.saturating_add(self.cost(&e.value)),
            }),
            Expr::Comprehension(c) if is_binding(c) => self.binding(node, c),
            Expr::Comprehension(c) => self.comprehension(node, c),
        }
    }

    fn map<'e>(&mut self, node: &IdedExpr, entries: impl Iterator<Item = &'e EntryExpr>) -> u64 {
        let mut of: Option<(Size, Size)> = None;
        let mut sum = MAP;
        for entry in entries {
            let EntryExpr::MapEntry(entry) = entry else { continue };
            sum = sum.saturating_add(self.cost(&entry.key)).saturating_add(self.cost(&entry.value));
            let (key, value) = (self.size_or_unknown(&entry.key), self.size_or_unknown(&entry.value));
            of = Some(of.map_or((key, value), |(k, v)| (k.or(key), v.or(value))));
        }
        let (key, value) = of.unwrap_or((Size::of(0), Size::of(0)));
        self.entries.insert(node.id, Entries { is_list: false, key, value });
        sum
    }

    fn local(&self, name: &str) -> Option<&Local<'s>> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    pub fn ty(&self, node: &IdedExpr) -> &Type<'s> {
        self.types.get(&node.id).unwrap_or(&Type::Dyn)
    }

    fn path(&self, node: &IdedExpr) -> Path<'s> {
        if let Expr::Ident(name) = &node.expr
            && let Some(local) = self.local(name)
        {
            return local.path;
        }
        self.paths.get(&node.id).copied().unwrap_or(Path::None)
    }

    /// One step on. What is made by the expression is not in the schema; that its parts are taken for the root is how
    /// Kubernetes counts them.
    fn child(&self, path: Path<'s>, step: impl Fn(Place<'s>) -> Option<Place<'s>>) -> Path<'s> {
        match path {
            Path::None => Path::At(Some(self.root)),
            Path::At(place) => Path::At(place.and_then(step)),
        }
    }

    /// How large the value of a node is, if anything says so.
    fn size(&self, node: &IdedExpr) -> Option<Size> {
        if let Some(size) = self.sizes.get(&node.id) {
            return Some(*size);
        }
        let written = match &node.expr {
            Expr::Literal(LiteralValue::String(text)) => Some(text.inner().chars().count() as u64),
            Expr::Literal(LiteralValue::Bytes(bytes)) => Some(bytes.inner().len() as u64),
            Expr::Literal(_) => Some(1),
            Expr::List(list) => Some(list.elements.len() as u64),
            Expr::Map(map) => Some(map.entries.len() as u64),
            _ => None,
        };
        if let Some(size) = written {
            return Some(Size::of(size));
        }
        if let Path::At(Some(place)) = self.path(node) {
            return Some(Size { least: 0, most: place.most() });
        }
        if is_scalar(self.ty(node)) {
            return Some(Size::of(1));
        }
        let Expr::Ident(name) = &node.expr else { return None };
        self.local(name)?.size
    }

    pub fn size_or_unknown(&self, node: &IdedExpr) -> Size {
        self.size(node).unwrap_or(Size::UNKNOWN)
    }

    /// How large the elements of a list are by the schema.
    pub fn element_size(&self, list: &IdedExpr) -> Size {
        match self.path(list) {
            Path::At(Some(place)) => place.elements().map_or(Size::UNKNOWN, |of| Size { least: 0, most: of.most() }),
            _ => Size::UNKNOWN,
        }
    }

    fn entries(&self, node: &IdedExpr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&node.id) {
            return Some(*entries);
        }
        let Expr::Ident(name) = &node.expr else { return None };
        self.local(name)?.entries
    }

    /// A node is what another one is.
    fn same(&mut self, node: &IdedExpr, other: &IdedExpr) {
        if let Some(size) = self.size(other) {
            self.sizes.insert(node.id, size);
        }
        if let Some(entries) = self.entries(other) {
            self.entries.insert(node.id, entries);
        }
    }

    fn call(&mut self, node: &IdedExpr, call: &CallExpr) -> u64 {
        let name = call.func_name.as_str();
        if let ("dyn" | "@pairs", None, [arg]) = (name, &call.target, call.args.as_slice()) {
            let cost = self.cost(arg);
            self.same(node, arg);
            return cost.saturating_add(u64::from(name == "dyn"));
        }
        let costs: Vec<u64> = call.args.iter().map(|arg| self.cost(arg)).collect();
        let args = costs.iter().fold(0, |sum: u64, cost| sum.saturating_add(*cost));
        let space = call.target.as_ref().and_then(|target| match &target.expr {
            Expr::Ident(name) if !self.types.contains_key(&target.id) => Some(name),
            _ => None,
        });
        let (target, full) = match (&call.target, space) {
            (Some(_), Some(space)) => (None, format!("{space}.{name}")),
            (target, _) => (target.as_deref(), name.to_owned()),
        };
        let on = target.map_or(0, |target| self.cost(target));
        let (own, size) = match (name, call.args.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, _) => (0, None),
            (operators::CONDITIONAL, [_, one, other]) => {
                if let Some((a, b)) = self.entries(one).zip(self.entries(other)) {
                    self.entries.insert(node.id, a.or(b));
                }
                let size = self.size_or_unknown(one).or(self.size_or_unknown(other));
                self.sizes.insert(node.id, size);
                return on.saturating_add(costs[0]).saturating_add(costs[1].max(costs[2]));
            }
            (operators::ADD, [one, other]) => self.sum(node, one, other),
            (operators::INDEX, [of, _]) => {
                let path = self.child(self.path(of), Place::elements);
                self.paths.insert(node.id, path);
                (1, self.entries(of).map(|entries| entries.value))
            }
            _ => function::of(self, &full, target, &call.args),
        };
        if let Some(size) = size.or_else(|| self.size(node)) {
            self.sizes.insert(node.id, size);
        }
        on.saturating_add(args).saturating_add(own)
    }

    fn sum(&mut self, node: &IdedExpr, one: &IdedExpr, other: &IdedExpr) -> (u64, Option<Size>) {
        let (a, b) = (self.ty(one), self.ty(other));
        let is = |of: &dyn Fn(&Type<'_>) -> bool| of(a) || of(b);
        let list = is(&|ty| matches!(ty, Type::List(..)));
        let text = is(&|ty| matches!(ty, Type::String | Type::Bytes));
        let known = is(&|ty| !matches!(ty, Type::Dyn | Type::Null));
        if known && !list && !text {
            return (1, None);
        }
        if let Some((a, b)) = self.entries(one).zip(self.entries(other)) {
            self.entries.insert(node.id, a.or(b));
        }
        let size = self.size_or_unknown(one).plus(self.size_or_unknown(other));
        let copied = scaled(size.most, TRAVERSAL);
        let cost = match (list, text) {
            (true, _) => 1,
            (_, true) => copied,
            _ => copied.max(1),
        };
        (cost, Some(size))
    }

    /// A name for a value.
    fn binding(&mut self, node: &IdedExpr, c: &ComprehensionExpr) -> u64 {
        let mut sum = 0;
        let local = match self.part(&c.accu_init, &c.accu_var) {
            Some(part) => part,
            None => {
                sum = self.cost(&c.iter_range).saturating_add(self.cost(&c.accu_init));
                let entries = self.entries(&c.accu_init);
                let local = Local::new(&c.accu_var, self.path(&c.accu_init), self.size(&c.accu_init));
                Local { entries, ..local }
            }
        };
        self.locals.push(local);
        sum = sum.saturating_add(self.cost(&c.result));
        self.locals.pop();
        self.same(node, &c.result);
        sum
    }

    /// One of the two variables of a loop that has two: not a cost of its own.
    fn part(&self, init: &IdedExpr, name: &str) -> Option<Local<'s>> {
        let Expr::Call(call) = &init.expr else { return None };
        let [IdedExpr { expr: Expr::Ident(pair), .. }, IdedExpr { expr: Expr::Literal(LiteralValue::Int(at)), .. }] =
            call.args.as_slice()
        else {
            return None;
        };
        let part = self.local(pair)?.parts.as_ref()?.get(usize::try_from(*at.inner()).ok()?)?;
        Some(Local::new(name, part.path, part.size))
    }

    fn comprehension(&mut self, node: &IdedExpr, c: &ComprehensionExpr) -> u64 {
        let mut sum = self.cost(&c.iter_range).saturating_add(self.cost(&c.accu_init));
        let accumulated = Local {
            entries: self.entries(&c.accu_init),
            ..Local::new(&c.accu_var, self.path(&c.accu_init), self.size(&c.accu_init))
        };
        self.locals.push(accumulated);
        let turns = self.variables(c);
        self.locals.push(turns);
        let condition = self.cost(&c.loop_cond);
        let turn = self.cost(&c.loop_step).saturating_add(condition);
        self.locals.pop();
        sum = sum.saturating_add(self.cost(&c.result));
        self.locals.pop();
        let count = self.size_or_unknown(&c.iter_range);
        match &c.accu_init.expr {
            Expr::Literal(_) => {
                if let Some(size) = self.size(&c.accu_init) {
                    self.sizes.insert(node.id, size);
                }
            }
            Expr::List(_) | Expr::Map(_) => {
                self.sizes.insert(node.id, count);
                if let Some(entries) = self.entries(&c.loop_step) {
                    self.entries.insert(node.id, entries);
                }
            }
            _ => {}
        }
        sum.saturating_add(count.most.saturating_mul(turn))
    }

    /// The variable of a loop: the items of a list, the keys of a map, or both parts of each.
    fn variables(&self, c: &ComprehensionExpr) -> Local<'s> {
        let range = match &c.iter_range.expr {
            Expr::Call(call) if call.func_name == "@pairs" => call.args.first(),
            _ => None,
        };
        let both = range.is_some();
        let range = range.unwrap_or(&c.iter_range);
        let (entries, path) = (self.entries(range), self.path(range));
        let is_list = entries.map_or_else(|| matches!(self.ty(range), Type::List(..)), |entries| entries.is_list);
        // A list has no places for its indices.
        let step: fn(Place<'s>) -> Option<Place<'s>> = if is_list { |_| None } else { Place::keys };
        let key = Local::new("", self.child(path, step), entries.map(|e| e.key));
        let value = Local::new("", self.child(path, Place::elements), entries.map(|e| e.value));
        if both {
            let pair = Local::new(&c.iter_var, Path::At(None), None);
            return Local { parts: Some(Box::new([key, value])), ..pair };
        }
        Local { name: c.iter_var.clone(), ..if is_list { value } else { key } }
    }
}

/// Not a loop, but a name for a value: what `cel.bind` becomes.
fn is_binding(c: &ComprehensionExpr) -> bool {
    let nothing = matches!(&c.iter_range.expr, Expr::List(list) if list.elements.is_empty());
    let never = matches!(&c.loop_cond.expr, Expr::Literal(LiteralValue::Boolean(value)) if !*value.inner());
    nothing && never && c.accu_var != "@result"
}

/// Whether values of the type are all of one size.
fn is_scalar(ty: &Type<'_>) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::UInt => true,
        Type::Optional(of) => is_scalar(of),
        _ => false,
    }
}
