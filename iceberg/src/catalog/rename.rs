//! Renaming a table or a view: three conditional writes; any later request can finish a rename that was cut off.
//!
//! 1. the old pointer becomes `moving` (put-if-match: commits in flight under the old name fail from here on);
//! 2. the new pointer is put if absent, with the same uuid and metadata;
//! 3. the old pointer is deleted, if it is still the one that was moved.
//!
//! A crash after 1 or 2 leaves a `moving` pointer; the next request for the old name finishes the rename. If something
//! else took the new name meanwhile, the old pointer becomes `live` again. A view's entry under its new name is written
//! before 1, and the one that is not used any more is deleted after 3.

use iceberg::TableIdent;
use tidewater_tiering::store::{ETag, PutMode, StoreError};

use super::CatalogError;
use super::object_store::{Claim, ObjectStoreCatalog, Swing};
use super::pointer::{Kind, Pointer, PointerState, ViewMark};

impl ObjectStoreCatalog {
    /// Renames a table, across namespaces too. Its files stay where they are.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchTable`], [`CatalogError::TableExists`], [`CatalogError::RenameTaken`] by a view,
    /// [`CatalogError::NoSuchNamespace`]; a commit that came between ([`CatalogError::Conflict`]).
    pub async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Result<(), CatalogError> {
        self.rename_one(Kind::Table, from, to).await
    }

    /// As [`ObjectStoreCatalog::rename`], for either kind.
    pub(super) async fn rename_one(&self, kind: Kind, from: &TableIdent, to: &TableIdent) -> Result<(), CatalogError> {
        let (pointer, etag) = self.live_one(kind, from).await?;
        let uuid = pointer.table_uuid;
        self.load_namespace(&to.namespace).await?;
        let taken = |found: Kind| match (kind, found) {
            (Kind::Table, Kind::Table) => CatalogError::TableExists(to.clone()),
            _ => CatalogError::RenameTaken { from: from.clone(), to: to.clone(), by: found.title() },
        };
        if let Some(found) = self.seen(to).await? {
            return Err(taken(found.kind()));
        }
        let entry = match kind {
            Kind::Table => None,
            Kind::View => Some(self.add_entry(to).await?),
        };
        let state = PointerState::Moving { to: to.clone(), entry };
        let moving = pointer.succeeded_by(self.names.uuid(), state);
        match self.swing(from, &moving, PutMode::IfMatch(etag), Claim::Revision).await? {
            Swing::Done => {}
            Swing::Lost => {
                self.drop_entry(to, entry).await;
                let detail = format!("the {} was changed during the rename", kind.title().to_lowercase());
                return Err(CatalogError::Conflict { table: from.clone(), detail });
            }
        }
        let Some((moving, etag)) = self.pointer(from).await? else { return Ok(()) };
        self.finish_move(from, moving, &etag).await?;
        if self.pointer(from).await?.is_some_and(|(left, _)| left.table_uuid == uuid) {
            let found = self.pointer(to).await?.map_or(kind, |(found, _)| found.kind());
            return Err(taken(found));
        }
        Ok(())
    }

    /// Steps 2 and 3, or back to `live` if the new name is taken.
    pub(super) async fn finish_move(
        &self,
        from: &TableIdent,
        moving: Pointer,
        etag: &ETag,
    ) -> Result<(), CatalogError> {
        let PointerState::Moving { to, entry } = &moving.state else { return Ok(()) };
        let (to, arriving) = (to.clone(), *entry);
        let leaving = moving.view.as_ref().map(|mark| mark.entry);
        let mut arrived = moving.succeeded_by(self.names.uuid(), PointerState::Live);
        if let (Some(mark), Some(entry)) = (&mut arrived.view, arriving) {
            *mark = ViewMark { entry, past: std::mem::take(&mut mark.past) };
        }
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
            self.drop_entry(from, leaving).await;
        } else {
            let back = moving.succeeded_by(self.names.uuid(), PointerState::Live);
            self.swing(from, &back, PutMode::IfMatch(etag.clone()), Claim::Revision).await?;
            self.drop_entry(&to, arriving).await;
        }
        Ok(())
    }
}
