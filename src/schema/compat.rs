//! Whether schemas fit each other, at each of the seven levels.
//!
//! One question is asked of each language: can a reader with one schema read what was written with another? A level
//! says in which direction it is asked, and of how many earlier schemas. Answers are lists of messages, each with the
//! kind of difference and its path, in the form in which Confluent's registry lists them.

pub mod avro;
pub mod json_schema;
pub mod protobuf;

use std::sync::Arc;

use super::canonical::Parsed;
use super::settings::Level;

/// What a message calls the two schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    pub reader: &'static str,
    pub writer: &'static str,
}

/// The new schema reads.
const BACKWARD: Sides = Sides { reader: "new", writer: "old" };
/// The old schema reads.
const FORWARD: Sides = Sides { reader: "old", writer: "new" };

/// An earlier schema of the subject.
pub trait Earlier {
    type Error;

    fn version(&self) -> i32;

    fn text(&self) -> &str;

    /// Read on demand: most levels look at one schema only.
    ///
    /// # Errors
    /// It cannot be read any more.
    fn parsed(&self) -> Result<Arc<Parsed>, Self::Error>;
}

/// What keeps `new` from being registered after `earlier`, the latest first; empty if nothing does. The first schema
/// that does not fit decides.
///
/// # Errors
/// An earlier schema cannot be read.
pub fn check<E: Earlier>(
    level: Level,
    new: &Parsed,
    earlier: impl IntoIterator<Item = E>,
) -> Result<Vec<String>, E::Error> {
    let count = match level {
        Level::None => 0,
        _ if level.is_transitive() => usize::MAX,
        _ => 1,
    };
    for old in earlier.into_iter().take(count) {
        let parsed = old.parsed()?;
        let mut messages = Vec::new();
        if level.is_forward() {
            messages.extend(differences(&parsed, new, FORWARD));
        }
        if level.is_backward() {
            messages.extend(differences(new, &parsed, BACKWARD));
        }
        if !messages.is_empty() {
            messages.push(format!("{{oldSchemaVersion: {}}}", old.version()));
            messages.push(format!("{{oldSchema: '{}'}}", old.text()));
            return Ok(messages);
        }
    }
    Ok(Vec::new())
}

/// Why `reader` cannot read what was written with `writer`.
fn differences(reader: &Parsed, writer: &Parsed, sides: Sides) -> Vec<String> {
    match (reader, writer) {
        (Parsed::Avro(reader), Parsed::Avro(writer)) => avro::differences(reader, writer, sides),
        (Parsed::Json(reader), Parsed::Json(writer)) => json_schema::differences(reader, writer, sides),
        (Parsed::Protobuf(reader), Parsed::Protobuf(writer)) => protobuf::differences(reader, writer, sides),
        _ => vec!["Incompatible because of different schema type".to_owned()],
    }
}
