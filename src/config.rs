//! Settings: of this process (`node`) and of a topic (`topic`), and the reference generated from their tables.
//!
//! Two steps each: what was given (strings, options) → what is true (typed, defaults filled in, checked). Owns no I/O
//! but reading the one TOML file.

pub mod node;
pub mod reference;
pub mod spelling;
pub mod topic;
