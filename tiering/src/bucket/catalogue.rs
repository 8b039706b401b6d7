//! Changes to the catalogue: topics and lanes that an archiver is about to refer to, merged into the catalogue.
//!
//! Owns: that merge. Does not own: the catalogue's content and form (`manifest::Catalogue`), reading and writing the
//! object (`bucket`). Pure; *message*. A lane is in the catalogue before its first bundle is written, a topic before
//! its first row.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LaneId, TimestampMs, TopicId};

use crate::manifest::{Catalogue, CatalogueTopic, UnarchivedTopics};

/// What is to be true of the catalogue. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogueChange {
    /// Topics to be there, as given.
    pub topics: BTreeMap<TopicId, CatalogueTopic>,
    /// Lanes to be there.
    pub lanes: BTreeSet<LaneId>,
    /// Topics whose last object is gone.
    pub forgotten: BTreeSet<TopicId>,
    /// By a writer that knows every topic: all of them. Those that the catalogue has among its topics are left out.
    pub unarchived: Option<UnarchivedTopics>,
}

impl CatalogueChange {
    /// Does the catalogue already say all that?
    #[must_use]
    pub fn is_in(&self, catalogue: &Catalogue) -> bool {
        // Sorted by id (`merge_into`): a lane may ask for thousands of topics.
        let found = |id: &TopicId| catalogue.topics.binary_search_by_key(id, |topic| topic.id).ok();
        let topic = |id: &TopicId| found(id).and_then(|at| catalogue.topics.get(at));
        self.lanes.iter().all(|lane| catalogue.lanes.contains(lane))
            && self.topics.iter().all(|(id, wanted)| topic(id).is_some_and(|found| found.covers(wanted)))
            && !self.forgotten.iter().any(|id| topic(id).is_some())
            && self.without_rows(catalogue).is_none_or(|wanted| says(catalogue.unarchived.as_ref(), &wanted))
    }

    /// Takes the change in: lanes are never removed, topics sorted by id. What the catalogue says of a topic as of a
    /// later revision stays.
    pub fn merge_into(&self, catalogue: &mut Catalogue, now: TimestampMs) {
        let mut topics: BTreeMap<TopicId, CatalogueTopic> =
            catalogue.topics.drain(..).map(|topic| (topic.id, topic)).collect();
        for (id, wanted) in &self.topics {
            let topic = topics.get(id).map_or_else(|| wanted.clone(), |found| CatalogueTopic::newer(found, wanted));
            topics.insert(*id, topic);
        }
        topics.retain(|id, _| !self.forgotten.contains(id));
        catalogue.topics = topics.into_values().collect();
        if let Some(wanted) = self.without_rows(catalogue).filter(|wanted| !says(catalogue.unarchived.as_ref(), wanted))
        {
            catalogue.unarchived = Some(wanted);
        }
        let lanes: BTreeSet<LaneId> = catalogue.lanes.iter().chain(&self.lanes).copied().collect();
        catalogue.lanes = lanes.into_iter().collect();
        catalogue.revision = catalogue.revision.saturating_add(1);
        catalogue.written = now;
    }
}

impl CatalogueChange {
    /// The topics of which nothing is in the bucket: not archived, or without records so far.
    fn without_rows(&self, catalogue: &Catalogue) -> Option<UnarchivedTopics> {
        let wanted = self.unarchived.as_ref()?;
        let has_rows = |id: &TopicId| catalogue.topics.binary_search_by_key(id, |topic| topic.id).is_ok();
        let topics = wanted.topics.iter().filter(|topic| !has_rows(&topic.id)).cloned().collect();
        Some(UnarchivedTopics { revision: wanted.revision, topics })
    }
}

/// Does the list need no change: is it that of a later revision, or are its topics the same?
fn says(found: Option<&UnarchivedTopics>, wanted: &UnarchivedTopics) -> bool {
    found.is_some_and(|found| found.revision > wanted.revision || found.topics == wanted.topics)
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{Incarnation, LeaderEpoch, TopicName};

    use super::*;
    use crate::keys::{ClusterId, Home, LineageEpoch};
    use crate::manifest::{CataloguePartition, UnarchivedTopic};

    fn home() -> Home {
        Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST }
    }

    /// A topic with one partition per base, as of a revision.
    fn topic(revision: u64, retention: &str, bases: &[i32]) -> CatalogueTopic {
        let partition = |base: &i32| CataloguePartition {
            incarnation: Incarnation(0),
            lane: LaneId(1),
            epoch_base: LeaderEpoch(*base),
        };
        CatalogueTopic {
            id: TopicId::default(),
            name: TopicName::new("orders").expect("legal"),
            configs: BTreeMap::from([("retention.ms".into(), retention.into())]),
            partitions: bases.iter().map(partition).collect(),
            revision,
            copy: None,
        }
    }

    fn change(topic: CatalogueTopic) -> CatalogueChange {
        CatalogueChange { topics: BTreeMap::from([(topic.id, topic)]), ..CatalogueChange::default() }
    }

    #[test]
    fn lanes_with_other_epoch_bases_come_to_the_same_and_then_rest() {
        let mut catalogue = Catalogue::new(home(), TimestampMs(1));
        let (one, two) = (change(topic(3, "1", &[7, 0])), change(topic(3, "1", &[0, 9])));
        one.merge_into(&mut catalogue, TimestampMs(2));
        assert!(!two.is_in(&catalogue), "it knows a base that the catalogue lacks");
        two.merge_into(&mut catalogue, TimestampMs(3));
        assert!(one.is_in(&catalogue) && two.is_in(&catalogue), "neither writes again: {:?}", catalogue.topics);
        assert_eq!(catalogue.topics, [topic(3, "1", &[7, 9])]);
    }

    #[test]
    fn a_stale_image_changes_nothing_and_a_newer_one_wins() {
        let mut catalogue = Catalogue::new(home(), TimestampMs(1));
        change(topic(0, "old version", &[])).merge_into(&mut catalogue, TimestampMs(1));
        let (stale, newer) = (change(topic(4, "1", &[1])), change(topic(5, "2", &[0, 0])));
        assert!(!newer.is_in(&catalogue), "what knows no revision is older than all");
        newer.merge_into(&mut catalogue, TimestampMs(2));
        assert!(!stale.is_in(&catalogue), "it knows a base");
        stale.merge_into(&mut catalogue, TimestampMs(3));
        assert_eq!(catalogue.topics, [topic(5, "2", &[1, 0])], "settings and partitions of the newer one");
        assert!(stale.is_in(&catalogue) && newer.is_in(&catalogue));
        let again = change(topic(4, "1", &[1]));
        assert!(again.is_in(&catalogue), "a stale image need not write");
    }

    #[test]
    fn the_newest_list_of_unarchived_topics_stands_and_an_equal_one_is_not_written_again() {
        let list = |revision: u64, names: &[&str]| {
            let topic = |(n, name): (usize, &&str)| UnarchivedTopic {
                id: TopicId(uuid::Uuid::from_u128(n as u128)),
                name: TopicName::new(name).expect("legal"),
                partitions: 3,
                configs: BTreeMap::new(),
                copy: None,
            };
            let topics = names.iter().enumerate().map(topic).collect();
            CatalogueChange { unarchived: Some(UnarchivedTopics { revision, topics }), ..CatalogueChange::default() }
        };
        let mut catalogue = Catalogue::new(home(), TimestampMs(1));
        assert!(!list(1, &[]).is_in(&catalogue), "that there is none is said too");
        list(4, &["a", "b"]).merge_into(&mut catalogue, TimestampMs(2));
        assert!(list(9, &["a", "b"]).is_in(&catalogue), "the same list as of a later revision");
        assert!(list(3, &["a"]).is_in(&catalogue), "a stale image need not write");
        list(3, &["a"]).merge_into(&mut catalogue, TimestampMs(3));
        assert_eq!(catalogue.unarchived, list(4, &["a", "b"]).unarchived);
        list(5, &["b"]).merge_into(&mut catalogue, TimestampMs(4));
        assert_eq!(catalogue.unarchived, list(5, &["b"]).unarchived);
        assert_eq!(Catalogue::decode(&catalogue.encode()), Ok(catalogue));
    }

    #[test]
    fn merging_makes_it_true() {
        let topic = CatalogueTopic {
            id: TopicId::default(),
            name: TopicName::new("orders").expect("legal"),
            configs: BTreeMap::from([("retention.ms".into(), "-1".into())]),
            partitions: Vec::new(),
            revision: 1,
            copy: None,
        };
        let change = CatalogueChange {
            topics: BTreeMap::from([(TopicId::default(), topic)]),
            lanes: BTreeSet::from([LaneId(1)]),
            ..CatalogueChange::default()
        };
        let mut catalogue = Catalogue::new(home(), TimestampMs(1));
        assert!(!change.is_in(&catalogue));
        change.merge_into(&mut catalogue, TimestampMs(2));
        assert!(change.is_in(&catalogue));
        assert_eq!((catalogue.revision, catalogue.written), (1, TimestampMs(2)));
        let forget = CatalogueChange { forgotten: BTreeSet::from([TopicId::default()]), ..Default::default() };
        forget.merge_into(&mut catalogue, TimestampMs(3));
        assert!(forget.is_in(&catalogue) && catalogue.topics.is_empty() && catalogue.lanes == [LaneId(1)]);
    }
}
