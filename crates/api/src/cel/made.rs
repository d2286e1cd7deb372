//! What expressions make for other expressions: the variables of a policy. They stay values of the evaluator, so that a
//! quantity, a time or a question about rights is one in the next expression too.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value as Cel;
use cel::objects::{Key, Map, OptionalValue};
use serde_json::Value;

use super::{AUTHORIZER, Authorizer, ENVIRONMENT, Error, Program, STEP_LIMIT, convert};

/// The name of the variable that holds them.
pub const VARIABLES: &str = "variables";

/// Levels of lists, maps and optionals in a value. Expressions that name each other could pile up more than the stack has
/// room for, each adding as many levels as one expression may have.
const LEVELS: usize = 300;

/// All of them may take so many steps together: each may be twice the one before it (Kubernetes' `RuntimeCELCostBudget` is ten
/// calls' too).
const BUDGET: u64 = 10 * STEP_LIMIT;

/// Values by their names.
#[derive(Clone, Default)]
pub struct Made {
    values: Arc<HashMap<Key, Cel>>,
    /// Steps that making them took.
    spent: u64,
}

/// What an expression of admission can name beside its variables.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// Who knows what is allowed.
    pub authorizer: Option<&'a Authorizer>,
    /// What other expressions made.
    pub made: Option<&'a Made>,
}

impl Scope<'_> {
    /// Puts what an expression uses into a context.
    pub(super) fn add_to(
        &self,
        program: &Program,
        context: &mut cel::Context<'_, '_>,
    ) -> Result<(), cel::DeclarationError> {
        if let Some(made) = self.made.filter(|_| program.uses(VARIABLES)) {
            context.add_variable_from_value(VARIABLES, Cel::Map(Map { map: made.values.clone() }));
        }
        // A variable may hold a question about rights.
        match self.authorizer.filter(|_| program.uses(AUTHORIZER) || program.uses(VARIABLES)) {
            Some(authorizer) => authorizer.add_to(context),
            None => Ok(()),
        }
    }
}

impl Made {
    /// Adds the value of an expression.
    ///
    /// # Errors
    /// As [`Program::eval`]; then there is no value of that name.
    pub fn make(
        &mut self,
        name: &str,
        program: &Program,
        variables: &[(&str, &Value)],
        authorizer: &Authorizer,
    ) -> Result<(), Error> {
        let scope = Scope { authorizer: Some(authorizer), made: Some(self) };
        let mut left = BUDGET.saturating_sub(self.spent);
        let value = program.run(&ENVIRONMENT, variables, &scope, &mut left, |_| Ok(()));
        self.spent = BUDGET - left;
        let value = value?;
        if !is_shallow(&value, LEVELS) {
            return Err(Error::Evaluate(format!("the value has more than {LEVELS} levels")));
        }
        Arc::make_mut(&mut self.values).insert(Key::String(Arc::new(name.to_owned())), value);
        Ok(())
    }
}

/// Whether a value has no more levels than that.
fn is_shallow(value: &Cel, levels: usize) -> bool {
    let below = |value: &Cel| levels > 0 && is_shallow(value, levels - 1);
    match value {
        Cel::List(list) => list.iter().all(below),
        Cel::Map(map) => map.map.values().all(below),
        Cel::Opaque(_) => <&OptionalValue>::try_from(value).ok().and_then(OptionalValue::value).is_none_or(below),
        _ => true,
    }
}

impl Program {
    /// The value of an expression that can name more than variables.
    ///
    /// # Errors
    /// As [`Program::eval`].
    pub fn eval_in(&self, variables: &[(&str, &Value)], scope: &Scope<'_>) -> Result<Value, Error> {
        let value = self.run(&ENVIRONMENT, variables, scope, &mut STEP_LIMIT.clone(), |_| Ok(()))?;
        convert::to_json(&value).ok_or_else(|| Error::Evaluate("the value has no JSON form".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cel::{Answer, Authorize, Question, compile};

    struct Nobody;

    impl Authorize for Nobody {
        fn decide(&self, _: &Question) -> Answer {
            Answer { allowed: false, reason: String::new() }
        }
    }

    #[test]
    fn variables_do_not_pile_up_levels() {
        let authorizer = Authorizer::new(Arc::new(Nobody), Question::default());
        for (open, close) in [("[", "]"), ("{'a': ", "}"), ("optional.of(", ")")] {
            let mut made = Made::default();
            made.make("v0", &compile("1", &[VARIABLES]).unwrap(), &[], &authorizer).unwrap();
            let results: Vec<_> = (1..9)
                .map(|i| {
                    let text = format!("{}variables.v{}{}", open.repeat(60), i - 1, close.repeat(60));
                    let program = compile(&text, &[VARIABLES]).unwrap();
                    made.make(&format!("v{i}"), &program, &[], &authorizer).is_ok()
                })
                .collect();
            assert_eq!(results, [true, true, true, true, true, false, false, false], "{open}");
        }
    }

    #[test]
    fn variables_have_a_budget_together() {
        let authorizer = Authorizer::new(Arc::new(Nobody), Question::default());
        // Refused before it is made, and yet all that one may take is spent.
        let object = json!("a".repeat(100_000));
        let program = compile("object.replace('a', object)", &["object"]).unwrap();
        let mut made = Made::default();
        let results: Vec<_> =
            (0..12).map(|i| made.make(&format!("v{i}"), &program, &[("object", &object)], &authorizer)).collect();
        assert!(results[..10].iter().all(|result| result == &Err(Error::Cost)), "{results:?}");
        assert!(results[10..].iter().all(|result| result == &Err(Error::Budget)), "{results:?}");
    }

    #[test]
    fn what_has_no_json_form_is_a_variable_all_the_same() {
        let authorizer = Authorizer::new(Arc::new(Nobody), Question::default());
        let object = json!({"at": "2026-01-01T00:00:00Z", "many": (0..3000).collect::<Vec<u32>>()});
        let given = [("object", &object)];
        let names = ["object", VARIABLES, AUTHORIZER];
        let mut made = Made::default();
        for (name, expression) in [
            ("pods", "authorizer.group('').resource('pods')"),
            ("day", "duration('24h')"),
            ("next", "timestamp(object.at) + variables.day"),
            ("many", "object.many"),
        ] {
            made.make(name, &compile(expression, &names).unwrap(), &given, &authorizer).unwrap();
        }
        let scope = Scope { authorizer: Some(&authorizer), made: Some(&made) };
        for expression in [
            "variables.next > timestamp('2026-01-01T23:00:00Z')",
            "!variables.pods.check('get').allowed()",
            "!has(variables.other)",
        ] {
            assert_eq!(compile(expression, &names).unwrap().eval_in(&given, &scope), Ok(true.into()), "{expression}");
        }
        let deep = "variables.many.all(a, variables.many.all(b, variables.many.all(c, a + b + c >= 0)))";
        let refused = compile(deep, &names).unwrap().eval_in(&[], &scope);
        assert!(matches!(refused, Err(Error::Cost)), "{refused:?}");
    }
}
