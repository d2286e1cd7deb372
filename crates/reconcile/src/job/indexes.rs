//! `completedIndexes`: sorted numbers with runs written as ranges, e.g. `1,3-5,7` (batch/v1 JobStatus).

use std::collections::BTreeSet;

/// A set of completion indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexSet(BTreeSet<u32>);

/// Most indexes a Job can have (batch/v1: completions of an Indexed Job with parallelism within limits).
const MAX: u32 = 1_000_000;

impl IndexSet {
    /// Reads the text form; parts that are no numbers are left out.
    pub fn parse(text: &str) -> Self {
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (a, b) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(a), Ok(b)) = (a.parse::<u32>(), b.parse::<u32>()) {
                set.extend(a..=b.min(MAX));
            }
        }
        IndexSet(set)
    }

    /// Whether the index is in the set.
    pub fn contains(&self, i: u32) -> bool {
        self.0.contains(&i)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in both sets.
    pub fn common(&self, other: &IndexSet) -> usize {
        self.0.intersection(&other.0).count()
    }

    /// Adds every index of another set.
    pub fn extend(&mut self, other: &IndexSet) {
        self.0.extend(&other.0);
    }

    /// Adds an index.
    pub fn insert(&mut self, i: u32) {
        self.0.insert(i);
    }

    /// Adds and returns the smallest index that is not in the set.
    pub fn take_first_free(&mut self) -> u32 {
        let mut free = 0;
        for &i in &self.0 {
            if i != free {
                break;
            }
            free += 1;
        }
        self.0.insert(free);
        free
    }
}

impl std::fmt::Display for IndexSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for &i in &self.0 {
            match runs.last_mut() {
                Some((_, end)) if *end + 1 == i => *end = i,
                _ => runs.push((i, i)),
            }
        }
        let text: Vec<String> = runs
            .into_iter()
            .flat_map(|(a, b)| match b - a {
                0 => vec![a.to_string()],
                1 => vec![a.to_string(), b.to_string()],
                _ => vec![format!("{a}-{b}")],
            })
            .collect();
        f.write_str(&text.join(","))
    }
}
