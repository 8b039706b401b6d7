//! The log in the bucket: object keys, stores, bundles and their kin, manifests, archiver, remote reader.
//!
//! Owns: every byte Tidewater keeps of its log on object storage and the order in which effects reach it. Does not
//! own: Kafka requests, Raft, HTTP. Formats: `FORMAT.md`. Reading order: [`keys`] → [`store`] → [`format`] →
//! [`manifest`], then what drives them.
//!
//! Invariants kept here, each a predicate in [`manifest::invariants`]:
//! T1 rows of a partition are contiguous and do not overlap; T2 archived ends, log starts, sequences and
//! `follow_from` never fall; T3 local bytes go only after `bundled` is applied; T4 an object goes only after a
//! published manifest forgot it, and a grace; T5 a taken key is adopted or stops the lane, never overwritten.

pub mod archive;
pub mod bucket;
pub mod fetch;
pub mod format;
pub mod keys;
pub mod manifest;
pub mod retention;
pub mod store;
