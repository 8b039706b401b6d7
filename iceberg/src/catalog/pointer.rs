//! The pointer object of a table: JSON, one per table, moved by conditional put. Format: FORMAT.md.

use iceberg::TableIdent;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Format of pointer and namespace objects.
pub(super) const FORMAT: u32 = 1;

/// What a pointer object says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Pointer {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// Of the table.
    pub(super) table_uuid: Uuid,
    /// URI of its current metadata file.
    pub(super) metadata_location: String,
    /// New at every write.
    pub(super) revision: Uuid,
    /// Where it stands.
    #[serde(flatten)]
    pub(super) state: State,
}

/// Where a pointer stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum State {
    /// The table is here.
    Live,
    /// The table is on its way to another name: whoever finds this finishes the move.
    Moving {
        /// The new name.
        to: TableIdent,
    },
}
