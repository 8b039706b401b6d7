//! Typed columns: what a value's schema becomes in a table, and values of that schema as columns.
//!
//! In the order in which a value passes through:
//!
//! 1. [`avro`], [`json`] or [`protobuf`] parses the schema of a value's writer and says which columns it needs, as a
//!    [`shape::Shape`], which no longer depends on the format;
//! 2. [`evolve::plan`] compares the shape with the table's schema and its [`map::ColumnMap`]: columns to add, rename or
//!    promote, what conflicts, and where each part of a value goes ([`evolve::Place`]);
//! 3. the format's decoder ([`avro::decode`], [`json::decode`], [`protobuf::decode`]) is compiled from schema and
//!    places, and appends values to [`build::Columns`].
//!
//! Keys of records go the same way into columns of their own ([`key`](mod@key)).
//!
//! Pure: no I/O, no clock. Several writers' schemas append to the same columns, so that a turn with records of many
//! schemas makes one file.
//!
//! Invariants:
//! - a value is appended whole or not at all ([`build::Columns::truncate`]);
//! - the columns of a value take no more than the limit that the caller gives, for any bytes;
//! - a field id, once in the map, means the same member for ever, also when the column gets another name.

pub mod avro;
pub mod build;
pub mod cell;
mod compile;
pub mod evolve;
pub mod fault;
pub mod fill;
#[cfg(test)]
pub(crate) mod fixture;
pub mod json;
pub mod key;
pub mod map;
pub mod protobuf;
pub mod shape;

/// Field ids that columns of values take in one table at most, those of lists, maps and structs included.
pub const COLUMNS_MAX: usize = 1_000;
/// Bytes of a member's name or of a type's full name at most: they enter each metadata file, twice.
pub const NAME_BYTES_MAX: usize = 255;
/// Structs, lists and maps inside each other at most.
pub const DEPTH_MAX: usize = 16;

/// Why a schema cannot be a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The text cannot be read.
    #[error("the schema is not valid: {0}")]
    Schema(String),
    #[error("type {name} contains itself; a table's columns cannot")]
    Recursive { name: String },
    #[error("types are nested deeper than the {max} levels that a table may have")]
    Depth { max: usize },
    #[error("the table would have {columns} columns, nested ones included; at most {max} are allowed")]
    Columns { columns: usize, max: usize },
    #[error("a name begins with {start:?} and has {bytes} bytes; at most {max} are allowed")]
    Name { start: String, bytes: usize, max: usize },
    /// No value of it has any content.
    #[error("the schema has no column: all its values are null or empty")]
    Empty,
    /// The table is not as its column map says.
    #[error("the table does not fit its column map: {0}")]
    Table(String),
}
