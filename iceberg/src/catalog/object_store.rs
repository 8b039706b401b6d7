//! The built-in catalog: its state is one small object per namespace, table and view, moved by conditional put, so it
//! survives the cluster, and all brokers share it without agreeing on anything else.
//!
//! Owns: pointers and tables' metadata files (namespaces, views, transactions, creation, rename and purge are its other
//! files). Does not own: HTTP (root), data files and manifests (`commit`, engines). *Node-wide*; used on the tokio side
//! runtime.
//!
//! A pointer's content is new at every write (`revision`), as some stores' ETags are hashes of the content. A commit
//! writes a new, uniquely named metadata file and then moves the pointer with put-if-match: readers see the old or the
//! new table. A lost answer is resolved by looking whether the pointer, or the log of the metadata it names, holds our
//! file. The commit counts as lost to others only if that is proved: the pointer names the very base that we meant to
//! replace, or the log shows another file after that base. A pointer that is gone or is another table's proves nothing
//! (ours may have been there before a rename), so the answer stays unknown and no file is deleted.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use iceberg::spec::{MetadataLog, TableMetadata};
use iceberg::{ErrorKind, NamespaceIdent, TableIdent, TableRequirement, TableUpdate};
use tidewater_tiering::store::{ETag, ObjectKey, ObjectStore, PutMode, StoreError};
use uuid::Uuid;

use super::json::FileText;
use super::keys::CatalogKeys;
use super::own::{Known, OwnFiles};
use super::pointer::{FORMAT, Kind, Pointer, PointerState};
use super::refs::Refs;
use super::transactions::as_seen;
use super::{Catalog, CatalogError, Loaded, NewTable};
use crate::files::TableFiles;
use crate::names::Names;

/// A commit whose requirements still hold is tried this often against others that win the race.
pub(super) const COMMIT_ATTEMPTS: usize = 10;
/// A pointer write without an answer is looked after this often before it is called unknown.
pub(super) const ANSWER_ATTEMPTS: usize = 3;
/// Bytes of a metadata file at most. Every commit reads and writes one, and so does each client that loads the table.
pub(super) const METADATA_BYTES_MAX: usize = 64 << 20;
/// A metadata file whose last change is longer than this before an earlier one is refused by every reader (iceberg 0.10
/// and Java alike), and the builder does not look. Milliseconds.
const CLOCKS_APART_MS: i64 = 60_000;
/// Iceberg's switch for deleting metadata files that fell off the log.
const DELETE_METADATA: &str = "write.metadata.delete-after-commit.enabled";

/// The built-in catalog.
#[derive(Clone, Debug)]
pub struct ObjectStoreCatalog {
    pub(super) files: TableFiles,
    pub(super) names: Names,
    pub(super) keys: CatalogKeys,
    pub(super) own: OwnFiles,
    table_config: Arc<HashMap<String, String>>,
}

/// A table's next state, written and not yet reached by a pointer.
pub(super) struct Built {
    pub(super) metadata: Arc<TableMetadata>,
    /// URI of its file.
    pub(super) location: String,
    pub(super) refs: Arc<OnceLock<Refs>>,
    /// What fell off the metadata log.
    pub(super) expired: Vec<MetadataLog>,
}

impl Built {
    pub(super) fn into_loaded(self) -> Loaded {
        Loaded { metadata: self.metadata, location: Some(self.location), refs: self.refs }
    }
}

/// How a conditional pointer write ended.
pub(super) enum Swing {
    /// Our pointer was written.
    Done,
    /// Another pointer is there, and ours never was.
    Lost,
}

/// How a pointer write is recognised after its answer was lost.
#[derive(Clone, Copy)]
pub(super) enum Claim<'a> {
    /// By its metadata file, written for it alone on top of `base` (`None`: for a new table).
    File {
        /// What the pointer named before.
        base: Option<&'a str>,
    },
    /// By its revision.
    Revision,
    /// By the revisions that the pointer of a view remembers, written on top of revision `base`.
    Past {
        /// What the pointer's revision was before.
        base: Uuid,
    },
}

/// What became of a pointer write.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Ours,
    Theirs,
    /// The object at the key does not answer it; the reason.
    Open(&'static str),
}

impl ObjectStoreCatalog {
    /// The catalog whose state lies in the warehouse of `files`. `table_config` is handed to clients with each table
    /// (`s3.endpoint`, `s3.path-style-access`, `client.region`, …); no secrets belong there.
    #[must_use]
    pub fn new(files: TableFiles, names: Names, table_config: HashMap<String, String>) -> Self {
        let keys = CatalogKeys::new(&files.warehouse().key_prefix(), files.warehouse().is_directory());
        Self { files, names, keys, own: OwnFiles::default(), table_config: Arc::new(table_config) }
    }

    /// The configuration that clients get with each table.
    #[must_use]
    pub fn table_config(&self) -> &HashMap<String, String> {
        &self.table_config
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        self.files.store()
    }

    /// The pointer object of a table or view with its version; `None` if there is none.
    pub(super) async fn pointer(&self, table: &TableIdent) -> Result<Option<(Pointer, ETag)>, CatalogError> {
        Pointer::read(&**self.store(), &self.keys.table(table)?).await
    }

    /// The live pointer that has the name, of a table or a view; `None` if there is none. What others left unfinished
    /// is finished first.
    ///
    /// # Errors
    /// [`CatalogError::Busy`] if others begin something new each time; damage; the bucket.
    pub(super) async fn settled(&self, name: &TableIdent) -> Result<Option<(Pointer, ETag)>, CatalogError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let Some((pointer, etag)) = self.pointer(name).await? else { return Ok(None) };
            match pointer.state {
                PointerState::Live => return Ok(Some((pointer, etag))),
                PointerState::Moving { .. } => self.finish_move(name, pointer, &etag).await?,
                PointerState::Prepared { .. } => self.finish_prepared(name, pointer, &etag).await?,
            }
        }
        Err(CatalogError::Busy { detail: format!("{name} is being changed by others all the time; try again") })
    }

    /// As [`ObjectStoreCatalog::settled`] for those who only look: a table in a transaction is as the transaction has
    /// it so far, and stays in it.
    ///
    /// # Errors
    /// As `settled`.
    pub(super) async fn seen(&self, name: &TableIdent) -> Result<Option<Pointer>, CatalogError> {
        for _ in 0..COMMIT_ATTEMPTS {
            let Some((pointer, etag)) = self.pointer(name).await? else { return Ok(None) };
            if matches!(pointer.state, PointerState::Moving { .. }) {
                self.finish_move(name, pointer, &etag).await?;
            } else if let Some(seen) = as_seen(&**self.store(), &self.keys, name, pointer).await? {
                return Ok(Some(seen));
            }
        }
        Err(CatalogError::Busy { detail: format!("{name} is being changed by others all the time; try again") })
    }

    /// The pointer of a table as [`ObjectStoreCatalog::seen`] has it.
    pub(super) async fn seen_table(&self, table: &TableIdent) -> Result<Pointer, CatalogError> {
        let found = self.seen(table).await?.filter(|pointer| pointer.kind() == Kind::Table);
        found.ok_or_else(|| CatalogError::NoSuchTable(table.clone()))
    }

    /// As [`ObjectStoreCatalog::settled`], where it must be of `kind`.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchTable`] or [`CatalogError::NoSuchView`]; as `settled`.
    pub(super) async fn live_one(&self, kind: Kind, name: &TableIdent) -> Result<(Pointer, ETag), CatalogError> {
        let found = self.settled(name).await?.filter(|(pointer, _)| pointer.kind() == kind);
        found.ok_or_else(|| kind.absent(name))
    }

    /// The live pointer of a table.
    pub(super) async fn live(&self, table: &TableIdent) -> Result<(Pointer, ETag), CatalogError> {
        self.live_one(Kind::Table, table).await
    }

    /// Refuses a name that something has already, where one of `kind` is to be made.
    pub(super) async fn check_free(&self, name: &TableIdent, kind: Kind) -> Result<(), CatalogError> {
        match self.seen(name).await? {
            None => Ok(()),
            Some(found) => Err(kind.taken(name, found.kind())),
        }
    }

    /// Writes a pointer under a condition and finds out what became of it, also when the answer is lost.
    pub(super) async fn swing(
        &self,
        table: &TableIdent,
        pointer: &Pointer,
        mode: PutMode,
        claim: Claim<'_>,
    ) -> Result<Swing, CatalogError> {
        let key = self.keys.table(table)?;
        let body = pointer.encode()?;
        let mut detail = String::new();
        for _ in 0..ANSWER_ATTEMPTS {
            match self.store().put(&key, body.clone(), mode.clone()).await {
                Ok(_) => return Ok(Swing::Done),
                Err(StoreError::Taken { .. }) => match self.fate(table, pointer, claim).await {
                    Ok(Fate::Ours) => return Ok(Swing::Done),
                    Ok(Fate::Theirs) => return Ok(Swing::Lost),
                    Ok(Fate::Open(why)) => detail = why.to_owned(),
                    Err(error) => detail = error.to_string(),
                },
                Err(error) if error.disposition().passes() => detail = error.to_string(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Unknown { table: table.clone(), detail })
    }

    /// What became of the write of `pointer`, by the object that is there now.
    async fn fate(&self, table: &TableIdent, pointer: &Pointer, claim: Claim<'_>) -> Result<Fate, CatalogError> {
        let Some((found, _)) = self.pointer(table).await? else {
            return Ok(Fate::Open("the table was dropped or renamed meanwhile"));
        };
        if found.has_been(pointer.revision) {
            return Ok(Fate::Ours);
        }
        let base = match claim {
            Claim::File { base } => base,
            Claim::Revision => return Ok(Fate::Theirs),
            Claim::Past { base } if found.has_been(base) => return Ok(Fate::Theirs),
            Claim::Past { .. } => return Ok(Fate::Open("the pointer does not remember this commit's base")),
        };
        if found.metadata_location == pointer.metadata_location {
            return Ok(Fate::Ours);
        }
        let Some(base) = base else { return Ok(Fate::Theirs) };
        if found.table_uuid != pointer.table_uuid {
            return Ok(Fate::Open("another table has the name now"));
        }
        if found.metadata_location == base {
            return Ok(Fate::Theirs);
        }
        let metadata = self.read_metadata(&found.metadata_location).await?;
        let logged = |file: &str| metadata.metadata_log().iter().any(|past| past.metadata_file == file);
        Ok(match (logged(&pointer.metadata_location), logged(base)) {
            (true, _) => Fate::Ours,
            (false, true) => Fate::Theirs,
            (false, false) => Fate::Open("the table's metadata log does not reach back to this commit"),
        })
    }

    pub(super) fn fresh_pointer(&self, metadata: &TableMetadata, location: &str) -> Pointer {
        Pointer {
            format: FORMAT,
            table_uuid: metadata.uuid(),
            metadata_location: location.to_owned(),
            revision: self.names.uuid(),
            view: None,
            state: PointerState::Live,
        }
    }

    /// Refuses a metadata file that is too large to be read.
    pub(super) async fn check_size(&self, location: &str) -> Result<(), CatalogError> {
        match self.files.size(location).await?.unwrap_or(0) {
            bytes if bytes > METADATA_BYTES_MAX as u64 => {
                let detail =
                    format!("{location} has {bytes} bytes, more than the {METADATA_BYTES_MAX} of a metadata file");
                Err(CatalogError::Invalid { detail })
            }
            _ => Ok(()),
        }
    }

    /// The table at `pointer`.
    async fn read(&self, pointer: &Pointer) -> Result<Loaded, CatalogError> {
        match self.own.known(pointer.table_uuid, &pointer.metadata_location) {
            Known::Held(loaded) => Ok(loaded),
            Known::Written | Known::Nothing => {
                let metadata = self.read_metadata(&pointer.metadata_location).await?;
                Ok(Loaded::new(Arc::new(metadata), Some(pointer.metadata_location.clone())))
            }
        }
    }

    pub(super) async fn read_metadata(&self, location: &str) -> Result<TableMetadata, CatalogError> {
        Ok(TableMetadata::read_from(&self.files.io(), location).await?)
    }

    /// Writes `metadata` to a new file of its table, `version` being how many came before.
    pub(super) async fn write_metadata(&self, metadata: TableMetadata, version: u64) -> Result<Built, CatalogError> {
        let location = format!("{}/metadata/{version:05}-{}.metadata.json", metadata.location(), self.names.uuid());
        let FileText { body, refs } = super::json::file(&metadata)?;
        if body.len() > METADATA_BYTES_MAX {
            let detail = format!(
                "the table's metadata would take {} bytes, more than the {METADATA_BYTES_MAX} allowed; expire \
                 snapshots or remove properties",
                body.len()
            );
            return Err(CatalogError::Invalid { detail });
        }
        self.files.write(&location, Bytes::from(body)).await?;
        let refs = Arc::new(OnceLock::from(refs));
        let built = Built { metadata: Arc::new(metadata), location, refs, expired: Vec::new() };
        self.own.add(&built);
        Ok(built)
    }

    /// Deletes what fell off the metadata log, if the table wants that; a failure leaves garbage and is only logged.
    pub(super) async fn forget_old_metadata(&self, metadata: &TableMetadata, expired: Vec<MetadataLog>) {
        if expired.is_empty() || metadata.properties().get(DELETE_METADATA).is_none_or(|v| v != "true") {
            return;
        }
        let files: Vec<_> = expired.into_iter().map(|entry| entry.metadata_file).collect();
        if let Err(error) = self.files.delete(&files).await {
            tracing::warn!(%error, "old table metadata could not be deleted");
        }
    }

    /// Applies `updates` to the table at `pointer` if all `requirements` hold, and writes its next metadata file. If
    /// nothing changes, that is the one it has.
    pub(super) async fn build(
        &self,
        table: &TableIdent,
        pointer: &Pointer,
        requirements: &[TableRequirement],
        updates: &[TableUpdate],
    ) -> Result<Built, CatalogError> {
        let base = self.read_base(table, pointer).await?;
        for requirement in requirements {
            if requirement.check(Some(&base)).is_err() {
                let detail = super::requirement::explain(requirement, &base);
                return Err(CatalogError::Conflict { table: table.clone(), detail });
            }
        }
        let changed_at = base.last_updated_ms();
        let mut builder = Arc::unwrap_or_clone(base).into_builder(Some(pointer.metadata_location.clone()));
        for update in updates.iter().cloned() {
            builder = update.apply(builder).map_err(|error| failed(table, error))?;
        }
        let built = builder.build().map_err(|error| failed(table, error))?;
        super::schemas::check_removed(table, updates, &built.metadata)?;
        let (before, now) = (changed_at, built.metadata.last_updated_ms());
        if now < before - CLOCKS_APART_MS {
            let detail = format!(
                "{table} was last changed {} s from now, by a clock that is ahead of this machine's; set the clocks",
                (before - now) / 1000
            );
            return Err(CatalogError::Busy { detail });
        }
        if built.changes.is_empty() {
            let Loaded { metadata, refs, .. } = self.read(pointer).await?;
            let location = pointer.metadata_location.clone();
            return Ok(Built { metadata, location, refs, expired: Vec::new() });
        }
        let written = self.write_metadata(built.metadata, version_after(&pointer.metadata_location)).await?;
        Ok(Built { expired: built.expired_metadata_logs, ..written })
    }

    /// One attempt at a commit: `None` if another commit came first.
    async fn try_commit(
        &self,
        table: &TableIdent,
        requirements: &[TableRequirement],
        updates: &[TableUpdate],
    ) -> Result<Option<Loaded>, CatalogError> {
        let (pointer, etag) = self.live(table).await?;
        let mut built = self.build(table, &pointer, requirements, updates).await?;
        if built.location == pointer.metadata_location {
            return Ok(Some(built.into_loaded()));
        }
        let next = self.fresh_pointer(&built.metadata, &built.location);
        let claim = Claim::File { base: Some(&pointer.metadata_location) };
        match self.swing(table, &next, PutMode::IfMatch(etag), claim).await? {
            Swing::Done => {
                self.forget_old_metadata(&built.metadata, std::mem::take(&mut built.expired)).await;
                Ok(Some(built.into_loaded()))
            }
            Swing::Lost => {
                self.files.take_back(&[built.location]).await;
                Ok(None)
            }
        }
    }

    /// Deletes files that only a dropped table named; a failure leaves garbage and is only logged.
    pub(super) async fn discard(&self, files: &[String]) {
        if let Err(error) = self.files.delete(files).await {
            tracing::warn!(%error, "unused file could not be deleted");
        }
    }

    pub(super) async fn list_keys(&self, prefix: &str) -> Result<Vec<ObjectKey>, CatalogError> {
        const PAGE: usize = 1000;
        let mut keys: Vec<ObjectKey> = Vec::new();
        loop {
            let after = keys.last().map(|key| key.as_str().to_owned());
            let page = self.store().list(prefix, after.as_deref(), PAGE).await?;
            let last = page.len() < PAGE;
            keys.extend(page.into_iter().map(|listed| listed.key));
            if last {
                return Ok(keys);
            }
        }
    }

    /// Whether the table exists.
    ///
    /// # Errors
    /// The bucket.
    pub async fn table_exists(&self, table: &TableIdent) -> Result<bool, CatalogError> {
        Ok(self.seen(table).await?.is_some_and(|pointer| pointer.kind() == Kind::Table))
    }

    /// Takes a table into the catalog whose metadata file exists already.
    ///
    /// # Errors
    /// [`CatalogError::TableExists`], [`CatalogError::NoSuchNamespace`], a file that is no table metadata.
    pub async fn register(&self, table: &TableIdent, location: &str) -> Result<Loaded, CatalogError> {
        self.load_namespace(&table.namespace).await?;
        self.check_size(location).await?;
        let metadata = self.read_metadata(location).await?;
        let pointer = self.fresh_pointer(&metadata, location);
        match self.swing(table, &pointer, PutMode::IfAbsent, Claim::Revision).await? {
            Swing::Done => Ok(Loaded::new(Arc::new(metadata), Some(location.to_owned()))),
            Swing::Lost => {
                self.check_free(table, Kind::Table).await?;
                Err(CatalogError::TableExists(table.clone()))
            }
        }
    }
}

/// What an iceberg error means for a commit.
pub(super) fn failed(table: &TableIdent, error: iceberg::Error) -> CatalogError {
    match error.kind() {
        ErrorKind::CatalogCommitConflicts => CatalogError::Conflict { table: table.clone(), detail: error.to_string() },
        ErrorKind::DataInvalid => CatalogError::Invalid { detail: error.to_string() },
        _ => error.into(),
    }
}

/// The number of the metadata file after `location`, from its name's leading digits.
pub(super) fn version_after(location: &str) -> u64 {
    let name = location.rsplit('/').next().unwrap_or_default();
    let digits: String = name.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_or(1, |version: u64| version.saturating_add(1))
}

#[async_trait]
impl Catalog for ObjectStoreCatalog {
    fn files(&self) -> TableFiles {
        self.files.clone()
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), CatalogError> {
        match self.create_namespace(namespace, HashMap::new()).await {
            Ok(()) | Err(CatalogError::NamespaceExists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn load(&self, table: &TableIdent) -> Result<Loaded, CatalogError> {
        let pointer = self.seen_table(table).await?;
        match self.read(&pointer).await {
            Ok(loaded) => Ok(loaded),
            // The file may have fallen off the log between the two reads: then the pointer has moved.
            Err(error) => match self.seen_table(table).await? {
                later if later.metadata_location == pointer.metadata_location => {
                    let location = pointer.metadata_location;
                    match self.files.size(&location).await? {
                        None => Err(CatalogError::MetadataMissing { table: table.clone(), location }),
                        Some(_) => Err(error),
                    }
                }
                later => self.read(&later).await,
            },
        }
    }

    async fn create(&self, table: &TableIdent, new: NewTable) -> Result<Loaded, CatalogError> {
        let metadata = self.prepare(table, new).await?;
        self.publish_new(table, metadata).await
    }

    async fn commit(
        &self,
        table: &TableIdent,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, CatalogError> {
        if requirements.contains(&TableRequirement::NotExist) {
            let metadata = self.prepare_from_updates(table, updates).await?;
            return self.publish_new(table, metadata).await.map_err(|error| match error {
                CatalogError::TableExists(table) => {
                    CatalogError::Conflict { table, detail: "Requirement failed: table already exists".to_owned() }
                }
                other => other,
            });
        }
        for _ in 0..COMMIT_ATTEMPTS {
            if let Some(done) = self.try_commit(table, &requirements, &updates).await? {
                return Ok(done);
            }
        }
        Err(CatalogError::Conflict {
            table: table.clone(),
            detail: format!("{COMMIT_ATTEMPTS} attempts lost the race"),
        })
    }

    async fn drop_one(&self, table: &TableIdent, uuid: Option<Uuid>, purge: bool) -> Result<(), CatalogError> {
        let mut uuid = uuid;
        for _ in 0..COMMIT_ATTEMPTS {
            let (pointer, etag) = self.live(table).await?;
            if pointer.table_uuid != *uuid.get_or_insert(pointer.table_uuid) {
                return Err(CatalogError::NoSuchTable(table.clone()));
            }
            match self.store().delete_if(&self.keys.table(table)?, &etag).await {
                Ok(()) => {
                    if purge {
                        self.purge(&pointer.metadata_location).await;
                    }
                    return Ok(());
                }
                // A commit came between: its files are to go too.
                Err(StoreError::Taken { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Busy { detail: format!("{table} is being written by others; try again") })
    }
}
