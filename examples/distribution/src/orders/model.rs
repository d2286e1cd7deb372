//! An order, as clients send it and as they get it back.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const LINES_MAX: usize = 100;
const QUANTITY_MAX: u32 = 100_000;
const PRICE_MAX: i64 = 1_000_000_000;
const TEXT_MAX: usize = 200;

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Article number.
    pub sku: String,
    /// How many.
    pub quantity: u32,
    /// Price of one, in cents.
    pub price_cents: i64,
}

/// An order as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    /// Who orders.
    pub customer: String,
    /// What.
    pub lines: Vec<Line>,
}

/// An order as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its id, a UUID.
    pub id: String,
    /// Who ordered.
    pub customer: String,
    /// What.
    pub lines: Vec<Line>,
    /// Sum of all lines, in cents.
    pub total_cents: i64,
    /// `accepted`, `delivered` (the ERP has it) or `dead` (delivery was given up).
    pub status: String,
    /// When it was accepted, RFC 3339.
    pub created_at: String,
}

impl NewOrder {
    /// Whether the order makes sense.
    ///
    /// # Errors
    /// Why not, for the client.
    pub fn check(&self) -> Result<(), String> {
        let text = |name: &str, value: &str| {
            let fine = !value.trim().is_empty() && value.len() <= TEXT_MAX && !value.chars().any(char::is_control);
            fine.then_some(()).ok_or_else(|| format!("{name} must be 1 to {TEXT_MAX} visible characters"))
        };
        text("customer", &self.customer)?;
        if self.lines.is_empty() || self.lines.len() > LINES_MAX {
            return Err(format!("an order has 1 to {LINES_MAX} lines"));
        }
        for line in &self.lines {
            text("sku", &line.sku)?;
            if line.quantity == 0 || line.quantity > QUANTITY_MAX {
                return Err(format!("quantity must be 1 to {QUANTITY_MAX}"));
            }
            if !(0..=PRICE_MAX).contains(&line.price_cents) {
                return Err(format!("price_cents must be 0 to {PRICE_MAX}"));
            }
        }
        Ok(())
    }

    /// Sum of all lines, in cents. In range once checked: 100 lines of at most 10^14.
    pub fn total_cents(&self) -> i64 {
        self.lines.iter().map(|line| i64::from(line.quantity).saturating_mul(line.price_cents)).sum()
    }

    /// What two requests must share to be the same order; how the JSON was written does not count.
    pub fn fingerprint(&self) -> String {
        let canonical = serde_json::to_vec(self).expect("strings and numbers always serialize");
        hex::encode(Sha256::digest(canonical))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Result<NewOrder, String> {
        let order: NewOrder = serde_json::from_str(json).map_err(|e| e.to_string())?;
        order.check().map(|()| order)
    }

    #[test]
    fn orders_that_make_no_sense_are_refused() {
        let line = r#"{"sku":"A","quantity":2,"price_cents":150}"#;
        assert_eq!(order(&format!(r#"{{"customer":"c","lines":[{line},{line}]}}"#)).unwrap().total_cents(), 600);
        for bad in [
            format!(r#"{{"customer":"","lines":[{line}]}}"#),
            r#"{"customer":"c","lines":[]}"#.to_owned(),
            format!(r#"{{"customer":"c","lines":[{line}],"extra":1}}"#),
            r#"{"customer":"c","lines":[{"sku":"A","quantity":0,"price_cents":1}]}"#.to_owned(),
            r#"{"customer":"c","lines":[{"sku":"A","quantity":1,"price_cents":-1}]}"#.to_owned(),
            format!(r#"{{"customer":"c","lines":[{}]}}"#, vec![line; 101].join(",")),
        ] {
            assert!(order(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_fingerprint_is_of_the_order_not_of_its_spelling() {
        let a = order(r#"{"customer":"c","lines":[{"sku":"A","quantity":2,"price_cents":150}]}"#).unwrap();
        let b = order(r#"{ "lines":[{"price_cents":150,"quantity":2,"sku":"\u0041"}], "customer":"c" }"#).unwrap();
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_ne!(a.fingerprint(), NewOrder { customer: "d".into(), ..b }.fingerprint());
    }
}
