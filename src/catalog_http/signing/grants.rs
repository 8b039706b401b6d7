//! The folders in which requests may be signed, by table.
//!
//! Owns: which tables were loaded or staged by clients that have requests signed, and where they are; how long that is
//! believed. Does not own: what is signed there (`judge`). *Node-wide*.
//!
//! A scan asks for a signature for each range that it reads, so the catalog is not read each time: a table is looked
//! up again after [`BELIEVED`]. Some tables are not in the catalog, and their files are still in use: those that are
//! only staged, which an engine fills before it commits them, and those that were dropped, whose files Spark deletes
//! afterwards. This broker knows their folders, and lets them be used for [`APART`].

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tidewater_iceberg::catalog::wire::signing::SignRequest;
use tidewater_iceberg::catalog::{CatalogError, RawLoaded, TableIdent};
use tidewater_iceberg::location::{LocationError, Warehouse};

use super::judge::Refusal;
use crate::catalog_http::answer::{Answer, Failure};
use crate::catalog_http::served::ServedCatalog;

/// How long a table counts as being where it was.
const BELIEVED: Duration = Duration::from_secs(30);
/// How long a client may take from staging a table to its first commit, and from dropping one to its last delete.
const APART: Duration = Duration::from_secs(6 * 3600);
/// Tables that are remembered; those that were used longest ago go first.
const TABLES_MAX: u64 = 10_000;
/// Folders of one name that are used at the same time without being the table's.
const APART_MAX: usize = 16;
/// Tables that one request without the name of a table is looked at for.
const NAMED_MAX: usize = 8;

/// A folder in which requests may be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// What the store's keys of the table's files begin with, a slash at the end.
    pub(super) folder: String,
    /// The caller may commit to the table, and so write and delete its files.
    pub(super) writes: bool,
}

/// Where a table was when it was last looked at.
#[derive(Clone, Debug)]
struct Seen {
    folder: String,
    /// URI of its metadata file.
    metadata: String,
}

/// See the header.
#[derive(Debug)]
pub(super) struct Grants {
    /// Tables that were looked at less than [`BELIEVED`] ago.
    fresh: Cache<TableIdent, ()>,
    seen: Cache<TableIdent, Seen>,
    /// Folders of tables that the catalog does not have.
    apart: Cache<TableIdent, Arc<[String]>>,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            fresh: Cache::builder().max_capacity(TABLES_MAX).time_to_live(BELIEVED).build(),
            seen: Cache::new(TABLES_MAX),
            apart: Cache::builder().max_capacity(TABLES_MAX).time_to_live(APART).build(),
        }
    }
}

impl Grants {
    /// Notes where a table is that a client has loaded or staged.
    ///
    /// # Errors
    /// Its files are where nothing is signed.
    pub(super) fn remember(
        &self,
        warehouse: &Warehouse,
        table: &TableIdent,
        loaded: &RawLoaded,
    ) -> Result<(), LocationError> {
        let location = loaded.metadata.get("location").and_then(Value::as_str).unwrap_or_default();
        let folder = warehouse.folder(location)?;
        match loaded.location.clone() {
            Some(metadata) => {
                self.seen.insert(table.clone(), Seen { folder, metadata });
                self.fresh.insert(table.clone(), ());
            }
            None => self.set_apart(table, folder),
        }
        Ok(())
    }

    fn set_apart(&self, table: &TableIdent, folder: String) {
        let before = self.apart.get(table).unwrap_or_default();
        let others = before.iter().filter(|other| **other != folder).take(APART_MAX - 1).cloned();
        let folders = std::iter::once(folder.clone()).chain(others).collect();
        self.apart.insert(table.clone(), folders);
    }

    /// Where requests may be signed for `table`. Callers of this catalog may commit to every table of the cluster.
    ///
    /// # Errors
    /// There is no such table, or it is a source's; the bucket.
    pub(super) async fn of(&self, catalog: &ServedCatalog, table: &TableIdent) -> Answer<Vec<Grant>> {
        let own = self.table_folder(catalog, table).await;
        let mut folders = self.apart.get(table).unwrap_or_default().to_vec();
        match own {
            Ok(folder) => folders.push(folder),
            Err(failure) if failure.code() == 404 && !folders.is_empty() => {}
            Err(failure) => return Err(failure),
        }
        Ok(folders.into_iter().map(|folder| Grant { folder, writes: true }).collect())
    }

    async fn table_folder(&self, catalog: &ServedCatalog, table: &TableIdent) -> Answer<String> {
        let seen = self.seen.get(table);
        if let Some(seen) = seen.as_ref().filter(|_| self.fresh.contains_key(table)) {
            return Ok(seen.folder.clone());
        }
        let known = |file: &str| seen.as_ref().is_some_and(|seen| seen.metadata == file);
        let loaded = match catalog.load_own(table, known).await {
            Ok(loaded) => loaded,
            Err(failure) => {
                if let Some(seen) = seen.filter(|_| failure.code() == 404) {
                    self.seen.invalidate(table);
                    self.set_apart(table, seen.folder);
                }
                return Err(failure);
            }
        };
        match (loaded, seen) {
            (None, Some(seen)) => {
                self.fresh.insert(table.clone(), ());
                Ok(seen.folder)
            }
            (Some(loaded), _) => {
                let why = |error: LocationError| Refusal(format!("the files of {table}: {error}"));
                self.remember(catalog.warehouse(), table, &loaded).map_err(why)?;
                let folder = self.seen.get(table).map(|seen| seen.folder);
                folder.ok_or_else(|| Failure::from(CatalogError::NoSuchTable(table.clone())))
            }
            (None, None) => Err(CatalogError::NoSuchTable(table.clone()).into()),
        }
    }

    /// The remembered tables whose folders the request has in it somewhere. `judge` decides whether it is within them.
    pub(super) fn named_in(&self, asked: &SignRequest) -> Vec<TableIdent> {
        let uri = percent_decode_str(&asked.uri).decode_utf8_lossy().into_owned();
        let body = asked.body.as_deref().unwrap_or_default();
        let is_in = |folder: &String| uri.contains(folder.as_str()) || body.contains(folder.as_str());
        let seen = self.seen.iter().filter(|(_, seen)| is_in(&seen.folder)).map(|(table, _)| table);
        let apart = self.apart.iter().filter(|(_, folders)| folders.iter().any(is_in)).map(|(table, _)| table);
        let mut tables: Vec<TableIdent> = seen.chain(apart).take(NAMED_MAX).map(|table| (*table).clone()).collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidewater_iceberg::catalog::NamespaceIdent;

    use super::*;

    #[test]
    fn a_request_without_a_table_is_looked_at_for_those_whose_folders_it_names() {
        let (grants, warehouse) = (Grants::default(), Warehouse::new("s3://b", "wh").expect("a warehouse"));
        let table = |name: &str| TableIdent::new(NamespaceIdent::new("ns".to_owned()), name.to_owned());
        let loaded = |at: &str, file: Option<&str>| RawLoaded {
            metadata: json!({"location": format!("s3://b/{at}")}),
            location: file.map(ToOwned::to_owned),
        };
        grants.remember(&warehouse, &table("a"), &loaded("wh/ns/a b", None)).expect_err("no legal location");
        grants.remember(&warehouse, &table("a"), &loaded("other/a", Some("f"))).expect_err("outside");
        grants.remember(&warehouse, &table("a"), &loaded("wh/ns/a=1", Some("f"))).expect("is remembered");
        for n in 0..APART_MAX + 3 {
            grants.remember(&warehouse, &table("b"), &loaded(&format!("wh/ns/b-{n}"), None)).expect("is remembered");
        }
        assert_eq!(grants.apart.get(&table("b")).map(|folders| folders.len()), Some(APART_MAX));
        let named = |uri: &str, body: Option<&str>| {
            let (method, uri, body) = ("GET".to_owned(), uri.to_owned(), body.map(ToOwned::to_owned));
            grants.named_in(&SignRequest { method, uri, headers: Default::default(), body, provider: None })
        };
        assert_eq!(named("http://s/b/wh/ns/a%3D1/x", None), [table("a")]);
        assert_eq!(named("http://s/b/wh/ns/b-18/x", None), [table("b")]);
        assert_eq!(
            named("http://s/b?delete", Some("<Key>wh/ns/a=1/x</Key><Key>wh/ns/b-18/y</Key>")),
            [table("a"), table("b")]
        );
        assert!(named("http://s/b/wh/ns/b-1/x", None).is_empty(), "forgotten");
        assert!(named("http://s/b/wh/ns/c/x", None).is_empty());
    }
}
