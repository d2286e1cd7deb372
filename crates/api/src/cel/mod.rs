//! Expressions in the Common Expression Language.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

/// An expression that has been parsed.
pub struct Program(::cel::Program);

impl Program {
    /// Its value with variables.
    pub fn eval(&self, variables: &[(&str, &Value)]) -> Result<Value, String> {
        let mut context = ::cel::Context::default();
        for (name, value) in variables {
            context.add_variable_from_value((*name).to_owned(), to_cel(value));
        }
        from_cel(&self.0.execute(&context).map_err(|e| e.to_string())?)
    }
}

fn to_cel(value: &Value) -> ::cel::Value {
    match value {
        Value::Null => ::cel::Value::Null,
        Value::Bool(b) => ::cel::Value::Bool(*b),
        Value::Number(n) => match n.as_i64() {
            Some(i) => ::cel::Value::Int(i),
            None => ::cel::Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(s) => ::cel::Value::String(Arc::new(s.clone())),
        Value::Array(list) => ::cel::Value::List(Arc::new(list.iter().map(to_cel).collect())),
        Value::Object(map) => {
            let map: HashMap<String, ::cel::Value> = map.iter().map(|(k, v)| (k.clone(), to_cel(v))).collect();
            ::cel::Value::from(map)
        }
    }
}

fn from_cel(value: &::cel::Value) -> Result<Value, String> {
    Ok(match value {
        ::cel::Value::Null => Value::Null,
        ::cel::Value::Bool(b) => Value::Bool(*b),
        ::cel::Value::Int(i) => (*i).into(),
        ::cel::Value::UInt(i) => (*i).into(),
        ::cel::Value::Float(f) => serde_json::json!(f),
        ::cel::Value::String(s) => Value::String(s.to_string()),
        ::cel::Value::List(l) => Value::Array(l.iter().map(from_cel).collect::<Result<_, _>>()?),
        other => return Err(format!("{other:?} has no JSON form")),
    })
}

/// Parses an expression.
pub fn compile(expression: &str, _: &[&str]) -> Result<Program, String> {
    ::cel::Program::compile(expression).map(Program).map_err(|e| e.to_string())
}
