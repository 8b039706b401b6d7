//! The cluster for operators: brokers, lanes and partitions as this broker and its peers see them, what is wrong with
//! them, and the change of a leader.
//!
//! In the order of a question: [`facts`] is what one broker says about itself, `gather` asks all brokers from shard 0
//! (over `Service::Status`), `rebuilding` and [`health`] judge, `routes` answers over HTTP with [`documents`]. A broker
//! that does not answer is part of the answer.

pub mod documents;
pub mod facts;
pub(super) mod gather;
pub mod health;
mod rebuilding;
pub(super) mod routes;

pub use gather::{ClusterOperator, Gatherer, TransferError};
pub use rebuilding::Rebuilding;
