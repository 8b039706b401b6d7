//! Renaming a table: three conditional writes; any later request can finish a rename that was cut off.
//!
//! 1. the old pointer becomes `moving` (put-if-match: commits in flight under the old name fail from here on);
//! 2. the new pointer is put if absent, with the same table and metadata;
//! 3. the old pointer is deleted, if it is still the one that was moved.
//!
//! A crash after 1 or 2 leaves a `moving` pointer; the next request for the old name finishes the rename. If another
//! table took the new name meanwhile, the old pointer becomes `live` again.

use iceberg::TableIdent;
use tidewater_tiering::store::{ETag, PutMode, StoreError};

use super::CatalogError;
use super::object_store::{Claim, ObjectStoreCatalog, Swing};
use super::pointer::{Pointer, PointerState};

impl ObjectStoreCatalog {
    /// Renames a table, across namespaces too. Its files stay where they are.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchTable`], [`CatalogError::TableExists`], [`CatalogError::NoSuchNamespace`]; a commit that
    /// came between ([`CatalogError::Conflict`]).
    pub async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Result<(), CatalogError> {
        let (pointer, etag) = self.live(from).await?;
        let uuid = pointer.table_uuid;
        self.load_namespace(&to.namespace).await?;
        if self.table_exists(to).await? {
            return Err(CatalogError::TableExists(to.clone()));
        }
        let moving = Pointer { revision: self.names.uuid(), state: PointerState::Moving { to: to.clone() }, ..pointer };
        match self.swing(from, &moving, PutMode::IfMatch(etag), Claim::Revision).await? {
            Swing::Done => {}
            Swing::Lost => {
                let detail = "the table was changed during the rename".to_owned();
                return Err(CatalogError::Conflict { table: from.clone(), detail });
            }
        }
        let Some((moving, etag)) = self.pointer(from).await? else { return Ok(()) };
        self.finish_move(from, moving, &etag).await?;
        if self.pointer(from).await?.is_some_and(|(left, _)| left.table_uuid == uuid) {
            return Err(CatalogError::TableExists(to.clone()));
        }
        Ok(())
    }

    /// Steps 2 and 3, or back to `live` if the new name is another table's.
    pub(super) async fn finish_move(
        &self,
        from: &TableIdent,
        moving: Pointer,
        etag: &ETag,
    ) -> Result<(), CatalogError> {
        let PointerState::Moving { to } = &moving.state else { return Ok(()) };
        let to = to.clone();
        let arrived = Pointer { revision: self.names.uuid(), state: PointerState::Live, ..moving.clone() };
        let there = match self.swing(&to, &arrived, PutMode::IfAbsent, Claim::Revision).await? {
            Swing::Done => true,
            Swing::Lost => self.pointer(&to).await?.is_some_and(|(found, _)| found.table_uuid == moving.table_uuid),
        };
        if there {
            // Another request may have finished the rename, and another table may have the old name by now.
            match self.store().delete_if(&self.keys.table(from)?, etag).await {
                Ok(()) | Err(StoreError::Taken { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        } else {
            let back = Pointer { revision: self.names.uuid(), state: PointerState::Live, ..moving };
            self.swing(from, &back, PutMode::IfMatch(etag.clone()), Claim::Revision).await?;
        }
        Ok(())
    }
}
