//! `/debug/api_priority_and_fairness/…`: tables of the levels, their queues and the requests in them.

use std::collections::HashMap;

use jiff::Timestamp;

use super::FlowControl;
use super::requests::Request;

const LEVELS: [&str; 10] = [
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];

const QUEUES: [&str; 9] = [
    "PriorityLevelName",
    "Index",
    "PendingRequests",
    "ExecutingRequests",
    "SeatsInUse",
    "NextDispatchR",
    "InitialSeatsSum",
    "MaxSeatsSum",
    "TotalWorkSum",
];

const REQUESTS: [&str; 10] = [
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];

const DETAILS: [&str; 8] =
    ["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"];

/// What runs or waits of a queue.
#[derive(Default)]
struct Queue {
    pending: u32,
    executing: u32,
    in_use: u32,
    initial: u32,
    most: u32,
}

impl FlowControl {
    /// A page of `/debug/api_priority_and_fairness/`, by its last part.
    pub fn dump(&self, page: &str, query: &str) -> Option<String> {
        match page {
            "dump_priority_levels" => Some(self.dump_levels()),
            "dump_queues" => Some(self.dump_queues()),
            "dump_requests" => {
                let detail = query.split('&').filter_map(|pair| pair.split_once('='));
                let wanted = detail.into_iter().any(|(key, value)| key == "includeRequestDetails" && !value.is_empty());
                Some(self.dump_requests(wanted))
            }
            _ => None,
        }
    }

    /// Names of the levels that limit, in order.
    fn limited(&self) -> Vec<String> {
        let mut names: Vec<String> = self.plan.load().levels.keys().cloned().collect();
        names.sort();
        names
    }

    /// A row for each level that limits its requests.
    fn dump_levels(&self) -> String {
        let plan = self.plan.load();
        let mut rows = vec![LEVELS.map(str::to_owned).to_vec()];
        for name in self.limited() {
            let Some(level) = plan.levels.get(&name) else { continue };
            let told = level.digest();
            let idle = told.waiting == 0 && told.executing == 0;
            rows.push(vec![
                name,
                told.active_queues.to_string(),
                idle.to_string(),
                // One that is no longer wanted is out of the plan at once.
                false.to_string(),
                told.waiting.to_string(),
                told.executing.to_string(),
                told.dispatched.to_string(),
                told.rejected.to_string(),
                told.timed_out.to_string(),
                told.cancelled.to_string(),
            ]);
        }
        aligned(&rows)
    }

    /// A row for each queue. Requests that found a seat at once were in none; what a queue is served by is counted in seats.
    fn dump_queues(&self) -> String {
        let (plan, names) = (self.plan.load(), self.limited());
        let requests = self.requests.all();
        let mut queues: HashMap<(&str, i64), Queue> = HashMap::new();
        for request in &requests {
            let queue = queues.entry((&request.level, request.queue())).or_default();
            let (first, most) = (request.width.initial, request.width.most());
            if request.started().is_some() {
                queue.executing += 1;
                queue.in_use += most;
            } else {
                queue.pending += 1;
                queue.initial += first;
                queue.most += most;
            }
        }
        let mut rows = vec![QUEUES.map(str::to_owned).to_vec()];
        for name in &names {
            let Some(level) = plan.levels.get(name) else { continue };
            for (index, next) in level.served().into_iter().enumerate() {
                let queue = queues.remove(&(name.as_str(), index as i64)).unwrap_or_default();
                rows.push(vec![
                    name.clone(),
                    index.to_string(),
                    queue.pending.to_string(),
                    queue.executing.to_string(),
                    queue.in_use.to_string(),
                    next.to_string(),
                    queue.initial.to_string(),
                    queue.most.to_string(),
                    queue.most.to_string(),
                ]);
            }
        }
        aligned(&rows)
    }

    /// A row for each request.
    fn dump_requests(&self, details: bool) -> String {
        let mut head = REQUESTS.map(str::to_owned).to_vec();
        if details {
            head.extend(DETAILS.map(str::to_owned));
        }
        let mut rows = vec![head];
        let mut waiting: HashMap<(&str, i64), usize> = HashMap::new();
        let requests = self.requests.all();
        for request in &requests {
            let index = match request.started() {
                Some(_) => "-1".to_owned(),
                None => {
                    let next = waiting.entry((&request.level, request.queue())).or_default();
                    *next += 1;
                    (*next - 1).to_string()
                }
            };
            rows.push(row(request, index, details));
        }
        // As they are in their queues.
        rows[1..].sort_by(|a, b| a[0].cmp(&b[0]));
        aligned(&rows)
    }
}

fn row(request: &Request, index: String, details: bool) -> Vec<String> {
    // Go's zero time.
    let started = request.started().map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), time);
    let mut row = vec![
        request.level.to_string(),
        request.schema.to_string(),
        request.queue().to_string(),
        index,
        request.distinguisher.clone(),
        time(request.arrived),
        request.width.initial.to_string(),
        request.width.last.to_string(),
        duration(request.width.latency),
        started,
    ];
    if details {
        let asked = &request.asked;
        row.push(request.user.clone());
        let parts = [&asked.verb, &asked.path, &asked.namespace, &asked.name, &asked.api_version, &asked.resource];
        row.extend(parts.into_iter().chain([&asked.subresource]).cloned());
    }
    row
}

fn time(at: Timestamp) -> String {
    at.to_string()
}

/// As Go writes it: `0s`, `5ms`, `7.5ms`.
fn duration(of: std::time::Duration) -> String {
    match of.as_nanos() {
        0 => "0s".to_owned(),
        nanos if nanos < 1_000_000 => format!("{}µs", nanos as f64 / 1e3),
        nanos if nanos < 1_000_000_000 => format!("{}ms", nanos as f64 / 1e6),
        nanos => format!("{}s", nanos as f64 / 1e9),
    }
}

/// Cells with commas after them, one below the other.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + 2;
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == columns {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{:<1$}", format!("{cell},"), widths[column]));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (micros, want) in [(0, "0s"), (250, "250µs"), (5_000, "5ms"), (7_500, "7.5ms"), (1_500_000, "1.5s")] {
            assert_eq!(duration(Duration::from_micros(micros)), want);
        }
    }
}
