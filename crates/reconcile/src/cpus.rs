//! Which CPUs containers run on under the static policy (the kubelet's CPU manager, KEP-3570): a container of a guaranteed
//! pod that asks for whole CPUs has them for itself, all others share the rest. CPUs that are kept for the system are shared
//! and never given away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::{QosClass, Role, each, qos_class};

/// CPUs by their number in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<u32>);

/// More CPUs than this have no machine (`CONFIG_NR_CPUS`).
const CPUS_MAX: u32 = 8192;

impl CpuSet {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// All of both.
    #[must_use]
    pub fn with(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.union(&other.0).copied().collect())
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.difference(&other.0).copied().collect())
    }

    /// Those of both.
    #[must_use]
    pub fn shared_with(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.intersection(&other.0).copied().collect())
    }

    /// Whether all of these are in the other.
    pub fn is_part_of(&self, other: &CpuSet) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        CpuSet(cpus.into_iter().collect())
    }
}

/// As the kernel lists them: `0-3,5` (cpuset(7), "List format").
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let words: Vec<String> =
            ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
        f.write_str(&words.join(","))
    }
}

impl FromStr for CpuSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a list of CPUs");
        let mut set = BTreeSet::new();
        for word in text.trim().split(',').filter(|w| !w.is_empty()) {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let (first, last): (u32, u32) =
                (first.trim().parse().map_err(|_| bad())?, last.trim().parse().map_err(|_| bad())?);
            if first > last || last >= CPUS_MAX {
                return Err(bad());
            }
            set.extend(first..=last);
        }
        Ok(CpuSet(set))
    }
}

/// What a machine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// All CPUs that are online.
    pub all: CpuSet,
    /// CPUs that are threads of one core, for each core.
    pub cores: Vec<CpuSet>,
}

/// Who has which CPUs: of the containers of each pod, by the pod's UID and the container's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Given(pub BTreeMap<String, BTreeMap<String, String>>);

impl Given {
    /// The CPUs that a container has for itself.
    pub fn of(&self, pod: &str, container: &str) -> Option<CpuSet> {
        self.0.get(pod)?.get(container)?.parse().ok()
    }

    /// All that somebody has for itself.
    pub fn taken(&self) -> CpuSet {
        let sets = self.0.values().flat_map(BTreeMap::values).filter_map(|text| text.parse::<CpuSet>().ok());
        sets.fold(CpuSet::default(), |all, set| all.with(&set))
    }

    /// Takes a pod's CPUs back. False: it had none.
    pub fn release(&mut self, pod: &str) -> bool {
        self.0.remove(pod).is_some()
    }
}

/// How many CPUs a container has for itself; none when it shares.
pub fn whole_cpus(pod: &Pod, c: &Container) -> usize {
    let own = pod.spec.as_ref().is_some_and(|s| s.resources.is_some());
    if own || qos_class(pod) != QosClass::Guaranteed {
        return 0;
    }
    let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
    let milli = limits.and_then(|l| Quantity::parse(&l.get("cpu")?.0).ok()).map_or(0, Quantity::milli_value);
    if milli > 0 && milli % 1000 == 0 { usize::try_from(milli / 1000).unwrap_or(usize::MAX) } else { 0 }
}

/// That many of the free CPUs: whole cores first, so that two containers do not share one; then, of the cores of which some
/// threads are taken already, the rest; then a part of a free core. `None` when there are not as many.
pub fn choose(topology: &Topology, free: &CpuSet, count: usize) -> Option<CpuSet> {
    if free.len() < count {
        return None;
    }
    let mut chosen = CpuSet::default();
    let (whole, parts): (Vec<&CpuSet>, Vec<&CpuSet>) = topology.cores.iter().partition(|core| core.is_part_of(free));
    for core in &whole {
        if chosen.len() + core.len() <= count {
            chosen = chosen.with(core);
        }
    }
    let rest = parts.into_iter().chain(whole).flat_map(|core| core.shared_with(free).0);
    // A machine that does not tell its cores has CPUs all the same.
    for cpu in rest.chain(free.iter()) {
        if chosen.len() == count {
            break;
        }
        chosen.0.insert(cpu);
    }
    Some(chosen)
}

/// Gives the containers of a pod what they are to have for themselves. Init containers run one after another before the
/// others: they use the CPUs of those, and more only where one asks for more. Nothing is given twice: a pod that has its
/// CPUs keeps them.
///
/// # Errors
/// There are not enough, in the kubelet's words.
pub fn give(topology: &Topology, reserved: &CpuSet, given: &mut Given, pod: &Pod) -> Result<bool, String> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let Some(spec) = pod.spec.as_ref().filter(|_| !given.0.contains_key(&uid)) else { return Ok(false) };
    let mut free = topology.all.without(reserved).without(&given.taken());
    let mut own: BTreeMap<String, CpuSet> = BTreeMap::new();
    let mut of_main = CpuSet::default();
    let is_init = |role: Role| role == Role::Init;
    for (role, c) in each(spec).filter(|(role, _)| !is_init(*role)) {
        let count = whole_cpus(pod, c);
        if count > 0 {
            let set = choose(topology, &free, count).ok_or_else(|| too_few(count, free.len()))?;
            free = free.without(&set);
            if role == Role::Main {
                of_main = of_main.with(&set);
            }
            own.insert(c.name.clone(), set);
        }
    }
    let mut spare = of_main;
    for (_, c) in each(spec).filter(|(role, _)| is_init(*role)) {
        let count = whole_cpus(pod, c);
        if count == 0 {
            continue;
        }
        if spare.len() < count {
            let more = count - spare.len();
            let set = choose(topology, &free, more).ok_or_else(|| too_few(count, free.len() + spare.len()))?;
            free = free.without(&set);
            spare = spare.with(&set);
        }
        let set = choose(topology, &spare, count).ok_or_else(|| too_few(count, spare.len()))?;
        own.insert(c.name.clone(), set);
    }
    if own.is_empty() {
        return Ok(false);
    }
    given.0.insert(uid, own.into_iter().map(|(name, set)| (name, set.to_string())).collect());
    Ok(true)
}

fn too_few(asked: usize, free: usize) -> String {
    format!(
        "Allocate failed due to not enough cpus available to satisfy request: requested={asked}, available={free}, which is unexpected"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn set(text: &str) -> CpuSet {
        text.parse().expect("a list")
    }

    /// Two threads to a core: 0 and 4, 1 and 5, …
    fn machine(cores: u32) -> Topology {
        let core = |n: u32| [n, n + cores].into_iter().collect::<CpuSet>();
        Topology { all: (0..2 * cores).collect(), cores: (0..cores).map(core).collect() }
    }

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"limits": {"cpu": cpu, "memory": "1Mi"}}})
    }

    fn pod(uid: &str, init: &[Value], main: &[Value]) -> Pod {
        let spec = json!({"initContainers": init, "containers": main});
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn lists_are_the_kernels() {
        for (text, shown) in [("", ""), ("3", "3"), ("0-2,5,7-8", "0-2,5,7-8"), ("1,0,2\n", "0-2")] {
            assert_eq!(set(text).to_string(), shown);
        }
        for bad in ["x", "3-1", "1-", "0-99999", "-1"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn whole_cores_are_chosen_first_and_then_the_rest_of_broken_ones() {
        let m = machine(4);
        for (free, count, expected) in [
            ("0-7", 2, Some("0,4")),
            ("0-7", 4, Some("0-1,4-5")),
            ("1-7", 2, Some("1,5")),
            ("1-7", 1, Some("4")),
            ("1-7", 3, Some("1,4-5")),
            ("0-7", 1, Some("0")),
            ("0-3", 3, Some("0-2")),
            ("0-1", 3, None),
        ] {
            let chosen = choose(&m, &set(free), count).map(|s| s.to_string());
            assert_eq!(chosen.as_deref(), expected, "{count} of {free}");
        }
    }

    #[test]
    fn only_guaranteed_containers_with_whole_cpus_have_their_own() {
        for (cpu, expected) in [("2", 2), ("1500m", 0), ("1000m", 1)] {
            let p = pod("u", &[], &[container("c", cpu)]);
            assert_eq!(whole_cpus(&p, &p.spec.as_ref().expect("a spec").containers[0]), expected, "{cpu}");
        }
        let burstable: Value = json!({"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}});
        let p = pod("u", &[], &[burstable]);
        assert_eq!(whole_cpus(&p, &p.spec.as_ref().expect("a spec").containers[0]), 0, "memory is not limited");
    }

    #[test]
    fn init_containers_use_what_the_others_will_have() {
        let (m, mut given) = (machine(4), Given::default());
        let side = json!({"name": "side", "restartPolicy": "Always",
            "resources": {"limits": {"cpu": "1", "memory": "1Mi"}}});
        let p = pod("u", &[container("i", "4"), side], &[container("a", "2"), container("b", "500m")]);
        assert_eq!(give(&m, &set("0"), &mut given, &p), Ok(true));
        let of = |name: &str| given.of("u", name).expect("its own");
        assert!(of("a").is_part_of(&of("i")), "{given:?}");
        assert!(of("side").shared_with(&of("i")).is_empty());
        assert_eq!((of("a").len(), of("i").len(), of("side").len(), given.taken().len()), (2, 4, 1, 5));
        assert_eq!(given.of("u", "b"), None);
        assert_eq!(give(&m, &set("0"), &mut given, &p), Ok(false), "it has them");
    }

    #[test]
    fn nothing_is_given_when_there_is_not_enough() {
        let (m, mut given) = (machine(1), Given::default());
        let error = give(&m, &set("0"), &mut given, &pod("u", &[], &[container("c", "2")])).expect_err("one is free");
        assert!(error.contains("requested=2, available=1"), "{error}");
        assert_eq!(given, Given::default());
    }

    proptest! {
        #[test]
        fn no_cpu_has_two_owners_and_none_is_lost(
            cores in 1u32..9,
            steps in proptest::collection::vec((0usize..6, 0u32..5, any::<bool>()), 1..40),
        ) {
            let (m, reserved, mut given) = (machine(cores), set("0"), Given::default());
            for (who, count, ends) in steps {
                let uid = format!("p{who}");
                if ends {
                    given.release(&uid);
                    continue;
                }
                let before = given.clone();
                let p = pod(&uid, &[], &[container("a", &count.to_string()), container("b", "1")]);
                let now = give(&m, &reserved, &mut given, &p);
                prop_assert!(now == Ok(true) || before == given);
                let all: Vec<u32> = given.0.values().flat_map(BTreeMap::values)
                    .flat_map(|text| set(text).iter().collect::<Vec<_>>()).collect();
                let distinct: BTreeSet<u32> = all.iter().copied().collect();
                prop_assert_eq!(all.len(), distinct.len());
                prop_assert!(!distinct.contains(&0));
                prop_assert!(given.taken().is_part_of(&m.all));
                if now == Ok(true) {
                    prop_assert_eq!(given.of(&uid, "a").map(|own| own.len()), Some(count as usize));
                }
            }
        }
    }
}
