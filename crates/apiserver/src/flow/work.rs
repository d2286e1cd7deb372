//! How much work a request is, in seats (KEP-1040, width of requests). Pure.
//!
//! A list costs memory for what it shows at one time; all others count as one. Lists come from the cache and are streamed, so
//! what is shown at one time is bounded. A write that many watch goes on to cost when it has been answered: each of them is
//! told of it.

use std::time::Duration;

/// Bytes of objects that one seat stands for, and the most that a streamed list holds at one time: Kubernetes' figures.
const BYTES_PER_SEAT: u64 = 100_000;
const STREAMED_MAX: u64 = 1_000_000;

/// Watches that one seat stands for while they are told of a write, for how long, and most seats that a write takes:
/// Kubernetes' figures.
const WATCHES_PER_SEAT: u64 = 10;
const EVENT: Duration = Duration::from_millis(5);
const WRITE_MAX: u32 = 10;

/// What a request takes: seats while it runs, and others for a while afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    /// Seats while it runs.
    pub initial: u32,
    /// Seats when it has been answered.
    pub last: u32,
    /// How long it keeps those.
    pub latency: Duration,
}

impl Width {
    /// So many seats, and nothing afterwards.
    pub fn seats(initial: u32) -> Self {
        Width { initial, last: 0, latency: Duration::ZERO }
    }

    /// Seats that are taken from the beginning to the end.
    pub fn most(self) -> u32 {
        self.initial.max(self.last)
    }
}

/// What a write takes that so many watches may see, where a request may take at most `most` seats. Few watches cost nothing.
pub fn written(watches: usize, most: u32) -> Width {
    let seats = (watches as u64).div_ceil(WATCHES_PER_SEAT);
    if (watches as u64) < WATCHES_PER_SEAT {
        return Width::seats(1);
    }
    let last = u32::try_from(seats).unwrap_or(u32::MAX).min(most.clamp(1, WRITE_MAX));
    // The same work: where the seats are fewer, it takes longer.
    let nanos = u128::from(seats) * EVENT.as_nanos() / u128::from(last.max(1));
    Width { initial: 1, last, latency: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)) }
}

/// What there is to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Objects of the kind.
    pub objects: u64,
    /// Bytes of one, on the average.
    pub average: u64,
}

/// Seats of a list of at most `limit` objects (0: of all) where a request may take at most `most`.
pub fn seats(stored: Stored, limit: u64, most: u32) -> u32 {
    let objects = if limit == 0 { stored.objects } else { stored.objects.min(limit) };
    let bytes = objects.saturating_mul(stored.average).min(STREAMED_MAX);
    u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(u32::MAX).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_goes_on_to_take_seats_for_those_who_watch_it() {
        for (watches, most, last, micros) in [
            (0, 10, 0, 0),
            (9, 10, 0, 0),
            (10, 10, 1, 5_000),
            (11, 10, 2, 5_000),
            (100, 10, 10, 5_000),
            (300, 10, 10, 15_000),
            (300, 37, 10, 15_000),
            (100, 4, 4, 12_500),
            (100, 0, 1, 50_000),
        ] {
            let want = Width { initial: 1, last, latency: Duration::from_micros(micros) };
            assert_eq!(written(watches, most), want, "{watches} {most}");
        }
    }

    #[test]
    fn a_list_takes_seats_by_what_it_shows() {
        let of = |objects, average| Stored { objects, average };
        for (stored, limit, most, want) in [
            (of(0, 0), 0, 10, 1),
            (of(50, 2_000), 0, 10, 1),
            (of(51, 2_000), 0, 10, 2),
            (of(5_000, 2_000), 0, 100, 10),
            (of(5_000, 2_000), 0, 3, 3),
            (of(5_000, 2_000), 100, 100, 2),
            (of(5_000, 2_000), 0, 0, 1),
            (of(u64::MAX, u64::MAX), 0, 100, 10),
        ] {
            assert_eq!(seats(stored, limit, most), want, "{stored:?} {limit} {most}");
        }
    }
}
