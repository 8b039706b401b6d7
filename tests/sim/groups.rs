//! Consumers that commit offsets and producers that ask for an id: what was acknowledged holds over every restart.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use tidewater::group::GroupId;
use tidewater::group::message::{Commit, CommitAsk};
use tidewater_storage::model::Offset;

use crate::workload::{Desk, PATIENCE};
use crate::world::{World, within};

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 3;

/// A group that commits one number higher each time, to all partitions.
#[derive(Clone)]
pub(crate) struct Group {
    desk: Desk,
    name: &'static str,
    acknowledged: Rc<Cell<u64>>,
    tried: Rc<Cell<u64>>,
}

impl Group {
    pub(crate) fn new(desk: &Desk, name: &'static str) -> Self {
        Self { desk: desk.clone(), name, acknowledged: Rc::default(), tried: Rc::default() }
    }

    fn id(&self) -> GroupId {
        GroupId::from(self.name)
    }

    /// Commits, and sometimes reads, until stopped.
    pub(crate) async fn commit(self) {
        while !self.desk.stop.get() {
            self.desk.pause(150).await;
            if self.desk.env.rng.below(4) == 0 {
                self.look().await;
            }
            let Some(node) = self.desk.way.node() else { continue };
            let groups = node.groups.clone();
            drop(node);
            self.tried.set(self.tried.get() + 1);
            let at = self.tried.get();
            let one = |partition| (Arc::from(TOPIC), partition, Commit::new(Offset::new(at), None, self.name));
            let offsets = (0..PARTITIONS).map(one).collect();
            let ask = CommitAsk { member: None, instance: None, generation: -1, retention_ms: None, offsets };
            let answer = within(&self.desk.env, PATIENCE, groups.commit(self.id(), ask)).await;
            if let Some(Ok(answers)) = answer
                && answers.iter().all(Result::is_ok)
            {
                self.acknowledged.set(self.acknowledged.get().max(at));
            }
        }
    }

    /// Reads the committed offsets; false without an answer. None is older than the last acknowledged or newer than the
    /// last tried.
    async fn look(&self) -> bool {
        let Some(node) = self.desk.way.node() else { return false };
        let groups = node.groups.clone();
        drop(node);
        let least = self.acknowledged.get();
        let wanted = vec![(TOPIC.to_owned(), (0..PARTITIONS).collect())];
        let answer = within(&self.desk.env, PATIENCE, groups.fetch(self.id(), Some(wanted))).await;
        let Some(Ok(found)) = answer else { return false };
        for offset in found {
            let at = offset.commit.map_or(0, |commit| u64::try_from(commit.offset.0).expect("an offset"));
            assert!(
                (least..=self.tried.get()).contains(&at),
                "group {}: {at} is committed for partition {}, {least} was acknowledged and {} tried",
                self.name,
                offset.partition,
                self.tried.get()
            );
        }
        true
    }

    /// In the end the commits are there.
    pub(crate) async fn check(&self, world: &World) {
        for _ in 0..600 {
            if self.look().await {
                return;
            }
            world.sleep_ms(100).await;
        }
        panic!("group {}: its offsets cannot be read", self.name);
    }
}

/// Asks for producer ids until stopped: none is given twice.
pub(crate) async fn take_producer_ids(desk: Desk) {
    let given = RefCell::new(BTreeSet::new());
    while !desk.stop.get() {
        desk.pause(400).await;
        let Some(node) = desk.way.node() else { continue };
        let controller = node.controller.clone();
        drop(node);
        if let Some(Ok(id)) = within(&desk.env, PATIENCE, controller.producer_id()).await {
            assert!(given.borrow_mut().insert(id), "producer id {id:?} is given twice");
        }
    }
}
