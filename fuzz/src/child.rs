//! The process that tries inputs, and the file in which it notes them: a count and a length (eight bytes each), the input.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::corpus::Corpus;
use crate::mutate;
use crate::targets::Target;

/// Exit code after a panic.
pub const PANICKED: i32 = 101;
const HEADER: usize = 16;

/// Tries inputs for so long.
///
/// # Errors
/// The notes cannot be written.
pub fn run(target: &Target, seed: u64, span: Duration, state: &Path) -> io::Result<()> {
    let notes = File::create(state)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut corpus = Corpus::of(target);
    let end = Instant::now() + span;
    let mut count = 0u64;
    let mut buffer = Vec::new();
    while Instant::now() < end {
        let input = match corpus.seed(count as usize) {
            Some(seed) => seed.to_vec(),
            None => mutate::input(&corpus, target.json, &mut rng),
        };
        count += 1;
        buffer.clear();
        buffer.extend_from_slice(&count.to_le_bytes());
        buffer.extend_from_slice(&(input.len() as u64).to_le_bytes());
        buffer.extend_from_slice(&input);
        notes.write_all_at(&buffer, 0)?;
        // Where panics abort, the process ends here, and its parent knows.
        match catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            Ok(outcome) => corpus.learn(&input, &outcome),
            Err(_) => std::process::exit(PANICKED),
        }
    }
    Ok(())
}

/// How many inputs have been begun.
pub fn count(state: &Path) -> u64 {
    number(&std::fs::read(state).unwrap_or_default(), 0)
}

/// The last input.
pub fn input(state: &Path) -> Vec<u8> {
    let notes = std::fs::read(state).unwrap_or_default();
    let length = number(&notes, 8) as usize;
    notes.get(HEADER..HEADER + length).unwrap_or_default().to_vec()
}

fn number(notes: &[u8], at: usize) -> u64 {
    notes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}
