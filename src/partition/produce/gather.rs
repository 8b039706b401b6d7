//! Collects the answers to the parts of one produce request on this shard. Shard-local.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use crate::partition::message::{ProduceDone, ProduceError};
use crate::shard::mesh::Reply;

type PartAnswer = Result<ProduceDone, ProduceError>;

struct Gather {
    answers: RefCell<Vec<Option<PartAnswer>>>,
    missing: Cell<usize>,
    reply: Cell<Option<Reply<Vec<PartAnswer>>>>,
}

/// Takes the answer to one part.
pub struct AnswerSlot {
    gather: Rc<Gather>,
    part: usize,
}

impl fmt::Debug for AnswerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnswerSlot({})", self.part)
    }
}

impl AnswerSlot {
    /// One slot per part; the reply is sent with the last answer, and never if a slot is dropped without one.
    #[must_use]
    pub fn of_request(parts: usize, reply: Reply<Vec<PartAnswer>>) -> Vec<Self> {
        if parts == 0 {
            reply.send(Vec::new());
            return Vec::new();
        }
        let gather = Rc::new(Gather {
            answers: RefCell::new(vec![None; parts]),
            missing: Cell::new(parts),
            reply: Cell::new(Some(reply)),
        });
        (0..parts).map(|part| Self { gather: Rc::clone(&gather), part }).collect()
    }

    pub fn answer(self, answer: PartAnswer) {
        let before = self.gather.answers.borrow_mut()[self.part].replace(answer);
        assert!(before.is_none(), "part {} of a produce request was answered twice", self.part);
        self.gather.missing.set(self.gather.missing.get() - 1);
        if self.gather.missing.get() == 0
            && let Some(reply) = self.gather.reply.take()
        {
            let answers: Vec<PartAnswer> = self.gather.answers.take().into_iter().flatten().collect();
            reply.send(answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::shard::mesh::reply_pair;

    #[test]
    fn a_request_is_answered_with_its_last_part_in_the_order_of_the_parts() {
        let (reply, answered) = reply_pair();
        let mut answered = Box::pin(answered);
        let mut slots = AnswerSlot::of_request(2, reply);
        slots.remove(1).answer(Err(ProduceError::Busy));
        assert!(answered.as_mut().now_or_never().is_none());
        slots.remove(0).answer(Err(ProduceError::NotLeader(None)));
        let answers = answered.now_or_never().expect("is answered");
        assert_eq!(answers, Ok(vec![Err(ProduceError::NotLeader(None)), Err(ProduceError::Busy)]));
    }
}
