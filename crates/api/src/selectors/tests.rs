use serde_json::json;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Map<String, Value> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect()
}

#[test]
fn label_selectors_match_as_written() {
    let object = labels(&[("app", "web"), ("tier", "front"), ("n", "5"), ("empty", "")]);
    for (text, expected) in [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app!=web", false),
        ("other!=x", true),
        ("app", true),
        ("!app", false),
        ("!other", true),
        ("app in (web, db)", true),
        ("app notin (web)", false),
        ("other notin (web)", true),
        ("other in (web)", false),
        ("app=web,tier=back", false),
        (" app = web , tier in (front) ", true),
        ("n>4", true),
        ("n<5", false),
        ("empty=", true),
        ("empty in ()", true),
        ("app in (,web)", true),
        ("app.kubernetes.io/name=x", false),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap().matches(&object), expected, "{text}");
    }
}

#[test]
fn malformed_label_selectors_are_bad_requests() {
    for text in
        ["=x", "a=b=c", "a in b", "a in (b", ",a", "a,", "a b", "a=_x_", "-a", "x/y/z", "a>b", "!a=b", "a in (b c)"]
    {
        let error = LabelSelector::parse(text).expect_err(text);
        assert_eq!(error.code, 400, "{text}");
        assert!(error.message.starts_with("unable to parse requirement: "), "{}", error.message);
    }
}

#[test]
fn label_selectors_print_canonically() {
    for (text, printed) in [
        ("b=1,a", "a,b=1"),
        ("a in (z,y)", "a in (y,z)"),
        ("!a", "!a"),
        ("a!=b", "a!=b"),
        ("a==b", "a=b"),
        ("a notin (x)", "a notin (x)"),
    ] {
        let selector = LabelSelector::parse(text).unwrap();
        assert_eq!(selector.to_string(), printed);
        assert_eq!(LabelSelector::parse(printed).unwrap(), selector);
    }
}

#[test]
fn json_selectors_distinguish_nothing_from_everything() {
    let object = labels(&[("app", "web")]);
    assert!(!LabelSelector::from_json(&Value::Null).unwrap().matches(&object));
    assert!(LabelSelector::from_json(&json!({})).unwrap().matches(&object));
    let selector =
        json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]});
    assert!(LabelSelector::from_json(&selector).unwrap().matches(&object));
    assert!(LabelSelector::from_json(&json!({"matchExpressions": [{"key": "x", "operator": "Is"}]})).is_err());
}

#[test]
fn field_selectors_match_as_written() {
    let fields = [("metadata.name", "a"), ("spec.nodeName", ""), ("x", "1,2")];
    let value = |field: &str| fields.iter().find(|(name, _)| *name == field).map_or("", |(_, value)| value);
    for (text, expected) in [
        ("", true),
        ("metadata.name=a", true),
        ("metadata.name==a", true),
        ("metadata.name!=a", false),
        ("spec.nodeName=", true),
        ("spec.nodeName!=", false),
        ("metadata.name=a,spec.nodeName=n", false),
        ("x=1\\,2", true),
        ("y=", true),
        ("y!=1", true),
        ("y=1", false),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap().matches(value), expected, "{text}");
    }
    assert!(FieldSelector::parse("abc").is_err());
    assert!(FieldSelector::parse("a=b=c").is_err());
    assert_eq!(FieldSelector::parse("metadata.name=a").unwrap().exact("metadata.name"), Some("a"));
}

#[test]
fn unknown_fields_are_refused_per_kind() {
    let kind = crate::kinds::registry().by_kind("", "v1", "Pod").unwrap();
    assert!(FieldSelector::parse("spec.nodeName=x").unwrap().check(kind).is_ok());
    let error = FieldSelector::parse("spec.foo=x").unwrap().check(kind).unwrap_err();
    assert_eq!(error.message, "field label not supported: spec.foo");
}

#[test]
fn selectors_inside_objects_are_validated() {
    let selector = json!({"matchLabels": {"-": "x"}, "matchExpressions": [
        {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["x"]}, {"key": "a", "operator": "Eq"}]});
    let errors = validate_label_selector(&selector, "spec.selector");
    let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.selector.matchLabels",
            "spec.selector.matchExpressions[0].values",
            "spec.selector.matchExpressions[1].values",
            "spec.selector.matchExpressions[2].operator"
        ]
    );
}
