//! Admin HTTP on the side runtime: health, metrics, the state of topics. A façade without logic of its own.

mod metrics;
mod routes;

pub use routes::{Services, serve};
