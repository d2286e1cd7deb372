use proptest::prelude::*;

use super::*;

#[test]
fn canonical_forms_are_those_of_kubernetes() {
    for (text, canonical) in [
        ("0", "0"),
        ("-0", "0"),
        ("1", "1"),
        ("1.5", "1500m"),
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1000", "1k"),
        ("1024", "1024"),
        ("1500m", "1500m"),
        ("100m", "100m"),
        ("1.5Gi", "1536Mi"),
        ("1Gi", "1Gi"),
        ("1024Mi", "1Gi"),
        ("1024Ki", "1Mi"),
        ("0.5Ki", "512"),
        ("1023Ki", "1023Ki"),
        ("0.1Mi", "104857600m"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("1500e3", "1500e3"),
        ("15e5", "1500e3"),
        ("1e-3", "1e-3"),
        ("5e0", "5"),
        ("1E", "1E"),
        ("1000P", "1E"),
        ("1000E", "1000E"),
        ("100u", "100u"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("-0.1n", "-1n"),
        ("+5", "5"),
        ("-1.5", "-1500m"),
        (".5", "500m"),
        ("1.", "1"),
        ("007", "7"),
        ("1.0000000000000000000000000000000001", "1000000001n"),
        ("0.0000000000000000000000000000000000000001", "1n"),
        ("8Ei", "9223372036854775807"),
        ("12345678", "12345678"),
        ("0.2", "200m"),
    ] {
        assert_eq!(Quantity::parse(text).map(|q| q.to_string()), Ok(canonical.to_owned()), "{text}");
    }
}

#[test]
fn malformed_quantities_are_refused() {
    for text in ["", "abc", "1.2.3", "1i", "1KiB", "1e", "--1", " 1", "1 ", "1k1", ".", "1mm", "Ki", "+", "1e99", "0x1"]
    {
        assert!(Quantity::parse(text).is_err(), "{text}");
    }
    assert_eq!(Quantity::parse("1Kib"), Err(QuantityError::Format));
    assert_eq!(Quantity::parse("1KK"), Err(QuantityError::Suffix));
}

#[test]
fn values_round_away_from_zero() {
    let q = |s: &str| Quantity::parse(s).unwrap();
    assert_eq!(q("1500m").value(), 2);
    assert_eq!(q("-1500m").value(), -2);
    assert_eq!(q("1u").milli_value(), 1);
    assert_eq!(q("128Mi").value(), 134_217_728);
    assert_eq!(q("1000E").value(), i64::MAX);
    assert!(q("1Ki") > q("1k"));
    assert_eq!(q("1000m"), q("1"));
    assert_eq!(q("1").checked_add(q("500m")).unwrap().to_string(), "1500m");
    assert_eq!(q("0").checked_add(q("1Mi")).unwrap().to_string(), "1Mi");
}

proptest! {
    #[test]
    fn canonical_form_is_a_fixpoint_and_keeps_the_amount(
        whole in 0_u64..1_000_000_000, fraction in "[0-9]{0,9}",
        suffix in prop::sample::select(vec!["", "n", "u", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "e-3", "E2"]),
        sign in prop::sample::select(vec!["", "-", "+"]),
    ) {
        let text = format!("{sign}{whole}.{fraction}{suffix}");
        let q = Quantity::parse(&text).unwrap();
        let canonical = q.to_string();
        let again = Quantity::parse(&canonical).unwrap();
        prop_assert_eq!(q, again);
        // A binary amount that is no multiple of 1024 prints without suffix and is decimal when read again.
        if q.format() == again.format() {
            prop_assert_eq!(canonical, again.to_string());
        }
    }

    #[test]
    fn order_is_that_of_the_amounts(a in -1_000_000_i64..1_000_000, b in -1_000_000_i64..1_000_000) {
        let qa = Quantity::parse(&format!("{a}m")).unwrap();
        let qb = Quantity::parse(&format!("{b}m")).unwrap();
        prop_assert_eq!(qa.cmp(&qb), a.cmp(&b));
        prop_assert_eq!(qa.checked_add(qb).unwrap().milli_value(), a + b);
    }

    #[test]
    fn parsing_never_panics(text in "[-+0-9.eEinumkKMGTPi]{0,24}") {
        let _ = Quantity::parse(&text);
    }
}
