use super::*;
use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

const MI: u64 = 1 << 20;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn read(hard: &str, soft: &str, grace: &str, reclaim: &str) -> Result<Vec<Threshold>, String> {
    thresholds(&below(hard)?, &below(soft)?, &above(grace)?, &above(reclaim)?)
}

fn seen(list: &[(Signal, u64, u64)]) -> Observations {
    list.iter()
        .map(|(s, capacity, available)| (*s, Observation { capacity: *capacity, available: *available }))
        .collect()
}

fn memory(available: u64) -> Observations {
    seen(&[(Signal::MemoryAvailable, 1024 * MI, available * MI)])
}

fn pod(name: &str, spec: Value) -> Arc<Pod> {
    let mut all = json!({"containers": [{"name": "c"}]});
    all.as_object_mut().expect("object").extend(spec.as_object().expect("object").clone());
    let pod = json!({"metadata": {"name": name, "uid": name}, "spec": all});
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn asks(name: &str, priority: i32, requests: Value) -> Arc<Pod> {
    pod(name, json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]}))
}

fn uses(usage: ContainerUsage) -> PodUsage {
    let containers = vec![ContainerUsage { name: "c".to_owned(), ..usage }];
    PodUsage { containers, volumes: Taken::default() }
}

fn of_memory(mi: u64) -> PodUsage {
    uses(ContainerUsage { memory: mi * MI, ..ContainerUsage::default() })
}

fn ranked(signal: Signal, own_disk: bool, pods: &[(Arc<Pod>, PodUsage)]) -> Vec<String> {
    order(signal, own_disk, pods).into_iter().map(|i| pods[i].0.metadata.name.clone().unwrap_or_default()).collect()
}

#[test]
fn the_defaults_are_the_kubelets() {
    let list = read(DEFAULT_HARD, "", "", "").expect("thresholds");
    let of = |signal: Signal| list.iter().find(|t| t.signal == signal).copied().expect("one");
    assert_eq!(list.len(), 5);
    assert!(list.iter().all(Threshold::is_hard));
    assert_eq!(of(Signal::MemoryAvailable).reserve(1 << 40), 100 * MI);
    assert_eq!(of(Signal::NodeFsAvailable).reserve(1000), 100);
    assert_eq!(of(Signal::ImageFsAvailable).reserve(1000), 150);
    assert_eq!(of(Signal::NodeFsInodesFree).reserve(1000), 50);
    assert_eq!(read("", "", "", "").expect("none"), []);
    assert_eq!(read("nodefs.available<0%,imagefs.available<100%", "", "", "").expect("off"), []);
}

#[test]
fn what_cannot_be_meant_is_refused_in_the_kubelets_words() {
    for (hard, soft, grace, reclaim, why) in [
        ("memory.available", "", "", "", "malformed pair, expect string<string"),
        ("", "", "memory.available", "", "malformed pair, expect string=string"),
        ("memory.free<1Mi", "", "", "", "unsupported eviction signal memory.free"),
        ("memory.available<-1Mi", "", "", "", "eviction threshold memory.available must be positive: -1Mi"),
        ("memory.available<0", "", "", "", "eviction threshold memory.available must be positive: 0"),
        ("nodefs.available<-1%", "", "", "", "eviction percentage threshold nodefs.available must be >= 0%: -1%"),
        ("nodefs.available<101%", "", "", "", "eviction percentage threshold nodefs.available must be <= 100%: 101%"),
        ("nodefs.available<x%", "", "", "", "strconv.ParseFloat: parsing \"x\": invalid syntax"),
        (
            "memory.available<1Xi",
            "",
            "",
            "",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "",
            "memory.available<1Gi",
            "",
            "",
            "grace period must be specified for the soft eviction threshold memory.available",
        ),
        ("", "", "memory.free=1m", "", "unsupported eviction signal memory.free"),
        ("", "", "memory.available=-1m", "", "invalid eviction grace period specified: -1m, must be a positive value"),
        ("", "", "memory.available=5", "", "time: missing unit in duration \"5\""),
        ("", "", "", "memory.available=-1", "negative eviction minimum reclaim specified for memory.available"),
        (
            "",
            "",
            "",
            "nodefs.available=0%",
            "eviction percentage minimum reclaim nodefs.available must be positive: 0%",
        ),
    ] {
        let told = read(hard, soft, grace, reclaim).expect_err(why);
        assert_eq!(told, why);
    }
}

#[test]
fn a_soft_threshold_waits_and_a_hard_one_does_not() {
    let all = read("memory.available<100Mi", "memory.available<500Mi", "memory.available=1m", "").expect("thresholds");
    let mut state = State::default();
    let mut look = |available, now| state.look(&all, &memory(available), at(300), at(now));
    assert_eq!(look(600, 0), Look { pressure: Pressure::new(), starved: vec![] });
    let first = look(400, 10);
    assert_eq!((first.pressure, first.starved.len()), ([Condition::Memory].into(), 0));
    assert_eq!(look(400, 69).starved, []);
    assert_eq!(look(400, 70).starved, [all[1]]);
    assert_eq!(look(600, 80).starved, []);
    assert_eq!(look(400, 90).starved, [], "the time begins anew");
    assert_eq!(look(50, 91).starved, [all[0]]);
}

#[test]
fn a_condition_stays_for_the_time_of_a_transition() {
    let all = read("memory.available<100Mi", "", "", "").expect("thresholds");
    let mut state = State::default();
    let mut pressed = |available, now| !state.look(&all, &memory(available), at(30), at(now)).pressure.is_empty();
    assert!(pressed(50, 0) && pressed(500, 29) && !pressed(500, 30) && !pressed(500, 31));
    assert!(pressed(50, 40) && pressed(50, 60) && pressed(500, 89) && !pressed(500, 90));
    let mut state = State::default();
    let mut pressed = |available, now| !state.look(&all, &memory(available), at(0), at(now)).pressure.is_empty();
    assert!(pressed(50, 0) && !pressed(500, 1), "without such a time it still shows");
}

#[test]
fn as_much_more_as_was_asked_for_is_won_back() {
    let all = read("memory.available<100Mi", "", "", "memory.available=50Mi").expect("thresholds");
    let mut state = State::default();
    let mut starved = |available| state.look(&all, &memory(available), at(30), at(0)).starved.len();
    assert_eq!((starved(120), starved(90), starved(120), starved(150), starved(120)), (0, 1, 1, 0, 0));
    assert!(!is_enough(&all, &memory(149)) && is_enough(&all, &memory(150)));
}

#[test]
fn memory_comes_first_and_what_is_not_known_is_not_met() {
    let all =
        read("imagefs.available<15%,memory.available<100Mi,nodefs.inodesFree<5%", "", "", "").expect("thresholds");
    let known = seen(&[(Signal::ImageFsAvailable, 100, 1), (Signal::MemoryAvailable, 1024 * MI, MI)]);
    let look = State::default().look(&all, &known, at(30), at(0));
    let signals: Vec<Signal> = look.starved.iter().map(|t| t.signal).collect();
    assert_eq!(signals, [Signal::MemoryAvailable, Signal::ImageFsAvailable]);
    assert_eq!(look.pressure, [Condition::Memory, Condition::Disk].into());
    let none = seen(&[(Signal::NodeFsInodesFree, 0, 0)]);
    assert_eq!(State::default().look(&all, &none, at(30), at(0)).starved, [], "a file system without inodes");
}

#[test]
fn who_takes_more_than_it_asked_for_goes_first() {
    let pods = [
        (asks("important", 10, json!({})), of_memory(500)),
        (asks("modest", 0, json!({"memory": "200Mi"})), of_memory(150)),
        (asks("greedy", 0, json!({"memory": "100Mi"})), of_memory(300)),
        (asks("greedier", 0, json!({})), of_memory(250)),
        (asks("critical", 2_000_000_000, json!({})), of_memory(900)),
    ];
    let names = ranked(Signal::MemoryAvailable, false, &pods);
    assert_eq!(names, ["greedier", "greedy", "important", "modest"]);
    let threads = |n| uses(ContainerUsage { pids: n, ..ContainerUsage::default() });
    let pods = [
        (asks("few", 0, json!({})), threads(5)),
        (asks("many", 0, json!({})), threads(50)),
        (asks("higher", 1, json!({})), threads(500)),
    ];
    assert_eq!(ranked(Signal::PidAvailable, false, &pods), ["many", "few", "higher"]);
}

#[test]
fn a_disk_counts_what_is_on_it() {
    let taken = |bytes| Taken { bytes, inodes: bytes / 10 };
    let with = |root, logs, volumes| PodUsage {
        volumes: taken(volumes),
        ..uses(ContainerUsage { root: taken(root), logs: taken(logs), ..ContainerUsage::default() })
    };
    let pods = [
        (asks("root", 0, json!({})), with(1000, 0, 0)),
        (asks("logs", 0, json!({})), with(10, 900, 0)),
        (asks("volume", 0, json!({})), with(20, 0, 1500)),
        (asks("asked", 0, json!({"ephemeral-storage": "9k"})), with(3000, 3000, 3000)),
    ];
    let all = ["volume", "root", "logs", "asked"];
    assert_eq!(ranked(Signal::NodeFsAvailable, false, &pods), all);
    assert_eq!(ranked(Signal::ImageFsAvailable, false, &pods), all);
    assert_eq!(ranked(Signal::ImageFsAvailable, true, &pods), ["root", "volume", "logs", "asked"]);
    assert_eq!(ranked(Signal::NodeFsAvailable, true, &pods), ["volume", "logs", "root", "asked"]);
    assert_eq!(
        ranked(Signal::NodeFsInodesFree, false, &pods),
        ["asked", "volume", "root", "logs"],
        "nobody asks for inodes"
    );
}

#[test]
fn the_message_says_what_was_short_and_who_took_it() {
    let all = read("memory.available<100Mi,nodefs.available<10%", "", "", "").expect("thresholds");
    let greedy = asks("greedy", 0, json!({"memory": "100Mi"}));
    let told = |starved: &[Threshold], seen: &Observations, pod: &Pod, usage: &PodUsage| {
        message(&starved[0], starved, seen, pod, usage)
    };
    assert_eq!(
        told(&all[..1], &memory(64), &greedy, &of_memory(300)),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 64Mi. Container c was using 300Mi, \
         request is 100Mi, has larger consumption of memory. ",
    );
    assert_eq!(
        told(&all[..1], &memory(64), &greedy, &of_memory(90)),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 64Mi. ",
    );
    let disk = seen(&[(Signal::NodeFsAvailable, 1000 * MI, 50 * MI)]);
    let writes = uses(ContainerUsage { root: Taken { bytes: 3 * MI, inodes: 1 }, ..ContainerUsage::default() });
    assert_eq!(
        told(&all[1..], &disk, &asks("p", 0, json!({})), &writes),
        "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 50Mi. Container c was \
         using 3Mi, request is 0, has larger consumption of ephemeral-storage. ",
    );
    let whole = pod("whole", json!({"resources": {"requests": {"memory": "1Mi"}}}));
    let text = told(&all[..1], &memory(64), &whole, &of_memory(2));
    assert!(text.contains("Pod whole was using 2Mi, request is 1Mi, has larger consumption of memory. "), "{text}");
}

#[test]
fn a_hard_threshold_gives_a_second_and_a_soft_one_what_is_configured() {
    let soft = read("", "memory.available<1Gi", "memory.available=1m", "").expect("soft")[0];
    let hard = Threshold { grace: Duration::ZERO, ..soft };
    let seconds = SignedDuration::from_secs;
    assert_eq!(grace(&hard, Some(seconds(60))), Some(seconds(1)));
    assert_eq!(grace(&soft, Some(seconds(60))), Some(seconds(60)));
    assert_eq!(grace(&soft, Some(seconds(0))), Some(seconds(1)));
    assert_eq!(grace(&soft, None), None);
}

#[test]
fn a_node_under_pressure_takes_only_pods_that_do_not_add_to_it() {
    let told = |pod: &Pod, pressure: &[Condition]| {
        refusal(pod, &pressure.iter().copied().collect())
            .map(|f| format!("{}: {}", f.reason, f.message))
            .unwrap_or_default()
    };
    let (best, asks_some) = (pod("best", json!({})), asks("some", 0, json!({"memory": "1Mi"})));
    let critical = asks("critical", 2_000_000_000, json!({}));
    let key = "node.kubernetes.io/memory-pressure";
    let bears = pod("bears", json!({"tolerations": [{"key": key, "operator": "Exists", "effect": "NoSchedule"}]}));
    use Condition::{Disk, Memory, Pid};
    assert_eq!(told(&best, &[]), "");
    assert_eq!(told(&best, &[Memory]), "Evicted: The node had condition: [MemoryPressure]. ");
    assert_eq!(told(&asks_some, &[Memory]), "");
    assert_eq!(told(&bears, &[Memory]), "");
    assert_eq!(told(&asks_some, &[Disk]), "Evicted: The node had condition: [DiskPressure]. ");
    assert_eq!(told(&bears, &[Memory, Pid]), "Evicted: The node had condition: [MemoryPressure PIDPressure]. ");
    assert_eq!(told(&critical, &[Memory, Disk, Pid]), "");
}

proptest! {
    #[test]
    fn a_condition_shows_while_it_is_met_and_no_longer_than_a_transition_after(
        available in prop::collection::vec(0u64..200, 1..60),
        transition in 0u64..100,
        grace in 0u64..40,
    ) {
        let all = read("", "memory.available<100Mi", &format!("memory.available={grace}s"), "").expect("thresholds");
        let mut state = State::default();
        let (mut first, mut last): (Option<u64>, Option<u64>) = (None, None);
        for (n, mi) in available.iter().enumerate() {
            let now = 10 * n as u64;
            let look = state.look(&all, &memory(*mi), at(transition), at(now));
            if *mi < 100 {
                first = first.or(Some(now));
                last = Some(now);
            } else {
                first = None;
            }
            let shows = *mi < 100 || last.is_some_and(|last| now - last < transition);
            prop_assert_eq!(!look.pressure.is_empty(), shows);
            prop_assert_eq!(!look.starved.is_empty(), first.is_some_and(|first| now - first >= grace));
        }
    }

    #[test]
    fn every_pod_that_may_go_is_ranked_once_and_who_keeps_to_its_requests_comes_last(
        list in prop::collection::vec((0u64..50, 0u64..50, -2i32..3, prop::bool::weighted(0.2)), 0..20),
    ) {
        let pods: Vec<(Arc<Pod>, PodUsage)> = list
            .iter()
            .enumerate()
            .map(|(n, (asked, used, priority, critical))| {
                let priority = if *critical { 2_000_000_000 } else { *priority };
                (asks(&n.to_string(), priority, json!({"memory": format!("{asked}Mi")})), of_memory(*used))
            })
            .collect();
        let ranked = order(Signal::MemoryAvailable, false, &pods);
        let mut sorted = ranked.clone();
        sorted.sort_unstable();
        let may: Vec<usize> = (0..list.len()).filter(|n| !list[*n].3).collect();
        prop_assert_eq!(sorted, may);
        for two in ranked.windows(2) {
            let key = |n: usize| { let (asked, used, priority, _) = list[n]; (used <= asked, priority) };
            prop_assert!(key(two[0]) <= key(two[1]));
        }
    }
}
