//! Some demo orders, posted once: every run uses the same keys, so that a second run changes nothing.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::http::Http;
use crate::orders::{CLIENT_LIMIT, Line, NewOrder};

const CUSTOMERS: [&str; 5] =
    ["Harbour Foods", "Northgate Hardware", "Blue Door Pharmacy", "Miller & Sons Timber", "City Hospital Stores"];
const ARTICLES: [(&str, i64); 6] = [
    ("PAL-1200", 1890),
    ("BOX-0400", 249),
    ("FLM-0023", 1475),
    ("LBL-1000", 899),
    ("TAP-0048", 329),
    ("GLV-0009", 1120),
];

/// Flags of the role.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Where the orders API is
    #[arg(long, env = "ORDERS_URL", default_value = "http://orders-api:8080")]
    pub orders_url: String,
    /// How many orders
    #[arg(long, default_value = "12")]
    pub orders: u32,
    /// Longest wait for the API to take one, seconds
    #[arg(long, default_value = "120")]
    pub patience_seconds: u64,
}

/// Posts the orders.
///
/// # Errors
/// When one is refused or the API does not come up in time.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let http = Http::new(CLIENT_LIMIT);
    let url = format!("{}/orders", settings.orders_url);
    let mut fresh = 0;
    for n in 0..settings.orders {
        let body: Bytes = serde_json::to_vec(&order(n))?.into();
        let attempts = async {
            loop {
                let request = Request::post(&url)
                    .header("content-type", "application/json")
                    .header("idempotency-key", format!("seed-{n}"))
                    .body(Full::new(body.clone()))?;
                match http.send(request).await {
                    Ok(answer) if answer.status.is_server_error() => {
                        tracing::warn!(status = answer.status.as_u16(), "not yet");
                    }
                    Ok(answer) => return anyhow::Ok(answer),
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "not yet"),
                }
                // The same key makes trying again safe.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(settings.patience_seconds), attempts).await??;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        anyhow::ensure!(answer.status.is_success(), "order {n}: {}: {text}", answer.status);
        fresh += u32::from(answer.status == StatusCode::CREATED);
    }
    tracing::info!(orders = settings.orders, new = fresh, "seeded");
    Ok(())
}

/// The nth demo order, always the same.
pub fn order(n: u32) -> NewOrder {
    let pick = n as usize;
    let line = |k: usize| {
        let (sku, price_cents) = ARTICLES[(pick * 2 + k) % ARTICLES.len()];
        Line { sku: sku.to_owned(), quantity: 1 + (n * 7 + k as u32 * 3) % 24, price_cents }
    };
    NewOrder { customer: CUSTOMERS[pick % CUSTOMERS.len()].to_owned(), lines: (0..1 + pick % 3).map(line).collect() }
}
