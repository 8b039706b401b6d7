//! A catalog of another vendor, over its Iceberg REST routes: it holds the pointers, while all files of ours are
//! written into our own bucket.
//!
//! Owns: the contract of [`Catalog`] on top of what the routes answer, and which tables can be worked with. Does not
//! own: HTTP (`client`), tokens (`credentials`), what an answer means (`answers`), routes (`api`), the probe of
//! `tidewater iceberg check-catalog` ([`check`]). *Node-wide*; side runtime.
//!
//! | a commit is answered with | then |
//! |---|---|
//! | success, and the state shows all updates | done |
//! | success, and the state does not show them, or cannot be read | unknown |
//! | 4xx, 501 | refused, unless the table has our snapshot: a proxy may have sent the commit twice, or answered itself after the catalog had carried it out |
//! | 408, another 5xx, a cut connection, no answer in time | unknown |
//! | no connection, no token | never sent: may be tried again |
//!
//! A commit of unknown outcome is never sent again from here: the committer loads the table and compares. If the first
//! one is still on its way then, either its requirements fail, or those of the second do: both ask for the same main.
//!
//! **Locations.** The catalog writes metadata files, we write all others, so each table must lie below the warehouse of
//! our bucket: elsewhere we could neither write nor delete. Tables are made with a location there; a table that the
//! catalog puts elsewhere is refused.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use iceberg::spec::TableMetadata;
use iceberg::{NamespaceIdent, TableIdent, TableRequirement, TableUpdate};
use uuid::Uuid;

use super::keys::path_segment;
use super::{Catalog, CatalogError, Loaded, NewTable, TableCommit};
use crate::files::TableFiles;
use crate::names::Names;
use crate::schema::ids;
use crate::schema::system::SystemColumns;

mod answers;
mod api;
pub mod check;
mod client;
mod credentials;
#[cfg(test)]
mod tests;

use answers::{added_snapshot, lacks};
use api::{RestApi, Versioned};
pub use credentials::Credentials;

/// How long a request may take, if nothing else is set: catalogs have been seen to take half a minute for a commit.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Tables whose last state is held, so that an unchanged one is not sent again.
const KNOWN_MAX: usize = 1024;

/// Columns whose ids are looked at before a table has rows.
const SYSTEM_IDS: [(&str, i32); 7] = [
    ("tidewater", ids::TIDEWATER),
    ("tidewater.partition", ids::PARTITION),
    ("tidewater.offset", ids::OFFSET),
    ("tidewater.timestamp", ids::TIMESTAMP),
    ("tidewater.timestamp_type", ids::TIMESTAMP_TYPE),
    ("tidewater.headers", ids::HEADERS),
    ("tidewater.key", ids::KEY),
];

/// How an external catalog is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestSettings {
    /// The URL below which `/v1/config` is.
    pub uri: String,
    /// The name by which the catalog knows the warehouse.
    pub warehouse: Option<String>,
    pub credentials: Credentials,
    /// Sent with each request.
    pub headers: Vec<(String, String)>,
    /// Of each request.
    pub timeout: Duration,
}

impl RestSettings {
    /// Without a warehouse, credentials or headers.
    #[must_use]
    pub fn new(uri: impl Into<String>) -> Self {
        let credentials = Credentials::None;
        Self { uri: uri.into(), warehouse: None, credentials, headers: Vec::new(), timeout: REQUEST_TIMEOUT }
    }
}

/// An external catalog.
pub struct RestCatalog {
    api: RestApi,
    files: TableFiles,
    names: Names,
    /// The last state of tables whose version the catalog gave.
    known: Mutex<HashMap<TableIdent, Versioned>>,
}

impl RestCatalog {
    /// The catalog at `settings`, for tables below the warehouse of `files`. Nothing is asked yet, so that a broker
    /// starts while the catalog is down.
    ///
    /// # Errors
    /// A setting is not legal.
    pub fn new(settings: &RestSettings, files: TableFiles, names: Names) -> Result<Self, CatalogError> {
        Ok(Self { api: RestApi::new(settings)?, files, names, known: Mutex::default() })
    }

    /// Where a table is put whose creator chose no place: a suffix keeps it apart from a dropped one of the same name.
    fn default_location(&self, table: &TableIdent) -> String {
        let path: Vec<_> = table.namespace.iter().map(|level| path_segment(level)).collect();
        let name = format!("{}-{}", path_segment(&table.name), self.names.suffix());
        format!("{}/{}/{name}", self.files.warehouse().uri(), path.join("/"))
    }

    /// Refuses a table that cannot be worked with.
    fn accept(&self, table: &TableIdent, metadata: &TableMetadata) -> Result<(), CatalogError> {
        if let Err(error) = self.files.warehouse().folder(metadata.location()) {
            let detail = format!(
                "the external catalog has {table} at {}, where this broker cannot write ({error}); give the catalog a \
                 warehouse, and its user a place, below {}",
                metadata.location(),
                self.files.warehouse().uri()
            );
            return Err(CatalogError::Refused { detail });
        }
        // Data files carry field ids that are the same in each table.
        let (current, system) = (metadata.current_schema(), SystemColumns::of(metadata));
        let is_other =
            |(name, own): &(&str, i32)| current.field_id_by_name(name).is_some_and(|found| found != system.id(*own));
        match SYSTEM_IDS.iter().find(|field| is_other(field)) {
            Some((name, _)) if metadata.current_snapshot().is_none() => {
                let detail = format!(
                    "the external catalog gave column {name} of {table} another field id than it was made with; \
                     Tidewater cannot write to it"
                );
                Err(CatalogError::Refused { detail })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a table that was just made and is not what was asked for; it is dropped.
    async fn accept_new(&self, table: &TableIdent, made: &Loaded, new: &NewTable) -> Result<(), CatalogError> {
        let asked = [TableUpdate::SetProperties { updates: new.properties.clone() }];
        let refused = match (self.accept(table, &made.metadata), lacks(&made.metadata, &asked)) {
            (Ok(()), None) => return Ok(()),
            (Err(error), _) => error,
            (Ok(()), Some(what)) => CatalogError::Refused {
                detail: format!(
                    "the external catalog made {table} and did not keep its {what}; Tidewater records the owner of a \
                     table and its offsets in properties, so it cannot use a catalog without them"
                ),
            },
        };
        // Nothing is in it. S3 Tables drop only what is purged.
        if let Err(CatalogError::Refused { .. } | CatalogError::Invalid { .. }) =
            self.api.drop_table(table, false).await
        {
            let _ = self.api.drop_table(table, true).await;
        }
        Err(refused)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<TableIdent, Versioned>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, if it has the snapshot that `updates` add.
    async fn if_done(&self, table: &TableIdent, updates: &[TableUpdate]) -> Result<Option<Loaded>, CatalogError> {
        let Some(id) = added_snapshot(updates) else { return Ok(None) };
        match self.load(table).await {
            Ok(now) => Ok(now.metadata.snapshot_by_id(id).is_some().then_some(now)),
            Err(error) => Err(CatalogError::Unknown { table: table.clone(), detail: format!("refused, but {error}") }),
        }
    }
}

#[async_trait]
impl Catalog for RestCatalog {
    fn files(&self) -> TableFiles {
        self.files.clone()
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), CatalogError> {
        // Looked for first: a user may be allowed to make tables and no namespaces.
        if self.api.namespace_exists(namespace).await? {
            return Ok(());
        }
        match self.api.create_namespace(namespace).await {
            Ok(()) | Err(CatalogError::NamespaceExists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn load(&self, table: &TableIdent) -> Result<Loaded, CatalogError> {
        let held = self.known().get(table).cloned();
        let etag = held.as_ref().and_then(|held| held.etag.as_deref());
        let found = match (self.api.load(table, etag).await?, held) {
            (Some(found), _) => found,
            (None, Some(held)) => return Ok(held.loaded),
            (None, None) => {
                let detail = format!("the external catalog says that {table} is unchanged, without being asked");
                return Err(CatalogError::BadAnswer { detail });
            }
        };
        self.accept(table, &found.loaded.metadata)?;
        let loaded = found.loaded.clone();
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        if found.etag.is_some() {
            known.insert(table.clone(), found);
        } else {
            known.remove(table);
        }
        Ok(loaded)
    }

    async fn create(&self, table: &TableIdent, new: NewTable) -> Result<Loaded, CatalogError> {
        let location = new.location.clone().unwrap_or_else(|| self.default_location(table));
        let new = NewTable { location: Some(location), ..new };
        let made = match self.api.create(table, &new).await {
            Err(unknown @ CatalogError::Unknown { .. }) => match self.load(table).await {
                // Another writer's table of that name has another place.
                Ok(found) if Some(found.metadata.location()) == new.location.as_deref() => found,
                _ => return Err(unknown),
            },
            made => made?,
        };
        self.accept_new(table, &made, &new).await?;
        Ok(made)
    }

    async fn commit(
        &self,
        table: &TableIdent,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CatalogError> {
        let mut updates = updates;
        // An expiry may want it, and catalogs that do not know it refuse the whole commit. Schemas are small.
        updates.retain(|update| !matches!(update, TableUpdate::RemoveSchemas { .. }));
        let commit = TableCommit { table: table.clone(), requirements, updates };
        match self.api.commit(&commit).await {
            Ok(after) => match lacks(&after.metadata, &commit.updates) {
                None => Ok(after),
                Some(what) => {
                    let detail = format!("the external catalog answers the commit without its {what}");
                    Err(CatalogError::Unknown { table: table.clone(), detail })
                }
            },
            Err(open @ (CatalogError::Unknown { .. } | CatalogError::Busy { .. })) => Err(open),
            Err(refused) => match self.if_done(table, &commit.updates).await {
                Ok(done) => done.ok_or(refused),
                Err(_) if refused.is_table_gone() => Err(refused),
                Err(unknown) => Err(unknown),
            },
        }
    }

    /// A second copy of a commit that was refused may still be on its way, in a proxy.
    fn refusals_are_final(&self) -> bool {
        false
    }

    /// The routes know no condition: a table that takes the name between the look and the drop would go.
    async fn drop_one(&self, table: &TableIdent, uuid: Option<Uuid>, purge: bool) -> Result<(), CatalogError> {
        if let Some(uuid) = uuid
            && self.load(table).await?.metadata.uuid() != uuid
        {
            return Err(CatalogError::NoSuchTable(table.clone()));
        }
        self.api.drop_table(table, purge).await
    }
}
