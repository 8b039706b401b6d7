//! Caps on what a request or a record of `_schemas` may make the registry hold or do.

/// Bytes of one schema's text. Confluent's registry refuses what does not fit into a record of 1 MB.
pub const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// Bytes of a key of `_schemas`: a subject and a few words.
pub const KEY_BYTES_MAX: usize = 16 << 10;
/// Bytes of a value of `_schemas`: a schema with every character escaped, references and metadata.
pub const VALUE_BYTES_MAX: usize = 8 << 20;
/// Bytes of a subject's name, its context included.
pub const SUBJECT_BYTES_MAX: usize = 4 << 10;
/// Levels of objects and arrays in JSON.
pub const JSON_DEPTH_MAX: usize = 96;
/// Levels of a schema while it is walked: types in types.
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// Levels of a schema through the types that it names: each step takes a part of a thread's stack.
pub const TYPE_CHAIN_MAX: usize = 200;
/// Steps that a comparison of two schemas goes down. Two recursive schemas make longer ways than either has.
pub const COMPARISON_DEPTH_MAX: usize = 300;
/// References that one schema names.
pub const REFERENCES_MAX: usize = 1_000;
/// Schemas that one schema reaches over references, and the references' own.
pub const RESOLVED_MAX: usize = 1_000;
/// Bytes of all schemas that one schema reaches.
pub const RESOLVED_BYTES_MAX: usize = 8 << 20;
/// Pairs of types that one comparison of two schemas looks at.
pub const COMPARISONS_MAX: usize = 200_000;
/// Differences that one answer lists.
pub const DIFFERENCES_MAX: usize = 1_000;
