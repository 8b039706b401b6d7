//! Which brokers carry a lane, and which lanes carry a topic's partitions. Pure.
//!
//! A pool is the lanes of one replication factor. Each broker shall lead as many lanes of a pool as the others, by its
//! shards; the followers are spread so that each broker carries as many replicas as the others, on distinct racks where
//! there are enough. A topic's partitions go to the lanes of its pool, round the brokers that lead them, to the lanes
//! with the fewest partitions.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LaneId, NodeId, TopicId};

use super::brokers::BrokerRecord;
use super::lane_table::{LaneRecord, LaneTable, Pool};
use crate::limits::LANES_PER_SHARD;

/// Registered brokers by node.
pub type Brokers = BTreeMap<NodeId, BrokerRecord>;

/// The lanes that a pool lacks, so that every broker leads as many as it shall. Empty if there are fewer brokers than
/// the factor. Lanes that exist are not moved.
#[must_use]
pub fn missing_lanes(table: &LaneTable, brokers: &Brokers, factor: u16) -> Vec<LaneRecord> {
    let wanted = |shards: u16| usize::from(shards) * if factor == 1 { 1 } else { LANES_PER_SHARD };
    if brokers.len() < usize::from(factor) || factor == 0 {
        return Vec::new();
    }
    let mut spread = Spread::new(table.pool(factor).map(|(_, record)| record), brokers);
    let led = |node: NodeId| table.pool(factor).filter(|(_, record)| record.preferred() == Some(node)).count();
    let mut lacks: Vec<(NodeId, usize)> = brokers
        .iter()
        .map(|(node, record)| (*node, wanted(record.address.shards).saturating_sub(led(*node))))
        .collect();
    let mut made = Vec::new();
    // One lane for each broker and round, so that lane ids go round the brokers.
    while lacks.iter().any(|(_, lacks)| *lacks > 0) {
        for (node, lacks) in lacks.iter_mut().filter(|(_, lacks)| *lacks > 0) {
            *lacks -= 1;
            made.push(spread.add(*node, factor));
        }
    }
    spread.even(&mut made);
    made.into_iter().map(|nodes| LaneRecord::new(Pool::Shared, replicas(&nodes, brokers))).collect()
}

fn replicas(nodes: &[NodeId], brokers: &Brokers) -> Vec<tidewater_storage::model::ReplicaId> {
    let replica = |node: &NodeId| brokers.get(node).map(|record| record.replica(*node));
    let replicas: Vec<_> = nodes.iter().filter_map(replica).collect();
    assert_eq!(replicas.len(), nodes.len(), "every replica is on a registered broker");
    replicas
}

/// The brokers of a lane that shall have `factor` replicas: those that it has, then others, least loaded first, on
/// racks that the lane has none of where there are such. `None` if there are too few brokers.
#[must_use]
pub fn widened(table: &LaneTable, brokers: &Brokers, record: &LaneRecord, factor: u16) -> Option<Vec<NodeId>> {
    let mut nodes: Vec<NodeId> = record.nodes().collect();
    let spread = Spread::new(table.lanes.values(), brokers);
    while nodes.len() < usize::from(factor) {
        nodes.push(spread.next(&nodes)?);
    }
    Some(nodes)
}

/// Replicas that each broker carries, on the way to more.
struct Spread<'a> {
    brokers: &'a Brokers,
    loads: BTreeMap<NodeId, usize>,
}

impl<'a> Spread<'a> {
    fn new<'b>(lanes: impl Iterator<Item = &'b LaneRecord>, brokers: &'a Brokers) -> Self {
        let mut loads: BTreeMap<NodeId, usize> = brokers.keys().map(|node| (*node, 0)).collect();
        for node in lanes.flat_map(LaneRecord::nodes) {
            *loads.entry(node).or_default() += 1;
        }
        Self { brokers, loads }
    }

    /// A lane that `preferred` leads.
    fn add(&mut self, preferred: NodeId, factor: u16) -> Vec<NodeId> {
        let mut nodes = vec![preferred];
        while nodes.len() < usize::from(factor) {
            let Some(next) = self.next(&nodes) else { break };
            nodes.push(next);
        }
        assert_eq!(nodes.len(), usize::from(factor), "a pool has at least as many brokers as its factor");
        for node in &nodes {
            *self.loads.entry(*node).or_default() += 1;
        }
        nodes
    }

    /// Another broker for a lane on `nodes`: of a rack that it has none of, with the least load for its shards, next in
    /// the round after the lane's leader.
    fn next(&self, nodes: &[NodeId]) -> Option<NodeId> {
        let leader = nodes.first().copied();
        let free = self.brokers.keys().filter(|node| !nodes.contains(node));
        free.min_by_key(|node| (self.is_rack_taken(nodes, **node), self.load(**node), Some(**node) < leader, **node))
            .copied()
    }

    fn rack(&self, node: NodeId) -> Option<&str> {
        self.brokers.get(&node)?.address.rack.as_deref()
    }

    /// A broker without a rack shares one with no other.
    fn is_rack_taken(&self, nodes: &[NodeId], node: NodeId) -> bool {
        self.rack(node).is_some_and(|rack| nodes.iter().any(|other| self.rack(*other) == Some(rack)))
    }

    /// Replicas for a thousand shards.
    fn load(&self, node: NodeId) -> usize {
        let shards = self.brokers.get(&node).map_or(1, |record| record.address.shards.max(1));
        self.loads.get(&node).copied().unwrap_or(0) * 1000 / usize::from(shards)
    }

    /// Moves followers of the new lanes from the broker with the most load to the one with the least, as long as that
    /// evens them and no lane loses a rack by it.
    fn even(&mut self, lanes: &mut [Vec<NodeId>]) {
        let racks = |spread: &Self, nodes: &[NodeId]| {
            nodes.iter().filter_map(|node| spread.rack(*node)).collect::<BTreeSet<_>>().len()
        };
        let mut by_load: Vec<NodeId> = self.brokers.keys().copied().collect();
        'again: loop {
            by_load.sort_by_key(|node| (Reverse(self.load(*node)), *node));
            for from in by_load.clone() {
                for to in by_load.iter().rev().copied().collect::<Vec<_>>() {
                    if !self.is_evener(from, to) {
                        continue;
                    }
                    for nodes in lanes.iter_mut().filter(|nodes| !nodes.contains(&to)) {
                        let Some(at) = nodes.iter().skip(1).position(|node| *node == from) else { continue };
                        let mut moved = nodes.clone();
                        if let Some(place) = moved.get_mut(at + 1) {
                            *place = to;
                        }
                        if racks(self, &moved) >= racks(self, nodes) {
                            *nodes = moved;
                            *self.loads.entry(from).or_default() -= 1;
                            *self.loads.entry(to).or_default() += 1;
                            continue 'again;
                        }
                    }
                }
            }
            return;
        }
    }

    /// Are the two closer to each other after one replica has moved?
    fn is_evener(&self, from: NodeId, to: NodeId) -> bool {
        let of = |node: NodeId, by: isize| {
            let shards = self.brokers.get(&node).map_or(1, |record| record.address.shards.max(1)) as isize;
            (self.loads.get(&node).copied().unwrap_or(0) as isize + by) * 1000 / shards
        };
        let (before, after) = (of(from, 0) - of(to, 0), of(from, -1) - of(to, 1));
        before > 0 && after.abs() < before
    }
}

/// Partitions that are planned and not yet in the state: requests that are planned together see each other's.
pub type Planned = RefCell<BTreeMap<LaneId, u32>>;

/// Lanes for `count` more partitions of a topic, which has `held` already. `load` returns the partitions of a lane. The
/// round over equal lanes begins where the topic's id says, so that many topics of one partition spread.
#[must_use]
pub fn choose(
    table: &LaneTable,
    factor: u16,
    topic: TopicId,
    held: &[LaneId],
    count: u32,
    load: impl Fn(LaneId) -> u32,
) -> Vec<LaneId> {
    let lanes: Vec<(LaneId, Option<NodeId>)> =
        table.pool(factor).map(|(lane, record)| (lane, record.preferred())).collect();
    if lanes.is_empty() {
        return Vec::new();
    }
    let start = (topic.0.as_u128() % lanes.len() as u128) as usize;
    let mut loads: Vec<u32> = lanes.iter().map(|(lane, _)| load(*lane)).collect();
    // Partitions of this topic by the broker that leads them.
    let mut led: BTreeMap<Option<NodeId>, u32> = lanes.iter().map(|(_, leader)| (*leader, 0)).collect();
    for lane in held {
        let leader = table.lanes.get(lane).and_then(LaneRecord::preferred);
        *led.entry(leader).or_default() += 1;
    }
    // The lane to take next is the first in this order.
    let key = |n: usize, loads: &[u32], led: &BTreeMap<Option<NodeId>, u32>| {
        let of_leader = lanes.get(n).and_then(|(_, leader)| led.get(leader)).copied().unwrap_or(0);
        (of_leader, loads.get(n).copied().unwrap_or(0), (n + lanes.len() - start) % lanes.len(), n)
    };
    let mut order: BTreeSet<_> = (0..lanes.len()).map(|n| key(n, &loads, &led)).collect();
    let mut chosen = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let Some((_, _, _, n)) = order.pop_first() else { break };
        let Some((lane, leader)) = lanes.get(n).copied() else { break };
        chosen.push(lane);
        // The key of every lane of this leader changes.
        let same = |other: &usize| lanes.get(*other).is_some_and(|(_, held)| *held == leader);
        let others: Vec<usize> = (0..lanes.len()).filter(|other| *other != n && same(other)).collect();
        for other in &others {
            order.remove(&key(*other, &loads, &led));
        }
        if let Some(load) = loads.get_mut(n) {
            *load += 1;
        }
        *led.entry(leader).or_default() += 1;
        order.extend(others.into_iter().chain([n]).map(|n| key(n, &loads, &led)));
    }
    chosen
}

/// The lane of the table that a client's own placement names: on exactly these brokers, if there is one with the same
/// leader that one, of several the one with the fewest partitions.
#[must_use]
pub fn assigned(table: &LaneTable, nodes: &[NodeId], load: impl Fn(LaneId) -> u32) -> Option<LaneId> {
    let wanted: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let same =
        |record: &LaneRecord| record.replicas.len() == nodes.len() && record.nodes().collect::<BTreeSet<_>>() == wanted;
    let found = table.shared().filter(|(_, record)| wanted.len() == nodes.len() && same(record));
    found
        .min_by_key(|(lane, record)| (record.preferred() != nodes.first().copied(), load(*lane), *lane))
        .map(|(lane, _)| lane)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidewater_storage::model::ReplicaId;
    use uuid::Uuid;

    use super::*;
    use crate::controller::brokers::tests::record;

    fn brokers(count: i32, racks: i32, shards: u16) -> Brokers {
        let rack = |n: i32| (racks > 0).then(|| format!("rack-{}", n % racks.max(1)));
        (1..=count).map(|n| (NodeId(n), record(n, rack(n).as_deref(), shards))).collect()
    }

    fn add(table: &mut LaneTable, lanes: Vec<LaneRecord>) {
        for lane in lanes {
            let id = LaneId(table.last().0 + 1);
            table.lanes.insert(id, lane);
        }
    }

    fn counts(nodes: impl Iterator<Item = NodeId>, brokers: &Brokers) -> (usize, usize) {
        let mut counts: BTreeMap<NodeId, usize> = brokers.keys().map(|node| (*node, 0)).collect();
        nodes.for_each(|node| *counts.get_mut(&node).expect("registered") += 1);
        (counts.values().min().copied().unwrap_or(0), counts.values().max().copied().unwrap_or(0))
    }

    /// What holds for the lanes of one factor.
    fn check(table: &LaneTable, brokers: &Brokers, factor: u16) {
        let racks: BTreeSet<_> = brokers.values().filter_map(|record| record.address.rack.clone()).collect();
        for (lane, record) in table.pool(factor) {
            let nodes: BTreeSet<_> = record.nodes().collect();
            assert_eq!(nodes.len(), usize::from(factor), "{lane}: distinct brokers");
            let used: BTreeSet<_> = nodes.iter().filter_map(|node| brokers[node].address.rack.clone()).collect();
            assert_eq!(used.len(), racks.len().min(usize::from(factor)), "{lane}: distinct racks");
        }
    }

    proptest! {
        #[test]
        fn every_lane_has_its_factor_on_distinct_brokers_and_racks_and_all_are_even(
            count in 1..9_i32, racks in 0..4_i32, shards in 1..4_u16, factor in 1..6_u16,
        ) {
            let brokers = brokers(count, racks, shards);
            let mut table = LaneTable::default();
            let lanes = missing_lanes(&table, &brokers, factor);
            add(&mut table, lanes);
            prop_assert_eq!(table.lanes.is_empty(), count < i32::from(factor));
            check(&table, &brokers, factor);
            let led = counts(table.lanes.values().filter_map(LaneRecord::preferred), &brokers);
            prop_assert_eq!(led.0, led.1, "each broker leads as many");
            let carried = counts(table.lanes.values().flat_map(LaneRecord::nodes), &brokers);
            if racks < 2 || count % racks == 0 {
                prop_assert!(carried.1 - carried.0 <= 1, "{:?}", carried);
            }
            prop_assert!(missing_lanes(&table, &brokers, factor).is_empty());
        }

        #[test]
        fn brokers_that_join_one_by_one_lead_as_many_as_the_others(count in 3..8_i32, racks in 0..3_i32) {
            let mut table = LaneTable::default();
            for now in 3..=count {
                let brokers = brokers(now, racks, 2);
                let lanes = missing_lanes(&table, &brokers, 3);
                add(&mut table, lanes);
                let led = counts(table.lanes.values().filter_map(LaneRecord::preferred), &brokers);
                prop_assert_eq!(led, (8, 8));
            }
        }

        #[test]
        fn partitions_go_round_the_leaders_and_to_the_least_loaded_lanes(
            id: u128, first in 0..40_u32, more in 0..40_u32, topics in 1..20_u32,
        ) {
            let brokers = brokers(3, 0, 2);
            let mut table = LaneTable::default();
            let lanes = missing_lanes(&table, &brokers, 3);
            add(&mut table, lanes);
            let mut loads: BTreeMap<LaneId, u32> = BTreeMap::new();
            for n in 0..topics {
                let topic = TopicId(Uuid::from_u128(id.wrapping_add(u128::from(n))));
                let load = |loads: &BTreeMap<LaneId, u32>, lane| loads.get(&lane).copied().unwrap_or(0);
                let mut held = choose(&table, 3, topic, &[], first, |lane| load(&loads, lane));
                held.iter().for_each(|lane| *loads.entry(*lane).or_default() += 1);
                let more = choose(&table, 3, topic, &held, more, |lane| load(&loads, lane));
                more.iter().for_each(|lane| *loads.entry(*lane).or_default() += 1);
                held.extend(more);
                let led = counts(held.iter().filter_map(|lane| table.lanes[lane].preferred()), &brokers);
                prop_assert!(led.1 - led.0 <= 1, "{:?}", led);
            }
            let all: Vec<u32> = table.lanes.keys().map(|lane| loads.get(lane).copied().unwrap_or(0)).collect();
            let (least, most) = (all.iter().min().expect("some"), all.iter().max().expect("some"));
            // Each topic may leave one leader with a partition more.
            prop_assert!(most - least <= 1 + topics, "{:?}", all);
        }
    }

    #[test]
    fn a_pool_of_factor_one_has_a_lane_for_each_shard() {
        let mut table = LaneTable::default();
        let lanes = missing_lanes(&table, &brokers(1, 0, 3), 1);
        assert_eq!(lanes.iter().map(|lane| lane.preferred()).collect::<Vec<_>>(), [Some(NodeId(1)); 3]);
        add(&mut table, lanes);
        assert_eq!(missing_lanes(&table, &brokers(2, 0, 2), 1).len(), 2, "of the new broker alone");
    }

    #[test]
    fn a_lane_is_widened_to_the_least_loaded_brokers_of_other_racks() {
        let brokers = brokers(4, 2, 2);
        let one = |node| LaneRecord::new(Pool::Shared, vec![ReplicaId::first(NodeId(node))]);
        let table = LaneTable { lanes: [(LaneId(1), one(1)), (LaneId(2), one(4))].into(), ..LaneTable::default() };
        let widened = |factor| widened(&table, &brokers, &table.lanes[&LaneId(1)], factor);
        // Racks: 1 and 3, 2 and 4.
        assert_eq!(widened(3), Some(vec![NodeId(1), NodeId(2), NodeId(3)]));
        assert_eq!(widened(5), None);
    }

    #[test]
    fn a_clients_placement_is_that_of_a_lane() {
        let set = |nodes: &[i32]| {
            LaneRecord::new(Pool::Shared, nodes.iter().map(|node| ReplicaId::first(NodeId(*node))).collect())
        };
        let lanes = [(LaneId(1), set(&[1, 2, 3])), (LaneId(2), set(&[2, 1, 3])), (LaneId(3), set(&[2, 3, 1]))];
        let table = LaneTable { lanes: lanes.into(), ..LaneTable::default() };
        let ask = |nodes: &[i32], busy: u32| {
            let nodes: Vec<_> = nodes.iter().map(|node| NodeId(*node)).collect();
            assigned(&table, &nodes, |lane| u32::from(lane.0 == busy)).map(|lane| lane.0)
        };
        assert_eq!(ask(&[1, 2, 3], 1), Some(1));
        assert_eq!(ask(&[2, 1, 3], 2), Some(3), "the same leader, fewer partitions");
        assert_eq!(ask(&[3, 2, 1], 9), Some(1), "the same brokers");
        assert_eq!((ask(&[1, 2], 9), ask(&[1, 2, 2], 9), ask(&[1, 2, 4], 9)), (None, None, None));
    }
}
