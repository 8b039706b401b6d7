//! The metadata files that this process wrote last: nothing in them is unknown to it. While a caller (a table's sink)
//! holds the metadata of one, no commit and no load reads that file again. A metadata file never changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use iceberg::spec::TableMetadata;
use uuid::Uuid;

use super::Loaded;
use super::object_store::Built;
use super::refs::Refs;

/// Tables that are remembered. After that many all are forgotten: each is read once more.
const TABLES_MAX: usize = 1 << 16;

/// The last file of each table that this process wrote. *Node-wide*.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnFiles(Arc<Mutex<HashMap<Uuid, Own>>>);

#[derive(Debug)]
struct Own {
    location: String,
    /// Weak: the users of the table keep the metadata in memory, this does not.
    metadata: Weak<TableMetadata>,
    refs: Arc<OnceLock<Refs>>,
}

/// What is known of a metadata file.
pub(super) enum Known {
    /// Another process may have written it.
    Nothing,
    /// This one did.
    Written,
    /// And this is in it.
    Held(Loaded),
}

impl OwnFiles {
    /// `written` was written by this process.
    pub(super) fn add(&self, written: &Built) {
        let own = Own {
            location: written.location.clone(),
            metadata: Arc::downgrade(&written.metadata),
            refs: Arc::clone(&written.refs),
        };
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= TABLES_MAX {
            held.clear();
        }
        held.insert(written.metadata.uuid(), own);
    }

    /// Of the file at `location`, of the table `uuid`.
    pub(super) fn known(&self, uuid: Uuid, location: &str) -> Known {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get(&uuid).filter(|own| own.location == location) {
            None => Known::Nothing,
            Some(own) => own.metadata.upgrade().map_or(Known::Written, |metadata| {
                let (location, refs) = (Some(location.to_owned()), Arc::clone(&own.refs));
                Known::Held(Loaded { metadata, location, refs })
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use futures::executor::block_on;
    use iceberg::TableUpdate;
    use tidewater_storage::model::TimestampMs;

    use super::super::{Catalog as _, CatalogError, refs};
    use super::*;
    use crate::fixture::World;

    const NOW: TimestampMs = TimestampMs(1_760_000_000_000);

    #[test]
    fn what_somebody_holds_is_what_its_file_has_and_is_not_read_again() {
        block_on(async {
            let mut world = World::new(1);
            world.log.append(0, 3, NOW);
            world.sink(1).run_once(NOW).await;
            let (catalog, table) = (world.catalog(), world.table());
            let set = |value: &str| {
                let updates = HashMap::from([("owner".to_owned(), value.to_owned())]);
                vec![TableUpdate::SetProperties { updates }]
            };
            catalog.commit(&table, Vec::new(), set("me")).await.expect("committed");
            let held = catalog.commit(&table, Vec::new(), set("you")).await.expect("committed");
            let location = held.location.clone().expect("written");
            assert_eq!(*held.metadata, catalog.read_metadata(&location).await.expect("readable"));
            assert_eq!(held.refs().expect("known"), &refs::of(&held.metadata).expect("JSON"));
            assert_eq!(held.refs().expect("known").len(), 1);

            catalog.files().delete(&[location]).await.expect("deleted");
            let again = catalog.load(&table).await.expect("is held");
            assert!(Arc::ptr_eq(&again.metadata, &held.metadata));
            drop((held, again));
            let missing = catalog.load(&table).await.expect_err("is gone");
            assert!(matches!(missing, CatalogError::MetadataMissing { .. }), "{missing}");
        });
    }
}
