//! The list of views: an object for each, because the keys of pointers do not say what they point to.
//!
//! An entry is written before the pointer that names it, under a key that no other write ever uses, and deleted after
//! that pointer. So each view has its entry, and an entry that no pointer names is garbage: a listing looks at the
//! pointer of every entry. *Rejected:* one entry for each name: deleting it would race with the next view of the name.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use iceberg::{NamespaceIdent, TableIdent};
use tidewater_tiering::store::PutMode;
use uuid::Uuid;

use super::CatalogError;
use super::object_store::ObjectStoreCatalog;
use super::pointer::Kind;

/// Pointers that a listing reads at a time.
const READS_AT_ONCE: usize = 16;

impl ObjectStoreCatalog {
    /// Writes a new entry for `name`.
    pub(super) async fn add_entry(&self, name: &TableIdent) -> Result<Uuid, CatalogError> {
        let entry = self.names.uuid();
        let body = Bytes::from_static(br#"{"format":1}"#);
        self.store().put(&self.keys.view_entry(name, entry)?, body, PutMode::Overwrite).await?;
        Ok(entry)
    }

    /// Deletes an entry that no pointer names any more; a failure leaves garbage and is only logged.
    pub(super) async fn drop_entry(&self, name: &TableIdent, entry: Option<Uuid>) {
        let Some(Ok(key)) = entry.map(|entry| self.keys.view_entry(name, entry)) else { return };
        if let Err(error) = self.store().delete(vec![key]).await {
            tracing::warn!(%error, "an unused entry in the list of views could not be deleted");
        }
    }

    /// Names of the namespace's views.
    async fn view_names(&self, namespace: &NamespaceIdent) -> Result<BTreeSet<String>, CatalogError> {
        let mut entries: BTreeMap<String, BTreeSet<Uuid>> = BTreeMap::new();
        for key in self.list_keys(&self.keys.views(namespace)).await? {
            if let Some((view, entry)) = self.keys.parse_view_entry(namespace, &key) {
                entries.entry(view.name).or_default().insert(entry);
            }
        }
        let looks = entries.into_iter().map(|(name, entries)| async move {
            let found = self.pointer(&TableIdent::new(namespace.clone(), name.clone())).await?;
            let mark = found.and_then(|(pointer, _)| pointer.view);
            Ok::<_, CatalogError>(mark.filter(|mark| entries.contains(&mark.entry)).map(|_| name))
        });
        futures::stream::iter(looks)
            .buffered(READS_AT_ONCE)
            .try_filter_map(|name| std::future::ready(Ok(name)))
            .try_collect()
            .await
    }

    /// Tables of a namespace, sorted by name.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchNamespace`]; the bucket.
    pub async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, CatalogError> {
        self.list_kind(Kind::Table, namespace).await
    }

    /// Views of a namespace, sorted by name.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchNamespace`]; the bucket.
    pub async fn list_views(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, CatalogError> {
        self.list_kind(Kind::View, namespace).await
    }

    async fn list_kind(&self, kind: Kind, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, CatalogError> {
        self.load_namespace(namespace).await?;
        // Pointers first: a view that is made meanwhile then has its entry already.
        let names = match kind {
            Kind::Table => self.list_keys(&self.keys.tables(namespace)).await?,
            Kind::View => Vec::new(),
        };
        let views = self.view_names(namespace).await?;
        let mut found: Vec<_> = match kind {
            Kind::View => views.into_iter().map(|name| TableIdent::new(namespace.clone(), name)).collect(),
            Kind::Table => names
                .iter()
                .filter_map(|key| self.keys.parse_table(namespace, key))
                .filter(|table| !views.contains(&table.name))
                .collect(),
        };
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}
