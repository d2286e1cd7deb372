//! New inputs from old ones.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

use crate::corpus::Corpus;

/// Longest input, bytes.
pub const LONGEST: usize = 64 << 10;
/// Most changes to one input.
const CHANGES: usize = 6;

/// What parsers tend to trip over.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    "é".as_bytes(),
    "\u{202e}".as_bytes(),
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"\"",
    b"'",
    b"\\",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b")",
    b",",
    b":",
    b";",
    b"-",
    b"--",
    b"+",
    b"/",
    b"~0",
    b"~1",
    b"*",
    b"&a ",
    b"*a",
    b"!!",
    b"|",
    b">",
    b"%",
    b"=",
    b"==",
    b"!=",
    b"!",
    b" in (",
    b" notin (",
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1e999",
    b"9223372036854775808",
    b"18446744073709551616",
    b"0.0000000000000000000001",
    b"Ki",
    b"Ei",
    b"n",
    b"e3",
    b"@yearly",
    b"L",
    b"has(",
    b".all(x, ",
    b".map(x, ",
    b"self",
    b"&&",
    b"||",
    b"?",
    b"$patch",
    b"$setElementOrder/",
    b"$retainKeys",
    b"k8s\0",
    b"\x0a",
    b"\x12\x80\x80\x80\x80\x10",
    b"\x80\x03",
];

/// An input that is likely new.
pub fn input(corpus: &Corpus, is_json: bool, rng: &mut SmallRng) -> Vec<u8> {
    let pick = |rng: &mut SmallRng| corpus.inputs().choose(rng).cloned().unwrap_or_default();
    let (mut input, other) = (pick(rng), pick(rng));
    if is_json
        && rng.random_bool(0.85)
        && let Ok(mut value) = serde_json::from_slice::<Value>(&input)
    {
        let other = serde_json::from_slice(&other).unwrap_or(Value::Null);
        for _ in 0..rng.random_range(1..=CHANGES) {
            spoil(&mut value, &other, rng, 0);
        }
        input = value.to_string().into_bytes();
    } else {
        for _ in 0..rng.random_range(1..=CHANGES) {
            change(&mut input, &other, rng);
        }
    }
    input.truncate(LONGEST);
    input
}

/// One change to bytes.
fn change(input: &mut Vec<u8>, other: &[u8], rng: &mut SmallRng) {
    let at = rng.random_range(0..=input.len());
    let end = rng.random_range(at..=input.len().min(at + 64));
    match rng.random_range(0..9) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => drop(input.drain(at..end)),
        3 => drop(input.splice(at..at, input[at..end].to_vec())),
        4 => {
            // Many times: what is slow shows.
            let piece = input[at..end].to_vec();
            let times = 1usize << rng.random_range(1..13);
            if piece.len() * times <= LONGEST {
                input.splice(at..at, piece.repeat(times));
            }
        }
        5 if !other.is_empty() => {
            let from = rng.random_range(0..other.len());
            let to = rng.random_range(from..=other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        6 => input.truncate(at),
        _ => {
            let token = TOKENS.choose(rng).copied().unwrap_or_default();
            input.splice(at..if rng.random() { at } else { end }, token.iter().copied());
        }
    }
}

fn junk(rng: &mut SmallRng) -> Value {
    match rng.random_range(0..12) {
        0 => Value::Null,
        1 => rng.random::<bool>().into(),
        2 => rng.random_range(-2..3).into(),
        3 => [i64::MIN, i64::MAX, i64::from(i32::MAX) + 1].choose(rng).copied().into(),
        4 => u64::MAX.into(),
        5 => 1e300.into(),
        6 => "a".repeat(1 << rng.random_range(0..12)).into(),
        7 => json!([]),
        8 => json!({}),
        9 => json!([null, {}, [], "a", 1, {"name": "a"}]),
        10 => json!({"": null, "name": [], "$patch": "delete", "a/b": {}, "~": 1}),
        _ => {
            let token = TOKENS.choose(rng).copied().unwrap_or_default();
            String::from_utf8_lossy(token).into_owned().into()
        }
    }
}

/// Replaces, removes, adds or repeats something somewhere.
fn spoil(value: &mut Value, other: &Value, rng: &mut SmallRng, depth: usize) {
    if depth > 60 {
        return;
    }
    match value {
        Value::Object(map) if !map.is_empty() && rng.random_bool(0.85) => object(map, other, rng, depth),
        Value::Array(list) if !list.is_empty() && rng.random_bool(0.85) => {
            let at = rng.random_range(0..list.len());
            match rng.random_range(0..9) {
                0 => drop(list.remove(at)),
                1 => list.insert(at, list[at].clone()),
                2 => list.push(junk(rng)),
                3 if list.len() < 200 => list.extend(list.clone()),
                4 => list.reverse(),
                _ => spoil(&mut list[at], other, rng, depth + 1),
            }
        }
        Value::String(text) if rng.random_bool(0.6) => {
            let mut bytes = std::mem::take(text).into_bytes();
            change(&mut bytes, b"", rng);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        Value::Number(number) if rng.random_bool(0.5) => {
            let by = rng.random_range(-2i64..3);
            *value = number
                .as_i64()
                .map_or(Value::Null, |n| n.wrapping_mul(1 << rng.random_range(0..3)).wrapping_add(by).into());
        }
        whole => *whole = if rng.random_bool(0.2) { part(other, rng) } else { junk(rng) },
    }
}

fn object(map: &mut Map<String, Value>, other: &Value, rng: &mut SmallRng, depth: usize) {
    let keys: Vec<String> = map.keys().cloned().collect();
    let Some(key) = keys.choose(rng) else { return };
    match rng.random_range(0..12) {
        0 => drop(map.remove(key)),
        1 => {
            let names =
                ["name", "type", "x", "", "$patch", "$retainKeys", "namespace", "kind", "items", "metadata", "spec"];
            let name = names.choose(rng).copied().unwrap_or_default();
            map.insert(name.to_owned(), junk(rng));
        }
        2 => {
            // Under a name that differs a little.
            let mut bytes = key.clone().into_bytes();
            change(&mut bytes, b"", rng);
            bytes.truncate(300);
            let value = map.get(key).cloned().unwrap_or_default();
            map.insert(String::from_utf8_lossy(&bytes).into_owned(), value);
        }
        3 => {
            let inner = map.get(key).cloned().unwrap_or_default();
            map.insert(key.clone(), json!({key.as_str(): inner}));
        }
        _ => {
            if let Some(value) = map.get_mut(key) {
                spoil(value, other, rng, depth + 1);
            }
        }
    }
}

/// Some part of a value.
fn part(value: &Value, rng: &mut SmallRng) -> Value {
    let inner: Vec<&Value> = match value {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    };
    match inner.choose(rng) {
        Some(inner) if rng.random_bool(0.7) => part(inner, rng),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::targets::TARGETS;

    #[test]
    fn inputs_are_bounded_and_the_same_for_the_same_seed() {
        for target in TARGETS {
            let corpus = Corpus::of(target);
            let inputs = |seed: u64| {
                let mut rng = SmallRng::seed_from_u64(seed);
                (0..200).map(|_| input(&corpus, target.json, &mut rng)).collect::<Vec<_>>()
            };
            let made = inputs(7);
            assert!(made.iter().all(|input| input.len() <= LONGEST));
            assert!(made == inputs(7) && made != inputs(8), "{}", target.name);
        }
    }
}
