//! [`SchemaSource`] over this broker's Schema Registry: the schemas that a table's values were written with.
//!
//! Owns: the words of the two sides, compiling files of Protobuf, and a bounded cache of answers, which never change.
//! Does not own: where a schema is looked up ([`SchemaRegistry::whole`]). Node-wide; side runtime.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tidewater_iceberg::registry::{SchemaSource, SchemaSourceError, SchemaText, WriterSchema};
use uuid::Uuid;

use crate::schema::canonical::Resolved;
use crate::schema::canonical::protobuf::ProtobufSchema;
use crate::schema::definition::{self, Guid};
use crate::schema::subject::Subject;
use crate::schema::whole::{Wanted, WholeSchema};
use crate::schema_registry::SchemaRegistry;

/// Schemas that are kept; when there are as many, all are forgotten.
const KEPT_MAX: usize = 1_000;
/// A longer text is not kept: a schema may have a megabyte, and its references eight.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// See the header.
#[derive(Debug)]
pub struct RegistrySchemas {
    registry: SchemaRegistry,
    kept: Mutex<BTreeMap<Wanted, Arc<WriterSchema>>>,
}

type Found = Result<Option<Arc<WriterSchema>>, SchemaSourceError>;

impl RegistrySchemas {
    #[must_use]
    pub const fn new(registry: SchemaRegistry) -> Self {
        Self { registry, kept: Mutex::new(BTreeMap::new()) }
    }

    /// A schema that no other will ever be found in place of.
    async fn fixed(&self, wanted: Wanted) -> Found {
        if let Some(kept) = self.kept().get(&wanted) {
            return Ok(Some(Arc::clone(kept)));
        }
        let Some(found) = self.whole(wanted.clone()).await? else { return Ok(None) };
        let bytes = found.references.iter().map(|reference| reference.text.len()).sum::<usize>() + found.text.len();
        let found = Arc::new(of(found));
        if bytes <= KEPT_BYTES_MAX {
            let mut kept = self.kept();
            if kept.len() >= KEPT_MAX {
                kept.clear();
            }
            kept.insert(wanted, Arc::clone(&found));
        }
        Ok(Some(found))
    }

    async fn whole(&self, wanted: Wanted) -> Result<Option<WholeSchema>, SchemaSourceError> {
        let found = self.registry.whole(wanted).await;
        found.map_err(|error| SchemaSourceError { reason: error.to_string() })
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<Wanted, Arc<WriterSchema>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of(found: WholeSchema) -> WriterSchema {
    let WholeSchema { kind, text, references, id: _ } = found;
    let as_text = |text: String, references: Vec<Resolved>| SchemaText {
        text: text.into(),
        references: references.into_iter().map(|reference| (reference.name, reference.text.into())).collect(),
    };
    match kind {
        definition::SchemaKind::Avro => WriterSchema::Avro(as_text(text, references)),
        definition::SchemaKind::Json => WriterSchema::Json(as_text(text, references)),
        definition::SchemaKind::Protobuf => {
            let compiled = ProtobufSchema::parse(&text, &references).and_then(|schema| schema.descriptor());
            WriterSchema::Protobuf(compiled.map_err(|why| why.to_string()))
        }
    }
}

#[async_trait]
impl SchemaSource for RegistrySchemas {
    async fn by_id(&self, id: u32) -> Found {
        // No id is above the greatest that the registry gives.
        let Ok(id) = i32::try_from(id) else { return Ok(None) };
        self.fixed(Wanted::Id(id)).await
    }

    async fn by_guid(&self, guid: Uuid) -> Found {
        self.fixed(Wanted::Guid(Guid::from_bytes(guid.into_bytes()))).await
    }

    async fn latest(&self, subject: &str) -> Result<Option<(u32, Arc<WriterSchema>)>, SchemaSourceError> {
        let Some(found) = self.whole(Wanted::Latest(Subject::parse(subject))).await? else { return Ok(None) };
        let id = u32::try_from(found.id).map_err(|_| SchemaSourceError {
            reason: format!("the newest schema of the subject {subject} has the id {}, which is none", found.id),
        })?;
        Ok(Some((id, Arc::new(of(found)))))
    }
}
