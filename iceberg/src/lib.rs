//! A topic's log as an Iceberg table: translation, data files, exactly-once commits, the built-in catalog.
//!
//! What happens to records, in this order; each step is one module:
//!
//! 1. [`plan`] compares the offsets in the table with the log's and decides which ranges to take, or how long to wait;
//! 2. [`read`] is the trait by which the broker hands over batches of a range, from its log or its bucket;
//! 3. [`translate`] opens batches and collects rows by [`partition`], within the caps of one turn; where values have
//!    schemas, [`registry`] is the trait by which the broker hands over those, and [`columns`] says what columns a
//!    value needs and fills them;
//! 4. [`mod@write`] makes Parquet files of them, with the settings in [`properties`] and no more of a value in the
//!    metadata than [`bounds`] allows;
//! 5. [`commit`] adds the files and the offsets they reach to the table in one snapshot, and in the same commit merges
//!    manifests and expires snapshots;
//! 6. [`catalog`] moves the table's pointer to the new metadata by compare-and-set.
//!
//! [`sink`] calls them in this order, one turn at a time, for one topic. [`compact`] writes small files of an hour that
//! is over again as few large ones, and commits them in their place; [`rewind`] takes a table back to offsets that it
//! had. Below all of them: [`schema`] (columns and ids), [`mode`] (which kind of table), [`files`] (the only way to
//! bytes), [`location`] (URIs), [`names`] (unique names). [`audit`] reads a table back; [`mod@verify`] looks whether
//! all that tables name is there. Everything runs on the side runtime. DESIGN.md says why, FORMAT.md what is stored.
//!
//! Invariants:
//! - **I1** Each offset of a partition lies in exactly one committed snapshot's range (`commit`, by comparing offsets).
//! - **I2** A table's offsets move only together with its rows, in one commit (`commit::snapshot`).
//! - **I3** A table that carries another cluster's or topic's id is never written (`commit::identity`).
//! - **I4** A file is deleted only after a commit that no longer names it (`commit::garbage`, `commit::orphans`), and
//!   only below the warehouse (`files`).
//! - **I5** Nothing whose size a client chooses enters a footer, an index or a manifest at full length (`bounds`), and
//!   no table's metadata file outgrows its cap (`commit::maintain`, `catalog`).
//! - **I6** Each record of a typed topic is a row of its table or a dead letter, never both; the commit to its table
//!   decides (`sink::dead_letters`).
//! - **I7** A field id is in a table's schema before any file has it (`sink::typed`).

pub mod audit;
pub mod bounds;
pub mod catalog;
pub mod columns;
pub mod commit;
pub mod compact;
pub mod files;
#[cfg(test)]
mod fixture;
pub mod location;
pub mod mode;
pub mod names;
pub mod partition;
pub mod plan;
pub mod properties;
pub mod read;
pub mod registry;
pub mod rewind;
pub mod schema;
pub mod sink;
pub mod sort;
pub mod translate;
pub mod verify;
pub mod write;
