//! Flags of the node: read for an agent, and handed on to it by the server that starts it.

use crate::cli::{CpuManagerPolicy, NodeArgs};
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
        ] {
            let words: Vec<String> = given.into_iter().map(str::to_owned).collect();
            let first = read(&words);
            let again = read(&first.words());
            assert_eq!(format!("{first:?}"), format!("{again:?}"));
            assert_eq!(first.cpus().expect("a policy"), again.cpus().expect("a policy"));
            assert_eq!(first.periods().expect("periods"), again.periods().expect("periods"));
        }
    }

    #[test]
    fn times_are_whole_seconds() {
        assert_eq!((seconds("0"), seconds("1m30s")), (Ok(0), Ok(90)));
        assert!(seconds("1500ms").is_err() && seconds("-1s").is_err() && seconds("x").is_err());
    }
}
