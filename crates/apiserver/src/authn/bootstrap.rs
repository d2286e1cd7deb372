//! Bootstrap tokens: Secrets with which nodes that are nobody yet ask for their first certificate (KEP-130).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{AUTHENTICATED, UserInfo, same_secret};
use crate::cache::Caches;

/// The type of their Secrets, all of which are in `kube-system`.
const TYPE: &str = "bootstrap.kubernetes.io/token";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// The group of them all; further groups begin with it.
const GROUP: &str = "system:bootstrappers";
/// Longest end of a further group.
const GROUP_LENGTH: usize = 256;

/// Identifier and secret of a text that has the form of a bootstrap token, `abcdef.0123456789abcdef`.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let of =
        |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (of(id, ID_LENGTH) && of(secret, SECRET_LENGTH)).then_some((id, secret))
}

/// The user of a bootstrap token, and why there is none.
///
/// # Errors
/// One sentence for the server's own log.
pub fn check(caches: &Caches, token: &str, now: Timestamp) -> Result<UserInfo, String> {
    let (id, secret) = parse(token).ok_or("not a bootstrap token")?;
    let name = format!("bootstrap-token-{id}");
    let entry = caches.core("secrets").get(&format!("kube-system/{name}")).ok_or(format!("no secret {name}"))?;
    user(&entry.value(), id, secret, now).map_err(|why| format!("secret {name} {why}"))
}

fn user(object: &Value, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, String> {
    let data = |key: &str| -> String {
        let bytes = object["data"][key].as_str().and_then(|text| STANDARD.decode(text).ok());
        bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    let known = same_secret(data("token-secret").as_bytes(), secret.as_bytes());
    if api::meta::is_deleting(object) {
        return Err("is deleted and awaiting removal".to_owned());
    }
    if object["type"] != TYPE {
        return Err(format!("has invalid type, expected {TYPE}"));
    }
    if !known || data("token-id") != id {
        return Err("has invalid value for key token-secret or token-id".to_owned());
    }
    let end = data("expiration");
    // An end that cannot be read has come.
    if !end.is_empty() && !end.parse::<Timestamp>().is_ok_and(|end| end > now) {
        return Err("has expired".to_owned());
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("is not marked usage-bootstrap-authentication=true".to_owned());
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").split(',').filter(|group| !group.is_empty()) {
        if !is_group(group) {
            return Err(format!("has invalid value for key auth-extra-groups: bootstrap group {group:?} is invalid"));
        }
        groups.push(group.to_owned());
    }
    groups.push(AUTHENTICATED.to_owned());
    Ok(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

fn is_group(group: &str) -> bool {
    let Some(end) = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    end.len() <= GROUP_LENGTH && end.chars().all(|c| fits(c) || c == ':' || c == '-') && end.ends_with(fits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(change: &[(&str, Option<&str>)]) -> Value {
        let mut out = json!({"type": TYPE, "metadata": {}, "data": {}});
        let plain = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-01-02T00:00:00Z"),
            ("auth-extra-groups", "system:bootstrappers:a,system:bootstrappers:b-c"),
        ];
        for (key, value) in plain {
            out["data"][key] = STANDARD.encode(value).into();
        }
        for (key, value) in change {
            out["data"][*key] = value.map_or(Value::Null, |v| STANDARD.encode(v).into());
        }
        out
    }

    fn of(object: &Value, secret: &str) -> Result<UserInfo, String> {
        user(object, "abcdef", secret, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn only_tokens_of_their_form_are_looked_up() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["abcdef", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde/", "a.b.c"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_is_a_user_of_its_groups() {
        let user = of(&token(&[]), "0123456789abcdef").unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        let want = [GROUP, "system:bootstrappers:a", "system:bootstrappers:b-c", AUTHENTICATED];
        assert_eq!(user.groups, want);
        assert!(of(&token(&[("expiration", None)]), "0123456789abcdef").is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_token_makes_it_worthless() {
        let mut deleted = token(&[]);
        deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let mut opaque = token(&[]);
        opaque["type"] = "Opaque".into();
        for object in [
            deleted,
            opaque,
            token(&[("token-secret", Some("0123456789abcdee"))]),
            token(&[("token-secret", None)]),
            token(&[("token-id", Some("abcdeg"))]),
            token(&[("expiration", Some("2026-01-01T00:00:00Z"))]),
            token(&[("expiration", Some("tomorrow"))]),
            token(&[("usage-bootstrap-authentication", Some("yes"))]),
            token(&[("auth-extra-groups", Some("system:masters"))]),
        ] {
            assert!(of(&object, "0123456789abcdef").is_err(), "{object}");
        }
    }
}
