//! Catalogs that go wrong in one way and else do what they are asked.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::future::BoxFuture;
use iceberg::spec::FormatVersion;
use iceberg::{NamespaceIdent, TableIdent, TableRequirement, TableUpdate};
use uuid::Uuid;

use crate::catalog::{Catalog, CatalogError, Loaded, NewTable, ObjectStoreCatalog};
use crate::files::TableFiles;
use crate::schema;

/// What goes wrong.
pub(super) enum Fault {
    /// So many commits are found invalid.
    Invalid(AtomicUsize),
    /// Just before a table is dropped, a user drops it and gives its name to one of their own.
    Swapped,
    /// The first commit is refused, and a gateway has a copy of it.
    Late(Mutex<Option<(TableIdent, Vec<TableRequirement>, Vec<TableUpdate>)>>, AtomicUsize),
    /// Just before the first commit, this happens.
    Before(Mutex<Option<BoxFuture<'static, ()>>>),
}

/// A catalog with such a fault.
pub(super) struct Faulty {
    pub(super) inner: Arc<ObjectStoreCatalog>,
    pub(super) fault: Fault,
}

#[async_trait]
impl Catalog for Faulty {
    fn files(&self) -> TableFiles {
        self.inner.files()
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), CatalogError> {
        self.inner.ensure_namespace(namespace).await
    }

    async fn load(&self, table: &TableIdent) -> Result<Loaded, CatalogError> {
        self.inner.load(table).await
    }

    async fn create(&self, table: &TableIdent, new: NewTable) -> Result<Loaded, CatalogError> {
        self.inner.create(table, new).await
    }

    fn refusals_are_final(&self) -> bool {
        !matches!(self.fault, Fault::Late(..))
    }

    async fn commit(
        &self,
        table: &TableIdent,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CatalogError> {
        if let Fault::Before(event) = &self.fault {
            let event = event.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(event) = event {
                event.await;
            }
        }
        match &self.fault {
            Fault::Invalid(left) if left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() => {
                Err(CatalogError::Invalid { detail: "no".to_owned() })
            }
            Fault::Late(copy, left) if left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() => {
                let commit = (table.clone(), requirements, updates);
                *copy.lock().unwrap_or_else(PoisonError::into_inner) = Some(commit);
                Err(CatalogError::Refused { detail: "403".to_owned() })
            }
            _ => self.inner.commit(table, requirements, updates).await,
        }
    }

    async fn drop_one(&self, table: &TableIdent, uuid: Option<Uuid>, purge: bool) -> Result<(), CatalogError> {
        if matches!(self.fault, Fault::Swapped) {
            self.inner.drop_table(table, false).await?;
            let schema = schema::table_schema()?;
            let (spec, order, location, format) = (None, None, None, FormatVersion::V2);
            let own = NewTable { schema, spec, order, location, properties: [].into(), format };
            self.inner.create(table, own).await?;
        }
        self.inner.drop_one(table, uuid, purge).await
    }
}
