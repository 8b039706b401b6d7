//! The Schema Registry's core: pure, without I/O.
//!
//! A [`request`] comes from HTTP. A query is answered from the [`State`]; a command is planned on it
//! ([`State::plan`]): records to write to `_schemas` and the answer to give once they are committed and applied. The
//! state is what the records say and nothing else, so that every broker that follows the topic has the same one.
//!
//! Parts: `json` (text that survives a round trip), `subject`, `definition` and `settings` (what is stored), `record`
//! (Confluent's form of it), `state`, `lookup`, `rereads`, `plan`, `answer`, `whole`; `framing` (ids in records);
//! `canonical` (languages: reading and printing) and `compat` (whether schemas fit each other); `http` (routes and
//! bodies of Confluent's API).
//!
//! Invariants:
//! 1. An id of a context stands for one schema, for ever: no delete makes it free for another.
//! 2. A schema has one id in a context, in every subject that has it, until its last version is permanently deleted.
//! 3. Versions of a subject grow; a version that was permanently deleted may be given again only if it was the highest.

mod answer;
pub mod canonical;
pub mod compat;
pub mod definition;
pub mod error;
pub mod framing;
pub mod http;
pub mod json;
pub mod limits;
mod lookup;
mod plan;
#[cfg(test)]
mod questions;
pub mod record;
pub mod request;
mod rereads;
pub mod settings;
pub mod state;
pub mod subject;
pub mod whole;

pub use error::SchemaError;
pub use plan::Plan;
pub use state::State;

/// The topic that holds the registry's records: one partition, whose log is never cut by time or size.
pub const SCHEMAS_TOPIC: &str = "_schemas";
