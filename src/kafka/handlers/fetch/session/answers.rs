//! What a session's look at its partitions becomes in the answer. Pure.

use std::collections::HashMap;

use super::{Outcome, Seen, SessionPartition, Topic};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::wire::fetch::PartitionAnswer;

/// The answer for a partition; without an outcome, that nothing new was found.
pub(super) fn answer(slot: &SessionPartition, outcome: Option<Outcome>, lists_aborted: bool) -> PartitionAnswer {
    let bounds = |seen: Seen| PartitionAnswer {
        high_watermark: seen.high_watermark.to_wire(),
        last_stable_offset: seen.last_stable.to_wire(),
        log_start_offset: seen.log_start.to_wire(),
        lists_aborted,
        ..PartitionAnswer::error(slot.index, ErrorCode::NONE)
    };
    match outcome {
        Some(Outcome::Refused(error)) => PartitionAnswer::error(slot.index, error),
        Some(Outcome::Read(done)) => bounds(Seen::of(&done)).with(done.batches),
        Some(Outcome::Diverges(done, from)) => PartitionAnswer { diverging: Some(from), ..bounds(Seen::of(&done)) },
        Some(Outcome::Unread) | None => match slot.seen {
            Some(seen) => bounds(seen),
            None => PartitionAnswer::error(slot.index, ErrorCode::NONE),
        },
    }
}

/// Answers by topic, topics in the order of their first partition.
#[derive(Default)]
pub(super) struct Answers {
    order: Vec<(u32, Vec<PartitionAnswer>)>,
    at: HashMap<u32, usize>,
}

impl Answers {
    pub(super) fn push(&mut self, topic: u32, answer: PartitionAnswer) {
        let at = *self.at.entry(topic).or_insert_with(|| {
            self.order.push((topic, Vec::new()));
            self.order.len() - 1
        });
        if let Some((_, answers)) = self.order.get_mut(at) {
            answers.push(answer);
        }
    }

    pub(super) fn named(self, topics: &[Topic]) -> Vec<(TopicRef, Vec<PartitionAnswer>)> {
        let named = |(topic, answers)| Some((topics.get(topic as usize)?.asked.clone(), answers));
        self.order.into_iter().filter_map(named).collect()
    }
}
