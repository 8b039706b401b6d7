//! Namespaces of the built-in catalog: one object each, moved by conditional put.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use iceberg::NamespaceIdent;
use serde::{Deserialize, Serialize};
use tidewater_tiering::store::{ETag, PutMode, StoreError};

use super::CatalogError;
use super::object_store::ObjectStoreCatalog;
use super::pointer::FORMAT;

/// Changing properties is tried this often against others doing the same.
const ATTEMPTS: usize = 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct NamespaceObject {
    format: u32,
    properties: HashMap<String, String>,
    revision: uuid::Uuid,
}

/// What a change of properties did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PropertyChange {
    pub updated: Vec<String>,
    pub removed: Vec<String>,
    /// Keys that were to be removed and were not there.
    pub missing: Vec<String>,
}

impl ObjectStoreCatalog {
    async fn namespace_object(&self, namespace: &NamespaceIdent) -> Result<(NamespaceObject, ETag), CatalogError> {
        let key = self.keys.namespace(namespace)?;
        let got = match self.store().get(&key, None).await {
            Ok(got) => got,
            Err(StoreError::NotFound { .. }) => return Err(CatalogError::NoSuchNamespace(namespace.clone())),
            Err(error) => return Err(error.into()),
        };
        let damaged = |detail: String| CatalogError::Damaged { key: key.as_str().to_owned(), detail };
        let object: NamespaceObject = serde_json::from_slice(&got.body).map_err(|e| damaged(e.to_string()))?;
        if object.format != FORMAT {
            return Err(damaged(format!("format {} is not known", object.format)));
        }
        Ok((object, got.etag))
    }

    fn encode(&self, properties: HashMap<String, String>) -> Result<Bytes, CatalogError> {
        let object = NamespaceObject { format: FORMAT, properties, revision: self.names.uuid() };
        Ok(Bytes::from(serde_json::to_vec(&object).map_err(iceberg::Error::from)?))
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceExists`]; names that are empty or cannot be stored; the bucket.
    pub async fn create_namespace(
        &self,
        namespace: &NamespaceIdent,
        properties: HashMap<String, String>,
    ) -> Result<(), CatalogError> {
        if namespace.iter().any(String::is_empty) {
            return Err(CatalogError::Invalid { detail: "a namespace level is empty; name every level".to_owned() });
        }
        let key = self.keys.namespace(namespace)?;
        match self.store().put(&key, self.encode(properties)?, PutMode::IfAbsent).await {
            Ok(_) => Ok(()),
            Err(StoreError::Taken { .. }) => Err(CatalogError::NamespaceExists(namespace.clone())),
            Err(error) => Err(error.into()),
        }
    }

    /// A namespace's properties.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchNamespace`]; the bucket.
    pub async fn load_namespace(&self, namespace: &NamespaceIdent) -> Result<HashMap<String, String>, CatalogError> {
        Ok(self.namespace_object(namespace).await?.0.properties)
    }

    /// The namespaces directly below `parent` (`None`: the top), sorted.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchNamespace`] for a parent that is not there; the bucket.
    pub async fn list_namespaces(&self, parent: Option<&NamespaceIdent>) -> Result<Vec<NamespaceIdent>, CatalogError> {
        let depth = parent.map_or(0, |p| p.len());
        if let Some(parent) = parent {
            self.load_namespace(parent).await?;
        }
        let found = self.list_keys(&self.keys.namespaces()).await?;
        let below = |namespace: &NamespaceIdent| {
            namespace.len() > depth && parent.is_none_or(|p| namespace.iter().zip(p.iter()).all(|(a, b)| a == b))
        };
        let children: BTreeSet<_> = found
            .iter()
            .filter_map(|key| self.keys.parse_namespace(key))
            .filter(below)
            .filter_map(|namespace| NamespaceIdent::from_strs(namespace.iter().take(depth + 1)).ok())
            .collect();
        Ok(children.into_iter().collect())
    }

    /// Drops a namespace without tables and views and without namespaces below it.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceNotEmpty`], [`CatalogError::NoSuchNamespace`]; the bucket.
    pub async fn drop_namespace(&self, namespace: &NamespaceIdent) -> Result<(), CatalogError> {
        self.load_namespace(namespace).await?;
        if !self.list_keys(&self.keys.tables(namespace)).await?.is_empty()
            || !self.list_namespaces(Some(namespace)).await?.is_empty()
        {
            return Err(CatalogError::NamespaceNotEmpty(namespace.clone()));
        }
        Ok(self.store().delete(vec![self.keys.namespace(namespace)?]).await?)
    }

    /// Sets and removes properties at once.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchNamespace`]; a key both set and removed; the bucket.
    pub async fn change_namespace(
        &self,
        namespace: &NamespaceIdent,
        updates: &HashMap<String, String>,
        removals: &[String],
    ) -> Result<PropertyChange, CatalogError> {
        if let Some(both) = removals.iter().find(|key| updates.contains_key(*key)) {
            return Err(CatalogError::Unprocessable { detail: format!("property {both:?} is both set and removed") });
        }
        let key = self.keys.namespace(namespace)?;
        for _ in 0..ATTEMPTS {
            let (mut object, etag) = self.namespace_object(namespace).await?;
            let mut change = PropertyChange { updated: updates.keys().cloned().collect(), ..Default::default() };
            object.properties.extend(updates.clone());
            for removal in removals {
                let gone = object.properties.remove(removal).is_some();
                if gone { &mut change.removed } else { &mut change.missing }.push(removal.clone());
            }
            match self.store().put(&key, self.encode(object.properties)?, PutMode::IfMatch(etag)).await {
                Ok(_) => return Ok(change),
                Err(StoreError::Taken { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Busy { detail: format!("namespace {namespace} is being changed by others; try again") })
    }
}
