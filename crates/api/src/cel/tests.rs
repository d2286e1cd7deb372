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
fn loops_end_when_they_have_spent_their_budget() {
    let many: Vec<u32> = (0..2000).collect();
    let deep = eval("self.all(a, self.all(b, self.all(c, a + b + c >= 0)))", &json!(many));
    assert!(matches!(deep, Err(Error::Cost)));
    assert_eq!(eval("self.all(a, a >= 0)", &json!(many)), Ok(true.into()));
}

#[test]
fn texts_and_copies_do_not_grow_without_end() {
    let object = json!({"text": "a".repeat(1 << 20), "list": vec!["abc"; 1000]});
    for rule in [
        "self.text.replace('a', self.text) != ''",
        "self.text.replace('', self.text, 500) != ''",
        "self.list.map(x, '').join(self.text) != ''",
        "self.list.map(x, self.text).join('') != ''",
        &format!("optional.of(self.text){}.hasValue()", ".optMap(v, v + v)".repeat(30)),
        &format!("optional.of(self.list){}.hasValue()", ".optMap(v, [v, v])".repeat(30)),
        &format!("optional.of(self.list){}.hasValue()", ".optMap(v, {1: v, 2: v})".repeat(30)),
        &format!("size([{}]) > 0", "self.text,".repeat(5000)),
        &format!("size({}) > 0", vec!["self.text"; 120].join(" + ")),
    ] {
        let found = eval(rule, &object);
        assert_eq!(found, Err(Error::Cost), "{}", &rule[..rule.len().min(80)]);
    }
    for rule in [
        "self.list.join('-').size() == 3999 && ['a', 'b'].join(', ') == 'a, b' && [].join('x') == ''",
        "'aXbX'.replace('X', '--') == 'a--b--' && 'aXbX'.replace('X', '', 1) == 'abX' && 'ab'.replace('', '.') == '.a.b.'",
        "'aX'.replace('X', 'y', 0) == 'aX' && 'aXX'.replace('X', 'y', -1) == 'ayy' && 'é'.replace('é', 'e') == 'e'",
        "self.text + self.text != self.text && [self.text, self.text].size() == 2 && 1 + 2 == 3 && [1] + [2] == [1, 2]",
        "self.list.map(x, x + '!')[0] == 'abc!' && self.list.filter(x, x != 'abc') == [] && b'a' + b'b' == b'ab'",
    ] {
        holds(rule, &object);
    }
    let wrong = eval("dyn(1).replace('a', 'b') == ''", &object).unwrap_err();
    assert!(matches!(&wrong, Error::Evaluate(why) if !why.contains('@')), "{wrong}");
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

fn holds(rule: &str, object: &Value) {
    assert_eq!(eval(rule, object), Ok(Value::Bool(true)), "{rule}");
}

fn fails(rule: &str) {
    assert!(matches!(eval(rule, &json!({})), Err(Error::Evaluate(_))), "{rule}");
}

#[test]
fn quantities_are_compared_and_added() {
    for rule in [
        "quantity('50k').add(quantity('20k')) == quantity('70k')",
        "quantity('50k').add(20) == quantity('50020')",
        "quantity('50k').sub(20000) == quantity('30k')",
        "quantity('50k').add(20).sub(quantity('100k')).sub(-50000) == quantity('20')",
        "quantity('200M').compareTo(quantity('0.2G')) == 0",
        "quantity('50Mi').isGreaterThan(quantity('50M')) && quantity('50M').isLessThan(quantity('100M'))",
        "quantity('50k').asInteger() == 50000 && quantity('50k').isInteger()",
        "!quantity('1500m').isInteger() && quantity('1500m').asApproximateFloat() == 1.5",
        "quantity('-1').sign() == -1",
        "isQuantity('1.3Gi') && !isQuantity('200K') && !isQuantity('Three')",
    ] {
        holds(rule, &json!({}));
    }
    fails("quantity('1,3G') == quantity('1')");
    fails("quantity('1500m').asInteger() == 1");
}

#[test]
fn urls_are_taken_apart() {
    for rule in [
        "url('https://user:pass@example.com:80/path?query=val#fragment').getHost() == 'example.com:80'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('https://[::1]:80/').getHost() == '[::1]:80'",
        "url('https://example.com/').getPort() == '' && url('https://example.com:80/').getPort() == '80'",
        "url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
        "url('https://example.com').getEscapedPath() == '' && url('/path').getScheme() == ''",
        "url('https://example.com/path?k1=a&k2=b&k2=c').getQuery() == {'k1': ['a'], 'k2': ['b', 'c']}",
        "url('https://example.com/path?key with spaces=value with spaces').getQuery()['key with spaces'][0] == 'value with spaces'",
        "isURL('/absolute-path') && !isURL('https://a:b:c/') && !isURL('../relative-path') && !isURL('')",
    ] {
        holds(rule, &json!({}));
    }
    fails("url('../relative-path').getHost() == ''");
}

#[test]
fn addresses_and_networks_are_understood() {
    for rule in [
        "ip('127.0.0.1').family() == 4 && ip('::1').family() == 6 && ip('::1').isLoopback()",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
        "ip('224.0.0.1').isLinkLocalMulticast() && !ip('224.0.1.1').isLinkLocalMulticast()",
        "ip('ff02::1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast()",
        "ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
        "ip('0.0.0.0').isUnspecified() && string(ip('10.0.0.1')) == '10.0.0.1' && type(ip('::1')) == net.IP",
        "!isIP('127.0.0.256') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0') && !isIP('01.2.3.4')",
        "cidr('192.168.0.0/24').containsIP(ip('192.168.0.1')) && !cidr('192.168.0.0/24').containsIP('192.168.1.1')",
        "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && !cidr('10.0.0.0/8').containsCIDR(cidr('::/0'))",
        "cidr('192.168.0.1/24').masked() == cidr('192.168.0.0/24') && cidr('192.168.0.1/24').ip() == ip('192.168.0.1')",
        "cidr('::1/128').prefixLength() == 128 && cidr('0.0.0.0/0').containsIP('1.2.3.4')",
        "!isCIDR('192.168.0.0/33') && isCIDR('::/0')",
    ] {
        holds(rule, &json!({}));
    }
    fails("ip('nope').family() == 4");
}

#[test]
fn named_formats_validate_texts() {
    for rule in [
        "!format.dns1123Label().validate('my-label-name').hasValue()",
        "format.dns1123Label().validate('My-Label').hasValue()",
        "format.dns1123Label().validate('My-Label').value().size() == 1",
        "!format.dns1123LabelPrefix().validate('my-label-prefix-').hasValue()",
        "!format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
        "format.named('uuid').value().validate('no').value() == ['does not match the UUID format']",
        "!format.named('nosuch').hasValue()",
        "!format.date().validate('2021-01-01').hasValue() && format.date().validate('2021-01-41').hasValue()",
        "!format.datetime().validate('2021-01-01T00:00:00Z').hasValue() && !format.byte().validate('aGVsbG8=').hasValue()",
        "format.uri().validate('../x').hasValue() && !format.qualifiedName().validate('a.b/c').hasValue()",
    ] {
        holds(rule, &json!({}));
    }
}

#[test]
fn versions_are_compared() {
    for rule in [
        "semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3",
        "semver('1.2.3').compareTo(semver('2.0.0')) == -1 && semver('1.0.0').isGreaterThan(semver('1.0.0-rc.1'))",
        "semver('1.2.3+a') == semver('1.2.3+b')",
        "semver('v1.0', true) == semver('1.0.0') && semver('01.01.01', true) == semver('1.1.1')",
        "isSemver('1.0.0') && !isSemver('v1.0') && isSemver('v1.0', true) && !isSemver('hello', true)",
    ] {
        holds(rule, &json!({}));
    }
}

#[test]
fn lists_sets_and_texts_have_their_functions() {
    for rule in [
        "[1, 2, 2].indexOf(2) == 1 && [1, 2, 2].lastIndexOf(2) == 2 && ['a'].indexOf('b') == -1",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && !sets.intersects([1], [2])",
        "'ab12'.findAll('[0-9]') == ['1', '2'] && 'ab12'.findAll('[0-9]', 1) == ['1']",
        "lists.range(3) == [0, 1, 2] && [3, 1, 2].sort() == [1, 2, 3] && [1, 1].distinct() == [1]",
        "'%s is %d'.format(['a', 1]) == 'a is 1' && strings.quote('a') == '\"a\"'",
        "duration('1h').getHours() == 1 && timestamp('2021-01-01T00:00:00Z').getFullYear() == 2021",
    ] {
        holds(rule, &json!({}));
    }
}

#[test]
fn comprehensions_may_have_two_variables() {
    let object = json!({"list": [3, 4], "map": {"a": 1, "b": 2}});
    for rule in [
        "self.list.all(i, v, v == i + 3) && !self.list.all(i, v, i == 0)",
        "self.map.exists(k, v, k == 'b' && v == 2) && !self.map.exists(k, v, k == 'c')",
        "self.map.existsOne(k, v, v > 1) && !self.map.existsOne(k, v, v > 0)",
        "self.list.transformList(i, v, v * 10 + i) == [30, 41]",
        "self.list.transformList(i, v, i > 0, v) == [4]",
        "self.map.transformMap(k, v, v + 1) == {'a': 2, 'b': 3}",
        "self.map.transformMap(k, v, v > 1, k) == {'b': 'b'}",
        "self.map.transformMapEntry(k, v, {v: k}) == {1: 'a', 2: 'b'}",
        "self.list.all(i, v, self.list.exists(j, w, i == j && v == w))",
    ] {
        holds(rule, &object);
    }
}

#[test]
fn what_is_kept_and_made_is_paid_for_too() {
    let many = json!((0..300).collect::<Vec<u32>>());
    for rule in [
        "self.map(x, self).size() > 0",
        "lists.range(9000).map(x, lists.range(9000)).size() > 0",
        "sets.contains(self, self) && sets.contains(self, self)",
        // An error in a loop does not hide that the budget is spent.
        "self.exists(x, self.all(y, self.all(z, z >= 0)))",
    ] {
        let program = compile(rule, &["self"]).unwrap();
        let mut left = 50_000;
        let found = program.eval_within(&[("self", Variable::Value(&many))], &mut left);
        assert_eq!((found, left), (Err(Error::Budget), 0), "{rule}");
    }
    let mut left = 100_000;
    let program = compile("self.all(y, y >= 0)", &["self"]).unwrap();
    assert_eq!(program.eval_within(&[("self", Variable::Value(&many))], &mut left), Ok(true.into()));
    assert!((90_000..99_500).contains(&left), "{left}");
}

fn checked(rule: &str, schema: &Value) -> Result<String, String> {
    let program = compile(rule, &["self", "oldSelf"]).map_err(|e| e.to_string())?;
    let ty = check::Type::of(schema, true).unwrap();
    check::check(&program, &[("self", ty.clone()), ("oldSelf", ty)]).map(|sound| sound.ty.to_string())
}

fn schema() -> Value {
    let text = json!({"type": "string"});
    json!({"type": "object", "properties": {
        "n": {"type": "integer"}, "x": {"type": "number"}, "s": text, "b": {"type": "boolean"}, "foo-bar": text,
        "at": {"type": "string", "format": "date-time"}, "raw": {"type": "string", "format": "byte"},
        "long": {"type": "string", "format": "duration"}, "any": {"x-kubernetes-int-or-string": true},
        "list": {"type": "array", "maxItems": 10, "items": {"type": "object", "properties": {"k": text, "v": {"type": "integer"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "texts": {"type": "array", "items": text},
    }})
}

#[test]
fn types_that_go_together_are_accepted() {
    for (rule, ty) in [
        ("self.n > 1 && self.x < 2.0 && self.n < self.x", "bool"),
        ("self.metadata.name.startsWith('a') && self.kind == 'X' && has(self.s)", "bool"),
        ("self.foo__dash__bar.split('-')", "list(string)"),
        ("self.list.all(e, e.k == 'a' || e.v > 1) && self.list.exists(i, e, i == 0 && e.k != 'x')", "bool"),
        ("self.list.map(e, e.v).sum()", "int"),
        ("self.list.filter(e, e.v > 1).map(e, e.k).join(',')", "string"),
        ("self.map.all(k, k.size() > 1 && self.map[k] > 0) && 'a' in self.map && self.map.a == 1", "bool"),
        ("self.at > timestamp('2021-01-01T00:00:00Z') && self.long < duration('1h')", "bool"),
        ("self.at + self.long", "timestamp"),
        ("string(self.raw) == 'a' && self.any == 1 && self.any == 'a'", "bool"),
        ("self.?s.orValue('x')", "string"),
        ("self.?s.optMap(v, v.size()).orValue(0)", "int"),
        ("oldSelf.n == self.n ? 'a' : 'b'", "string"),
        ("quantity(self.s).add(1).isGreaterThan(quantity('1'))", "bool"),
        ("format.dns1123Label().validate(self.s).hasValue() && type(self.n) == int", "bool"),
        ("isIP(self.s) && cidr(self.s).containsIP(self.s) && ip(self.s).family() == 4", "bool"),
        ("sets.intersects(self.texts, ['a']) && self.texts.indexOf('a') < 2", "bool"),
        ("self.list.sortBy(e, e.v)[0].k", "string"),
        ("self.map.transformMap(k, v, v > 1, k).size()", "int"),
        ("[1, 2].exists_one(x, x == self.n) && dyn(self.n) == 'a' && math.greatest(1, 2) == 2", "bool"),
        ("self.list.all(a, self.list.all(b, a.k != b.k || a == b))", "bool"),
        ("self.s.matches('^a$') && !(self.s in ['a', 'b']) && self.texts + ['x'] == self.texts", "bool"),
        ("lists.range(3).map(i, self.texts[i])", "list(string)"),
    ] {
        assert_eq!(checked(rule, &schema()).as_deref(), Ok(ty), "{rule}");
    }
}

#[test]
fn types_that_do_not_are_told_with_their_place() {
    for (rule, wanted) in [
        ("self.z == 100", "ERROR: <input>:1:5: undefined field 'z'\n | self.z == 100\n | ....^"),
        ("self.list.all(e, e.nope == 1)", "undefined field 'nope'"),
        ("self.list.exists(i, e, e.nope == 1)", "undefined field 'nope'"),
        ("self.metadata.labels.size() == 0", "undefined field 'labels'"),
        ("self.?nope.hasValue()", "undefined field 'nope'"),
        ("self.n == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.n + self.x > 1.0", "found no matching overload for '_+_' applied to '(int, double)'"),
        ("self.s > 1", "found no matching overload for '_>_' applied to '(string, int)'"),
        ("self.s && true", "found no matching overload for '_&&_' applied to '(string, bool)'"),
        ("self.n.startsWith('a')", "found no matching overload for 'startsWith' applied to 'int.(string)'"),
        ("self.s.foo == 'a'", "type 'string' does not support field selection"),
        ("nosuch(self.s)", "undeclared reference to 'nosuch' (in container '')"),
        ("self.s.nosuch()", "undeclared reference to 'nosuch' (in container '')"),
        ("self.n.all(x, x > 1)", "expression of type 'int' cannot be range of a comprehension"),
        ("self.texts.all(x, x)", "found no matching overload for '_&&_' applied to '(bool, string)'"),
        ("self.texts['a'] == 'b'", "found no matching overload for '_[_]' applied to '(list(string), string)'"),
        ("1 in self.texts", "found no matching overload for '@in' applied to '(int, list(string))'"),
    ] {
        let found = checked(rule, &schema()).unwrap_err();
        assert!(found.contains(wanted), "{rule}: {found}");
    }
}

#[test]
fn values_have_the_types_of_their_schema() {
    let object =
        json!({"x": 5, "at": "2022-01-01T00:00:00Z", "raw": "YQ==", "long": "90m", "n": 1, "s": "t", "any": 3});
    let schema = schema();
    for rule in [
        "self.x * 2.0 == 10.0",
        "self.at > timestamp('2021-01-01T00:00:00Z') && self.at.getFullYear() == 2022",
        "self.raw == b'a' && self.long == duration('1h30m') && self.long > duration('1h')",
        "self.n + 1 == 2 && self.s == 't' && self.any == 3",
    ] {
        let typed = Variable::Typed { value: Some(&object), schema: &schema, optional: false };
        let program = compile(rule, &["self"]).unwrap();
        assert_eq!(program.eval_variables(&[("self", typed)]), Ok(true.into()), "{rule}");
    }
}
