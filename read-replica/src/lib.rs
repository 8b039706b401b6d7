//! Another cluster's bucket as read-only partitions here.
//!
//! The crate's place in the chain (storage ← tiering ← read-replica) is kept open; it holds no code yet. What it will
//! read is there from the first format version on: lane manifests say from which bundle on a lane can be followed, and
//! bundles carry partitions' births, drops and log starts as events (`tiering/FORMAT.md`).
