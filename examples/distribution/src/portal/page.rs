//! The page itself: one document, no assets from elsewhere. Everything that came from outside is escaped.

use super::Overview;
use crate::erp::{Behaviour, Summary};
use crate::orders::Order;
use crate::sync::{DeadLetter, Queue};

const HEAD: &str = include_str!("page.html");

/// The whole document.
pub(super) fn page(overview: &Overview) -> String {
    HEAD.replace("<!--content-->", &content(overview))
}

/// The part that changes.
pub(super) fn content(overview: &Overview) -> String {
    [figures(overview), letters(&overview.dead_letters), orders(overview)].concat()
}

fn figures(overview: &Overview) -> String {
    let unknown = || "–".to_owned();
    let total = overview.orders.as_ref().map_or_else(|_| unknown(), |o| o.total.to_string());
    let (depth, lag, dead) = match &overview.queue {
        Ok(Queue { depth, lag_seconds, dead_letters }) => {
            (depth.to_string(), format!("{lag_seconds:.1} s"), dead_letters.to_string())
        }
        Err(_) => (unknown(), unknown(), unknown()),
    };
    let (recorded, duplicates) = match &overview.deliveries {
        Ok(Summary { orders, duplicates, .. }) => (orders.to_string(), duplicates.to_string()),
        Err(_) => (unknown(), unknown()),
    };
    let (class, erp) = status(&overview.behaviour);
    let tile = |label: &str, value: &str, class: &str| {
        format!("<div class=\"tile {class}\"><span>{label}</span><strong>{}</strong></div>", escape(value))
    };
    let late = matches!(&overview.queue, Ok(q) if q.lag_seconds > 30.0);
    let any_dead = matches!(&overview.queue, Ok(q) if q.dead_letters > 0);
    let tiles = [
        tile("Orders", &total, ""),
        tile("Waiting for the ERP", &depth, ""),
        tile("Oldest waiting", &lag, if late { "warn" } else { "" }),
        tile("Dead letters", &dead, if any_dead { "bad" } else { "" }),
        tile("Recorded in the ERP", &recorded, ""),
        tile("Duplicates", &duplicates, ""),
        tile("ERP", &erp, class),
    ];
    format!("<section class=\"tiles\">{}</section>", tiles.concat())
}

fn status(behaviour: &Result<Behaviour, String>) -> (&'static str, String) {
    match behaviour {
        Err(reason) => ("bad", reason.clone()),
        Ok(b) if b.outage => ("bad", "outage".to_owned()),
        Ok(b) if b.refuse => ("bad", "refuses orders".to_owned()),
        Ok(b) if b.error_rate > 0.0 || b.lost_answer_rate > 0.0 => {
            ("warn", format!("errors {:.0} %", (b.error_rate + b.lost_answer_rate).min(1.0) * 100.0))
        }
        Ok(b) if b.latency_ms > 0 => ("warn", format!("slow, {} ms", b.latency_ms)),
        Ok(_) => ("good", "in service".to_owned()),
    }
}

fn letters(letters: &Result<Vec<DeadLetter>, String>) -> String {
    let rows: String = match letters {
        Err(reason) => {
            return format!("<section><h2>Dead letters</h2><p class=\"quiet\">{}</p></section>", escape(reason));
        }
        Ok(letters) if letters.is_empty() => return String::new(),
        Ok(letters) => letters.iter().map(letter).collect(),
    };
    format!(
        "<section><h2>Dead letters</h2><div class=\"scroll\"><table><thead><tr><th>Event</th><th>Order</th>\
         <th class=\"num\">Attempts</th><th>Last error</th><th></th></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )
}

fn letter(letter: &DeadLetter) -> String {
    format!(
        "<tr><td>{id}</td><td><code>{order}</code></td><td class=\"num\">{attempts}</td><td>{error}</td>\
         <td><form method=\"post\" action=\"/dead-letters/{id}/replay\"><button>Replay</button></form></td></tr>",
        id = letter.id,
        order = escape(short(&letter.order_id)),
        attempts = letter.attempts,
        error = escape(&letter.error),
    )
}

fn orders(overview: &Overview) -> String {
    let rows: String = match &overview.orders {
        Err(reason) => return format!("<section><h2>Orders</h2><p class=\"quiet\">{}</p></section>", escape(reason)),
        Ok(found) if found.orders.is_empty() => {
            return "<section><h2>Orders</h2><p class=\"quiet\">No orders yet.</p></section>".to_owned();
        }
        Ok(found) => found.orders.iter().map(order).collect(),
    };
    format!(
        "<section><h2>Newest orders</h2><div class=\"scroll\"><table><thead><tr><th>Order</th><th>Customer</th>\
         <th class=\"num\">Lines</th><th class=\"num\">Total</th><th>Status</th><th>Accepted</th></tr></thead>\
         <tbody>{rows}</tbody></table></div></section>"
    )
}

fn order(order: &Order) -> String {
    let class = match order.status.as_str() {
        "delivered" => "good",
        "dead" => "bad",
        _ => "warn",
    };
    format!(
        "<tr><td><code>{id}</code></td><td>{customer}</td><td class=\"num\">{lines}</td>\
         <td class=\"num\">{whole}.{cents:02}</td><td><mark class=\"{class}\">{status}</mark></td><td>{at}</td></tr>",
        id = escape(short(&order.id)),
        customer = escape(&order.customer),
        lines = order.lines.len(),
        whole = order.total_cents / 100,
        cents = order.total_cents % 100,
        status = escape(&order.status),
        at = escape(order.created_at.get(..19).unwrap_or(&order.created_at).replace('T', " ").as_str()),
    )
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Also keeps the text on one line, as an event stream needs it.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Orders;
    use super::*;

    fn overview(customer: &str) -> Overview {
        let order = Order {
            id: "0f3b6a52-0000-0000-0000-000000000000".into(),
            customer: customer.into(),
            lines: Vec::new(),
            total_cents: 1205,
            status: "delivered".into(),
            created_at: "2026-01-02T03:04:05.678Z".into(),
        };
        let letter = DeadLetter {
            id: 7,
            order_id: order.id.clone(),
            attempts: 3,
            error: "<b>".into(),
            created_at: String::new(),
        };
        Overview {
            orders: Ok(Orders { total: 1, orders: vec![order] }),
            queue: Ok(Queue { depth: 2, lag_seconds: 1.25, dead_letters: 1 }),
            dead_letters: Ok(vec![letter]),
            deliveries: Err("not reachable right now".into()),
            behaviour: Ok(Behaviour { outage: true, ..Behaviour::default() }),
        }
    }

    #[test]
    fn the_page_shows_the_figures_and_escapes_what_came_from_outside() {
        let page = page(&overview("<script>alert(1)</script>"));
        for part in ["12.05", "2026-01-02 03:04:05", "outage", "/dead-letters/7/replay", "&lt;script&gt;", "&lt;b&gt;"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("<script>alert"));
    }

    #[test]
    fn a_service_that_does_not_answer_leaves_the_rest_of_the_page() {
        let mut broken = overview("c");
        broken.orders = Err("not reachable right now".into());
        let text = content(&broken);
        assert!(text.contains("not reachable right now") && text.contains("Replay"));
    }
}
