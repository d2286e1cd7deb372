//! Time of day, and its RFC 3339 form, without a calendar library in the shim's pages.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Since the epoch.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    i64::try_from(now().as_millis()).unwrap_or(i64::MAX)
}

/// Year, month, day, hour, minute, second in UTC.
pub struct Civil {
    /// Year, month, day.
    pub date: (i64, u32, u32),
    /// Hour, minute, second.
    pub time: (u32, u32, u32),
}

/// Days to civil date after Howard Hinnant's `civil_from_days`.
pub fn civil(since_epoch: Duration) -> Civil {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(0);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let small = |n: i64| u32::try_from(n).unwrap_or(0);
    Civil {
        date: (year, small(month), small(day)),
        time: (small(rest / 3_600), small(rest / 60 % 60), small(rest % 60)),
    }
}

/// Appends `2006-01-02T15:04:05.000000000Z`.
pub fn push_rfc3339(out: &mut Vec<u8>, since_epoch: Duration) {
    let Civil { date: (y, mo, d), time: (h, mi, s) } = civil(since_epoch);
    let nanos = since_epoch.subsec_nanos();
    write!(out, "{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{nanos:09}Z").expect("a vector takes every write");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        for (seconds, nanos, want) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, 5, "2000-02-29T00:00:00.000000005Z"),
            (1_709_210_096, 999_999_999, "2024-02-29T12:34:56.999999999Z"),
            (4_102_444_799, 0, "2099-12-31T23:59:59.000000000Z"),
        ] {
            let mut out = Vec::new();
            push_rfc3339(&mut out, Duration::new(seconds, nanos));
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }
}
