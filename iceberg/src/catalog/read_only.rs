//! The catalog of another cluster, read from its bucket and never written.
//!
//! Owns: loading a table by its pointer. Does not own: which of the tables may be seen here (root: `replica::tables`).
//! *Node-wide*; used on the tokio side runtime. It only gets objects and, but for [`ReadOnlyCatalog::tables`], does not
//! list them: a bucket that is followed need not allow more. A rename that was cut off is not finished here: a table
//! that is on the move is not there until its own cluster has finished that.

use std::sync::Arc;

use iceberg::TableIdent;
use iceberg::spec::TableMetadata;
use tidewater_tiering::store::ObjectKey;

use super::keys::CatalogKeys;
use super::object_store::METADATA_BYTES_MAX;
use super::pointer::{Kind, Pointer, PointerState};
use super::transactions::as_seen;
use super::{CatalogError, Loaded};
use crate::files::TableFiles;
use crate::location::FilePlace;

/// A load begins again this often when the table's cluster commits meanwhile.
const LOAD_ATTEMPTS: usize = 5;
/// Keys of a LIST.
const LIST_MAX: usize = 1000;

/// Another cluster's tables.
#[derive(Clone, Debug)]
pub struct ReadOnlyCatalog {
    files: TableFiles,
    keys: CatalogKeys,
}

impl ReadOnlyCatalog {
    /// The catalog whose state lies in the warehouse of `files`.
    #[must_use]
    pub fn new(files: TableFiles) -> Self {
        let keys = CatalogKeys::new(&files.warehouse().key_prefix(), files.warehouse().is_directory());
        Self { files, keys }
    }

    /// A table's current state, as its cluster committed it last.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchTable`]; [`CatalogError::Elsewhere`] for a table whose files are not in this bucket;
    /// damage; the bucket.
    pub async fn load(&self, table: &TableIdent) -> Result<Loaded, CatalogError> {
        let mut pointer = self.live(table).await?;
        for _ in 0..LOAD_ATTEMPTS {
            let error = match self.metadata(table, &pointer.metadata_location).await {
                Ok(metadata) => {
                    return Ok(Loaded::new(Arc::new(metadata), Some(pointer.metadata_location)));
                }
                Err(error) => error,
            };
            // The file may have fallen off the log between the two reads: then the pointer has moved.
            let later = self.live(table).await?;
            if later.metadata_location == pointer.metadata_location {
                return Err(error);
            }
            pointer = later;
        }
        Err(CatalogError::Busy { detail: format!("{table} is committed to all the time; try again") })
    }

    /// All tables, by namespace and name. Lists the bucket.
    ///
    /// # Errors
    /// The bucket.
    pub async fn tables(&self) -> Result<Vec<TableIdent>, CatalogError> {
        let (mut tables, mut after) = (Vec::new(), None::<ObjectKey>);
        loop {
            let prefix = self.keys.all_tables();
            let page = self.files.store().list(&prefix, after.as_ref().map(ObjectKey::as_str), LIST_MAX).await?;
            after = page.last().map(|last| last.key.clone());
            let is_last = page.len() < LIST_MAX;
            tables.extend(page.iter().filter_map(|listed| self.keys.parse_any_table(&listed.key)));
            if is_last {
                tables.sort_by(|a: &TableIdent, b: &TableIdent| {
                    a.namespace.iter().cmp(b.namespace.iter()).then_with(|| a.name.cmp(&b.name))
                });
                return Ok(tables);
            }
        }
    }

    /// The location of the metadata file that the table's pointer names.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchTable`]; damage; the bucket.
    pub async fn metadata_location(&self, table: &TableIdent) -> Result<String, CatalogError> {
        Ok(self.live(table).await?.metadata_location)
    }

    /// Whether the table exists.
    ///
    /// # Errors
    /// Damage; the bucket.
    pub async fn table_exists(&self, table: &TableIdent) -> Result<bool, CatalogError> {
        match self.live(table).await {
            Ok(_) => Ok(true),
            Err(CatalogError::NoSuchTable(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn live(&self, table: &TableIdent) -> Result<Pointer, CatalogError> {
        let (store, key) = (&**self.files.store(), self.keys.table(table)?);
        for _ in 0..LOAD_ATTEMPTS {
            let found = Pointer::read(store, &key).await?.map(|(pointer, _)| pointer);
            let Some(pointer) = found.filter(|pointer| pointer.kind() == Kind::Table) else { break };
            match as_seen(store, &self.keys, table, pointer).await? {
                Some(pointer) if pointer.state == PointerState::Live => return Ok(pointer),
                Some(_) => break,
                None => {}
            }
        }
        Err(CatalogError::NoSuchTable(table.clone()))
    }

    async fn metadata(&self, table: &TableIdent, location: &str) -> Result<TableMetadata, CatalogError> {
        let warehouse = self.files.warehouse();
        // Not a file of this machine either: the other cluster's files are on its own.
        if !matches!(warehouse.locate(location), Ok(FilePlace::Object(_))) {
            return Err(CatalogError::Elsewhere {
                table: table.clone(),
                location: location.to_owned(),
                bucket: warehouse.bucket().to_owned(),
            });
        }
        match self.files.size(location).await? {
            None => Err(CatalogError::MetadataMissing { table: table.clone(), location: location.to_owned() }),
            Some(bytes) if bytes > METADATA_BYTES_MAX as u64 => {
                let detail = format!("it has {bytes} bytes, more than the {METADATA_BYTES_MAX} of a metadata file");
                Err(CatalogError::Damaged { key: location.to_owned(), detail })
            }
            Some(_) => Ok(TableMetadata::read_from(&self.files.io(), location).await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use tidewater_storage::model::TimestampMs;

    use super::*;
    use crate::catalog::Catalog;
    use crate::fixture::World;
    use crate::location::Warehouse;

    const NOW: TimestampMs = TimestampMs(1_760_000_000_000);

    /// A world with the table `topics.orders`, with rows, and its catalog as another cluster reads it.
    async fn followed(url: &str) -> (World, ReadOnlyCatalog) {
        let mut world = World::new(7);
        world.log.append(0, 3, NOW);
        world.sink(1).run_once(NOW).await;
        let files = TableFiles::new(Arc::new(world.store.clone()), Warehouse::new(url, "lake").expect("legal"));
        (world, ReadOnlyCatalog::new(files))
    }

    #[test]
    fn a_table_is_loaded_as_its_own_catalog_has_it_and_nothing_is_written() {
        block_on(async {
            let (mut world, reader) = followed("s3://bucket").await;
            let orders = world.table();
            let (own, read) = (world.catalog().load(&orders).await.expect("loads"), reader.load(&orders).await);
            let read = read.expect("loads");
            assert_eq!((read.location.as_ref(), &read.metadata), (own.location.as_ref(), &own.metadata));
            let keys = world.store.keys();
            assert!(reader.table_exists(&orders).await.expect("looks"));
            assert_eq!(world.store.keys(), keys);
            world.log.append(0, 5, NOW);
            world.sink(1).run_once(NOW).await;
            let later = reader.load(&orders).await.expect("loads");
            assert!(later.metadata.last_sequence_number() > read.metadata.last_sequence_number(), "each load is fresh");
            world.catalog().drop_table(&orders, true).await.expect("dropped");
            assert!(!reader.table_exists(&orders).await.expect("looks"));
            assert!(matches!(reader.load(&orders).await, Err(CatalogError::NoSuchTable(_))));
        });
    }

    #[test]
    fn a_table_on_the_move_is_not_there_and_is_left_to_its_own_cluster() {
        block_on(async {
            let (world, reader) = followed("s3://bucket").await;
            let (orders, key) = (world.table(), reader.keys.table(&world.table()).expect("legal"));
            let (pointer, etag) = Pointer::read(&world.store, &key).await.expect("reads").expect("is there");
            let to = TableIdent::from_strs(["topics", "moved"]).expect("legal");
            let moving = Pointer { state: PointerState::Moving { to: to.clone(), entry: None }, ..pointer };
            let body = serde_json::to_vec(&moving).expect("JSON").into();
            let mode = tidewater_tiering::store::PutMode::IfMatch(etag);
            tidewater_tiering::store::ObjectStore::put(&world.store, &key, body, mode).await.expect("put");
            let keys = world.store.keys();
            assert!(matches!(reader.load(&orders).await, Err(CatalogError::NoSuchTable(_))));
            assert_eq!(world.store.keys(), keys, "the rename is not finished from here");
            assert!(!world.catalog().table_exists(&orders).await.expect("finishes it"));
            reader.load(&to).await.expect("loads under its new name");
        });
    }

    #[test]
    fn files_that_are_not_in_the_bucket_are_not_read() {
        block_on(async {
            let (world, reader) = followed("s3://copy").await;
            let error = reader.load(&world.table()).await.expect_err("is refused");
            let text = error.to_string();
            assert!(text.contains("s3://bucket/lake/topics/") && text.contains("s3://copy"), "{text}");
            let (world, reader) = followed("file:///mnt/copy").await;
            let key = reader.keys.table(&world.table()).expect("legal");
            let (pointer, _) = Pointer::read(&world.store, &key).await.expect("reads").expect("is there");
            let strange = Pointer { metadata_location: "file:///etc/passwd".to_owned(), ..pointer };
            let body = serde_json::to_vec(&strange).expect("JSON").into();
            let mode = tidewater_tiering::store::PutMode::Overwrite;
            tidewater_tiering::store::ObjectStore::put(&world.store, &key, body, mode).await.expect("put");
            let error = reader.load(&world.table()).await.expect_err("is refused");
            assert!(matches!(error, CatalogError::Elsewhere { .. }), "{error}");
        });
    }

    #[test]
    fn damage_is_named_and_a_file_that_is_too_large_is_not_read() {
        block_on(async {
            let (world, reader) = followed("s3://bucket").await;
            let loaded = reader.load(&world.table()).await.expect("loads");
            let location = loaded.location.expect("is committed");
            let large = bytes::Bytes::from(vec![b' '; METADATA_BYTES_MAX + 1]);
            reader.files.write(&location, large).await.expect("written");
            let text = reader.load(&world.table()).await.expect_err("is refused").to_string();
            assert!(text.contains("67108865 bytes") && text.contains(&location), "{text}");
            reader.files.delete(std::slice::from_ref(&location)).await.expect("deleted");
            let error = reader.load(&world.table()).await.expect_err("is gone");
            assert!(matches!(error, CatalogError::MetadataMissing { .. }), "{error}");
            let key = reader.keys.table(&world.table()).expect("legal");
            let mode = tidewater_tiering::store::PutMode::Overwrite;
            let put = tidewater_tiering::store::ObjectStore::put(&world.store, &key, "{}".into(), mode);
            put.await.expect("put");
            let error = reader.table_exists(&world.table()).await.expect_err("is damaged");
            assert!(matches!(error, CatalogError::Damaged { .. }), "{error}");
        });
    }
}
