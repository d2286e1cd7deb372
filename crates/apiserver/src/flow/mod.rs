//! API Priority and Fairness (KEP-1040): which requests run when there are more than the server takes at once.
//!
//! A request matches a flow schema, which names its priority level. Each level has seats, a share of all; a request without
//! one waits in a queue of its flow, or is turned away. The flow schemas and levels are objects that people change
//! ([`keeper`] follows them); what they mean is decided by pure code ([`schema`], [`shares`], [`queue`]).

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use api::status::ApiError;
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::authz::Attributes;

pub mod defaults;
mod dump;
pub mod keeper;
mod level;
mod queue;
pub mod requests;
mod schema;
mod shares;
pub mod watched;
pub mod work;

use level::{Answer, Level, Pool};
use requests::{Asked, Listed, Request, Requests};
use schema::Schema;
use shares::LevelSpec;
use work::Width;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Seconds after which a client that was turned away may try again.
const RETRY_S: u32 = 1;

/// The flow schemas and levels of the moment, and the requests under way.
pub struct FlowControl {
    plan: ArcSwap<Plan>,
    pool: Arc<Pool>,
    /// Seats of all levels together.
    total: u32,
    /// How long a request waits before it is turned away.
    patience: Duration,
    /// Those at the levels that limit.
    requests: Arc<Requests>,
    /// The watches under way.
    pub watched: Arc<watched::Watched>,
    /// Keyed, so that nobody can choose names that are dealt the queues of somebody else.
    hasher: RandomState,
}

/// What is matched.
#[derive(Default)]
struct Plan {
    /// In the order in which they are tried, each with its level. `catch-all` is always among them.
    schemas: Vec<Ranked>,
    levels: HashMap<String, Arc<Level>>,
}

/// A flow schema with its level.
struct Ranked {
    schema: Schema,
    uids: Uids,
    /// `None`: it does not limit.
    level: Option<Arc<Level>>,
    /// Of the schema and the level.
    names: [Arc<str>; 2],
}

/// By which objects a request was classified; clients see it in headers.
#[derive(Debug, Clone)]
pub struct Uids {
    schema: HeaderValue,
    level: HeaderValue,
}

impl Uids {
    fn new(schema: &str, level: &str) -> Self {
        let value = |uid: &str| HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""));
        Uids { schema: value(schema), level: value(level) }
    }

    /// Tells the client.
    pub fn tell(self, headers: &mut HeaderMap) {
        for (name, value) in [(SCHEMA_UID, self.schema), (LEVEL_UID, self.level)] {
            if !value.is_empty() {
                headers.insert(name, value);
            }
        }
    }
}

/// A request's right to run, until it is dropped.
#[derive(Debug)]
pub enum Pass {
    /// Of a level that limits.
    Seat {
        /// Given back when dropped.
        _seat: level::Seat,
        /// Shown until it is dropped.
        _listed: Listed,
    },
    /// Of the level that does not.
    Exempt,
}

/// Where a request belongs.
pub struct Class {
    /// For the headers.
    pub uids: Uids,
    level: Option<Arc<Level>>,
    flow: u64,
    names: Names,
}

/// What a request's class is called.
#[derive(Debug, Clone, Default)]
struct Names {
    schema: Arc<str>,
    level: Arc<str>,
    /// What tells the flow from others of the schema.
    distinguisher: String,
}

impl Class {
    /// Most seats that a request may take here; `None` where they are not counted.
    pub fn widest(&self) -> Option<u32> {
        self.level.as_ref().map(|level| level.widest())
    }
}

impl FlowControl {
    /// With the default flow schemas and levels until [`FlowControl::load`] is called.
    pub fn new(total: usize, patience: Duration) -> Self {
        let control = FlowControl {
            plan: ArcSwap::default(),
            pool: Arc::default(),
            total: u32::try_from(total).unwrap_or(u32::MAX),
            patience,
            requests: Arc::default(),
            watched: Arc::default(),
            hasher: RandomState::new(),
        };
        control.load(&[], &[]);
        control
    }

    /// Obeys these FlowSchemas and PriorityLevelConfigurations from now on. Mandatory ones that are missing are imagined; a
    /// schema whose level does not exist matches nothing. Requests under way keep their seats, and their levels their state.
    pub fn load(&self, schemas: &[Value], levels: &[Value]) {
        let named = |objects: &[Value], name: &str| objects.iter().any(|o| api::meta::name(o) == name);
        let missing = |of: Vec<Value>, there: &[Value]| {
            of.into_iter().filter(|o| !named(there, api::meta::name(o))).collect::<Vec<_>>()
        };
        let mut specs: Vec<LevelSpec> = levels.iter().map(LevelSpec::read).collect();
        specs.extend(missing(defaults::mandatory_levels(), levels).iter().map(LevelSpec::read));
        let seats = shares::divide(self.total, &specs);
        let old = self.plan.load();
        let mut plan = Plan::default();
        for (spec, seats) in specs.iter().zip(seats).filter(|(spec, _)| !spec.exempt) {
            let level = match old.levels.get(&spec.name) {
                Some(level) => {
                    level.configure(seats, spec.queuing);
                    level.clone()
                }
                None => Level::new(seats, spec.queuing, &self.pool),
            };
            plan.levels.insert(spec.name.clone(), level);
        }
        let mut all: Vec<Schema> = schemas.iter().map(Schema::read).collect();
        all.extend(missing(defaults::mandatory_schemas(), schemas).iter().map(Schema::read));
        schema::in_order(&mut all);
        for schema in all {
            let Some(spec) = specs.iter().find(|spec| spec.name == schema.level) else { continue };
            let level = plan.levels.get(&spec.name).cloned();
            let names = [schema.name.as_str().into(), spec.name.as_str().into()];
            let uids = Uids::new(&schema.uid, &spec.uid);
            plan.schemas.push(Ranked { schema, uids, level, names });
        }
        self.plan.store(Arc::new(plan));
    }

    /// Finds the flow schema and level of a request.
    pub fn classify(&self, asked: &Attributes<'_>) -> Class {
        let plan = self.plan.load();
        let find = |what: &dyn Fn(&Schema) -> bool| plan.schemas.iter().find(|ranked| what(&ranked.schema));
        // Somebody may have no group at all.
        let found = find(&|schema| schema.matches(asked)).or_else(|| find(&|schema| schema.name == "catch-all"));
        match found {
            Some(Ranked { schema, uids, level, names: [schema_name, level_name] }) => {
                let Some(level) = level else {
                    return Class { uids: uids.clone(), level: None, flow: 0, names: Names::default() };
                };
                let distinguisher = schema.flow(asked);
                let flow = self.hasher.hash_one((&schema.name, distinguisher));
                let (schema, distinguisher) = (schema_name.clone(), distinguisher.to_owned());
                let names = Names { schema, level: level_name.clone(), distinguisher };
                Class { uids: uids.clone(), level: Some(level.clone()), flow, names }
            }
            None => Class { uids: Uids::new("", ""), level: None, flow: 0, names: Names::default() },
        }
    }

    /// Waits until a request of this width may run. `asked` is for those who want to see it.
    ///
    /// # Errors
    /// 429 when there is no room, or it has waited too long.
    pub async fn enter(
        &self,
        class: &Class,
        width: Width,
        user: &str,
        asked: impl FnOnce() -> Asked,
    ) -> Result<Pass, ApiError> {
        let Some(level) = &class.level else { return Ok(Pass::Exempt) };
        let answer = level.enter(class.flow, width.most());
        if matches!(answer, Answer::Full) {
            return Err(too_many());
        }
        let Names { schema, level, distinguisher } = &class.names;
        let listed = self.requests.list(Request::new(level, schema, distinguisher.clone(), width, user, asked()));
        let seat = match answer {
            Answer::Run(seat) => Some(seat),
            Answer::Wait(waiter) => {
                listed.request().waits(waiter.queue());
                waiter.wait(self.patience).await
            }
            Answer::Full => None,
        };
        let seat = seat.ok_or_else(too_many)?;
        listed.request().runs();
        Ok(Pass::Seat { _seat: seat.lasting(width.latency), _listed: listed })
    }
}

/// 429.
pub fn too_many() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.", RETRY_S)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authn::UserInfo;

    fn control(total: usize) -> FlowControl {
        let control = FlowControl::new(total, Duration::from_secs(1));
        let uid = |mut o: Value| {
            o["metadata"]["uid"] = format!("uid-of-{}", api::meta::name(&o)).into();
            o
        };
        let (schemas, levels) = (defaults::schemas(), defaults::levels());
        control
            .load(&schemas.into_iter().map(uid).collect::<Vec<_>>(), &levels.into_iter().map(uid).collect::<Vec<_>>());
        control
    }

    async fn enter(control: &FlowControl, class: &Class) -> Result<Pass, ApiError> {
        control.enter(class, Width::seats(1), "u", Asked::default).await
    }

    fn of(
        control: &FlowControl,
        user: &UserInfo,
        verb: &str,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> [String; 2] {
        let path = if resource.starts_with('/') { resource } else { "" };
        let resource = if path.is_empty() { resource } else { "" };
        let class = control.classify(&Attributes { verb, group, resource, namespace, path, ..Attributes::blank(user) });
        let mut headers = HeaderMap::new();
        class.uids.tell(&mut headers);
        [SCHEMA_UID, LEVEL_UID].map(|h| headers[h].to_str().unwrap().trim_start_matches("uid-of-").to_owned())
    }

    #[test]
    fn the_default_objects_put_everybody_where_kubernetes_does() {
        let control = control(600);
        let account = |n: &str| UserInfo::new(format!("system:serviceaccount:{n}:a"), &["system:serviceaccounts"]);
        let (admin, node) =
            (UserInfo::new("root", &["system:masters"]), UserInfo::new("system:node:n", &["system:nodes"]));
        let (manager, ann) = (UserInfo::new("system:kube-controller-manager", &[]), UserInfo::new("ann", &[]));
        let nobody = UserInfo { name: "x".into(), ..UserInfo::default() };
        let lease = "coordination.k8s.io";
        let cases = [
            (&admin, "get", "", "pods", "n", ["exempt", "exempt"]),
            (&ann, "get", "", "/readyz", "", ["probes", "exempt"]),
            (&manager, "update", lease, "leases", "kube-system", ["system-leader-election", "leader-election"]),
            (&account("kube-system"), "get", lease, "leases", "n", ["system-leader-election", "leader-election"]),
            (&node, "patch", "", "nodes", "", ["system-node-high", "node-high"]),
            (&node, "update", lease, "leases", "kube-node-lease", ["system-node-high", "node-high"]),
            (&node, "list", "", "pods", "", ["system-nodes", "system"]),
            (&manager, "list", "", "pods", "", ["kube-controller-manager", "workload-high"]),
            (&account("kube-system"), "list", "", "pods", "", ["kube-system-service-accounts", "workload-high"]),
            (&account("shop"), "list", "", "pods", "shop", ["service-accounts", "workload-low"]),
            (&ann, "list", "", "pods", "", ["global-default", "global-default"]),
            (&ann, "get", "", "/version", "", ["global-default", "global-default"]),
            (&nobody, "get", "", "pods", "n", ["catch-all", "catch-all"]),
        ];
        for (user, verb, group, resource, namespace, want) in cases {
            assert_eq!(of(&control, user, verb, group, resource, namespace), want, "{} {resource}", user.name);
        }
    }

    #[test]
    fn who_matches_nothing_is_caught_whatever_comes_last() {
        let control = FlowControl::new(600, Duration::from_secs(1));
        let last = json!({"metadata": {"name": "z", "uid": "z"}, "spec": {"matchingPrecedence": 10_000,
            "priorityLevelConfiguration": {"name": "exempt"}, "rules": []}});
        control.load(&[last], &[]);
        let nobody = UserInfo { name: "x".into(), ..UserInfo::default() };
        let class = control.classify(&Attributes { verb: "get", resource: "pods", ..Attributes::blank(&nobody) });
        assert!(class.level.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_without_seats_turns_away_and_others_go_on() {
        let control = control(1);
        let jail = json!({"metadata": {"name": "jail", "uid": "1"}, "spec": {"type": "Limited",
            "limited": {"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
        let mut schema = json!({"metadata": {"name": "ann", "uid": "2"}, "spec": {"matchingPrecedence": 3,
            "priorityLevelConfiguration": {"name": "jail"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "ann"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]}]}});
        let (ann, bob) = (UserInfo::new("ann", &[]), UserInfo::new("bob", &["system:masters"]));
        let asked = |user| Attributes { verb: "list", resource: "nodes", ..Attributes::blank(user) };
        control.load(std::slice::from_ref(&schema), std::slice::from_ref(&jail));
        let refused = enter(&control, &control.classify(&asked(&ann))).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after()), (429, Some(1)));
        assert!(matches!(enter(&control, &control.classify(&asked(&bob))).await, Ok(Pass::Exempt)));
        // Only the mandatory levels are left for her when her schema names one that is not there.
        schema["spec"]["priorityLevelConfiguration"]["name"] = "gone".into();
        control.load(&[schema], &[jail]);
        let seat = enter(&control, &control.classify(&asked(&ann))).await.unwrap();
        assert!(enter(&control, &control.classify(&asked(&ann))).await.is_err(), "catch-all has one seat and no queue");
        drop(seat);
        assert!(enter(&control, &control.classify(&asked(&ann))).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_turned_away() {
        let control = control(1);
        let ann = UserInfo::new("ann", &[]);
        let class = control.classify(&Attributes { verb: "list", resource: "nodes", ..Attributes::blank(&ann) });
        let mut seats = Vec::new();
        let refused = loop {
            match enter(&control, &class).await {
                Ok(seat) => seats.push(seat),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.code, 429);
        assert!(!seats.is_empty());
        seats.clear();
        assert!(enter(&control, &class).await.is_ok());
    }
}
