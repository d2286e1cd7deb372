//! Signals by name and number (signal(7)).

use nix::sys::signal::Signal;

/// What glibc and musl call `SIGRTMIN` and `SIGRTMAX`: below them the C library has some for itself.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;
/// Second names.
const ALIASES: [(&str, &str); 3] = [("SIGCLD", "SIGCHLD"), ("SIGIOT", "SIGABRT"), ("SIGPOLL", "SIGIO")];

/// `SIGINT`, `INT`, `2` or `SIGRTMIN+3`.
pub fn parse(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RT_MAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<i32>().ok().filter(|n| *n >= 0),
    };
    let real_time = if let Some(rest) = full.strip_prefix("SIGRTMIN") {
        Some(RT_MIN + offset(rest, '+')?)
    } else if let Some(rest) = full.strip_prefix("SIGRTMAX") {
        Some(RT_MAX - offset(rest, '-')?)
    } else {
        None
    };
    if let Some(number) = real_time {
        return (RT_MIN..=RT_MAX).contains(&number).then_some(number);
    }
    let full = ALIASES.iter().find(|(alias, _)| *alias == full).map_or(full.as_str(), |(_, name)| name);
    full.parse::<Signal>().ok().map(|s| s as i32)
}

/// The name of a signal, `SIGTERM` and such.
pub fn name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if number == RT_MIN => "SIGRTMIN".to_owned(),
        Err(_) if (RT_MIN..=RT_MAX).contains(&number) => format!("SIGRTMIN+{}", number - RT_MIN),
        Err(_) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("SIGINT", 2),
            ("quit", 3),
            ("37", 37),
            ("SIGCLD", 17),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("SIGSTKFLT", 16),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["SIGNOPE", "0", "65", "SIGRTMIN+31", "SIGRTMIN-1", "SIGRTMAX-40", "SIGRTMIN+x"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_means_the_number_it_was_made_of() {
        for number in (1..=31).chain(RT_MIN..=RT_MAX) {
            assert_eq!(parse(&name(number)), Some(number), "{}", name(number));
        }
    }
}
