//! The pointer object of a table: JSON, one per table, moved by conditional put. Format: FORMAT.md.

use iceberg::TableIdent;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
