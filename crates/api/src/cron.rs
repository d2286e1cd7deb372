//! Cron schedules as batch/v1 CronJob reads them: five fields with lists, ranges, steps and names, the `@` words, and
//! `@every`; what cannot be read is explained in the words of the parser that Kubernetes uses. In a day that is an hour
//! shorter, what falls into the gap is left out; in one that is an hour longer, what falls into the repeated hour happens
//! twice (the rule of that parser).

use std::sync::OnceLock;
use std::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

use crate::duration;

/// Days that are looked through for a match: leap days are at most eight years apart.
const DAYS_MAX: usize = 366 * 8 + 1;

/// When something should happen, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At times of the clock.
    Clock(Fields),
    /// After every such span, at least a second.
    Every(Duration),
}

/// The five fields, each a set of numbers as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Day and weekday both restricted: either is enough (crontab(5)).
    either_day: bool,
}

/// One of the five fields.
struct Field {
    min: u32,
    max: u32,
    /// Names for values from `min` on.
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Minute, hour, day of month, month, day of week.
const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: MONTHS },
    Field { min: 0, max: 6, names: WEEKDAYS },
];

impl Schedule {
    /// Reads a schedule. A zone in front of it (`TZ=`), which CronJobs may not have, is passed over.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let zoned = ["TZ=", "CRON_TZ="].iter().any(|p| text.starts_with(p));
        let text = if zoned { text.split_once(' ').map_or("", |(_, rest)| rest.trim()) } else { text };
        if let Some(span) = text.strip_prefix("@every ") {
            let span = duration::parse(span).map_err(|e| format!("failed to parse duration {text}: {e}"))?;
            let seconds = u64::try_from(span.as_secs()).unwrap_or(0).max(1);
            return Ok(Schedule::Every(Duration::from_secs(seconds)));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            word if word.starts_with('@') => return Err(format!("unrecognized descriptor: {word}")),
            other => other,
        };
        let written: Vec<&str> = text.split_whitespace().collect();
        if written.len() != FIELDS.len() {
            let listed = written.join(" ");
            return Err(format!("expected exactly {} fields, found {}: [{listed}]", FIELDS.len(), written.len()));
        }
        let mut sets = [(0, false); FIELDS.len()];
        for ((set, field), text) in sets.iter_mut().zip(&FIELDS).zip(written) {
            *set = field.parse(text)?;
        }
        let [(minutes, _), (hours, _), (days, any_day), (months, _), (weekdays, any_weekday)] = sets;
        let either_day = !any_day && !any_weekday;
        Ok(Schedule::Clock(Fields { minutes, hours, days, months, weekdays, either_day }))
    }

    /// The first time after `after`, or `None` if there is none within years (e.g. the 30th of February).
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(span) => {
                let seconds = i64::try_from(span.as_secs()).ok()?;
                Timestamp::from_second(after.as_second().checked_add(seconds)?).ok()
            }
            Schedule::Clock(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    fn day_fits(&self, t: &Zoned) -> bool {
        let has = |bits: u64, n: i8| u32::try_from(n).is_ok_and(|n| bits >> n & 1 == 1);
        if !has(self.months, t.month()) {
            return false;
        }
        let day = has(self.days, t.day());
        let weekday = has(self.weekdays, t.weekday().to_sunday_zero_offset());
        if self.either_day { day || weekday } else { day && weekday }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let has = |bits: u64, n: i8| u32::try_from(n).is_ok_and(|n| bits >> n & 1 == 1);
        let minute = after.as_second().div_euclid(60) + 1;
        let mut t = Timestamp::from_second(minute * 60).ok()?.to_zoned(zone.clone());
        let mut days = 0;
        loop {
            if !self.day_fits(&t) {
                days += 1;
                if days > DAYS_MAX {
                    return None;
                }
                t = t.tomorrow().ok()?.start_of_day().ok()?;
            } else if !has(self.hours, t.hour()) {
                t = later(&t, 60 - i64::from(t.minute()), zone)?;
            } else if !has(self.minutes, t.minute()) {
                t = later(&t, 1, zone)?;
            } else {
                return Some(t.timestamp());
            }
        }
    }
}

/// Real minutes later, whatever the clock on the wall does meanwhile.
fn later(t: &Zoned, minutes: i64, zone: &TimeZone) -> Option<Zoned> {
    let at = t.timestamp().as_second() - i64::from(t.second()) + minutes * 60;
    Some(Timestamp::from_second(at).ok()?.to_zoned(zone.clone()))
}

impl Field {
    /// The set as bits, and whether it is everything without a step.
    fn parse(&self, text: &str) -> Result<(u64, bool), String> {
        let mut set = (0, false);
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (bits, any) = self.range(part)?;
            set = (set.0 | bits, set.1 | any);
        }
        Ok(set)
    }

    /// `*`, `a`, `a-b`, each with an optional `/step`.
    fn range(&self, text: &str) -> Result<(u64, bool), String> {
        let (min, max) = (self.min, self.max);
        let mut parts = text.split('/');
        let bounds: Vec<&str> = parts.next().unwrap_or("").split('-').collect();
        let whole = matches!(bounds[0], "*" | "?");
        let (start, mut end) = match bounds[..] {
            _ if whole => (min, max),
            [only] => (self.number_or_name(only)?, self.number_or_name(only)?),
            [start, end] => (self.number_or_name(start)?, self.number_or_name(end)?),
            _ => return Err(format!("too many hyphens: {text}")),
        };
        let mut step = 1;
        if let Some(written) = parts.next() {
            step = number(written)?;
            if parts.next().is_some() {
                return Err(format!("too many slashes: {text}"));
            }
            // `5/15` is `5-59/15`.
            if bounds.len() == 1 {
                end = max;
            }
        }
        match () {
            () if start < min => Err(format!("beginning of range ({start}) below minimum ({min}): {text}")),
            () if end > max => Err(format!("end of range ({end}) above maximum ({max}): {text}")),
            () if start > end => Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}")),
            () if step == 0 => Err(format!("step of range should be a positive number: {text}")),
            () => {
                let step_by = usize::try_from(step).unwrap_or(usize::MAX);
                let bits = (start..=end).step_by(step_by).fold(0u64, |bits, n| bits | 1 << n);
                Ok((bits, whole && step == 1))
            }
        }
    }

    fn number_or_name(&self, text: &str) -> Result<u32, String> {
        match self.names.iter().position(|n| n.eq_ignore_ascii_case(text)) {
            Some(i) => Ok(self.min + u32::try_from(i).unwrap_or(0)),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    let syntax = || format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax");
    match text.parse::<i64>() {
        Err(_) => Err(syntax()),
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => u32::try_from(n).map_err(|_| syntax()),
    }
}

/// The time zone of that name in the IANA database, which is part of the program: a host without one decides the same.
pub fn zone(name: &str) -> Option<TimeZone> {
    static ZONES: OnceLock<TimeZoneDatabase> = OnceLock::new();
    ZONES.get_or_init(TimeZoneDatabase::bundled).get(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn next(schedule: &str, after: &str, zone_name: &str) -> String {
        let zone = zone(zone_name).unwrap();
        Schedule::parse(schedule).unwrap().next(at(after), &zone).map_or("never".into(), |t| t.to_string())
    }

    #[test]
    fn times_follow_the_fields() {
        let table = [
            ("*/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"),
            ("*/15 * * * *", "2026-01-01T00:14:59Z", "2026-01-01T00:15:00Z"),
            ("5/20 * * * *", "2026-01-01T00:30:00Z", "2026-01-01T00:45:00Z"),
            ("0 9-17/4 * * mon-FRI", "2026-01-02T17:30:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 */2 * 5", "2026-01-02T12:00:00Z", "2026-01-03T00:00:00Z"),
            ("30 4 1,15 * *", "2026-01-01T04:30:00Z", "2026-01-15T04:30:00Z"),
            ("0 0 29 feb ?", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 30 2 *", "2026-01-01T00:00:00Z", "never"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:10Z", "2026-01-01T01:30:10Z"),
        ];
        for (schedule, after, expected) in table {
            assert_eq!(next(schedule, after, "UTC"), expected, "{schedule} after {after}");
        }
    }

    #[test]
    fn the_clock_is_the_one_of_the_zone() {
        assert_eq!(next("0 9 * * *", "2026-01-01T12:00:00Z", "America/New_York"), "2026-01-01T14:00:00Z");
        // The gap of spring has no 02:30, the long night of autumn has 01:30 twice.
        assert_eq!(next("30 2 * * *", "2026-03-08T05:00:00Z", "America/New_York"), "2026-03-09T06:30:00Z");
        assert_eq!(next("30 1 * * *", "2026-11-01T05:00:00Z", "America/New_York"), "2026-11-01T05:30:00Z");
        assert_eq!(next("30 1 * * *", "2026-11-01T05:30:00Z", "America/New_York"), "2026-11-01T06:30:00Z");
        assert!(zone("Mars/Olympus").is_none());
    }

    #[test]
    fn schedules_that_people_write_are_read() {
        for ok in [
            "* * * * *",
            "1,,2 * * * *",
            "@every -5m",
            "*/5 0-6,22-23 1,15 jan-MAR mon",
            "0 0 ? * 0",
            "5/15 * * * *",
            "@hourly",
            "@midnight",
            "@every 1h30m",
            "TZ=UTC 0 0 * * *",
        ] {
            assert!(Schedule::parse(ok).is_ok(), "{ok}");
        }
    }

    #[test]
    fn others_are_explained() {
        for (bad, why) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-2 * * * *", "beginning of range (5) beyond end of range (2): 5-2"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every 5x", "failed to parse duration @every 5x: time: unknown unit \"x\" in duration \"5x\""),
        ] {
            assert_eq!(Schedule::parse(bad).unwrap_err(), why, "{bad}");
        }
    }
}
