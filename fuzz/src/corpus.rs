//! Inputs worth changing.

use std::collections::HashSet;

use crate::mutate::LONGEST;
use crate::targets::Target;

/// Most inputs that are kept.
const MOST: usize = 4096;
/// Longest outcome that counts as different from others.
const OUTCOME: usize = 120;

/// The seeds of a target, and inputs that had an outcome which none before had.
pub struct Corpus {
    inputs: Vec<Vec<u8>>,
    seeds: usize,
    outcomes: HashSet<String>,
}

impl Corpus {
    /// The seeds.
    pub fn of(target: &Target) -> Self {
        let inputs: Vec<Vec<u8>> = (target.seeds)();
        Corpus { seeds: inputs.len(), inputs, outcomes: HashSet::new() }
    }

    /// A seed as it is.
    pub fn seed(&self, index: usize) -> Option<&[u8]> {
        self.inputs[..self.seeds].get(index).map(Vec::as_slice)
    }

    /// All inputs.
    pub fn inputs(&self) -> &[Vec<u8>] {
        &self.inputs
    }

    /// Keeps an input if its outcome is new. Numbers and what stands in quotes make no difference.
    pub fn learn(&mut self, input: &[u8], outcome: &str) {
        if self.inputs.len() >= MOST || input.len() > LONGEST / 4 {
            return;
        }
        let mut quoted = false;
        let shape: String = outcome
            .chars()
            .filter(|c| {
                quoted ^= matches!(c, '"' | '\'' | '`');
                !quoted && !c.is_ascii_digit()
            })
            .take(OUTCOME)
            .collect();
        if self.outcomes.insert(shape) {
            self.inputs.push(input.to_vec());
        }
    }
}
