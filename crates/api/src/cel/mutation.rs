//! Expressions that say how an object is to change: `Object{...}` for an apply configuration, `[JSONPatch{...}]` for a
//! JSON patch (KEP-3962).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::{CelOptional, CelStruct, Type};
use cel::common::value::{CowVal, Val};
use cel::{Env, ExecutionError, StructType, Value as Cel};
use serde_json::{Map, Value, json};

use super::{Error, Program, STEP_LIMIT, Scope, convert, library, undeclared};

/// The type of a configuration; those of its fields are `Object.spec`, `Object.spec.template` and so on.
const OBJECT: &str = "Object";
const JSON_PATCH: &str = "JSONPatch";
/// The fields of a `JSONPatch`.
const PATCH_FIELDS: [&str; 4] = ["op", "path", "from", "value"];
/// Where the function `escapeKey` lives.
const LIBRARY: &str = "jsonpatch";

/// What an expression is to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An `Object`.
    ApplyConfiguration,
    /// A list of `JSONPatch`.
    JsonPatch,
}

impl Form {
    /// The type, as errors name it.
    fn name(self) -> &'static str {
        match self {
            Form::ApplyConfiguration => OBJECT,
            Form::JsonPatch => "list(JSONPatch)",
        }
    }
}

/// A compiled expression that says how an object is to change.
pub struct Mutation {
    program: Program,
    form: Form,
    /// With the types that the expression constructs.
    environment: Arc<Env>,
}

/// Compiles an expression that may use these variables.
///
/// # Errors
/// [`Error::Compile`]: syntax, an unknown variable or type, or something that is certainly of another type than `form`.
pub fn compile_mutation(expression: &str, variables: &[&str], form: Form) -> Result<Mutation, Error> {
    let mut declared = variables.to_vec();
    declared.push(LIBRARY);
    let program = super::compile(expression, &declared)?;
    let mut types = BTreeSet::new();
    let found = constructed(&program.expr, &mut types);
    found.map_err(|(node, what)| Error::Compile(program.source.mistake(node, &what)))?;
    let made = type_of(&program.expr);
    if !made.is_empty() && made != form.name() {
        return Err(Error::Compile(format!("must evaluate to {} but got {made}", form.name())));
    }
    let mut environment = library::environment();
    for name in types {
        let declared = environment.add_type(Constructed(Type::new_struct(name)));
        declared.map_err(|e| Error::Compile(e.to_string()))?;
    }
    Ok(Mutation { program, form, environment: Arc::new(environment) })
}

impl Mutation {
    /// The configuration, or the patch.
    ///
    /// # Errors
    /// [`Error::Evaluate`], and [`Error::Cost`] when it takes too long.
    pub fn eval(&self, variables: &[(&str, &Value)], scope: &Scope<'_>) -> Result<Value, Error> {
        let value = self.program.run(&self.environment, variables, scope, &mut STEP_LIMIT.clone(), |context| {
            context.add_function("jsonpatch.escapeKey", escape_key)
        })?;
        match self.form {
            Form::ApplyConfiguration => configuration(&value),
            Form::JsonPatch => patch(&value),
        }
    }
}

fn escape_key(text: Arc<String>) -> String {
    text.replace('~', "~0").replace('/', "~1")
}

/// A type whose literals may have any field.
struct Constructed(Type);

impl StructType for Constructed {
    fn get_type(&self) -> &Type {
        &self.0
    }

    fn new_value<'b, 'v>(&self, fields: BTreeMap<String, CowVal<'b, 'v>>) -> Result<Box<dyn Val + 'v>, ExecutionError> {
        let mut out = CelStruct::new(self.0.name().to_owned());
        for (name, value) in fields {
            // `?field: optional` sets the field, or does not.
            let unwrapped = value.downcast_ref::<CelOptional>().map(|o| o.option().map(Val::clone_as_boxed));
            match unwrapped {
                None => out.add_field_value(name, value),
                Some(None) => {}
                Some(Some(value)) => out.add_field_value(name, CowVal::Owned(value)),
            }
        }
        Ok(Box::new(out))
    }
}

/// Collects the names of the types that an expression constructs; or the node that is wrong and why.
fn constructed(node: &IdedExpr, found: &mut BTreeSet<String>) -> Result<(), (u64, String)> {
    let mut entry = |entry: &EntryExpr| match entry {
        EntryExpr::MapEntry(e) => constructed(&e.key, found).and_then(|()| constructed(&e.value, found)),
        EntryExpr::StructField(e) => constructed(&e.value, found),
    };
    match &node.expr {
        Expr::Struct(literal) => {
            let name = literal.type_name.trim_start_matches('.');
            for e in &literal.entries {
                entry(&e.expr)?;
                if let EntryExpr::StructField(field) = &e.expr
                    && name == JSON_PATCH
                    && !PATCH_FIELDS.contains(&field.field.as_str())
                {
                    return Err((e.id, format!("undefined field '{}'", field.field)));
                }
            }
            if name != JSON_PATCH && name != OBJECT && !name.starts_with("Object.") {
                return Err((node.id, undeclared(name)));
            }
            found.insert(name.to_owned());
            Ok(())
        }
        Expr::Map(map) => map.entries.iter().try_for_each(|e| entry(&e.expr)),
        Expr::Call(call) => {
            let mut all = call.target.as_deref().into_iter().chain(&call.args);
            all.try_for_each(|e| constructed(e, found))
        }
        Expr::Comprehension(c) => [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
            .into_iter()
            .try_for_each(|e| constructed(e, found)),
        Expr::List(list) => list.elements.iter().try_for_each(|e| constructed(e, found)),
        Expr::Select(select) => constructed(&select.operand, found),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Ok(()),
    }
}

/// The type of an expression as far as its form tells; empty when it does not.
fn type_of(node: &IdedExpr) -> String {
    match &node.expr {
        Expr::Struct(literal) => literal.type_name.trim_start_matches('.').to_owned(),
        Expr::Map(_) => "map(dyn, dyn)".to_owned(),
        Expr::List(list) => match list.elements.first().map(type_of) {
            Some(item) if !item.is_empty() => format!("list({item})"),
            _ => String::new(),
        },
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(_) => "bool",
            LiteralValue::Bytes(_) => "bytes",
            LiteralValue::Double(_) => "double",
            LiteralValue::Int(_) => "int",
            LiteralValue::Null => "null_type",
            LiteralValue::String(_) => "string",
            LiteralValue::UInt(_) => "uint",
        }
        .to_owned(),
        Expr::Call(call) if call.func_name == operators::CONDITIONAL && call.args.len() == 3 => {
            let (yes, no) = (type_of(&call.args[1]), type_of(&call.args[2]));
            if yes.is_empty() { no } else { yes }
        }
        _ => String::new(),
    }
}

fn configuration(value: &Cel) -> Result<Value, Error> {
    let Cel::Struct(object) = value else {
        return Err(Error::Evaluate("unsupported return type from ApplyConfiguration expression".to_owned()));
    };
    if object.name() != OBJECT {
        let name = object.name();
        return Err(Error::Evaluate(format!("must evaluate to {OBJECT} but got {name}")));
    }
    checked(value)
}

fn patch(value: &Cel) -> Result<Value, Error> {
    let mismatch = || Error::Evaluate("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    let Cel::List(list) = value else { return Err(mismatch()) };
    let mut out = Vec::with_capacity(list.len());
    for item in list.iter() {
        let Cel::Struct(operation) = item else { return Err(mismatch()) };
        if operation.name() != JSON_PATCH {
            return Err(mismatch());
        }
        let mut step = json!({"op": "", "path": ""});
        for (name, value) in operation.field_values() {
            let value = Cel::try_from(&*value).map_err(|e| Error::Evaluate(e.to_string()))?;
            step[name.as_str()] = match (name.as_str(), &value) {
                ("value", value) => checked(value)?,
                (_, Cel::String(text)) => text.as_str().into(),
                (name, _) => {
                    return Err(Error::Evaluate(format!("unexpected type for JSONPatchType '{name}' field")));
                }
            };
        }
        if step["from"] == "" {
            step.as_object_mut().map(|step| step.remove("from"));
        }
        out.push(step);
    }
    Ok(Value::Array(out))
}

/// A value as JSON, after a look at whether the types in it have the names of the fields they stand in.
fn checked(value: &Cel) -> Result<Value, Error> {
    let mut wrong = Vec::new();
    let root = match value {
        Cel::Struct(object) => object.name().to_owned(),
        _ => String::new(),
    };
    let out = to_json(value, &root, &mut wrong)?;
    if wrong.is_empty() { Ok(out) } else { Err(Error::Evaluate(format!("type mismatch: {}", wrong.join("; ")))) }
}

fn to_json(value: &Cel, path: &str, wrong: &mut Vec<String>) -> Result<Value, Error> {
    let none = || Error::Evaluate("the value has no JSON form".to_owned());
    Ok(match value {
        Cel::Struct(object) => {
            let name = object.name();
            if name != path && !path.is_empty() {
                wrong.push(format!(
                    "unexpected type name {name:?}, expected {path:?}, which matches field name path from root Object type"
                ));
            }
            let mut out = Map::new();
            for (key, field) in object.field_values() {
                let field = Cel::try_from(&*field).map_err(|e| Error::Evaluate(e.to_string()))?;
                let below = if path.is_empty() { format!("{name}.{key}") } else { format!("{path}.{key}") };
                out.insert(key, to_json(&field, &below, wrong)?);
            }
            Value::Object(out)
        }
        Cel::List(list) => Value::Array(list.iter().map(|item| to_json(item, path, wrong)).collect::<Result<_, _>>()?),
        Cel::Map(map) => {
            let mut out = Map::new();
            for (key, item) in map.map.iter() {
                let cel::objects::Key::String(key) = key else { return Err(none()) };
                out.insert(key.to_string(), to_json(item, path, wrong)?);
            }
            Value::Object(out)
        }
        other => convert::to_json(other).ok_or_else(none)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(expression: &str, form: Form, object: &Value) -> Result<Value, Error> {
        compile_mutation(expression, &["object"], form)?
            .eval(&[("object", object)], &Scope { authorizer: None, made: None })
    }

    #[test]
    fn configurations_are_constructed() {
        let object = json!({"spec": {"replicas": 2, "names": ["a", "b"]}});
        for (expression, want) in [
            ("Object{spec: Object.spec{replicas: object.spec.replicas + 1}}", json!({"spec": {"replicas": 3}})),
            (
                r#"Object{metadata: Object.metadata{annotations: {"by/me": "yes"}}}"#,
                json!({"metadata": {"annotations": {"by/me": "yes"}}}),
            ),
            (
                "Object{spec: Object.spec{names: object.spec.names.map(n, Object.spec.names{name: n})}}",
                json!({"spec": {"names": [{"name": "a"}, {"name": "b"}]}}),
            ),
            ("has(object.spec) ? Object{a: 1} : Object{}", json!({"a": 1})),
            ("Object{a: object.?b, c: object.?spec.?replicas}", json!({"c": 2})),
            ("Object{spec: Object.spec{?replicas: object.?none}}", json!({"spec": {}})),
        ] {
            assert_eq!(eval(expression, Form::ApplyConfiguration, &object), Ok(want), "{expression}");
        }
    }

    #[test]
    fn patches_are_constructed() {
        let object = json!({"metadata": {"labels": {"a": "b"}}});
        for (expression, want) in [
            ("[]", json!([])),
            (
                "[JSONPatch{op: 'test', path: '/a', value: null}, JSONPatch{op: 'move', from: '/a', path: '/b'}]",
                json!([{"op": "test", "path": "/a", "value": null}, {"op": "move", "from": "/a", "path": "/b"}]),
            ),
            (
                "[JSONPatch{op: 'add', path: '/m/' + jsonpatch.escapeKey('a/b~c'), value: Object.m{x: [1, 2u]}}]",
                json!([{"op": "add", "path": "/m/a~1b~0c", "value": {"x": [1, 2]}}]),
            ),
            (
                "has(object.metadata.labels) ? [] : [JSONPatch{op: 'add', path: '/metadata/labels', value: {'a': 'b'}}]",
                json!([]),
            ),
        ] {
            assert_eq!(eval(expression, Form::JsonPatch, &object), Ok(want), "{expression}");
        }
    }

    #[test]
    fn what_is_of_another_type_does_not_compile() {
        for (expression, form, why) in [
            ("1", Form::ApplyConfiguration, "must evaluate to Object but got int"),
            ("Object.spec{}", Form::ApplyConfiguration, "must evaluate to Object but got Object.spec"),
            ("[Object{}]", Form::JsonPatch, "must evaluate to list(JSONPatch) but got list(Object)"),
            (
                "Pod{}",
                Form::ApplyConfiguration,
                "1:4: undeclared reference to 'Pod' (in container '')\n | Pod{}\n | ...^",
            ),
            ("Object{a: other}", Form::ApplyConfiguration, "1:11: undeclared reference to 'other' (in container '')"),
            ("[JSONPatch{operation: 'add'}]", Form::JsonPatch, "undefined field 'operation'"),
        ] {
            let error = eval(expression, form, &Value::Null).unwrap_err().to_string();
            assert!(error.contains(why), "{expression}: {error}");
        }
    }

    #[test]
    fn types_are_named_as_the_fields_they_stand_in() {
        let error = eval("Object{spec: Object.status{}}", Form::ApplyConfiguration, &Value::Null).unwrap_err();
        let want = r#"type mismatch: unexpected type name "Object.status", expected "Object.spec", which matches field name path from root Object type"#;
        assert_eq!(error.to_string(), want);
    }
}
