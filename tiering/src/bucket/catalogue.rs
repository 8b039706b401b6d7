//! Changes to the catalogue: what somebody is about to rely on, merged into what is there.
//!
//! Owns: that merge. Does not own: the catalogue's content and form (`manifest::Catalogue`), reading and writing the
//! object (`bucket`). Pure; *message*. A lane is in the catalogue before its first bundle is written, a topic before its
//! first row.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LaneId, TimestampMs, TopicId};

use crate::manifest::{Catalogue, CatalogueTopic};

/// What is to be true of the catalogue. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogueChange {
    /// Topics to be there, as given.
    pub topics: BTreeMap<TopicId, CatalogueTopic>,
    /// Lanes to be there.
    pub lanes: BTreeSet<LaneId>,
    /// Topics whose last object is gone.
    pub forgotten: BTreeSet<TopicId>,
}

impl CatalogueChange {
    /// Does the catalogue already say all that?
    #[must_use]
    pub fn is_in(&self, catalogue: &Catalogue) -> bool {
        // Sorted by id (`merge_into`): a lane may ask for thousands of topics.
        let found = |id: &TopicId| catalogue.topics.binary_search_by_key(id, |topic| topic.id).ok();
        let topic = |id: &TopicId| found(id).and_then(|at| catalogue.topics.get(at));
        self.lanes.iter().all(|lane| catalogue.lanes.contains(lane))
            && self.topics.iter().all(|(id, wanted)| topic(id) == Some(wanted))
            && !self.forgotten.iter().any(|id| topic(id).is_some())
    }

    /// Takes the change in: lanes are never removed, topics sorted by id.
    pub fn merge_into(&self, catalogue: &mut Catalogue, now: TimestampMs) {
        let gone = |id: &TopicId| self.forgotten.contains(id) || self.topics.contains_key(id);
        catalogue.topics.retain(|topic| !gone(&topic.id));
        catalogue.topics.extend(self.topics.values().cloned());
        catalogue.topics.sort_by_key(|topic| topic.id);
        let lanes: BTreeSet<LaneId> = catalogue.lanes.iter().chain(&self.lanes).copied().collect();
        catalogue.lanes = lanes.into_iter().collect();
        catalogue.revision = catalogue.revision.saturating_add(1);
        catalogue.written = now;
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::TopicName;

    use super::*;
    use crate::keys::{ClusterId, Home, LineageEpoch};

    #[test]
    fn merging_makes_it_true() {
        let topic = CatalogueTopic {
            id: TopicId::default(),
            name: TopicName::new("orders").expect("legal"),
            configs: BTreeMap::from([("retention.ms".into(), "-1".into())]),
            partitions: Vec::new(),
        };
        let change = CatalogueChange {
            topics: BTreeMap::from([(TopicId::default(), topic)]),
            lanes: BTreeSet::from([LaneId(1)]),
            forgotten: BTreeSet::new(),
        };
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
        let mut catalogue = Catalogue::new(home, TimestampMs(1));
        assert!(!change.is_in(&catalogue));
        change.merge_into(&mut catalogue, TimestampMs(2));
        assert!(change.is_in(&catalogue));
        assert_eq!((catalogue.revision, catalogue.written), (1, TimestampMs(2)));
        let forget = CatalogueChange { forgotten: BTreeSet::from([TopicId::default()]), ..Default::default() };
        forget.merge_into(&mut catalogue, TimestampMs(3));
        assert!(forget.is_in(&catalogue) && catalogue.topics.is_empty() && catalogue.lanes == [LaneId(1)]);
    }
}
