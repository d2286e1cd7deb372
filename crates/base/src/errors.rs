use std::error::Error;

/// The error and its causes on one line: `reading config: opening /etc/x: permission denied`.
///
/// A cause whose words the line already ends with is left out: some libraries repeat it in the message above.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = cause.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_are_joined_on_one_line() {
        let error =
            Layer("starting", Some(Box::new(Layer("opening the file", Some(Box::new(Layer("no such file", None)))))));
        assert_eq!(chain(&error), "starting: opening the file: no such file");
    }

    #[test]
    fn a_repeated_cause_is_said_once() {
        let error = Layer("opening: no such file", Some(Box::new(Layer("no such file", None))));
        assert_eq!(chain(&error), "opening: no such file");
    }
}
