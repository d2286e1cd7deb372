//! `WWW-Authenticate` (RFC 9110, 11.6.1), as registries use it.

use reqwest::header::HeaderValue;

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password.
    Basic,
    /// A token from that address.
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// The best challenge we can answer: a token before a password.
    pub(super) fn choose<'a>(headers: impl IntoIterator<Item = &'a HeaderValue>) -> Option<Self> {
        let all = headers.into_iter().filter_map(|h| h.to_str().ok()).filter_map(parse);
        all.max_by_key(|challenge| matches!(challenge, Challenge::Bearer { .. }))
    }
}

fn parse(text: &str) -> Option<Challenge> {
    let text = text.trim();
    let (scheme, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut realm = None;
    let mut service = None;
    for (key, value) in parameters(rest) {
        match key.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

/// `key="value", key=value`; quotes may hold commas, a backslash quotes the next character.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && *c != ',') {
            key.push(c);
        }
        if chars.next_if_eq(&'=').is_none() {
            if chars.peek().is_none() {
                return found;
            }
            continue;
        }
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            while let Some(c) = chars.next().filter(|c| *c != '"') {
                value.extend(if c == '\\' { chars.next() } else { Some(c) });
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                value.push(c);
            }
        }
        found.push((key.trim().to_owned(), value.trim().to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_of_real_registries_are_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push",error="invalid_token""#;
        let wanted = Challenge::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
        };
        assert_eq!(parse(hub), Some(wanted));
        assert_eq!(parse(r#"Basic realm="Registry Realm""#), Some(Challenge::Basic));
        assert_eq!(
            parse("bearer realm=https://x/t"),
            Some(Challenge::Bearer { realm: "https://x/t".into(), service: None })
        );
        for useless in ["", "Negotiate", "Bearer", r#"Bearer service="x""#, "Bearer ,,=,", "Bearer a"] {
            assert_eq!(parse(useless), None, "{useless}");
        }
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let headers =
            [HeaderValue::from_static("Basic realm=x"), HeaderValue::from_static("Bearer realm=\"http://t\"")];
        assert!(matches!(Challenge::choose(&headers), Some(Challenge::Bearer { .. })));
    }
}
