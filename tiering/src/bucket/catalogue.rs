//! The catalogue: which topics and lanes an epoch of a cluster has, so that a reader who knows nothing but the root finds
//! everything.
//!
//! Owns: its content, its JSON form, merging into it. Does not own: reading and writing the object (`bucket`).
//! Pure; *message*. A lane is in the catalogue before its first bundle is written, a topic before its first row.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, TopicId, TopicName};

/// Version of the JSON form.
pub const FORMAT: u32 = 1;

/// A topic as the catalogue tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueTopic {
    /// Its name.
    pub name: TopicName,
    /// How many partitions.
    pub partitions: u32,
    /// Its settings that differ from the defaults.
    #[serde(default)]
    pub configs: BTreeMap<String, String>,
}

/// All topics and lanes of one epoch. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// [`FORMAT`].
    pub format: u32,
    /// By id.
    pub topics: BTreeMap<TopicId, CatalogueTopic>,
    /// Every lane that ever wrote a bundle.
    pub lanes: BTreeSet<LaneId>,
}

/// What somebody is about to rely on, or what went away. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogueChange {
    /// Topics to be there, as given.
    pub topics: BTreeMap<TopicId, CatalogueTopic>,
    /// Lanes to be there.
    pub lanes: BTreeSet<LaneId>,
    /// Topics whose last object is gone.
    pub forgotten: BTreeSet<TopicId>,
}

impl Catalogue {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { format: FORMAT, ..Self::default() }
    }

    /// Does the catalogue already say all that?
    #[must_use]
    pub fn says(&self, change: &CatalogueChange) -> bool {
        change.lanes.is_subset(&self.lanes)
            && change.topics.iter().all(|(id, topic)| self.topics.get(id) == Some(topic))
            && !change.forgotten.iter().any(|id| self.topics.contains_key(id))
    }

    /// Takes a change in. Lanes are never removed.
    pub fn merge(&mut self, change: &CatalogueChange) {
        self.lanes.extend(&change.lanes);
        self.topics.extend(change.topics.clone());
        self.topics.retain(|id, _| !change.forgotten.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_makes_it_say_so_and_json_keeps_it() {
        let topic = CatalogueTopic {
            name: TopicName::new("orders").expect("legal"),
            partitions: 3,
            configs: BTreeMap::from([("retention.ms".into(), "-1".into())]),
        };
        let change = CatalogueChange {
            topics: BTreeMap::from([(TopicId::default(), topic)]),
            lanes: BTreeSet::from([LaneId(1)]),
            forgotten: BTreeSet::new(),
        };
        let mut catalogue = Catalogue::new();
        assert!(!catalogue.says(&change));
        catalogue.merge(&change);
        assert!(catalogue.says(&change));
        let json = serde_json::to_vec(&catalogue).expect("encodes");
        assert_eq!(serde_json::from_slice::<Catalogue>(&json).expect("decodes"), catalogue);
        catalogue.merge(&CatalogueChange { forgotten: BTreeSet::from([TopicId::default()]), ..Default::default() });
        assert!(catalogue.topics.is_empty() && catalogue.lanes.contains(&LaneId(1)));
    }
}
