//! The catalogue: topics with ids and configs, and the lanes, of one epoch. JSON, moved by put-if-match; written
//! before a lane's first bundle and before a topic's first row.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::model::{Incarnation, LaneId, LeaderEpoch, TimestampMs, TopicId, TopicName};

use super::root::{PointerError, from_json, to_json};
use crate::format::FORMAT_VERSION;
use crate::keys::Home;

/// What lies at `<cluster>/<epoch>/catalogue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Version of all formats.
    pub format: u16,
    /// Whose.
    pub home: Home,
    /// One more with each write; a writer refuses to go back.
    pub revision: u64,
    /// When it was written.
    pub written: TimestampMs,
    /// Lanes that have, or are about to have, bundles.
    pub lanes: Vec<LaneId>,
    /// Topics that have, or are about to have, rows.
    pub topics: Vec<CatalogueTopic>,
}

/// A topic in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueTopic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Configs as set by users; defaults are not written.
    pub configs: BTreeMap<String, String>,
    /// Its partitions, by index.
    pub partitions: Vec<CataloguePartition>,
}

/// A partition in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CataloguePartition {
    /// Which life.
    pub incarnation: Incarnation,
    /// The lane that carries it.
    pub lane: LaneId,
    /// Its leader-epoch base.
    pub epoch_base: LeaderEpoch,
}

impl Catalogue {
    /// Empty.
    #[must_use]
    pub fn new(home: Home, now: TimestampMs) -> Self {
        let (lanes, topics) = (Vec::new(), Vec::new());
        Self { format: FORMAT_VERSION, home, revision: 0, written: now, lanes, topics }
    }

    /// The object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        to_json(self)
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`PointerError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PointerError> {
        from_json("catalogue", bytes)
    }
}
