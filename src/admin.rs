//! Admin HTTP on the side runtime: health, metrics, the state of topics and groups. A façade without logic of its own.
//!
//! [`report`] is the shard's half of a scrape, `survey` gathers all shards' halves, `metrics` renders them, `lanes` shows
//! the lanes and passes on what an operator says of them.

mod lanes;
mod metrics;
pub mod report;
mod routes;
mod survey;

pub use routes::{Services, serve};
