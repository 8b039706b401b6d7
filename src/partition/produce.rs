//! The way of a batch to the lane's log: queued, checked for idempotence, given its offset, proposed, answered.

pub mod gather;
pub mod in_flight;
pub mod producers;
pub mod proposer;
pub mod refusals;
pub mod trims;
