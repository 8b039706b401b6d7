//! The catalog that the port serves: the cluster's own, and beside it the tables of followed topics, which can only be
//! read.
//!
//! Owns: which of the two a request is for, and what is refused. Does not own: what a request does in either
//! (`tidewater_iceberg::catalog`, `replica::tables`). Node-wide; side runtime.
//!
//! A name belongs to this cluster if its own catalog has a table of it. So a table that a topic of this cluster left
//! behind stays within reach, and nothing that a source does changes what an own name means. A cluster that has sources
//! has the namespaces of their topics' tables, with or without own ones.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tidewater_iceberg::catalog::wire::{CommitTable, ErrorAnswer};
use tidewater_iceberg::catalog::{
    Catalog as _, CatalogError, Loaded, NamespaceIdent, NewTable, ObjectStoreCatalog, PropertyChange, RawLoaded,
    TableCommit, TableIdent, TableRequirement,
};
use tidewater_iceberg::location::Warehouse;

use super::answer::{Answer, Failure};
use super::signing::Signing;
use crate::replica::tables::{FollowedTables, Owner, SourceError, SourceTable};

/// See the header.
#[derive(Clone, Debug)]
pub struct ServedCatalog {
    own: Arc<ObjectStoreCatalog>,
    /// `None` where nothing can be followed.
    followed: Option<FollowedTables>,
    /// `None`: no requests to the bucket are signed.
    signing: Option<Arc<Signing>>,
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let message = error.to_string();
        let (code, kind) = match error {
            SourceError::ReadOnly { .. } | SourceError::Elsewhere { .. } => (403, "ForbiddenException"),
            SourceError::Reserved { .. } => (409, "AlreadyExistsException"),
            SourceError::Unread { .. } | SourceError::Starting { .. } | SourceError::TimedOut { .. } => AWAY,
            // That the source's bucket denies access is no refusal of this request.
            SourceError::Failed { error, .. } if error.disposition().passes() => AWAY,
            SourceError::Failed { error: CatalogError::File(_), .. } => AWAY,
            SourceError::Failed { error, .. } => {
                let ErrorAnswer { error } = error.into();
                (error.code, error.r#type)
            }
        };
        Self::new(ErrorAnswer::new(code, kind, message))
    }
}

/// What is not known now and may be known later.
const AWAY: (u16, &str) = (503, "ServiceUnavailableException");

impl ServedCatalog {
    /// The tables of this cluster and those of followed topics.
    #[must_use]
    pub fn new(own: Arc<ObjectStoreCatalog>, followed: FollowedTables) -> Self {
        Self { own, followed: Some(followed), signing: None }
    }

    /// The tables of `own` alone.
    #[must_use]
    pub fn alone(own: Arc<ObjectStoreCatalog>) -> Self {
        Self { own, followed: None, signing: None }
    }

    /// With signatures for clients that have no keys of the bucket.
    #[must_use]
    pub fn with_signing(self, signing: Signing) -> Self {
        Self { signing: Some(Arc::new(signing)), ..self }
    }

    pub(super) fn signing(&self) -> Option<&Signing> {
        self.signing.as_deref()
    }

    /// Where this cluster's tables are.
    pub(super) fn warehouse(&self) -> &Warehouse {
        self.own.warehouse()
    }

    /// The configuration that clients get with each table. It is the same for a source's: the client reaches that
    /// bucket by its own settings too.
    pub(super) fn table_config(&self) -> &HashMap<String, String> {
        self.own.table_config()
    }

    fn owner(&self, table: &TableIdent) -> Owner {
        self.followed.as_ref().map_or(Owner::Own, |followed| followed.owner(table))
    }

    /// Is it there because of sources?
    fn is_followed(&self, namespace: &NamespaceIdent) -> bool {
        self.followed.as_ref().is_some_and(|followed| followed.has_namespace(namespace))
    }

    /// `found`, or nothing where only the own namespace is missing.
    fn or_empty<T>(&self, namespace: &NamespaceIdent, found: Result<Vec<T>, CatalogError>) -> Answer<Vec<T>> {
        match found {
            Err(CatalogError::NoSuchNamespace(_)) if self.is_followed(namespace) => Ok(Vec::new()),
            found => Ok(found?),
        }
    }

    /// Makes the own namespace of topics, which is there without it, before something is put into it.
    async fn ensure_own(&self, namespace: &NamespaceIdent) -> Answer<()> {
        if self.is_followed(namespace) {
            self.own.ensure_namespace(namespace).await?;
        }
        Ok(())
    }

    /// Refuses a change to what is not this cluster's.
    async fn own_or(&self, table: &TableIdent, refusal: fn(SourceTable) -> SourceError) -> Answer<()> {
        let refused = match self.owner(table) {
            Owner::Own => return Ok(()),
            Owner::Source(found) => refusal(found),
            Owner::Unknown(error) => error,
        };
        if self.own.table_exists(table).await? { Ok(()) } else { Err(refused.into()) }
    }

    /// Refuses a new table under a name that is not this cluster's.
    async fn check_new(&self, table: &TableIdent) -> Answer<()> {
        self.own_or(table, SourceTable::reserved).await?;
        self.ensure_own(&table.namespace).await
    }

    pub(super) async fn list_tables(&self, namespace: &NamespaceIdent) -> Answer<Vec<TableIdent>> {
        let own = self.or_empty(namespace, self.own.list_tables(namespace).await)?;
        let Some(followed) = self.followed.as_ref().filter(|followed| followed.has_namespace(namespace)) else {
            return Ok(own);
        };
        let mut names: BTreeSet<String> = own.into_iter().map(|table| table.name).collect();
        names.extend(followed.list(namespace).await);
        Ok(names.into_iter().map(|name| TableIdent::new(namespace.clone(), name)).collect())
    }

    /// `None` if the metadata file is `known`.
    pub(super) async fn load(
        &self,
        table: &TableIdent,
        known: impl Fn(&str) -> bool + Send + Sync,
    ) -> Answer<Option<RawLoaded>> {
        match self.own.load_raw(table, &known).await {
            Err(error @ CatalogError::NoSuchTable(_)) => match self.owner(table) {
                Owner::Own => Err(error.into()),
                Owner::Source(found) => {
                    let loaded = found.load().await?;
                    let known = loaded.location.as_deref().is_some_and(known);
                    Ok(if known { None } else { Some(loaded.try_into()?) })
                }
                Owner::Unknown(error) => Err(error.into()),
            },
            loaded => Ok(loaded?),
        }
    }

    /// As [`ServedCatalog::load`], for a table of this cluster.
    pub(super) async fn load_own(
        &self,
        table: &TableIdent,
        known: impl Fn(&str) -> bool + Send + Sync,
    ) -> Answer<Option<RawLoaded>> {
        match self.own.load_raw(table, &known).await {
            Err(error @ CatalogError::NoSuchTable(_)) => {
                self.own_or(table, SourceTable::elsewhere).await?;
                Err(error.into())
            }
            loaded => Ok(loaded?),
        }
    }

    pub(super) async fn table_exists(&self, table: &TableIdent) -> Answer<bool> {
        if self.own.table_exists(table).await? {
            return Ok(true);
        }
        match self.owner(table) {
            Owner::Own => Ok(false),
            Owner::Source(found) => Ok(found.exists().await?),
            Owner::Unknown(error) => Err(error.into()),
        }
    }

    pub(super) async fn create(&self, table: &TableIdent, new: NewTable) -> Answer<Loaded> {
        self.check_new(table).await?;
        Ok(self.own.create(table, new).await?)
    }

    pub(super) async fn stage(&self, table: &TableIdent, new: NewTable) -> Answer<Loaded> {
        self.check_new(table).await?;
        Ok(self.own.stage(table, new).await?)
    }

    pub(super) async fn register(&self, table: &TableIdent, location: &str) -> Answer<Loaded> {
        self.check_new(table).await?;
        Ok(self.own.register(table, location).await?)
    }

    pub(super) async fn commit(&self, table: &TableIdent, asked: CommitTable) -> Answer<Loaded> {
        if asked.requirements.contains(&TableRequirement::NotExist) {
            self.check_new(table).await?;
        } else {
            self.own_or(table, SourceTable::read_only).await?;
        }
        Ok(self.own.commit(table, asked.requirements, asked.updates).await?)
    }

    pub(super) async fn commit_all(&self, commits: Vec<TableCommit>) -> Answer<()> {
        for commit in &commits {
            self.own_or(&commit.table, SourceTable::read_only).await?;
        }
        Ok(self.own.commit_all(commits).await?)
    }

    pub(super) async fn drop_table(&self, table: &TableIdent, purge: bool) -> Answer<()> {
        self.own_or(table, SourceTable::read_only).await?;
        Ok(self.own.drop_table(table, purge).await?)
    }

    pub(super) async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Answer<()> {
        self.own_or(from, SourceTable::read_only).await?;
        self.check_new(to).await?;
        Ok(self.own.rename(from, to).await?)
    }

    pub(super) async fn list_namespaces(&self, parent: Option<&NamespaceIdent>) -> Answer<Vec<NamespaceIdent>> {
        let found = self.own.list_namespaces(parent).await;
        let Some(parent) = parent else {
            let mut all: BTreeSet<NamespaceIdent> = found?.into_iter().collect();
            all.extend(self.followed.iter().flat_map(FollowedTables::namespaces));
            return Ok(all.into_iter().collect());
        };
        self.or_empty(parent, found)
    }

    pub(super) async fn load_namespace(&self, namespace: &NamespaceIdent) -> Answer<HashMap<String, String>> {
        match self.own.load_namespace(namespace).await {
            Err(CatalogError::NoSuchNamespace(_)) if self.is_followed(namespace) => Ok(HashMap::new()),
            found => Ok(found?),
        }
    }

    pub(super) async fn namespace_exists(&self, namespace: &NamespaceIdent) -> Answer<bool> {
        Ok(self.is_followed(namespace) || self.own.namespace_exists(namespace).await?)
    }

    pub(super) async fn create_namespace(
        &self,
        namespace: &NamespaceIdent,
        properties: HashMap<String, String>,
    ) -> Answer<()> {
        if self.is_followed(namespace) {
            return Err(CatalogError::NamespaceExists(namespace.clone()).into());
        }
        Ok(self.own.create_namespace(namespace, properties).await?)
    }

    pub(super) async fn drop_namespace(&self, namespace: &NamespaceIdent) -> Answer<()> {
        if self.is_followed(namespace) {
            let message = format!(
                "Namespace is not empty: {namespace} has the tables of followed topics; it stays as long as the cluster \
                 follows a source (tidewater replica list)"
            );
            return Err(Failure::new(ErrorAnswer::new(409, "NamespaceNotEmptyException", message)));
        }
        Ok(self.own.drop_namespace(namespace).await?)
    }

    pub(super) async fn change_namespace(
        &self,
        namespace: &NamespaceIdent,
        updates: &HashMap<String, String>,
        removals: &[String],
    ) -> Answer<PropertyChange> {
        self.ensure_own(namespace).await?;
        Ok(self.own.change_namespace(namespace, updates, removals).await?)
    }
}

mod views;

#[cfg(test)]
mod tests;
