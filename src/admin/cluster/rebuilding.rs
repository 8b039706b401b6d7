//! How far the rebuild of each broker's replicas is: figures of the broker itself, and what the lanes' leaders know.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, NodeId};

use super::facts::ClusterFacts;
use super::health::of_leader;
use crate::rebuild::LaneRebuild;

/// A broker whose replicas are being rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilding {
    pub broker: i32,
    pub replicas_done: u64,
    /// Those, and the ones that are being copied or wait.
    pub replicas: u64,
    pub copied_bytes: u64,
    /// To be copied in all, as far as it is known.
    pub bytes: u64,
    /// Of these replicas, what stays in the bucket and is not copied.
    pub bucket_bytes: u64,
    /// How much longer it takes at the rate so far, in ms.
    pub left_ms: Option<u64>,
    /// Lanes whose replica is not rebuilt, as far as the broker knows them.
    pub lanes: Vec<LaneRebuild>,
    /// The numbers of all of them.
    #[serde(skip)]
    pub lanes_left: BTreeSet<u32>,
}

impl Rebuilding {
    /// Why nothing is being copied now, if that is so.
    pub(super) fn waits(&self) -> Option<&str> {
        let copies = self.lanes.iter().any(|lane| lane.from.is_some());
        self.lanes.iter().find_map(|lane| lane.waits.as_deref()).filter(|_| !copies)
    }
}

impl fmt::Display for Rebuilding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} replicas", self.replicas_done, self.replicas)?;
        if self.bytes > 0 {
            write!(f, ", {} of {} copied", HumanBytes(self.copied_bytes), HumanBytes(self.bytes))?;
        }
        if self.bucket_bytes > 0 {
            write!(f, ", {} stay in the bucket", HumanBytes(self.bucket_bytes))?;
        }
        match self.left_ms {
            Some(ms) if self.bytes > 0 => write!(f, ", about {} left", Rough(ms)),
            _ => Ok(()),
        }
    }
}

/// A duration of which one unit is enough.
struct Rough(u64);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.div_ceil(1000) {
            seconds @ ..120 => write!(f, "{seconds} s"),
            seconds @ ..7200 => write!(f, "{} min", seconds.div_ceil(60)),
            seconds => write!(f, "{} h", seconds.div_ceil(3600)),
        }
    }
}

/// The brokers that are being rebuilt, by id. A replica counts while it has to be copied, and while it learns in a lane
/// whose voter it shall be.
pub(super) fn of(facts: &ClusterFacts) -> Vec<Rebuilding> {
    let mut lanes_left: BTreeMap<i32, BTreeSet<u32>> = BTreeMap::new();
    // Brokers beyond the controller's voters are its learners for good.
    for lane in facts.image.lanes.keys().filter(|lane| **lane != LaneId::CONTROLLER) {
        let Some(led) = of_leader(facts, *lane) else { continue };
        let wanted = facts.image.replicas(*lane);
        for node in led.learners.iter().filter(|node| wanted.contains(&NodeId(**node))) {
            lanes_left.entry(*node).or_default().insert(lane.0);
        }
    }
    let own = facts.brokers.iter().filter_map(|(id, answer)| Some((id.0, answer.as_ref().ok()?.rebuild.as_ref()?)));
    let own: BTreeMap<i32, _> = own.collect();
    for (node, rebuild) in &own {
        lanes_left.entry(*node).or_default().extend(rebuild.lanes.iter().map(|lane| lane.lane));
    }
    let figures = |(broker, lanes_left): (i32, BTreeSet<u32>)| {
        let left = lanes_left.len() as u64;
        match own.get(&broker) {
            None => Rebuilding { broker, replicas: left, lanes_left, ..Rebuilding::default() },
            Some(own) => Rebuilding {
                broker,
                replicas_done: own.replicas_done,
                replicas: own.replicas_done + left,
                copied_bytes: own.copied_bytes,
                bytes: own.bytes,
                bucket_bytes: own.bucket_bytes,
                left_ms: own.left_ms(),
                lanes: own.lanes.clone(),
                lanes_left,
            },
        }
    };
    lanes_left.into_iter().map(figures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_as_a_sentence() {
        let mut rebuilding = Rebuilding { broker: 3, replicas_done: 12, replicas: 40, ..Rebuilding::default() };
        assert_eq!(rebuilding.to_string(), "12 of 40 replicas");
        (rebuilding.copied_bytes, rebuilding.bytes, rebuilding.left_ms) = (3 << 29, 3 << 30, Some(20_000));
        assert_eq!(rebuilding.to_string(), "12 of 40 replicas, 1.50 GiB of 3.00 GiB copied, about 20 s left");
        (rebuilding.bucket_bytes, rebuilding.left_ms) = (5 << 40, None);
        assert_eq!(
            rebuilding.to_string(),
            "12 of 40 replicas, 1.50 GiB of 3.00 GiB copied, 5.00 TiB stay in the bucket"
        );
        assert_eq!([1, 119_001, 600_000, 7_200_001].map(|ms| Rough(ms).to_string()), ["1 s", "2 min", "10 min", "3 h"]);
    }

    #[test]
    fn a_reason_to_wait_is_shown_while_nothing_is_copied() {
        let waits = LaneRebuild { waits: Some("no leader is known".to_owned()), ..LaneRebuild::default() };
        let copies = LaneRebuild { from: Some(2), ..LaneRebuild::default() };
        let of = |lanes: &[&LaneRebuild]| Rebuilding {
            lanes: lanes.iter().map(|lane| (*lane).clone()).collect(),
            ..Rebuilding::default()
        };
        assert_eq!(of(&[&waits]).waits(), Some("no leader is known"));
        assert_eq!(of(&[&waits, &copies]).waits(), None);
    }
}
