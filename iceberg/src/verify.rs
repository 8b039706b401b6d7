//! Is everything that a warehouse's tables name there, and does it agree? [`verify`] adds what is wrong to the findings
//! of `tidewater verify`.
//!
//! Owns: the way from each pointer over the metadata file, the manifest lists of all snapshots that the table keeps and
//! their manifests to every data and delete file; what counts as damage. Does not own: the archive of the log
//! (`tidewater_tiering::verify`), rows ([`crate::audit`]), files that nothing names (`commit::orphans`). Nothing is
//! written.
//!
//! Metadata is read whole. Data files are listed, a thousand a request, and one that a listing does not have in the
//! right size is asked for by itself; without `quick` the footer of each Parquet file is read, too, and must have as
//! many rows as the manifest says. Rows are not read: that would be the whole table.
//!
//! The cluster, and engines, may commit meanwhile and delete what no snapshot names any more. So a table with damage is
//! checked again from its pointer on, and only what is found twice is reported: the second check began after the first
//! had found it.
//!
//! **Memory**: 32 bytes for each data file of the tables that are checked at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use futures::StreamExt as _;
use futures::stream;
use iceberg::TableIdent;
use iceberg::spec::{DataFileFormat, Manifest, ManifestEntryRef, ManifestFile, ManifestList, TableMetadata};
use tidewater_storage::disposition::Disposition;
use tidewater_tiering::store::ObjectKey;
use tidewater_tiering::verify::{Damage, DamageKind, Findings};

use crate::catalog::{CatalogError, Loaded, ReadOnlyCatalog, of_metadata};
use crate::files::{FileError, TableFiles};
use crate::location::FilePlace;

mod footer;

/// Tables that are checked at once.
const TABLES_AT_ONCE: usize = 4;
/// Manifest lists, manifests or footers of a table that are read at once.
const READS_AT_ONCE: usize = 8;
/// Checks of a table that goes on changing.
const CHECKS: usize = 5;
/// Reads before bytes count as damaged.
const READS: usize = 3;
/// Keys of a LIST.
const LIST_MAX: usize = 1000;

/// A table that was checked. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableReport {
    /// `namespace.name`.
    pub table: String,
    /// Snapshots that it keeps.
    pub snapshots: u64,
    /// Data and delete files that they name, and their bytes.
    pub files: u64,
    pub bytes: u64,
}

/// Of all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablesReport {
    /// By name.
    pub tables: Vec<TableReport>,
    /// What could not be looked at although nothing is wrong with it.
    pub notes: Vec<String>,
}

/// Checks every table of a warehouse; adds to `findings` what is wrong. `quick`: footers are not read.
///
/// # Errors
/// The tables cannot be listed.
pub async fn verify(files: TableFiles, quick: bool, findings: &mut Findings) -> Result<TablesReport, CatalogError> {
    let catalog = ReadOnlyCatalog::new(files.clone());
    let checker = Checker { files, catalog, quick };
    let mut report = TablesReport::default();
    let tables = checker.catalog.tables().await?;
    let checks = stream::iter(tables).map(|table| checker.table(table));
    let mut checks = std::pin::pin!(checks.buffered(TABLES_AT_ONCE));
    while let Some(checked) = checks.next().await {
        report.tables.extend(checked.report);
        report.notes.extend(checked.note);
        checked.damage.into_values().for_each(|damage| findings.add(damage));
        checked.unread.into_iter().for_each(|(object, reason)| findings.unread(object, reason));
    }
    Ok(report)
}

struct Checker {
    files: TableFiles,
    catalog: ReadOnlyCatalog,
    quick: bool,
}

/// What one check of a table found.
#[derive(Default)]
struct Checked {
    report: Option<TableReport>,
    /// By file and reason.
    damage: BTreeMap<(String, String), Damage>,
    unread: Vec<(String, String)>,
    note: Option<String>,
}

/// One check under way.
struct Check {
    name: String,
    /// Sizes of the files below the table's `data`, by the hash of their keys.
    listed: HashMap<u64, u64>,
    /// Files and manifests that were looked at, by the hash of their location.
    seen: HashSet<u64>,
    report: TableReport,
    found: Checked,
    elsewhere: u64,
}

/// Why a file that metadata names cannot be used.
enum Fault {
    Damaged(DamageKind, String),
    Unread(String),
}

impl Checker {
    /// Checks a table until what it found is found twice.
    async fn table(&self, table: TableIdent) -> Checked {
        let mut found = self.once(&table).await;
        if found.damage.is_empty() {
            return found;
        }
        for _ in 1..CHECKS {
            let mut again = self.once(&table).await;
            let is_new = again.damage.keys().any(|key| !found.damage.contains_key(key));
            if !is_new {
                return again;
            }
            again.damage.retain(|key, _| found.damage.contains_key(key));
            found = again;
        }
        found
    }

    async fn once(&self, table: &TableIdent) -> Checked {
        let name = format!("{}.{}", table.namespace.to_url_string().replace('\u{1f}', "."), table.name);
        let loaded = match self.catalog.load(table).await {
            Ok(loaded) => loaded,
            Err(error) => return self.unloaded(table, &name, error).await,
        };
        let report = TableReport { table: name.clone(), snapshots: 0, files: 0, bytes: 0 };
        let (listed, seen) = (HashMap::new(), HashSet::new());
        let mut check = Check { name, listed, seen, report, found: Checked::default(), elsewhere: 0 };
        if let Err(error) = self.list(&loaded.metadata, &mut check.listed).await {
            check.found.unread.push((loaded.metadata.location().to_owned(), error.to_string()));
        }
        self.snapshots(&loaded, &mut check).await;
        let Check { name, report, mut found, elsewhere, .. } = check;
        if elsewhere > 0 {
            let bucket = self.files.warehouse().bucket();
            found.note = Some(format!("table {name}: {elsewhere} files are not in {bucket} and were not looked at"));
        }
        found.report = Some(report);
        found
    }

    /// What it means that a table cannot be loaded.
    async fn unloaded(&self, table: &TableIdent, name: &str, error: CatalogError) -> Checked {
        let mut out = Checked::default();
        let reason = error.to_string();
        let (kind, file) = match error {
            // It was dropped, or a rename is under way.
            CatalogError::NoSuchTable(_) => return out,
            CatalogError::Elsewhere { location, bucket, .. } => {
                out.note = Some(format!(
                    "table {name} was not looked at: it is at {location}, which is not in {bucket}; use the URL that \
                     its brokers use"
                ));
                return out;
            }
            CatalogError::MetadataMissing { location, .. } => (DamageKind::Missing, self.key(&location)),
            CatalogError::Damaged { key, .. } => (DamageKind::Unreadable, self.key(&key)),
            CatalogError::Metadata(error) if !of_metadata(&error).passes() => {
                let Ok(location) = self.catalog.metadata_location(table).await else { return out };
                (DamageKind::Unreadable, self.key(&location))
            }
            _ => {
                out.unread.push((name.to_owned(), reason));
                return out;
            }
        };
        let damage = Damage::of_table(kind, name, file, reason);
        out.damage.insert((damage.object.clone(), damage.reason.clone()), damage);
        out
    }

    /// The files below the table's `data`.
    async fn list(&self, metadata: &TableMetadata, listed: &mut HashMap<u64, u64>) -> Result<(), FileError> {
        let folder = format!("{}/data/", metadata.location());
        let Ok(FilePlace::Object(prefix)) = self.files.warehouse().locate(&format!("{folder}x")) else { return Ok(()) };
        let prefix = prefix.as_str().trim_end_matches('x').to_owned();
        let mut after: Option<ObjectKey> = None;
        loop {
            let page = self.files.store().list(&prefix, after.as_ref().map(ObjectKey::as_str), LIST_MAX).await?;
            after = page.last().map(|last| last.key.clone());
            let is_last = page.len() < LIST_MAX;
            listed.extend(page.into_iter().map(|found| (hash(found.key.as_str()), found.size)));
            if is_last {
                return Ok(());
            }
        }
    }

    async fn snapshots(&self, loaded: &Loaded, check: &mut Check) {
        let metadata = &loaded.metadata;
        let mut snapshots: Vec<_> = metadata.snapshots().collect();
        snapshots.sort_unstable_by_key(|snapshot| snapshot.sequence_number());
        check.report.snapshots = snapshots.len() as u64;
        let lists = stream::iter(snapshots).map(async |snapshot| {
            let parse = |body: &[u8]| ManifestList::parse_with_version(body, metadata.format_version());
            let list = self.read(snapshot.manifest_list(), None, parse).await;
            (snapshot, list)
        });
        let mut lists = std::pin::pin!(lists.buffered(READS_AT_ONCE));
        while let Some((snapshot, list)) = lists.next().await {
            match list {
                Ok(list) => {
                    let list: Vec<ManifestFile> = list.consume_entries().into_iter().collect();
                    self.manifests(list, check).await;
                }
                Err(fault) => {
                    let what = format!("the manifest list of snapshot {}", snapshot.snapshot_id());
                    self.fault(check, snapshot.manifest_list(), &what, fault);
                }
            }
        }
    }

    /// Checks the manifests that no list before has named.
    async fn manifests(&self, list: Vec<ManifestFile>, check: &mut Check) {
        let new: Vec<ManifestFile> =
            list.into_iter().filter(|manifest| check.seen.insert(hash(&manifest.manifest_path))).collect();
        let reads = stream::iter(new).map(async |manifest| {
            let read = match u64::try_from(manifest.manifest_length) {
                Ok(size) => self.read(&manifest.manifest_path, Some(size), Manifest::parse_avro).await,
                Err(_) => {
                    let reason = format!("its manifest list says {} bytes", manifest.manifest_length);
                    Err(Fault::Damaged(DamageKind::Contradiction, reason))
                }
            };
            (manifest.manifest_path, read)
        });
        let mut reads = std::pin::pin!(reads.buffered(READS_AT_ONCE));
        while let Some((path, read)) = reads.next().await {
            match read {
                Ok(manifest) => self.data_files(manifest.entries(), check).await,
                Err(fault) => self.fault(check, &path, "a manifest", fault),
            }
        }
    }

    async fn data_files(&self, entries: &[ManifestEntryRef], check: &mut Check) {
        let living = entries.iter().filter(|entry| entry.is_alive());
        let new: Vec<&ManifestEntryRef> = living.filter(|entry| check.seen.insert(hash(entry.file_path()))).collect();
        check.report.files += new.len() as u64;
        check.report.bytes += new.iter().map(|entry| entry.file_size_in_bytes()).sum::<u64>();
        let listed = &check.listed;
        let looks = stream::iter(new).map(async |entry| (entry, self.data_file(entry, listed).await));
        let found: Vec<_> = looks.buffered(READS_AT_ONCE).collect().await;
        for (entry, fault) in found {
            match fault {
                Ok(true) => {}
                Ok(false) => check.elsewhere += 1,
                Err(fault) => {
                    let what = format!("{} rows are in it", entry.record_count());
                    self.fault(check, entry.file_path(), &what, fault);
                }
            }
        }
    }

    /// `false`: it is not in this bucket.
    async fn data_file(&self, entry: &ManifestEntryRef, listed: &HashMap<u64, u64>) -> Result<bool, Fault> {
        let (path, expected) = (entry.file_path(), entry.file_size_in_bytes());
        let Ok(FilePlace::Object(key)) = self.files.warehouse().locate(path) else { return Ok(false) };
        if listed.get(&hash(key.as_str())) != Some(&expected) {
            match self.files.size(path).await {
                Ok(Some(size)) if size == expected => {}
                Ok(Some(size)) => {
                    let reason = format!("it has {size} bytes, its manifest says {expected}");
                    return Err(Fault::Damaged(DamageKind::Size, reason));
                }
                Ok(None) => return Err(Fault::Damaged(DamageKind::Missing, "a manifest names it".to_owned())),
                Err(error) => return Err(Fault::Unread(error.to_string())),
            }
        }
        if self.quick || entry.file_format() != DataFileFormat::Parquet {
            return Ok(true);
        }
        let mut reads = 0;
        loop {
            reads += 1;
            match footer::rows(&self.files, path, expected).await {
                Ok(rows) if rows == entry.record_count() => return Ok(true),
                Err(footer::FooterError::File(error)) if error.disposition() == Disposition::Absent => {
                    return Err(Fault::Damaged(DamageKind::Missing, "a manifest names it".to_owned()));
                }
                Err(footer::FooterError::File(error)) => return Err(Fault::Unread(error.to_string())),
                _ if reads < READS => {}
                Ok(rows) => {
                    let reason = format!("its footer says {rows} rows, its manifest {}", entry.record_count());
                    return Err(Fault::Damaged(DamageKind::Contradiction, reason));
                }
                Err(footer::FooterError::Parquet(error)) => {
                    return Err(Fault::Damaged(DamageKind::Unreadable, format!("its footer: {error}")));
                }
            }
        }
    }

    /// A file of metadata, whole; a verdict on its bytes only after several reads.
    async fn read<T>(
        &self,
        path: &str,
        size: Option<u64>,
        parse: impl Fn(&[u8]) -> iceberg::Result<T>,
    ) -> Result<T, Fault> {
        let mut reads = 0;
        loop {
            reads += 1;
            let body = match self.files.read(path).await {
                Ok(body) => body,
                Err(error) if error.disposition() == Disposition::Absent => {
                    return Err(Fault::Damaged(DamageKind::Missing, "the table names it".to_owned()));
                }
                Err(error) => return Err(Fault::Unread(error.to_string())),
            };
            let (found, parsed) = (body.len() as u64, parse(&body));
            match (size.filter(|size| *size != found), parsed) {
                (None, Ok(content)) => return Ok(content),
                _ if reads < READS => {}
                (Some(expected), _) => {
                    let reason = format!("it has {found} bytes, not {expected}");
                    return Err(Fault::Damaged(DamageKind::Size, reason));
                }
                (None, Err(error)) => return Err(Fault::Damaged(DamageKind::Unreadable, error.to_string())),
            }
        }
    }

    /// Notes a fault. `what` the file is, or holds.
    fn fault(&self, check: &mut Check, path: &str, what: &str, fault: Fault) {
        let key = self.key(path);
        match fault {
            Fault::Damaged(kind, reason) => {
                let reason = format!("{reason}; {what}");
                let damage = Damage::of_table(kind, &check.name, key.clone(), reason.clone());
                check.found.damage.insert((key, reason), damage);
            }
            Fault::Unread(reason) => check.found.unread.push((key, reason)),
        }
    }

    /// The key of a file, or its location if that is not in the bucket.
    fn key(&self, location: &str) -> String {
        match self.files.warehouse().locate(location) {
            Ok(FilePlace::Object(key)) => key.to_string(),
            _ => location.to_owned(),
        }
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
