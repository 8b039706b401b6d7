//! Orphans: files of ours below a table's location that nothing names, left by turns that were cut off.
//!
//! Owns: recognising and deleting them. A file is deleted only if its name is one that this crate gives (an engine's
//! files are left to the engine), it is older than [`Bounds::orphan_age_ms`](super::Bounds), and no snapshot that the
//! table keeps reads it. A writer that could still commit an older file is fenced by then: the caller sweeps right
//! after a commit of its own, with no append of its own unsettled, and not while it compacts ([`SweepLock`]). The table
//! is loaded again between each listing and its deletes: a committer whose successor has committed meanwhile deletes
//! nothing more, and files of snapshots that came since count as named.
//!
//! **Memory**: eight bytes for each file of the table, and one manifest at a time. Names are kept as hashes; two that
//! collide keep an orphan alive, never the reverse. **Crash**: at any point; the next sweep continues.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use iceberg::TableIdent;
use iceberg::spec::TableMetadata;
use tidewater_storage::model::TimestampMs;
use tidewater_tiering::store::{Listed, ObjectKey};
use tokio::sync::Mutex;

use super::identity::{TableOwner, epoch};
use super::maintain::MANIFEST_PREFIX;
use super::snapshot::read_list;
use crate::catalog::{Catalog, CatalogError, Loaded};
use crate::files::{FileError, TableFiles};
use crate::location::FilePlace;
use crate::write::DataFileName;

/// Keys of one listing.
const PAGE: usize = 1000;

/// Held by a sweep of a table, and by compaction from its first file to its commit: a process that was stopped for a
/// day in between must not sweep those files and then commit them.
pub type SweepLock = Arc<Mutex<()>>;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub files: u64,
    pub bytes: u64,
}

/// Why a sweep ended early; what it had deleted stays deleted.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A manifest of the table could not be read.
    #[error("orphans are not looked for, a manifest of the table cannot be read: {0}")]
    Metadata(#[from] iceberg::Error),
    #[error("orphans are not all deleted: {0}")]
    File(#[from] FileError),
    #[error("orphans are not all deleted, the table cannot be loaded: {0}")]
    Catalog(#[from] CatalogError),
}

/// The table that is swept, and whose writer sweeps it.
#[derive(Clone, Copy)]
pub struct SweptTable<'a> {
    pub catalog: &'a dyn Catalog,
    pub table: &'a TableIdent,
    pub owner: &'a TableOwner,
}

impl SweptTable<'_> {
    /// The table as it is now; `None` if it is not this writer's any more.
    async fn newest(&self, base: &Loaded) -> Result<Option<Loaded>, CatalogError> {
        let newest = self.catalog.load(self.table).await?;
        let metadata = &newest.metadata;
        let is_ours = metadata.uuid() == base.metadata.uuid()
            && self.owner.check(self.table, metadata).is_ok()
            && epoch(metadata) == self.owner.epoch;
        Ok(is_ours.then_some(newest))
    }
}

/// Deletes the orphans of a table written before `before`, by the store's clock. `base` is the table as of the caller's
/// last commit.
///
/// # Errors
/// The first failure. Nothing is deleted unless everything the table names was read.
pub async fn sweep(table: SweptTable<'_>, base: &Loaded, before: TimestampMs) -> Result<Swept, SweepError> {
    let mut swept = Swept::default();
    let (files, mut base) = (table.catalog.files(), base.clone());
    let location = base.metadata.location().to_owned();
    let folders = [format!("{location}/data/"), format!("{location}/metadata/")];
    let Some(mut named) = Named::read(&files, &base.metadata).await? else { return Ok(swept) };
    for folder in folders {
        // A table beside the bucket cannot be listed; this crate writes none there by itself.
        let Ok(FilePlace::Object(prefix)) = files.warehouse().locate(&format!("{folder}x")) else { continue };
        let prefix = prefix.as_str().trim_end_matches('x').to_owned();
        let mut after: Option<String> = None;
        loop {
            let page = files.store().list(&prefix, after.as_deref(), PAGE).await.map_err(FileError::from)?;
            let more = page.len() == PAGE;
            after = page.last().map(|last| last.key.as_str().to_owned());
            let mut orphans: Vec<Listed> = page
                .into_iter()
                .filter(|found| is_old_and_ours(found, &prefix, before) && !named.has(&found.key))
                .collect();
            if !orphans.is_empty() {
                let Some(newest) = table.newest(&base).await? else { return Ok(swept) };
                if newest.location != base.location {
                    let Some(read) = Named::read(&files, &newest.metadata).await? else { return Ok(swept) };
                    (named, base) = (read, newest);
                    orphans.retain(|found| !named.has(&found.key));
                }
            }
            swept.files += orphans.len() as u64;
            swept.bytes += orphans.iter().map(|orphan| orphan.size).sum::<u64>();
            if !orphans.is_empty() {
                let keys = orphans.into_iter().map(|orphan| orphan.key).collect();
                files.delete_keys(keys).await?;
            }
            if !more {
                break;
            }
        }
    }
    Ok(swept)
}

/// Whether the name is of the form `data/hour=<n>/<uuid>.parquet`, `data/part=<hash>/<uuid>.parquet` or
/// `metadata/tidewater-….avro` and the file is old.
fn is_old_and_ours(found: &Listed, prefix: &str, before: TimestampMs) -> bool {
    let Some(name) = found.key.as_str().strip_prefix(prefix) else { return false };
    let is_metadata = !name.contains('/') && name.starts_with(MANIFEST_PREFIX) && name.ends_with(".avro");
    let ours = is_metadata || DataFileName::parse(name).is_some();
    ours && found.modified < before
}

/// Everything the table's snapshots name.
struct Named(HashSet<u64>);

impl Named {
    /// `None` if a name cannot be mapped to a key: then the others cannot be compared either.
    async fn read(files: &TableFiles, metadata: &TableMetadata) -> Result<Option<Self>, SweepError> {
        let mut named = Self(HashSet::new());
        let mut manifests = HashSet::new();
        for snapshot in metadata.snapshots() {
            if !named.add(files, snapshot.manifest_list()) {
                return Ok(None);
            }
            for manifest in read_list(files, metadata, snapshot).await? {
                if !manifests.insert(manifest.manifest_path.clone()) {
                    continue;
                }
                let loaded = manifest.load_manifest(&files.io()).await?;
                let mut paths = loaded.entries().iter().filter(|e| e.is_alive()).map(|e| e.file_path());
                if !named.add(files, &manifest.manifest_path) || !paths.all(|path| named.add(files, path)) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(named))
    }

    fn add(&mut self, files: &TableFiles, uri: &str) -> bool {
        match files.warehouse().locate(uri) {
            Ok(FilePlace::Object(key)) => {
                self.0.insert(hash(&key));
                true
            }
            Ok(FilePlace::Local(_)) => true,
            Err(_) => false,
        }
    }

    fn has(&self, key: &ObjectKey) -> bool {
        self.0.contains(&hash(key))
    }
}

fn hash(key: &ObjectKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.as_str().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_old_files_with_our_names() {
        let prefix = "lake/t/data/";
        let listed = |name: &str, modified| Listed {
            key: ObjectKey::new(&format!("{prefix}{name}")).expect("legal"),
            size: 1,
            modified: TimestampMs(modified),
        };
        let id = Uuid::from_u128(5);
        let before = TimestampMs(1000);
        assert!(is_old_and_ours(&listed(&format!("hour=-3/{id}.parquet"), 999), prefix, before));
        assert!(is_old_and_ours(&listed(&format!("part=00000000000000ff/{id}.parquet"), 999), prefix, before));
        assert!(is_old_and_ours(&listed("tidewater-snap-1.avro", 999), prefix, before));
        for (name, modified) in [
            (format!("hour=3/{id}.parquet"), 1000),
            (format!("tidewater_hour=2025-01-01-10/{id}.parquet"), 0),
            ("hour=3/00000-0-engine.parquet".to_owned(), 0),
            (format!("hour=3/deeper/{id}.parquet"), 0),
            (format!("{id}.parquet"), 0),
            (format!("{id}-m0.avro"), 0),
            ("00001-x.metadata.json".to_owned(), 0),
        ] {
            assert!(!is_old_and_ours(&listed(&name, modified), prefix, before), "{name}");
        }
    }
}
