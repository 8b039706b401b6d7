//! The pointer object of a table: JSON, one per table, moved by conditional put. Format: FORMAT.md.

use iceberg::TableIdent;
use serde::{Deserialize, Serialize};
use tidewater_tiering::store::{ETag, ObjectKey, ObjectStore, StoreError};
use uuid::Uuid;

use super::CatalogError;

/// Format of pointer and namespace objects.
pub(super) const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Pointer {
    /// [`FORMAT`].
    pub(super) format: u32,
    pub(super) table_uuid: Uuid,
    /// URI of its current metadata file.
    pub(super) metadata_location: String,
    /// New at every write: some stores' ETags are hashes of the content.
    pub(super) revision: Uuid,
    #[serde(flatten)]
    pub(super) state: PointerState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum PointerState {
    /// The table has this name.
    Live,
    /// The table is being renamed; any request that finds this finishes the rename.
    Moving { to: TableIdent },
}

impl Pointer {
    /// The pointer at `key` with its version; `None` if there is none.
    pub(super) async fn read(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Option<(Self, ETag)>, CatalogError> {
        let got = match store.get(key, None).await {
            Ok(got) => got,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |detail: String| CatalogError::Damaged { key: key.as_str().to_owned(), detail };
        let pointer: Self = serde_json::from_slice(&got.body).map_err(|e| damaged(e.to_string()))?;
        if pointer.format != FORMAT {
            return Err(damaged(format!("format {} is not known; a newer Tidewater wrote it", pointer.format)));
        }
        Ok(Some((pointer, got.etag)))
    }
}
