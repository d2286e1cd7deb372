//! Thresholds as flags of the kubelet write them, and its words about those that it does not take.

use std::collections::BTreeMap;
use std::time::Duration;

use api::quantity::Quantity;

use super::{Amount, Signal, Threshold};

/// What the kubelet has without a flag.
pub const DEFAULT_HARD: &str =
    "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";

/// A flag's words by signal; of two for one the last counts.
pub type Pairs = BTreeMap<String, String>;

fn pairs(text: &str, between: char) -> Result<Pairs, String> {
    let words = text.split(',').filter(|w| !w.is_empty());
    let pair = |word: &str| {
        let (signal, value) = word.split_once(between)?;
        Some((signal.trim().to_owned(), value.trim().to_owned()))
    };
    words.map(|w| pair(w).ok_or_else(|| format!("malformed pair, expect string{between}string"))).collect()
}

/// Reads `signal<value,…`.
///
/// # Errors
/// A word has no `<`.
pub fn below(text: &str) -> Result<Pairs, String> {
    pairs(text, '<')
}

/// Reads `signal=value,…`.
///
/// # Errors
/// A word has no `=`.
pub fn above(text: &str) -> Result<Pairs, String> {
    pairs(text, '=')
}

fn signal(name: &str) -> Result<Signal, String> {
    Signal::ALL.into_iter().find(|s| s.as_str() == name).ok_or_else(|| format!("unsupported eviction signal {name}"))
}

fn part(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%');
    let parsed = number.parse::<f64>().ok().filter(|n| n.is_finite());
    Ok(parsed.ok_or_else(|| format!("strconv.ParseFloat: parsing {number:?}: invalid syntax"))? / 100.0)
}

/// `None` for thresholds that are never met, or always: these are off.
fn threshold(name: &str, text: &str) -> Result<Option<Threshold>, String> {
    let signal = signal(name)?;
    let value = if text.ends_with('%') {
        if text == "0%" || text == "100%" {
            return Ok(None);
        }
        let part = part(text)?;
        if part < 0.0 {
            return Err(format!("eviction percentage threshold {name} must be >= 0%: {text}"));
        }
        if part > 1.0 {
            return Err(format!("eviction percentage threshold {name} must be <= 100%: {text}"));
        }
        Amount::Part(part)
    } else {
        let quantity = Quantity::parse(text).map_err(|e| e.to_string())?;
        if quantity.signum() <= 0 {
            return Err(format!("eviction threshold {name} must be positive: {quantity}"));
        }
        Amount::Exact(quantity)
    };
    Ok(Some(Threshold { signal, value, grace: Duration::ZERO, reclaim: None }))
}

fn all(statements: &Pairs) -> Result<Vec<Threshold>, String> {
    let read: Result<Vec<_>, String> = statements.iter().map(|(name, text)| threshold(name, text)).collect();
    Ok(read?.into_iter().flatten().collect())
}

fn grace(text: &str) -> Result<Duration, String> {
    let period = api::duration::parse(text)?;
    Duration::try_from(period)
        .map_err(|_| format!("invalid eviction grace period specified: {text}, must be a positive value"))
}

fn reclaim(name: &str, text: &str) -> Result<Amount, String> {
    if text.ends_with('%') {
        let part = part(text)?;
        if part <= 0.0 {
            return Err(format!("eviction percentage minimum reclaim {name} must be positive: {text}"));
        }
        return Ok(Amount::Part(part));
    }
    let quantity = Quantity::parse(text).map_err(|e| e.to_string())?;
    if quantity.signum() < 0 {
        return Err(format!("negative eviction minimum reclaim specified for {name}"));
    }
    Ok(Amount::Exact(quantity))
}

/// The thresholds of `--eviction-hard`, `--eviction-soft`, `--eviction-soft-grace-period` and `--eviction-minimum-reclaim`.
///
/// # Errors
/// In the kubelet's words: a signal that there is none of, an amount or a time that cannot be, a soft threshold without time.
pub fn thresholds(hard: &Pairs, soft: &Pairs, graces: &Pairs, reclaims: &Pairs) -> Result<Vec<Threshold>, String> {
    let (mut list, mut soft) = (all(hard)?, all(soft)?);
    let mut periods = BTreeMap::new();
    for (name, text) in graces {
        periods.insert(signal(name)?, grace(text)?);
    }
    let mut more = BTreeMap::new();
    for (name, text) in reclaims {
        more.insert(signal(name)?, reclaim(name, text)?);
    }
    for t in &mut soft {
        let missing =
            || format!("grace period must be specified for the soft eviction threshold {}", t.signal.as_str());
        t.grace = *periods.get(&t.signal).ok_or_else(missing)?;
    }
    list.extend(soft);
    for t in &mut list {
        t.reclaim = more.get(&t.signal).copied();
    }
    Ok(list)
}
