//! The log as Iceberg tables: translation, data files, exactly-once commits, the built-in catalog.
//!
//! Reading order: [`read`] (where batches come from) → [`plan`] (what next) → [`translate`] → [`write`] → [`commit`] →
//! [`sink`], which calls them in that order; [`catalog`] holds the tables, [`files`] the bytes. Everything runs on the
//! tokio side runtime. DESIGN.md says why, FORMAT.md what is stored.
//!
//! Invariants: I1 each offset of a partition lies in exactly one committed snapshot's range; I2 the offsets of a
//! table move only together with its rows, in one commit; I3 a table that carries another cluster's or topic's id is
//! never written; I4 a file is deleted only after a commit that no longer names it.

pub mod audit;
pub mod catalog;
pub mod commit;
pub mod files;
#[cfg(test)]
mod fixture;
pub mod location;
pub mod names;
pub mod plan;
pub mod read;
pub mod schema;
pub mod sink;
pub mod translate;
pub mod write;
