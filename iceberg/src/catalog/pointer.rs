//! The pointer object of a table or view: JSON, one for each name, moved by conditional put. Format: FORMAT.md.
//!
//! Tables and views share the keys, so the store itself decides which of two requests gets a name.

use bytes::Bytes;
use iceberg::TableIdent;
use serde::{Deserialize, Serialize};
use tidewater_tiering::store::{ETag, ObjectKey, ObjectStore, StoreError};
use uuid::Uuid;

use super::CatalogError;

/// Format of namespace objects, and of pointers that every version of Tidewater can read.
pub(super) const FORMAT: u32 = 1;
/// Format of pointers that a version must not take for a table's which knows neither views nor transactions.
const FORMAT_BEYOND_TABLES: u32 = 2;
/// Revisions that a view's pointer remembers.
const PAST_MAX: usize = 16;

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    View,
}

impl Kind {
    /// As messages have it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Table => "Table",
            Self::View => "View",
        }
    }

    /// Nothing of this kind has the name.
    pub(super) fn absent(self, name: &TableIdent) -> CatalogError {
        match self {
            Self::Table => CatalogError::NoSuchTable(name.clone()),
            Self::View => CatalogError::NoSuchView(name.clone()),
        }
    }

    /// The name is taken by `found`, where one of this kind was to be made.
    pub(super) fn taken(self, name: &TableIdent, found: Self) -> CatalogError {
        match (self, found) {
            (Self::Table, Self::Table) => CatalogError::TableExists(name.clone()),
            (Self::View, Self::View) => CatalogError::ViewExists(name.clone()),
            _ => CatalogError::NameTaken { name: name.clone(), by: found.title() },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Pointer {
    /// [`Pointer::encode`] sets it.
    pub(super) format: u32,
    /// Iceberg's uuid of the table or view.
    pub(super) table_uuid: Uuid,
    /// URI of its current metadata file.
    pub(super) metadata_location: String,
    /// New at every write: some stores' ETags are hashes of the content.
    pub(super) revision: Uuid,
    /// Of a view; `None`: a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) view: Option<ViewMark>,
    #[serde(flatten)]
    pub(super) state: PointerState,
}

/// What the pointer of a view has beside that of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ViewMark {
    /// Its entry in the list of views. No two writes of a name share one.
    pub(super) entry: Uuid,
    /// The last revisions before this one, the newest last: a view has no metadata log that tells whose write landed.
    pub(super) past: Vec<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum PointerState {
    /// The table has this name.
    Live,
    /// The table is being renamed; any request that finds this finishes the rename.
    Moving {
        to: TableIdent,
        /// A view's entry under its new name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entry: Option<Uuid>,
    },
    /// The table is in a commit to several tables, which decides between its metadata file and the next one.
    Prepared {
        transaction: Uuid,
        /// URI of the next metadata file.
        next: String,
    },
}

impl Pointer {
    pub(super) fn kind(&self) -> Kind {
        if self.view.is_some() { Kind::View } else { Kind::Table }
    }

    /// This pointer as it is written next, under `revision`.
    pub(super) fn succeeded_by(&self, revision: Uuid, state: PointerState) -> Self {
        let mut next = Self { revision, state, ..self.clone() };
        if let Some(mark) = &mut next.view {
            mark.past.push(self.revision);
            mark.past.drain(..mark.past.len().saturating_sub(PAST_MAX));
        }
        next
    }

    /// Was the pointer written with `revision`, now or before?
    pub(super) fn has_been(&self, revision: Uuid) -> bool {
        self.revision == revision || self.view.as_ref().is_some_and(|mark| mark.past.contains(&revision))
    }

    /// Is it prepared for that transaction?
    pub(super) fn is_in(&self, id: Uuid) -> bool {
        matches!(self.state, PointerState::Prepared { transaction, .. } if transaction == id)
    }

    /// The object's bytes.
    ///
    /// # Errors
    /// If it cannot be serialised: a defect.
    pub(super) fn encode(&self) -> Result<Bytes, CatalogError> {
        let plain = self.view.is_none() && !matches!(self.state, PointerState::Prepared { .. });
        let format = if plain { FORMAT } else { FORMAT_BEYOND_TABLES };
        let body = serde_json::to_vec(&Self { format, ..self.clone() }).map_err(iceberg::Error::from)?;
        Ok(Bytes::from(body))
    }

    /// The pointer at `key` with its version; `None` if there is none.
    pub(super) async fn read(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Option<(Self, ETag)>, CatalogError> {
        let got = match store.get(key, None).await {
            Ok(got) => got,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |detail: String| CatalogError::Damaged { key: key.as_str().to_owned(), detail };
        // Before anything else: a newer format may lack what this one wants.
        let Format { format } = serde_json::from_slice(&got.body).map_err(|e| damaged(e.to_string()))?;
        if !(FORMAT..=FORMAT_BEYOND_TABLES).contains(&format) {
            return Err(damaged(format!("format {format} is not known; a newer Tidewater wrote it")));
        }
        let pointer: Self = serde_json::from_slice(&got.body).map_err(|e| damaged(e.to_string()))?;
        Ok(Some((pointer, got.etag)))
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use tidewater_tiering::store::PutMode;

    use super::*;
    use crate::fixture::MemoryStore;

    /// One of each, as it was first written.
    const GOLDEN: [&str; 5] = [
        r#"{"format":1,"table-uuid":"00000000-0000-0000-0000-000000000001","metadata-location":"s3://b/t/m.json","revision":"00000000-0000-0000-0000-000000000002","state":"live"}"#,
        r#"{"format":1,"table-uuid":"00000000-0000-0000-0000-000000000001","metadata-location":"s3://b/t/m.json","revision":"00000000-0000-0000-0000-000000000002","state":"moving","to":{"namespace":["a","b"],"name":"c"}}"#,
        r#"{"format":2,"table-uuid":"00000000-0000-0000-0000-000000000001","metadata-location":"s3://b/v/m.json","revision":"00000000-0000-0000-0000-000000000002","view":{"entry":"00000000-0000-0000-0000-000000000003","past":["00000000-0000-0000-0000-000000000004"]},"state":"live"}"#,
        r#"{"format":2,"table-uuid":"00000000-0000-0000-0000-000000000001","metadata-location":"s3://b/v/m.json","revision":"00000000-0000-0000-0000-000000000002","view":{"entry":"00000000-0000-0000-0000-000000000003","past":[]},"state":"moving","to":{"namespace":["a","b"],"name":"c"},"entry":"00000000-0000-0000-0000-000000000005"}"#,
        r#"{"format":2,"table-uuid":"00000000-0000-0000-0000-000000000001","metadata-location":"s3://b/t/m.json","revision":"00000000-0000-0000-0000-000000000002","state":"prepared","transaction":"00000000-0000-0000-0000-000000000006","next":"s3://b/t/n.json"}"#,
    ];

    fn read(body: &str) -> Result<Option<(Pointer, ETag)>, CatalogError> {
        let (store, key) = (MemoryStore::default(), ObjectKey::new("k").expect("legal"));
        block_on(store.put(&key, Bytes::copy_from_slice(body.as_bytes()), PutMode::Overwrite)).expect("put");
        block_on(Pointer::read(&store, &key))
    }

    #[test]
    fn every_form_of_a_pointer_reads_and_writes_as_ever() {
        for golden in GOLDEN {
            let (pointer, _) = read(golden).expect("reads").expect("is there");
            assert_eq!(String::from_utf8_lossy(&pointer.encode().expect("encodes")), golden);
        }
    }

    #[test]
    fn a_newer_format_is_named_whatever_else_it_has() {
        let error = read(r#"{"format":3,"state":"asleep"}"#).expect_err("is refused");
        assert!(error.to_string().contains("format 3 is not known"), "{error}");
        assert!(matches!(read("{}"), Err(CatalogError::Damaged { .. })));
    }

    #[test]
    fn a_view_remembers_its_last_revisions_alone() {
        let (mut pointer, _) = read(GOLDEN[2]).expect("reads").expect("is there");
        for n in 10..40_u128 {
            pointer = pointer.succeeded_by(Uuid::from_u128(n), PointerState::Live);
        }
        assert_eq!(pointer.view.as_ref().map(|mark| mark.past.len()), Some(PAST_MAX));
        assert!(pointer.has_been(Uuid::from_u128(39)) && pointer.has_been(Uuid::from_u128(23)));
        assert!(!pointer.has_been(Uuid::from_u128(22)));
    }
}
