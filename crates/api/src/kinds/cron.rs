//! The syntax of cron schedules, with the explanations of the parser that Kubernetes uses.

/// One of the five fields.
struct Field {
    min: u32,
    max: u32,
    /// Names for values from `min` on.
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Minute, hour, day of month, month, day of week.
const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: MONTHS },
    Field { min: 0, max: 6, names: DAYS },
];
const DESCRIPTORS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Why a schedule cannot be read; `None` when it can.
pub(super) fn problem(schedule: &str) -> Option<String> {
    check(schedule).err()
}

fn check(schedule: &str) -> Result<(), String> {
    if schedule.is_empty() {
        return Err("empty spec string".to_owned());
    }
    // A zone in the schedule is refused elsewhere; what follows must still be a schedule.
    let zoned = ["TZ=", "CRON_TZ="].iter().any(|p| schedule.starts_with(p));
    let schedule = if zoned { schedule.split_once(' ').map_or("", |(_, rest)| rest.trim()) } else { schedule };
    if schedule.starts_with('@') {
        return descriptor(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let listed = fields.join(" ");
        return Err(format!("expected exactly {} fields, found {}: [{listed}]", FIELDS.len(), fields.len()));
    }
    for (text, field) in fields.iter().zip(&FIELDS) {
        for part in text.split(',').filter(|p| !p.is_empty()) {
            range(part, field)?;
        }
    }
    Ok(())
}

fn descriptor(text: &str) -> Result<(), String> {
    if let Some(duration) = text.strip_prefix("@every ") {
        return duration_syntax(duration).map_err(|e| format!("failed to parse duration {text}: {e}"));
    }
    if DESCRIPTORS.contains(&text) { Ok(()) } else { Err(format!("unrecognized descriptor: {text}")) }
}

/// Go's durations: `1h30m`, `1.5s`, `-2ms`, `0`.
fn duration_syntax(text: &str) -> Result<(), String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(());
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        if rest[..digits].parse::<f64>().is_err() {
            return Err(invalid());
        }
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        match &rest[..unit] {
            "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h" => {}
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        }
        rest = &rest[unit..];
    }
    Ok(())
}

/// `*`, `a`, `a-b`, each with an optional `/step`.
fn range(text: &str, field: &Field) -> Result<(), String> {
    let mut parts = text.split('/');
    let bounds: Vec<&str> = parts.next().unwrap_or("").split('-').collect();
    let (start, mut end) = if matches!(bounds[0], "*" | "?") {
        (field.min, field.max)
    } else {
        let start = number_or_name(bounds[0], field)?;
        match bounds[..] {
            [_] => (start, start),
            [_, end] => (start, number_or_name(end, field)?),
            _ => return Err(format!("too many hyphens: {text}")),
        }
    };
    let mut step = 1;
    if let Some(written) = parts.next() {
        step = number(written)?;
        if parts.next().is_some() {
            return Err(format!("too many slashes: {text}"));
        }
        if bounds.len() == 1 {
            end = field.max;
        }
    }
    let (min, max) = (field.min, field.max);
    match () {
        () if start < min => Err(format!("beginning of range ({start}) below minimum ({min}): {text}")),
        () if end > max => Err(format!("end of range ({end}) above maximum ({max}): {text}")),
        () if start > end => Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}")),
        () if step == 0 => Err(format!("step of range should be a positive number: {text}")),
        () => Ok(()),
    }
}

fn number_or_name(text: &str, field: &Field) -> Result<u32, String> {
    let lower = text.to_lowercase();
    match field.names.iter().position(|n| *n == lower) {
        Some(i) => Ok(field.min + u32::try_from(i).unwrap_or(0)),
        None => number(text),
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

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn schedules_that_people_write_are_read() {
        for ok in [
            "* * * * *",
            "*/5 0-6,22-23 1,15 jan-MAR mon",
            "0 0 ? * 0",
            "5/15 * * * *",
            "@hourly",
            "@midnight",
            "@every 1h30m",
            "TZ=UTC 0 0 * * *",
        ] {
            assert_eq!(problem(ok), None, "{ok}");
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
            assert_eq!(problem(bad).as_deref(), Some(why), "{bad}");
        }
    }
}
