//! Ids, and names for containers that were given none.

use rand::Rng;
use rand::seq::IndexedRandom;

const FIRST: [&str; 24] = [
    "amber", "brisk", "calm", "deft", "eager", "fair", "gentle", "hardy", "inky", "jolly", "keen", "lively", "mellow",
    "nimble", "ochre", "plain", "quiet", "ruddy", "steady", "tidy", "upbeat", "vivid", "warm", "zesty",
];
const SECOND: [&str; 24] = [
    "anchor", "bollard", "capstan", "davit", "ensign", "fender", "galley", "halyard", "inlet", "jetty", "keel",
    "lantern", "mast", "narrows", "oar", "pilot", "quay", "rudder", "sextant", "tiller", "upwind", "vessel", "winch",
    "yardarm",
];

/// 64 random hex digits, of which twelve are no number: those stand for the host's name too.
pub fn id() -> String {
    let mut rng = rand::rng();
    loop {
        let id: String = (0..4).map(|_| format!("{:016x}", rng.random::<u64>())).collect();
        if id[..12].bytes().any(|b| b.is_ascii_alphabetic()) {
            return id;
        }
    }
}

/// A name that nobody has, as far as `taken` knows.
pub fn name(taken: impl Fn(&str) -> bool) -> String {
    let mut rng = rand::rng();
    let mut made = String::new();
    for attempt in 0..8 {
        let first = FIRST.choose(&mut rng).copied().unwrap_or("plain");
        let second = SECOND.choose(&mut rng).copied().unwrap_or("winch");
        made = match attempt {
            0..4 => format!("{first}_{second}"),
            _ => format!("{first}_{second}{}", rng.random_range(0..1_000_000)),
        };
        if !taken(&made) {
            break;
        }
    }
    made
}

/// Whether Docker takes a name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn valid(name: &str) -> bool {
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    name.len() >= 2 && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_docker_takes() {
        assert!((0..50).all(|_| valid(&name(|_| false))));
        assert!((0..50).all(|_| id().len() == 64));
        for bad in ["", "a", "-a", "a b", "a/b", "ä"] {
            assert!(!valid(bad), "{bad}");
        }
    }
}
