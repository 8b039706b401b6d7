//! Admin HTTP on the side runtime: health, metrics, the state of topics and groups. No logic of the broker is here.
//!
//! From below: [`report`] is one shard's part of a scrape, `state` what all routes share, `survey` gathers the parts of
//! all shards, `metrics` renders them, [`lanes`] lists lanes and resumes stopped ones, `replicas` has the sources,
//! `copies` the topics that are made as copies, `tables` those that are tables, [`cluster`] asks all brokers, `stage`
//! answers while the broker starts, `routes` is the router.

pub mod cluster;
mod copies;
mod cuts;
pub mod lanes;
mod metrics;
mod replicas;
pub mod report;
mod routes;
mod stage;
mod state;
mod survey;
mod tables;

pub use cuts::CutRow;
pub use routes::AdminPort;
pub use stage::StartStage;
pub use state::{Replicas, Services};
pub use tables::TableStatus;
