//! Rows of the table that is printed, each with the stock figure beside it and with what the server spent on it.

use crate::processes::Usage;
use crate::{median, stock};

/// Prints the heading.
pub fn heading() {
    println!("| measurement | median | rounds | server CPU | {} | ratio |\n|---|---|---|---|---|---|", stock::HEADING);
}

/// What one round gave.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// The figure.
    pub value: f64,
    /// CPU of the server for each request or event, microseconds.
    pub cpu_us: Option<f64>,
}

impl Round {
    /// From how much was done in a time, per second.
    pub fn rate(count: u64, seconds: f64, before: Option<Usage>, after: Option<Usage>) -> Self {
        let value = count as f64 / seconds;
        Round { value, cpu_us: spent(count, before, after) }
    }
}

/// CPU between two readings for each of `count`, microseconds.
pub fn spent(count: u64, before: Option<Usage>, after: Option<Usage>) -> Option<f64> {
    Some((after?.cpu_s - before?.cpu_s) * 1e6 / count.max(1) as f64)
}

/// Prints a row. `reported` is the stock figure; of times less is better, of rates more.
pub fn row(what: &str, rounds: &[Round], unit: &str, reported: Option<f64>) {
    let values: Vec<f64> = rounds.iter().map(|r| r.value).collect();
    let all: Vec<String> = values.iter().map(|v| format!("{v:.0}")).collect();
    let middle = median(&values);
    let cpu: Vec<f64> = rounds.iter().filter_map(|r| r.cpu_us).collect();
    let cpu = if cpu.is_empty() { String::new() } else { format!("{:.0} µs each", median(&cpu)) };
    let (stock, ratio) = match reported {
        None => (String::new(), String::new()),
        Some(reported) => {
            let ratio = if unit.trim() == "ms" { reported / middle } else { middle / reported };
            (format!("{reported:.0}{unit}"), format!("{ratio:.1}×"))
        }
    };
    println!("| {what} | {middle:.0}{unit} | {} | {cpu} | {stock} | {ratio} |", all.join(", "));
}
