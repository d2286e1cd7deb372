//! Flags of the node: read for an agent, and handed on to it by the server that starts it.

use std::time::Duration;

use reconcile::imagegc::Policy;

use crate::cli::{CpuManagerPolicy, DeadContainerArgs, EvictionArgs, MemoryQosArgs, MemoryReservationPolicy, NodeArgs};
use crate::exit::Unfit;

/// Whole seconds of a duration in Go's notation.
///
/// # Errors
/// It is none, is negative, or is not of whole seconds.
pub fn seconds(text: &str) -> Result<u32, String> {
    let duration = api::duration::parse(text)?;
    let whole = u32::try_from(duration.as_secs()).ok().filter(|_| duration.subsec_nanos() == 0);
    whole.ok_or_else(|| format!("{text:?} is not a number of whole seconds from 0 on"))
}

impl NodeArgs {
    /// The same settings as words for another process.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![
            format!("--shutdown-grace-period={}s", self.shutdown_grace_period),
            format!("--shutdown-grace-period-critical-pods={}s", self.shutdown_grace_period_critical_pods),
        ];
        let by_priority = &self.shutdown_grace_period_by_pod_priority;
        words.extend(
            by_priority.iter().map(|p| format!("--shutdown-grace-period-by-pod-priority={}={}", p.priority, p.seconds)),
        );
        if self.cpu_manager_policy == CpuManagerPolicy::Static {
            words.push("--cpu-manager-policy=static".to_owned());
        }
        words.extend(self.reserved_cpus.as_ref().map(|cpus| format!("--reserved-cpus={cpus}")));
        words.extend(self.eviction.words());
        words.extend(self.dead.words());
        words.extend(self.memory.words());
        words
    }

    /// Which CPUs containers run on.
    pub fn cpus(&self) -> anyhow::Result<node::CpuPolicy> {
        let fix = "give both --cpu-manager-policy=static and --reserved-cpus, or neither";
        match (self.cpu_manager_policy, &self.reserved_cpus) {
            (CpuManagerPolicy::None, None) => Ok(node::CpuPolicy::None),
            (CpuManagerPolicy::Static, Some(set)) if !set.is_empty() => {
                Ok(node::CpuPolicy::Static { reserved: set.clone() })
            }
            (CpuManagerPolicy::Static, _) => Err(Unfit::error("the static policy keeps no CPU for the system", fix)),
            (CpuManagerPolicy::None, Some(_)) => {
                Err(Unfit::error("CPUs are reserved without a policy that keeps them", fix))
            }
        }
    }

    /// Who has how long when the machine goes down.
    pub fn periods(&self) -> anyhow::Result<Vec<reconcile::shutdown::Period>> {
        let (total, critical) = (self.shutdown_grace_period, self.shutdown_grace_period_critical_pods);
        let fix = "see --shutdown-grace-period and the flags after it in: windlass server --help";
        reconcile::shutdown::periods(total, critical, &self.shutdown_grace_period_by_pod_priority)
            .map_err(|why| Unfit::error(why, fix))
    }
}

impl EvictionArgs {
    fn words(&self) -> Vec<String> {
        vec![
            format!("--eviction-hard={}", self.eviction_hard),
            format!("--eviction-soft={}", self.eviction_soft),
            format!("--eviction-soft-grace-period={}", self.eviction_soft_grace_period),
            format!("--eviction-minimum-reclaim={}", self.eviction_minimum_reclaim),
            format!("--eviction-pressure-transition-period={}s", self.eviction_pressure_transition_period),
            format!("--eviction-max-pod-grace-period={}", self.eviction_max_pod_grace_period),
            format!("--image-gc-high-threshold={}", self.image_gc_high_threshold),
            format!("--image-gc-low-threshold={}", self.image_gc_low_threshold),
            format!("--minimum-image-ttl-duration={}s", self.minimum_image_ttl_duration),
            format!("--image-maximum-gc-age={}s", self.image_maximum_gc_age),
        ]
    }

    /// What is done when the node runs out of something.
    ///
    /// # Errors
    /// A flag that cannot be meant so, in the kubelet's words.
    pub fn config(&self) -> anyhow::Result<node::EvictionConfig> {
        use reconcile::eviction::{above, below, thresholds};
        let fix = "see --eviction-hard and the flags after it in: windlass server --help";
        let seconds = |n: u32| Duration::from_secs(n.into());
        let images = Policy {
            high: self.image_gc_high_threshold,
            low: self.image_gc_low_threshold,
            least_age: seconds(self.minimum_image_ttl_duration),
            most_age: seconds(self.image_maximum_gc_age),
        };
        let read = || {
            let (hard, soft) = (below(&self.eviction_hard)?, below(&self.eviction_soft)?);
            let (times, more) = (above(&self.eviction_soft_grace_period)?, above(&self.eviction_minimum_reclaim)?);
            images.check()?;
            thresholds(&hard, &soft, &times, &more)
        };
        let most = self.eviction_max_pod_grace_period;
        Ok(node::EvictionConfig {
            thresholds: read().map_err(|why| Unfit::error(why, fix))?,
            transition: seconds(self.eviction_pressure_transition_period),
            most_grace: (most >= 0).then(|| jiff::SignedDuration::from_secs(most.into())),
            images,
        })
    }
}

impl DeadContainerArgs {
    fn words(&self) -> Vec<String> {
        vec![
            format!("--maximum-dead-containers={}", self.maximum_dead_containers),
            format!("--maximum-dead-containers-per-container={}", self.maximum_dead_containers_per_container),
            format!("--minimum-container-ttl-duration={}s", self.minimum_container_ttl_duration),
        ]
    }

    /// How many dead containers stay.
    pub fn policy(&self) -> reconcile::containergc::Policy {
        reconcile::containergc::Policy {
            most: usize::try_from(self.maximum_dead_containers).ok(),
            most_of_each: usize::try_from(self.maximum_dead_containers_per_container).ok(),
            least_age: jiff::SignedDuration::from_secs(self.minimum_container_ttl_duration.into()),
        }
    }
}

impl MemoryQosArgs {
    fn words(&self) -> Vec<String> {
        let factor = self.memory_throttling_factor.map(|factor| format!("--memory-throttling-factor={factor}"));
        let tiered = self.memory_reservation_policy == MemoryReservationPolicy::TieredReservation;
        factor.into_iter().chain(tiered.then(|| "--memory-reservation-policy=TieredReservation".to_owned())).collect()
    }

    /// What of it the node does.
    ///
    /// # Errors
    /// A factor that is none, in the kubelet's words.
    pub fn policy(&self) -> anyhow::Result<reconcile::memoryqos::Policy> {
        let policy = reconcile::memoryqos::Policy {
            throttling: self.memory_throttling_factor,
            reservation: self.memory_reservation_policy == MemoryReservationPolicy::TieredReservation,
        };
        let fix = "see --memory-throttling-factor in: windlass server --help";
        policy.check().map_err(|why| Unfit::error(why, fix))?;
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn read(words: &[String]) -> NodeArgs {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            node: NodeArgs,
        }
        let words = std::iter::once("agent".to_owned()).chain(words.iter().cloned());
        Only::try_parse_from(words).expect("flags").node
    }

    #[test]
    fn an_agent_reads_what_its_server_hands_on() {
        for given in [
            vec![],
            vec!["--shutdown-grace-period=1m30s", "--shutdown-grace-period-critical-pods=10s"],
            vec!["--shutdown-grace-period-by-pod-priority=-5=1,10=9"],
            vec!["--cpu-manager-policy=static", "--reserved-cpus=0,2-3"],
            vec!["--eviction-hard=", "--eviction-max-pod-grace-period=-1", "--image-gc-high-threshold=100"],
            vec![
                "--eviction-hard=memory.available<1Gi,nodefs.available<1%",
                "--eviction-soft=memory.available<10%",
                "--eviction-soft-grace-period=memory.available=1m30s",
                "--eviction-minimum-reclaim=nodefs.available=500Mi",
                "--eviction-pressure-transition-period=30s",
                "--eviction-max-pod-grace-period=60",
                "--image-gc-low-threshold=50",
                "--minimum-image-ttl-duration=0",
                "--image-maximum-gc-age=12h",
            ],
            vec!["--maximum-dead-containers=20", "--maximum-dead-containers-per-container=-1"],
            vec!["--maximum-dead-containers-per-container=0", "--minimum-container-ttl-duration=1m"],
            vec!["--memory-throttling-factor=0.85", "--memory-reservation-policy=TieredReservation"],
        ] {
            let words: Vec<String> = given.into_iter().map(str::to_owned).collect();
            let first = read(&words);
            let again = read(&first.words());
            assert_eq!(format!("{first:?}"), format!("{again:?}"));
            assert_eq!(first.cpus().expect("a policy"), again.cpus().expect("a policy"));
            let config = |args: &NodeArgs| format!("{:?}", args.eviction.config().expect("a configuration"));
            assert_eq!(config(&first), config(&again));
            assert_eq!(first.memory.policy().expect("a policy"), again.memory.policy().expect("a policy"));
            assert_eq!(first.dead.policy(), again.dead.policy());
            assert_eq!(first.periods().expect("periods"), again.periods().expect("periods"));
        }
    }

    #[test]
    fn eviction_is_the_kubelets_and_what_it_refuses_is_refused_so() {
        let defaults = read(&[]).eviction.config().expect("a configuration");
        assert_eq!(format!("{defaults:?}"), format!("{:?}", node::EvictionConfig::default()));
        for (flag, why) in [
            ("--eviction-hard=memory.free<1Mi", "unsupported eviction signal memory.free"),
            ("--eviction-soft=memory.available<1Mi", "grace period must be specified for the soft eviction threshold"),
            ("--image-gc-high-threshold=80", "imageGCLowThresholdPercent (--image-gc-low-threshold) 80 must be less"),
        ] {
            let error = read(&[flag.to_owned()]).eviction.config().expect_err("refused");
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }

    #[test]
    fn as_many_dead_containers_stay_as_with_a_kubelet() {
        assert_eq!(read(&[]).dead.policy(), reconcile::containergc::Policy::default());
        let given = ["--maximum-dead-containers=0", "--maximum-dead-containers-per-container=-1"].map(str::to_owned);
        let policy = read(&given).dead.policy();
        assert_eq!((policy.most, policy.most_of_each), (Some(0), None));
    }

    #[test]
    fn memory_has_no_quality_of_service_unless_it_is_asked_for() {
        assert!(!read(&[]).memory.policy().expect("a policy").is_on());
        let wrong = read(&["--memory-throttling-factor=1.5".to_owned()]).memory.policy().expect_err("refused");
        assert!(format!("{wrong:#}").contains("memoryThrottlingFactor 1.5 must be greater than 0"), "{wrong:#}");
    }

    #[test]
    fn times_are_whole_seconds() {
        assert_eq!((seconds("0"), seconds("1m30s")), (Ok(0), Ok(90)));
        assert!(seconds("1500ms").is_err() && seconds("-1s").is_err() && seconds("x").is_err());
    }
}
