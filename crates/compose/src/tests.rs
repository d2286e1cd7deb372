//! Whole projects, read from files in memory.

use std::collections::BTreeMap;
use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{Host, Options, PathKind, Project, find, load};

struct Fake {
    files: BTreeMap<PathBuf, String>,
    vars: BTreeMap<String, String>,
}

impl Host for Fake {
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        self.files.get(path).map(|t| t.clone().into_bytes()).ok_or_else(|| IoError::from(ErrorKind::NotFound))
    }

    fn env(&self, name: &str) -> Option<String> {
        self.vars.get(name).cloned()
    }

    fn kind(&self, path: &Path) -> Option<PathKind> {
        if self.files.contains_key(path) {
            return Some(PathKind::File);
        }
        self.files.keys().any(|f| f.starts_with(path)).then_some(PathKind::Folder)
    }
}

fn host(files: &[(&str, &str)]) -> Fake {
    let files = files.iter().map(|(p, t)| (Path::new("/shop").join(p), (*t).to_owned())).collect();
    let vars = [("HOME", "/root"), ("TAG", "7"), ("TOKEN", "t0p")];
    Fake { files, vars: vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect() }
}

fn options() -> Options {
    Options { dir: "/shop".into(), ..Options::default() }
}

fn project(files: &[(&str, &str)]) -> Project {
    load(&options(), &host(files)).unwrap_or_else(|e| panic!("{e}"))
}

fn one(text: &str) -> Project {
    project(&[("compose.yaml", text)])
}

fn error(text: &str) -> String {
    load(&options(), &host(&[("compose.yaml", text)])).expect_err(text).to_string()
}

fn object<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == name;
    all.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name} in {all:#?}"))
}

const SHOP: &str = r#"
services:
  web:
    build: {context: ./web, args: [TAG]}
    image: shop/web
    command: serve --port 8000
    environment: {DB: "postgres://db/${NAME:-shop}", PRICE: "5$$"}
    env_file: web.env
    ports: ["8080:8000", "127.0.0.1:9000:9000"]
    depends_on:
      db: {condition: service_healthy}
      migrate: {condition: service_completed_successfully}
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 256M}}}
    secrets: [token]
    configs: [{source: site, target: /etc/site.conf, mode: "0440"}]
  migrate:
    image: shop/web:${TAG}
    command: [migrate]
    depends_on: {db: {condition: service_healthy}}
  db:
    image: postgres:17
    volumes: [data:/var/lib/postgresql/data, ./init.sql:/init.sql:ro]
    healthcheck: {test: [CMD, pg_isready], interval: 5s, retries: 5}
    stop_grace_period: 1m
volumes:
  data:
secrets:
  token: {environment: TOKEN}
configs:
  site: {content: "name=$TAG"}
"#;

#[test]
fn a_project_becomes_workloads_services_claims_and_data() {
    let shop = project(&[("compose.yaml", SHOP), ("web.env", "A=1\nB=$TAG"), ("init.sql", "x")]);
    assert_eq!((shop.name.as_str(), shop.namespace.as_str()), ("shop", "shop"));
    assert_eq!(shop.waves(), [vec!["db".to_owned()], vec!["migrate".into()], vec!["web".into()]]);
    let all = shop.objects();
    assert!(all.iter().all(|o| o["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "windlass-up"));

    let web = object(&all, "Deployment", "web");
    assert_eq!(web["spec"]["replicas"], 2);
    assert_eq!(web["spec"]["strategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    let container = &web["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["serve", "--port", "8000"]));
    let env = json!([{"name": "DB", "value": "postgres://db/shop"}, {"name": "PRICE", "value": "5$"}]);
    assert_eq!(container["env"], env);
    assert_eq!(container["readinessProbe"]["tcpSocket"]["port"], 8000);
    assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 3);
    assert_eq!(container["resources"]["limits"], json!({"cpu": "500m", "memory": "256Mi"}));
    let paths: Vec<&str> =
        container["volumeMounts"].as_array().unwrap().iter().map(|m| m["mountPath"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/etc/site.conf", "/run/secrets/token"]);
    let from = container["envFrom"][0]["secretRef"]["name"].as_str().unwrap();
    assert_eq!(object(&all, "Secret", from)["data"], json!({"A": "MQ==", "B": "Nw=="}));

    assert_eq!(object(&all, "Service", "web")["spec"]["ports"][0]["port"], 8000);
    let outside = object(&all, "Service", "web-published");
    assert_eq!(
        (&outside["spec"]["type"], &outside["spec"]["ports"][0]["port"]),
        (&json!("LoadBalancer"), &json!(8080))
    );
    let near = object(&all, "Service", "web-loopback");
    assert_eq!(near["spec"]["loadBalancerSourceRanges"], json!(["127.0.0.0/8"]));

    let db = object(&all, "StatefulSet", "db");
    assert_eq!(db["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 60);
    assert_eq!(object(&all, "Service", "db")["spec"]["clusterIP"], "None");
    assert_eq!(object(&all, "PersistentVolumeClaim", "data")["spec"]["resources"]["requests"]["storage"], "10Gi");
    let migrate = object(&all, "Job", "migrate");
    assert_eq!(migrate["spec"]["backoffLimit"], 0);
    assert_eq!(migrate["spec"]["template"]["spec"]["containers"][0]["image"], "shop/web:7");

    let build = shop.services["web"].build.as_ref().unwrap();
    assert_eq!((build.context.as_str(), build.args["TAG"].as_str()), ("/shop/web", "7"));
}

#[test]
fn the_same_files_give_the_same_objects_and_a_changed_secret_another_name() {
    let of = |env: &str| project(&[("compose.yaml", SHOP), ("web.env", env), ("init.sql", "x")]).objects();
    assert_eq!(of("A=1"), of("A=1"));
    let template = |all: &[Value]| object(all, "Deployment", "web")["spec"]["template"].clone();
    assert_ne!(template(&of("A=1")), template(&of("A=2")));
}

#[test]
fn what_is_unknown_or_refused_is_said_with_its_place() {
    for (text, wanted) in [
        ("services:\n  a:\n    image: x\n    prots: [1]\n", "compose.yaml:4:12: services.a.prots: unknown key"),
        ("servces: {}\n", "compose.yaml:1:10: servces: unknown key"),
        ("services: {a: {}}", "services.a: it needs an image or a build"),
        ("services: {a: {image: x, devices: [/dev/x]}}", "services.a.devices: not supported: "),
        ("services: {a: {image: x, user: app}}", "services.a.user: \"app\" is not a number"),
        ("services: {a: {image: x, ports: ['10.0.0.1:80:80']}}", "address 10.0.0.1 is not supported"),
        ("services: {a: {image: x, volumes: ['v:/v']}}", "services.a.volumes: undefined volume \"v\""),
        ("services: {a: {image: x, secrets: [s]}}", "undefined secret \"s\""),
        ("services: {a: {image: x, networks: [n]}}", "undefined network \"n\""),
        ("services: {a: {image: x, depends_on: [b]}}", "depends on \"b\" that is not defined"),
        ("services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}", "circle: a, b"),
        (
            "services: {a: {image: x, ports: ['1:1']}, b: {image: x, ports: ['1:2']}}",
            "port 1 of the host is published twice",
        ),
        ("services: {a: {image: x, healthcheck: {interval: 5}}}", "healthcheck.interval: \"5\" is not a duration"),
        ("services: {a: {image: x, deploy: {replicas: many}}}", "deploy.replicas: \"many\" is not a number"),
        ("services: {a: {image: x, network_mode: 'service:b'}}", "network_mode: \"service:b\" is not supported"),
        (
            "services: {a: {image: '${NOPE:?tell me}'}}",
            "services.a.image: required variable NOPE is missing a value: tell me",
        ),
        ("name: Shop!\nservices: {}", "is not the name of a project"),
        ("volumes: {v: {driver_opts: {type: nfs}}}", "volumes.v.driver_opts: not supported"),
        ("- a\n", "a Compose file is a mapping"),
    ] {
        let message = error(text);
        assert!(message.contains(wanted), "{text}\n  {message}");
    }
}

#[test]
fn what_is_lost_is_noted_with_its_place_and_extensions_are_let_be() {
    let text =
        "x-a: {b: 1}\nservices:\n  a:\n    image: x\n    x-own: 1\n    ulimits: {nofile: 5}\n    container_name: q\n";
    let notes = one(text).notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[1].starts_with("compose.yaml:6:"), "{notes:?}");
    assert!(one("services: {a: {image: 'x:$GONE'}}").notes[0].contains("GONE is not set"));
}

#[test]
fn overrides_includes_extends_and_profiles() {
    let files = [
        (
            "compose.yaml",
            "include: [more/compose.yaml]\nservices:\n  web: {extends: {file: base/c.yaml, service: base}, ports: ['80:80']}\n  debug: {image: x, profiles: [dev]}\n",
        ),
        ("compose.override.yaml", "services:\n  web: {environment: {B: 2}, ports: !override ['81:80']}\n"),
        (
            "base/c.yaml",
            "services:\n  base: {extends: root, environment: {A: 1}, volumes: ['./files:/f']}\n  root: {image: 'img:$TAG'}\n",
        ),
        ("more/compose.yaml", "services:\n  side: {image: '$SIDE', volumes: ['./s:/s']}\n"),
        ("more/.env", "SIDE=side:1\nTAG=ignored"),
    ];
    let shop = project(&files);
    assert_eq!(shop.services.keys().collect::<Vec<_>>(), ["side", "web"]);
    let web = &shop.services["web"].workload;
    assert_eq!(web.pod.containers[0].image, "img:7");
    let names: Vec<&str> = web.pod.containers[0].env.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["A", "B"]);
    assert_eq!(web.ports[0].published, convert::Published::Everywhere(81));
    let text = serde_json::to_string(&shop.objects()).unwrap();
    assert!(text.contains("/shop/base/files") && text.contains("/shop/more/s") && text.contains("side:1"), "{text}");

    let with = |o: Options| load(&o, &host(&files)).unwrap().services.len();
    assert_eq!(with(Options { profiles: vec!["dev".into()], ..options() }), 3);
    assert_eq!(with(Options { services: vec!["debug".into()], ..options() }), 3);
    assert_eq!(find(Path::new("/shop"), &host(&files)).len(), 2);
}

#[test]
fn files_that_include_or_extend_themselves_are_refused() {
    assert!(error("include: [compose.yaml]").contains("levels"));
    assert!(error("services: {a: {extends: b}, b: {extends: a}}").contains("extends itself"));
    assert!(error("services: {a: {extends: nobody}}").contains("no service \"nobody\""));
}

#[test]
fn the_project_is_named_by_option_environment_file_or_folder() {
    let name = |text: &str, option: Option<&str>, variable: Option<&str>| {
        let mut host = host(&[("compose.yaml", text)]);
        host.vars.extend(variable.map(|v| ("COMPOSE_PROJECT_NAME".to_owned(), v.to_owned())));
        load(&Options { name: option.map(str::to_owned), ..options() }, &host).unwrap().name
    };
    assert_eq!(name("services: {}", None, None), "shop");
    assert_eq!(name("name: a_b", None, None), "a_b");
    assert_eq!(name("name: a", None, Some("b")), "b");
    assert_eq!(name("name: a", Some("c"), Some("b")), "c");
    assert_eq!(one("name: a_b\nservices: {}").namespace, "a-b");
}

#[test]
fn restarts_decide_between_what_runs_and_what_ends() {
    let kind = |text: &str| {
        let all = one(&format!("services:\n  a: {{image: x, {text}}}\n")).objects();
        let last = all.last().unwrap().clone();
        (last["kind"].as_str().unwrap().to_owned(), last["spec"]["backoffLimit"].clone())
    };
    assert_eq!(kind("command: x").0, "Deployment");
    assert_eq!(kind("restart: always").0, "Deployment");
    assert_eq!(kind("restart: 'no'"), ("Job".into(), json!(0)));
    assert_eq!(kind("restart: 'on-failure:3'"), ("Job".into(), json!(3)));
    assert_eq!(kind("restart: 'no', ports: ['80:80']").0, "Deployment");
    assert_eq!(kind("deploy: {mode: global}").0, "DaemonSet");
    assert_eq!(kind("deploy: {mode: replicated-job, replicas: 2}"), ("Job".into(), json!(0)));
}

#[test]
fn ports_health_and_rights_in_the_words_of_kubernetes() {
    let all = one("services:\n  a:\n    image: x\n    expose: [53/udp]\n    ports: [{target: 80, published: '8080', mode: ingress}]\n    \
                   user: '1000:50'\n    cap_drop: [ALL]\n    cap_add: [CAP_NET_ADMIN]\n    read_only: true\n    \
                   security_opt: ['no-new-privileges:true']\n    tmpfs: '/tmp:size=64m'\n    extra_hosts: ['h:1.2.3.4']\n    \
                   healthcheck: {test: curl -f localhost, start_period: 10s, interval: 5s}\n    stop_signal: QUIT\n    \
                   networks: {default: {aliases: [other]}}\n    sysctls: {net.core.somaxconn: 1}\n    platform: linux/amd64\n")
    .objects();
    let spec = &object(&all, "Deployment", "a")["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let security = json!({"runAsUser": 1000, "runAsGroup": 50, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
    assert_eq!(container["securityContext"], security);
    assert_eq!(container["lifecycle"]["stopSignal"], "SIGQUIT");
    assert_eq!(spec["os"]["name"], "linux");
    assert_eq!(container["readinessProbe"]["exec"]["command"], json!(["/bin/sh", "-c", "curl -f localhost"]));
    assert_eq!(spec["volumes"][0]["emptyDir"], json!({"medium": "Memory", "sizeLimit": "64Mi"}));
    assert_eq!(spec["hostAliases"], json!([{"ip": "1.2.3.4", "hostnames": ["h"]}]));
    assert_eq!(spec["nodeSelector"], json!({"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}));
    assert_eq!(object(&all, "Service", "other")["spec"]["selector"], object(&all, "Service", "a")["spec"]["selector"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_file_makes_it_panic(lines in proptest::collection::vec(
        prop_oneof![
            Just("services:"), Just("  a:"), Just("    image: x"), Just("    ports: ['1-3:4-6', 80]"), Just("    build: ."),
            Just("    volumes: [a:/b, /c]"), Just("volumes: {a: }"), Just("    deploy: {replicas: 3}"), Just("    <<: *m"),
            Just("x-m: &m {environment: [A=$B]}"), Just("    depends_on: [a]"), Just("include: [x]"), Just("    extends: a"),
            Just("    healthcheck: {test: NONE}"), Just("    environment: [A, 'B=${C:-${D}}']"), Just("    - x"), Just("a: !reset"),
        ], 0..12)) {
        let _ = load(&options(), &host(&[("compose.yaml", &lines.join("\n"))]));
    }
}
