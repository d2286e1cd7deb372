//! How much work a request is, in seats (KEP-1040, width of requests). Pure.
//!
//! A list costs memory for what it shows at one time; all others count as one. Lists come from the cache and are streamed, so
//! what is shown at one time is bounded.

/// Bytes of objects that one seat stands for, and the most that a streamed list holds at one time: Kubernetes' figures.
const BYTES_PER_SEAT: u64 = 100_000;
const STREAMED_MAX: u64 = 1_000_000;

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
