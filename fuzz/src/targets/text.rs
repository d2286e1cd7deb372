//! Short texts.

use api::quantity::Quantity;
use api::selectors::{FieldSelector, LabelSelector};
use serde_json::json;

use super::{Target, lines, outcome};

/// Input as text. Parsers of text never see anything else: it was checked before.
fn text(input: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(input)
}

/// Expressions of custom resources' rules and of policies.
pub const CEL: Target = Target {
    name: "cel",
    about: "CEL expressions, compiled and evaluated over an object",
    json: false,
    seeds: || {
        lines(
            r#"self.replicas <= 5
self.items.all(i, i.name != "") && self.items.exists(i, has(i.value))
self.items.map(i, i.name).filter(n, n.startsWith("a")).size() < 10
oldSelf == self || self.text.matches("^[a-z]+$")
self.items.map(a, self.items.map(b, a.name + b.name))
quantity(self.memory).isGreaterThan(quantity("1Gi")) ? "more" : "less"
duration("1h") < duration(self.time) && timestamp("2024-01-01T00:00:00Z").getFullYear() == 2024
url("https://example.com:80/a").getHost() == "example.com"
{"a": 1, "b": [1u, 2.5, b"\xff", null, true]}["a"] + -1 * 3 % 2
self.text.split(",").map(x, int(x)).sum() > 0 && "a".lowerAscii().replace("a", "b", 2) == "b"
self.?missing.orValue(3) == optional.of(3).value()
[1, 2, 3].isSorted() && ["x"].indexOf("x") == 0 && type(1) == int
ip("10.0.0.1").family() == 4 && cidr("10.0.0.0/8").containsIP("10.1.1.1")
"abc".find("[a-z]+") in ["abc"] && string(1) + string(2.0) == "12"
"#,
        )
    },
    run: |input| {
        let text = text(input);
        let program = match api::cel::compile(&text, &["self", "oldSelf"]) {
            Ok(program) => program,
            Err(error) => return error.to_string(),
        };
        let object = json!({
            "replicas": 3, "memory": "2Gi", "time": "30m", "text": "a,b,1",
            "items": (0..40).map(|i| json!({"name": format!("n{i}"), "value": i})).collect::<Vec<_>>(),
        });
        outcome(program.eval(&[("self", &object), ("oldSelf", &object)]).map(|v| v.to_string()))
    },
};

/// Selectors of labels.
pub const LABEL_SELECTOR: Target = Target {
    name: "label-selector",
    about: "label selectors as in URLs, parsed and matched",
    json: false,
    seeds: || lines("a=b,c!=d\na in (x,y),!b\nexample.com/a notin (x), c\na == b\n a > 5, b < 3\n"),
    run: |input| {
        let labels = json!({"a": "b", "example.com/a": "x", "c": ""});
        let matches = |s: LabelSelector| labels.as_object().map(|labels| s.matches(labels));
        outcome(LabelSelector::parse(&text(input)).map(matches).map_err(|e| e.message))
    },
};

/// Selectors of fields.
pub const FIELD_SELECTOR: Target = Target {
    name: "field-selector",
    about: "field selectors as in URLs, parsed and matched",
    json: false,
    seeds: || lines("metadata.name=a,spec.nodeName!=b\na==b\\,c\\=d\n"),
    run: |input| {
        let field = |name: &str| if name == "metadata.name" { "a" } else { "" };
        outcome(FieldSelector::parse(&text(input)).map(|s| s.matches(field)).map_err(|e| e.message))
    },
};

/// Quantities, which come back as what they are written as.
pub const QUANTITY: Target = Target {
    name: "quantity",
    about: "quantities, parsed, computed with, written and parsed again",
    json: false,
    seeds: || lines("100m\n1.5Gi\n-3e-3\n0\n+12E6\n9223372036854775807\n0.000000001\n1n\n5Ei\n"),
    run: |input| {
        let quantity = match Quantity::parse(&text(input)) {
            Ok(quantity) => quantity,
            Err(error) => return error.to_string(),
        };
        let written = quantity.to_string();
        match Quantity::parse(&written) {
            Ok(again) => assert_eq!(again.to_string(), written, "a quantity in its own form stays as it is"),
            Err(error) => panic!("{written} is written and not read: {error}"),
        }
        let _ = (quantity.value(), quantity.milli_value(), quantity.as_f64(), quantity.round_up_milli());
        let sums = (quantity.checked_add(quantity).is_some(), quantity.checked_sub(quantity).is_some());
        format!("{:?} {} {sums:?}", quantity.format(), quantity.signum())
    },
};

/// Names of all sorts.
pub const NAMES: Target = Target {
    name: "names",
    about: "names, labels, ports, keys: every rule for them",
    json: false,
    seeds: || lines("a-b.c\nexample.com/name\n*.example.com\nhttp-80\nA_B\n..\n-\n"),
    run: |input| {
        use api::names;
        let text = text(input);
        let rules: [fn(&str) -> Vec<String>; 10] = [
            names::dns1123_label,
            names::dns1123_subdomain,
            names::wildcard_dns1123_subdomain,
            names::dns1035_label,
            names::qualified_name,
            names::label_value,
            names::port_name,
            names::config_map_key,
            names::env_var_name,
            names::path_segment,
        ];
        rules.map(|rule| rule(&text).len().to_string().replace(char::is_numeric, "#")).concat()
    },
};

/// Schedules of CronJobs.
pub const CRON: Target = Target {
    name: "cron",
    about: "cron schedules, parsed, and when they are next",
    json: false,
    seeds: || {
        lines(
            "*/5 * * * *\n0 0 29 2 *\n@yearly\n0-59/7 1,2,3 1-31 JAN-DEC SUN\nTZ=Europe/Berlin 30 2 * * *\n@every 1h30m\n0 0 31 4 *\n",
        )
    },
    run: |input| {
        let text = text(input);
        let schedule = match api::cron::Schedule::parse(&text) {
            Ok(schedule) => schedule,
            Err(error) => return error,
        };
        let zone = api::cron::zone("America/New_York").unwrap_or(jiff::tz::TimeZone::UTC);
        let mut at = jiff::Timestamp::UNIX_EPOCH;
        for _ in 0..20 {
            let Some(next) = schedule.next(at, &zone) else { return "never".to_owned() };
            assert!(next > at, "{next} is not after {at}");
            at = next;
        }
        "ok".to_owned()
    },
};

/// Durations as Go writes them.
pub const DURATION: Target = Target {
    name: "duration",
    about: "durations as Go writes them",
    json: false,
    seeds: || lines("1h30m\n-1.5s\n100ms\n1us2ns\n0\n9223372036854775807ns\n"),
    run: |input| outcome(api::duration::parse(&text(input))),
};

/// What stands in the first line of a request.
pub const URL: Target = Target {
    name: "url",
    about: "paths and parameters of requests",
    json: false,
    seeds: || {
        lines(
            "/api/v1/namespaces/a/pods/b/log?container=c&follow=true\n/apis/apps/v1/deployments?watch=1&resourceVersion=7&limit=5\n/api/v1/namespaces/%2e%2e/pods?labelSelector=a%3Db&fieldValidation=Strict&dryRun=All\n/openapi/v3\n",
        )
    },
    run: |input| apiserver::fuzz::url(&text(input)),
};

/// What a client takes.
pub const ACCEPT: Target = Target {
    name: "accept",
    about: "the headers Accept and Accept-Encoding",
    json: false,
    seeds: || {
        lines(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;q=0.5, */*;q=0.1\napplication/vnd.kubernetes.protobuf;stream=watch\ngzip;q=0.0, deflate\n",
        )
    },
    run: apiserver::fuzz::accept,
};
