use serde_json::{Value, json};

use super::*;

fn eval(expression: &str, value: &Value) -> Result<Value, Error> {
    compile(expression, &["self", "oldSelf"])?.eval(&[("self", value)])
}

#[test]
fn rules_see_the_object() {
    let object = json!({"replicas": 3, "max": 5, "name": "a-b", "tags": ["x", "y"], "foo-bar": 1, "in": {"a": 1}});
    for (rule, wanted) in [
        ("self.replicas <= self.max", true),
        ("self.name.matches('^[a-z]-[a-z]$')", true),
        ("self.tags.all(t, t in ['x', 'y', 'z'])", true),
        ("self.tags.exists(t, t == 'q')", false),
        ("has(self.missing)", false),
        ("!has(self.missing) || self.missing > 1", true),
        ("self.foo__dash__bar == 1", true),
        ("self.__in__.a == 1", true),
        ("size(self.tags) == 2 && self.name.startsWith('a')", true),
        ("self.name.find('[a-z]') == 'a'", true),
        ("[1, 2, 3].sum() == 6 && [3, 1].min() == 1 && [1, 2].isSorted()", true),
        ("isIP('10.0.0.1') && isCIDR('10.0.0.0/8') && isURL('https://a/b') && isQuantity('1Gi')", true),
        ("self.name.split('-').size() == 2", true),
        ("self.?missing.orValue(7) == 7", true),
        ("type(self.replicas) == int", true),
    ] {
        assert_eq!(eval(rule, &object), Ok(Value::Bool(wanted)), "{rule}");
    }
}

#[test]
fn what_cannot_be_evaluated_is_an_error() {
    assert!(matches!(compile("self.", &["self"]), Err(Error::Compile(_))));
    assert!(matches!(compile("other.x", &["self"]), Err(Error::Compile(_))));
    assert!(matches!(eval("self.missing > 1", &json!({})), Err(Error::Evaluate(_))));
    assert!(matches!(eval("nosuch(self)", &json!({})), Err(Error::Evaluate(_))));
}

#[test]
fn nested_loops_over_much_are_refused_before_they_run() {
    let many: Vec<u32> = (0..2000).collect();
    let deep = eval("self.all(a, self.all(b, self.all(c, a + b + c >= 0)))", &json!(many));
    assert!(matches!(deep, Err(Error::Cost { .. })));
    assert_eq!(eval("self.all(a, a >= 0)", &json!(many)), Ok(true.into()));
}

#[test]
fn an_absent_old_value_is_an_optional() {
    let program = compile("!oldSelf.hasValue() || oldSelf.value() == self", &["self", "oldSelf"]).unwrap();
    let (one, two) = (json!(1), json!(2));
    let eval = |old| program.eval_variables(&[("self", Variable::Value(&one)), ("oldSelf", Variable::Optional(old))]);
    assert_eq!(eval(None), Ok(true.into()));
    assert_eq!(eval(Some(&one)), Ok(true.into()));
    assert_eq!(eval(Some(&two)), Ok(false.into()));
}
