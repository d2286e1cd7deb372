//! The parts of the order platform. `orders` accepts, `sync` delivers, `erp` receives, `portal` shows, `load` and `seed`
//! drive. The others are what they share.

pub mod db;
pub mod erp;
pub mod http;
pub mod load;
pub mod metrics;
pub mod orders;
pub mod portal;
pub mod seed;
pub mod serve;
pub mod sync;
pub mod telemetry;
