//! The root of a cluster in the bucket: which cluster and epoch a name stands for. JSON, moved by put-if-match.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::model::TimestampMs;
use uuid::Uuid;

use crate::format::FORMAT_VERSION;
use crate::keys::{ClusterId, ClusterName, Home, LineageEpoch, ObjectKey, ObjectKind};

/// What lies at `<name>/root`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub what: String,
    /// Version of all formats below.
    pub format: u16,
    /// The name it lies under.
    pub name: ClusterName,
    pub cluster: ClusterId,
    /// Its current lineage epoch.
    pub epoch: LineageEpoch,
    /// Where the catalogue of that epoch is.
    pub catalogue: ObjectKey,
    /// The cluster and epoch it was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Home>,
    /// The restore that made this epoch. While `catalogue` is another epoch's, it is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Uuid>,
    /// When this epoch began.
    pub began: TimestampMs,
}

/// Why a root or catalogue cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// Not JSON of this shape.
    #[error("{what} is damaged: {detail}")]
    Malformed { what: &'static str, detail: String },
    /// Written by a newer version.
    #[error("{what} has format {found}; this version reads up to {FORMAT_VERSION}: update this one")]
    Version { what: &'static str, found: u16 },
}

const WHAT: &str = "tidewater root";

impl Root {
    /// Of a new cluster.
    #[must_use]
    pub fn new(name: ClusterName, cluster: ClusterId, now: TimestampMs) -> Self {
        let home = Home { cluster, epoch: LineageEpoch::FIRST };
        let catalogue = home.name(ObjectKind::Catalogue).key();
        let (what, epoch) = (WHAT.to_owned(), LineageEpoch::FIRST);
        Self { what, format: FORMAT_VERSION, name, cluster, epoch, catalogue, from: None, attempt: None, began: now }
    }

    /// Cluster and epoch.
    #[must_use]
    pub fn home(&self) -> Home {
        Home { cluster: self.cluster, epoch: self.epoch }
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        let object = to_json(self);
        assert_eq!(Self::decode(&object).as_ref(), Ok(self), "a root reads back as it was written");
        object
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`PointerError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PointerError> {
        let root: Self = from_json("root", bytes)?;
        if root.what != WHAT {
            return Err(PointerError::Malformed { what: "root", detail: format!("it says it is {:?}", root.what) });
        }
        Ok(root)
    }
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Bytes {
    // An empty object put over a root or a catalogue would lose it: a value that cannot be written ends the process.
    let mut json = serde_json::to_vec_pretty(value).expect("plain values under string keys can be written as JSON");
    json.push(b'\n');
    json.into()
}

/// Looks at `format` first, so that a newer shape gives the clearer error.
pub(crate) fn from_json<T: for<'de> Deserialize<'de>>(what: &'static str, bytes: &[u8]) -> Result<T, PointerError> {
    #[derive(Deserialize)]
    struct Version {
        format: u16,
    }
    let malformed = |error: serde_json::Error| PointerError::Malformed { what, detail: error.to_string() };
    let version: Version = serde_json::from_slice(bytes).map_err(malformed)?;
    if version.format > FORMAT_VERSION {
        return Err(PointerError::Version { what, found: version.format });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}
