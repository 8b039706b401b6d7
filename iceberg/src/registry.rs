//! [`SchemaSource`]: which schema a value was written with. Declared here, implemented by the broker over its schema
//! registry.
//!
//! A registered schema never changes: an answer that was `Some` may be kept for as long as the process lives.

use std::sync::Arc;

use async_trait::async_trait;
use prost_reflect::FileDescriptor;
use uuid::Uuid;

/// A schema as it was registered, with all that it refers to.
#[derive(Clone, Debug, PartialEq)]
pub enum WriterSchema {
    Avro(SchemaText),
    Json(SchemaText),
    /// Compiled by the registry, which knows how imports are found; or why it does not compile any more.
    Protobuf(Result<FileDescriptor, String>),
    /// Text in UTF-8. No registry gives it: it is what a topic's setting says of keys.
    Text,
}

/// A schema that is read as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaText {
    pub text: Arc<str>,
    /// Name (as the schema refers to it) and text of each schema that this one needs, directly or not; each comes after
    /// those that it needs itself.
    pub references: Vec<(String, Arc<str>)>,
}

/// The registry cannot be asked now: it has no leader, is behind, or does not answer. Nothing follows from that about a
/// value, which waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the schema registry cannot be asked now ({reason}); the sink tries again")]
pub struct SchemaSourceError {
    pub reason: String,
}

/// Schemas of a registry.
///
/// Consistency: `Ok(None)` is final for a value that was produced before the call: the registry surely has no such
/// schema, and the value becomes a dead letter. So an implementation that only follows the registry asks its leader
/// before it answers `None`, and answers an error where it cannot. Deleted schemas are still found by id. Retries: the
/// caller's, on an error. Cancellation: any call may be dropped. Called on the side runtime; the caller keeps answers.
#[async_trait]
pub trait SchemaSource: Send + Sync {
    /// The schema with this id, of the default context.
    ///
    /// # Errors
    /// The registry cannot be asked now.
    async fn by_id(&self, id: u32) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError>;

    /// The schema with this GUID.
    ///
    /// # Errors
    /// The registry cannot be asked now.
    async fn by_guid(&self, guid: Uuid) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError>;

    /// The newest version of a subject that is not deleted, with its id in the subject's context. A
    /// schema that was registered before the call is found, or a newer one.
    ///
    /// # Errors
    /// The registry cannot be asked now.
    async fn latest(&self, subject: &str) -> Result<Option<(u32, Arc<WriterSchema>)>, SchemaSourceError>;
}

/// What a broker without a registry has: every question waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRegistry;

impl NoRegistry {
    fn answer<T>() -> Result<Option<T>, SchemaSourceError> {
        Err(SchemaSourceError { reason: "this broker has no schema registry".to_owned() })
    }
}

#[async_trait]
impl SchemaSource for NoRegistry {
    async fn by_id(&self, _id: u32) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError> {
        Self::answer()
    }

    async fn by_guid(&self, _guid: Uuid) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError> {
        Self::answer()
    }

    async fn latest(&self, _subject: &str) -> Result<Option<(u32, Arc<WriterSchema>)>, SchemaSourceError> {
        Self::answer()
    }
}
