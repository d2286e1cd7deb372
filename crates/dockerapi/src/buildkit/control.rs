//! The calls that clients make.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use buildkit::messages::{
    Capability, DiskUsageResponse, Filtered, FrontendRequest, FrontendResponse, FrontendResult, InfoResponse,
    ListWorkersResponse, Nothing, Platform, PongResponse, PruneRequest, Ref, ReturnRequest, SolveRequest,
    SolveResponse, StatusRequest, Timestamp, UsageRecord, Version, WorkerRecord,
};
use buildkit::{BRIDGE, BUILD_ID, CONTROL};
use grpc::server::{Answer, Asked as Call, Refusal, code};
use tokio::sync::mpsc;

use super::asked::Asked;
use super::jobs::{Job, Jobs};
use super::solve::{self, synced_dir};
use super::synced;
use crate::face::Face;
use crate::fault::{Fault, blocking};

/// The only frontend.
const DOCKERFILE: &str = "dockerfile.v0";
/// What `LLBBridge` can beside what every server can.
const CAPABILITIES: [&str; 6] =
    ["solve.base", "return", "returnmap", "proto.refarray", "gateway.solve.metadata", "frontend.caps"];
/// News of a build that are on their way to its client.
const AHEAD: usize = 16;

fn refused(what: &str) -> Refusal {
    Refusal::new(code::UNIMPLEMENTED, format!("{what} is not supported by Windlass"))
}

fn fault(fault: Fault) -> Refusal {
    let code = if fault.status.is_server_error() { code::INTERNAL } else { code::INVALID_ARGUMENT };
    Refusal::new(code, fault.message)
}

/// Answers a call.
///
/// # Errors
/// What is not there is `UNIMPLEMENTED`; else what went wrong.
pub async fn answer(face: Arc<Face>, mut call: Call) -> Result<Answer, Refusal> {
    let path = call.path.clone();
    if path == "/grpc.health.v1.Health/Check" {
        return Ok(health());
    }
    if let Some(method) = path.strip_prefix(CONTROL) {
        return control(&face, method, &mut call).await;
    }
    let Some(method) = path.strip_prefix(BRIDGE) else { return Err(refused(&path)) };
    let id = call.headers.get(BUILD_ID).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let job = face.buildkit.jobs.get(&id).await?;
    bridge(&job, method, &mut call).await
}

/// `grpc.health.v1.HealthCheckResponse`: serving.
fn health() -> Answer {
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    struct Health {
        #[prost(int32, tag = "1")]
        status: i32,
    }
    Answer::one(&Health { status: 1 })
}

async fn control(face: &Arc<Face>, method: &str, call: &mut Call) -> Result<Answer, Refusal> {
    match method {
        "Solve" => {
            let request = call.message().await?;
            Ok(Answer::one(&SolveResponse { exporter_response: solve(face, request).await? }))
        }
        "Status" => {
            let StatusRequest { id } = call.message().await?;
            let job = face.buildkit.jobs.get(&id).await?;
            Ok(status(face.clone(), id, job))
        }
        "ListWorkers" => Ok(Answer::one(&ListWorkersResponse { record: vec![worker(face)] })),
        "Info" => Ok(Answer::one(&InfoResponse { version: Some(version()) })),
        "DiskUsage" => {
            let request: Filtered = call.message().await?;
            check_filters(&request.filter)?;
            let unused = u64::try_from(request.age_limit).map(Duration::from_nanos).unwrap_or_default();
            let record = usage(face, unused).await?;
            Ok(Answer::one(&DiskUsageResponse { record }))
        }
        "Prune" => {
            let request = call.message().await?;
            prune(face, &request).await
        }
        other => Err(refused(&format!("{CONTROL}{other}"))),
    }
}

fn version() -> Version {
    let version = concat!("v", env!("CARGO_PKG_VERSION")).to_owned();
    Version { package: "windlass".to_owned(), version, revision: String::new() }
}

fn worker(face: &Face) -> WorkerRecord {
    let labels = [("org.mobyproject.buildkit.worker.executor", "windlass")];
    let platform =
        Platform { architecture: crate::architecture().to_owned(), os: "linux".to_owned(), variant: String::new() };
    WorkerRecord {
        id: crate::networks::id(face, "builder"),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        platforms: vec![platform],
        version: Some(version()),
    }
}

fn status(face: Arc<Face>, id: String, job: Arc<Job>) -> Answer {
    let (tx, rx) = mpsc::channel(AHEAD);
    // Ends with the build, or when nobody reads.
    tokio::spawn(async move {
        let mut told = 0;
        loop {
            let more = tokio::select! {
                more = job.log.after(told) => more,
                () = tx.closed() => return,
            };
            let Some(more) = more else { break };
            told += more.len();
            for news in more {
                if tx.send(Ok(news)).await.is_err() {
                    return;
                }
            }
        }
        face.buildkit.jobs.read(&id);
    });
    Answer::Many(rx)
}

async fn solve(face: &Arc<Face>, mut request: SolveRequest) -> Result<BTreeMap<String, String>, Refusal> {
    let jobs: &Jobs = &face.buildkit.jobs;
    let running = jobs.start(&request.id)?;
    acceptable(&request)?;
    let mut exporters: Vec<(String, BTreeMap<String, String>)> =
        std::mem::take(&mut request.exporters).into_iter().map(|e| (e.kind, e.attrs)).collect();
    if exporters.is_empty() && !request.exporter.is_empty() {
        exporters.push((std::mem::take(&mut request.exporter), std::mem::take(&mut request.exporter_attrs)));
    }
    let attrs = if request.frontend.is_empty() {
        let Some(wanted) = of_bridge(&running.job).await? else { return Ok(BTreeMap::new()) };
        wanted.opt
    } else {
        frontend(&request.frontend)?;
        std::mem::take(&mut request.frontend_attrs)
    };
    let invalid = |e: String| Refusal::new(code::INVALID_ARGUMENT, e);
    let asked = Asked::read(&attrs, &exporters, &request.entitlements).map_err(invalid)?;
    let session = face.buildkit.sessions.get(&request.session).await;
    let session = session.map_err(|e| Refusal::new(code::NOT_FOUND, e.to_string()))?;
    solve::run(face, &request.id, running.job.clone(), asked, session).await
}

/// What the client asked of the frontend and returned; `None` when it returned nothing.
async fn of_bridge(job: &Job) -> Result<Option<FrontendRequest>, Refusal> {
    let returned = job.returned().await;
    if let Some(error) = returned.error {
        use prost::Message as _;
        let code = u32::try_from(error.code).unwrap_or(code::UNKNOWN);
        return Err(Refusal { code, message: error.message.clone(), details: error.encode_to_vec() });
    }
    let result = returned.result.unwrap_or_default();
    let name = match (result.one, result.several) {
        (Some(one), _) => one.id,
        (None, Some(several)) if several.refs.len() > 1 => return Err(refused("a result for several platforms")),
        (None, Some(several)) => several.refs.into_values().next().unwrap_or_default().id,
        (None, None) => result.old_ref,
    };
    if name.is_empty() {
        return Ok(None);
    }
    let missing = || Refusal::new(code::NOT_FOUND, format!("no result {name}"));
    job.kept(&name).ok_or_else(missing).map(Some)
}

fn frontend(name: &str) -> Result<(), Refusal> {
    if name == DOCKERFILE { Ok(()) } else { Err(refused(&format!("the frontend {name}"))) }
}

fn acceptable(request: &SolveRequest) -> Result<(), Refusal> {
    let cache = request.cache.clone().unwrap_or_default();
    let unwanted = [
        (request.definition.as_ref().is_some_and(|d| !d.def.is_empty()), "a build of LLB operations"),
        (!request.frontend_inputs.is_empty(), "an input of LLB operations"),
        (request.source_policy.is_some() || !request.source_policy_session.is_empty(), "a source policy"),
        (request.session_exporter, "an exporter of the session"),
        (request.proxy_network, "a network proxy for commands"),
        (!cache.exports.is_empty() || !cache.export_ref.is_empty(), "an export of the cache (--cache-to)"),
    ];
    match unwanted.iter().find(|(is, _)| *is) {
        Some((_, what)) => Err(refused(what)),
        None => Ok(()),
    }
}

async fn bridge(job: &Job, method: &str, call: &mut Call) -> Result<Answer, Refusal> {
    match method {
        "Ping" => {
            let able = |id: &str| Capability { id: id.to_owned(), enabled: true };
            let frontend_caps = CAPABILITIES.iter().map(|id| able(id)).collect();
            // A first operation that nobody asks for: with none, clients take it for a very old server.
            let llb_caps = vec![able("source.local")];
            Ok(Answer::one(&PongResponse { frontend_caps, llb_caps, workers: Vec::new() }))
        }
        "Solve" => {
            let request: FrontendRequest = call.message().await?;
            let unwanted = [
                (request.definition.as_ref().is_some_and(|d| !d.def.is_empty()), "a build of LLB operations"),
                (!request.inputs.is_empty(), "an input of LLB operations"),
                (!request.source_policies.is_empty(), "a source policy"),
                (request.evaluate, "a result before it is exported"),
            ];
            if let Some((_, what)) = unwanted.iter().find(|(is, _)| *is) {
                return Err(refused(what));
            }
            frontend(&request.frontend)?;
            // What is refused is better refused now than when the result is wanted.
            let invalid = |e: String| Refusal::new(code::INVALID_ARGUMENT, e);
            Asked::read(&request.opt, &[], &[]).map_err(invalid)?;
            let one = Some(Ref { id: job.keep(request)? });
            let result = Some(FrontendResult { one, ..FrontendResult::default() });
            Ok(Answer::one(&FrontendResponse { result }))
        }
        "Return" => {
            let returned: ReturnRequest = call.message().await?;
            job.hand_over(returned)?;
            Ok(Answer::one(&Nothing {}))
        }
        other => Err(refused(&format!("{BRIDGE}{other}"))),
    }
}

fn check_filters(filters: &[String]) -> Result<(), Refusal> {
    match filters.iter().find(|f| !f.is_empty()) {
        Some(filter) => Err(refused(&format!("the filter {filter} of the build cache"))),
        None => Ok(()),
    }
}

fn seconds_ago(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

/// What is kept for later builds, as it is shown, the last used first.
async fn usage(face: &Arc<Face>, unused: Duration) -> Result<Vec<UsageRecord>, Refusal> {
    let of = face.clone();
    let (steps, folders) = blocking(move || {
        let folders = synced::kept(&synced_dir(&of)).map_err(|e| Fault::io("clients' folders", &e))?;
        let folders: Vec<_> = folders.into_iter().map(|f| (f.key, f.bytes, f.used)).collect();
        Ok::<_, Fault>((of.engine.images().cached_steps().map_err(Fault::from)?, folders))
    })
    .await
    .map_err(fault)?;
    let record =
        |id: String, bytes: u64, used: SystemTime, kind: &str, description: String, shared: bool| UsageRecord {
            id,
            size: i64::try_from(bytes).unwrap_or(i64::MAX),
            last_used_at: Some(Timestamp::of(used)),
            created_at: Some(Timestamp::of(used)),
            usage_count: 1,
            description,
            record_type: kind.to_owned(),
            shared,
            ..UsageRecord::default()
        };
    let steps = steps.into_iter().filter(|s| seconds_ago(s.used) >= unused);
    let folders = folders.into_iter().filter(|(_, _, used)| seconds_ago(*used) >= unused);
    let mut all: Vec<UsageRecord> = steps.map(|s| record(s.id, s.bytes, s.used, "regular", s.note, s.shared)).collect();
    all.extend(
        folders.map(|(key, bytes, used)| {
            record(key, bytes, used, "source.local", "a folder of a client".to_owned(), false)
        }),
    );
    Ok(all)
}

async fn prune(face: &Arc<Face>, request: &PruneRequest) -> Result<Answer, Refusal> {
    check_filters(&request.filter)?;
    if request.min_free_space > 0 {
        return Err(refused("min-free-space"));
    }
    let unused = u64::try_from(request.keep_duration).map(Duration::from_nanos).unwrap_or_default();
    let keep = u64::try_from(request.reserved_space.max(request.max_used_space)).unwrap_or(0);
    let mut kept = 0u64;
    let mut chosen = Vec::new();
    for record in usage(face, unused).await? {
        let size = u64::try_from(record.size).unwrap_or(0);
        if keep > 0 && kept.saturating_add(size) <= keep {
            kept += size;
        } else {
            chosen.push(record);
        }
    }
    let of = face.clone();
    let gone = blocking(move || {
        let ids = chosen.iter().map(|record| record.id.clone()).collect();
        let (forgotten, _) = of.engine.images().forget_steps(&ids).map_err(Fault::from)?;
        let mut removed = std::collections::BTreeSet::from_iter(forgotten);
        for folder in synced::kept(&synced_dir(&of)).map_err(|e| Fault::io("clients' folders", &e))? {
            if ids.contains(&folder.key) {
                removed.insert(folder.key.clone());
                folder.remove().map_err(|e| Fault::io("a client's folder", &e))?;
            }
        }
        chosen.retain(|record| removed.contains(&record.id));
        Ok::<_, Fault>(chosen)
    })
    .await
    .map_err(fault)?;
    let (tx, rx) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        for record in gone {
            if tx.send(Ok(grpc::frame(&record))).await.is_err() {
                return;
            }
        }
    });
    Ok(Answer::Many(rx))
}
