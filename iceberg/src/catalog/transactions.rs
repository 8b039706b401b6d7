//! Commits to several tables at once: all of them or none.
//!
//! 1. each table is loaded, its requirements are checked and its next metadata file is written;
//! 2. the object `catalog/transactions/<uuid>` is put, `pending`;
//! 3. in the order of their names, each table's pointer becomes `prepared` (put-if-match: the table is still the one
//!    that was looked at), naming the transaction and the next metadata file;
//! 4. the object becomes `committed` (put-if-match). **This is the commit point**;
//! 5. each pointer becomes `live` with its next file; then the object is deleted, by its owner alone.
//!
//! Any request that meets a `prepared` pointer reads the object. Readers take the old file while it is `pending` or
//! `aborted`, the next one when it is `committed`, and write nothing. Writers wait for a pending transaction for
//! [`LOOKS`] × [`PAUSE`], then make it `aborted` (its owner then cannot commit it), and make the pointer `live` again.
//! So a crash after any step blocks a table's writers for a second and its readers never. The order of names keeps two
//! transactions from waiting for each other.

use std::time::Duration;

use bytes::Bytes;
use iceberg::{TableIdent, TableRequirement, TableUpdate};
use serde::{Deserialize, Serialize};
use tidewater_tiering::store::{ETag, ObjectKey, ObjectStore, PutMode, StoreError};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::keys::CatalogKeys;
use super::object_store::{ANSWER_ATTEMPTS, Built, COMMIT_ATTEMPTS, Claim, ObjectStoreCatalog, Swing};
use super::pointer::{FORMAT, Pointer, PointerState};
use super::{Catalog, CatalogError};

/// A writer looks this often at another's pending transaction before it ends it.
const LOOKS: usize = 50;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What is to happen to one table of several.
#[derive(Clone, Debug)]
pub struct TableCommit {
    pub table: TableIdent,
    pub requirements: Vec<TableRequirement>,
    pub updates: Vec<TableUpdate>,
}

/// The object of a transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transaction {
    /// [`FORMAT`].
    format: u32,
    state: TransactionState,
    /// To be read by people; the pointers decide.
    tables: Vec<TableIdent>,
    /// New at every write: some stores' ETags are hashes of the content.
    revision: Uuid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum TransactionState {
    Pending,
    Committed,
    Aborted,
}

async fn read(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Option<(Transaction, ETag)>, CatalogError> {
    let got = match store.get(key, None).await {
        Ok(got) => got,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let damaged = |detail: String| CatalogError::Damaged { key: key.as_str().to_owned(), detail };
    let found: Transaction = serde_json::from_slice(&got.body).map_err(|e| damaged(e.to_string()))?;
    if found.format != FORMAT {
        return Err(damaged(format!("format {} is not known; a newer Tidewater wrote it", found.format)));
    }
    Ok(Some((found, got.etag)))
}

/// The outcome, for the table at whose key `prepared` lay; `None`: it does not lie there any more.
///
/// An object is deleted only after all its pointers were made live. One that is not there although a pointer names it
/// never committed: the pointer was written late, by an attempt that had ended.
async fn outcome(
    store: &dyn ObjectStore,
    keys: &CatalogKeys,
    table: &TableIdent,
    prepared: &Pointer,
    id: Uuid,
) -> Result<Option<TransactionState>, CatalogError> {
    if let Some((found, _)) = read(store, &keys.transaction(id)?).await? {
        return Ok(Some(found.state));
    }
    let now = Pointer::read(store, &keys.table(table)?).await?;
    let same = now.is_some_and(|(found, _)| found.revision == prepared.revision);
    Ok(same.then_some(TransactionState::Aborted))
}

/// The pointer of a table in a transaction as readers see it; any other as it is. `None`: read the pointer again.
pub(super) async fn as_seen(
    store: &dyn ObjectStore,
    keys: &CatalogKeys,
    table: &TableIdent,
    pointer: Pointer,
) -> Result<Option<Pointer>, CatalogError> {
    let PointerState::Prepared { transaction, next } = &pointer.state else { return Ok(Some(pointer)) };
    let metadata_location = match outcome(store, keys, table, &pointer, *transaction).await? {
        None => return Ok(None),
        Some(TransactionState::Committed) => next.clone(),
        Some(TransactionState::Pending | TransactionState::Aborted) => pointer.metadata_location.clone(),
    };
    Ok(Some(Pointer { metadata_location, state: PointerState::Live, ..pointer }))
}

/// Without a runtime there is no timer: tests that step through a store in memory look again at once.
async fn pause() {
    if Handle::try_current().is_ok() {
        tokio::time::sleep(PAUSE).await;
    }
}

/// A table of a transaction, ready to be prepared.
struct Part {
    table: TableIdent,
    pointer: Pointer,
    etag: ETag,
    built: Built,
}

impl ObjectStoreCatalog {
    /// Applies all `commits` or none, each as [`Catalog::commit`] would.
    ///
    /// # Errors
    /// As `commit`, of any of the tables; [`CatalogError::Invalid`] for a table that is named twice or is to be made.
    pub async fn commit_all(&self, mut commits: Vec<TableCommit>) -> Result<(), CatalogError> {
        commits.sort_by(|a, b| a.table.cmp(&b.table));
        for pair in commits.windows(2) {
            if let [a, b] = pair
                && a.table == b.table
            {
                let detail = format!("{} is named twice; send one change for each table", a.table);
                return Err(CatalogError::Invalid { detail });
            }
        }
        if let Some(new) = commits.iter().find(|commit| commit.requirements.contains(&TableRequirement::NotExist)) {
            let detail = format!("{} cannot be made in a commit to several tables; create it first", new.table);
            return Err(CatalogError::Invalid { detail });
        }
        if commits.len() < 2 {
            if let Some(one) = commits.pop() {
                self.commit(&one.table, one.requirements, one.updates).await?;
            }
            return Ok(());
        }
        for _ in 0..COMMIT_ATTEMPTS {
            if self.try_commit_all(&commits).await? {
                return Ok(());
            }
        }
        let table = commits.swap_remove(0).table;
        Err(CatalogError::Conflict { table, detail: format!("{COMMIT_ATTEMPTS} attempts lost the race") })
    }

    /// One attempt: `false` if another commit came first.
    async fn try_commit_all(&self, commits: &[TableCommit]) -> Result<bool, CatalogError> {
        let mut parts = Vec::with_capacity(commits.len());
        for commit in commits {
            match self.part(commit).await {
                Ok(part) => parts.push(part),
                Err(error) => {
                    self.take_back_parts(&parts).await;
                    return Err(error);
                }
            }
        }
        let id = self.names.uuid();
        let prepared = match self.begin(id, &parts).await {
            Ok(()) => self.prepare_parts(id, &parts).await,
            Err(error) => Err(error),
        };
        let wanted = match prepared {
            Ok(true) => TransactionState::Committed,
            Ok(false) | Err(_) => TransactionState::Aborted,
        };
        let Some(first) = parts.first() else { return Ok(true) };
        // Without an answer here the files stay, and the next writer of a table ends the transaction.
        let state = match self.decide(&first.table, id, wanted).await {
            Ok(state) => state,
            Err(error) if wanted == TransactionState::Committed => return Err(error),
            Err(_) => return prepared,
        };
        let finished = self.finish_parts(id, &parts).await;
        if state == TransactionState::Committed {
            if finished {
                for Part { built, .. } in parts {
                    self.forget_old_metadata(&built.metadata, built.expired).await;
                }
            }
            return Ok(true);
        }
        match prepared {
            Ok(_) => {
                if finished {
                    self.take_back_parts(&parts).await;
                }
                Ok(false)
            }
            // It did not happen, although a write had no answer; a repetition is a new transaction.
            Err(CatalogError::Unknown { detail, .. }) => Err(CatalogError::Busy { detail }),
            Err(error) => Err(error),
        }
    }

    async fn part(&self, commit: &TableCommit) -> Result<Part, CatalogError> {
        let (pointer, etag) = self.live(&commit.table).await?;
        let built = self.build(&commit.table, &pointer, &commit.requirements, &commit.updates).await?;
        if built.metadata.uuid() != pointer.table_uuid {
            self.files.take_back(&[built.location]).await;
            let detail = format!("the uuid of {} cannot change in a commit to several tables", commit.table);
            return Err(CatalogError::Invalid { detail });
        }
        Ok(Part { table: commit.table.clone(), pointer, etag, built })
    }

    /// Deletes the files of an attempt that did not happen.
    async fn take_back_parts(&self, parts: &[Part]) {
        let ours = parts.iter().filter(|part| part.built.location != part.pointer.metadata_location);
        let files: Vec<_> = ours.map(|part| part.built.location.clone()).collect();
        self.files.take_back(&files).await;
    }

    fn encode_transaction(&self, state: TransactionState, tables: Vec<TableIdent>) -> Result<Bytes, CatalogError> {
        let object = Transaction { format: FORMAT, state, tables, revision: self.names.uuid() };
        Ok(Bytes::from(serde_json::to_vec(&object).map_err(iceberg::Error::from)?))
    }

    async fn begin(&self, id: Uuid, parts: &[Part]) -> Result<(), CatalogError> {
        let tables = parts.iter().map(|part| part.table.clone()).collect();
        let body = self.encode_transaction(TransactionState::Pending, tables)?;
        self.store().put(&self.keys.transaction(id)?, body, PutMode::IfAbsent).await?;
        Ok(())
    }

    /// Step 3: `false` if another commit came first.
    async fn prepare_parts(&self, id: Uuid, parts: &[Part]) -> Result<bool, CatalogError> {
        for Part { table, pointer, etag, built } in parts {
            let state = PointerState::Prepared { transaction: id, next: built.location.clone() };
            let prepared = pointer.succeeded_by(self.names.uuid(), state);
            match self.swing(table, &prepared, PutMode::IfMatch(etag.clone()), Claim::Revision).await? {
                Swing::Done => {}
                Swing::Lost => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Decides a pending transaction; returns what was decided, by this call or before it.
    /// [`CatalogError::Unknown`] names `table`.
    async fn decide(
        &self,
        table: &TableIdent,
        id: Uuid,
        wanted: TransactionState,
    ) -> Result<TransactionState, CatalogError> {
        let key = self.keys.transaction(id)?;
        let mut detail = String::new();
        for _ in 0..ANSWER_ATTEMPTS {
            match read(&**self.store(), &key).await {
                // Only its owner deletes it, after all pointers are live, and only its owner commits it.
                Ok(None) => return Ok(TransactionState::Aborted),
                Ok(Some((found, _))) if found.state != TransactionState::Pending => return Ok(found.state),
                Ok(Some((found, etag))) => {
                    let body = self.encode_transaction(wanted, found.tables)?;
                    match self.store().put(&key, body, PutMode::IfMatch(etag)).await {
                        Ok(_) => return Ok(wanted),
                        Err(error) => detail = error.to_string(),
                    }
                }
                Err(error) => detail = error.to_string(),
            }
        }
        Err(CatalogError::Unknown { table: table.clone(), detail })
    }

    /// Step 5; whether all of it was done. What is left is for the next that meets a pointer.
    async fn finish_parts(&self, id: Uuid, parts: &[Part]) -> bool {
        for Part { table, .. } in parts {
            let finished = async {
                match self.pointer(table).await? {
                    Some((pointer, etag)) if pointer.is_in(id) => self.finish_prepared(table, pointer, &etag).await,
                    _ => Ok(()),
                }
            };
            if let Err(error) = finished.await {
                tracing::info!(%table, %id, %error, "a transaction is decided and left for the next request to finish");
                return false;
            }
        }
        let deleted = match self.keys.transaction(id) {
            Ok(key) => self.store().delete(vec![key]).await.map_err(CatalogError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            tracing::info!(%id, %error, "the object of a finished transaction could not be deleted");
        }
        true
    }

    /// Makes a prepared pointer live, with the file that the transaction's outcome wants. A pending transaction is
    /// waited for, then aborted.
    pub(super) async fn finish_prepared(
        &self,
        table: &TableIdent,
        prepared: Pointer,
        etag: &ETag,
    ) -> Result<(), CatalogError> {
        let PointerState::Prepared { transaction, next } = &prepared.state else { return Ok(()) };
        let look = || outcome(&**self.store(), &self.keys, table, &prepared, *transaction);
        let mut state = look().await?;
        for _ in 0..LOOKS {
            if state != Some(TransactionState::Pending) {
                break;
            }
            pause().await;
            state = look().await?;
        }
        let decided = match state {
            Some(TransactionState::Pending) => self.decide(table, *transaction, TransactionState::Aborted).await?,
            Some(decided) => decided,
            None => return Ok(()),
        };
        let mut live = prepared.succeeded_by(self.names.uuid(), PointerState::Live);
        if decided == TransactionState::Committed {
            live.metadata_location.clone_from(next);
        }
        // If it is lost, another request did the same.
        self.swing(table, &live, PutMode::IfMatch(etag.clone()), Claim::Revision).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
