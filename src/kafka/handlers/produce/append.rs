//! From the plan of a Produce request to the outcome of each batch, within the request's timeout.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_storage::env::{Deadlines, Env};

use super::{ErrorCode, Refusal};
use crate::config::topic::TopicCompression;
use crate::kafka::Broker;
use crate::kafka::budget::Lease;
use crate::kafka::limits::RECOMPRESSED_REQUEST_MAX;
use crate::kafka::recompress::{HandOver, RecompressError, Working};
use crate::partition::message::{CheckedBatch, ProduceDone, ProducePart};

/// What became of one batch.
pub(super) type Outcome = Result<ProduceDone, Refusal>;

/// A batch to append, and the codec to store it in if it arrived in another one.
#[derive(Debug)]
pub(super) struct PlannedPart {
    pub part: ProducePart,
    pub to: Option<TopicCompression>,
}

/// An append under way.
pub(super) type Append = Pin<Box<dyn Future<Output = Vec<Outcome>>>>;

/// Hands the batches to their lanes, in the first poll unless one of them is recompressed first or a request before it
/// on the connection does that. Resolves when each is committed or refused; outcomes are in the order of `parts`.
pub(super) fn append(broker: Rc<Broker>, order: Rc<HandOver>, parts: Vec<PlannedPart>) -> Append {
    Box::pin(async move {
        let late = parts.iter().any(|part| part.to.is_some());
        let mut turn = order.turn(late);
        let (parts, refused, _memory) = if late {
            let mut working = broker.recompressor.begin().await;
            let (parts, refused) = recompressed(&mut working, parts).await;
            (parts, refused, Some(working.end().await))
        } else {
            (parts.into_iter().map(|planned| planned.part).collect(), Vec::new(), None)
        };
        turn.come().await;
        let handed = parts.len();
        let mut appending = pin!(broker.router.produce(parts));
        // Its first poll hands the batches over; then the next request of the connection may.
        let first = futures::poll!(appending.as_mut());
        drop(turn);
        let done = match first {
            Poll::Ready(done) => done,
            Poll::Pending => appending.await,
        };
        assert_eq!(done.len(), handed, "one outcome for each batch handed over");
        in_place(done.into_iter().map(|done| done.map_err(Refusal::from)), refused)
    })
}

/// The parts in the codecs of their topics, and by place among all of them those that could not be recompressed.
async fn recompressed(
    working: &mut Working<'_>,
    planned: Vec<PlannedPart>,
) -> (Vec<ProducePart>, Vec<(usize, Refusal)>) {
    let (mut parts, mut refused) = (Vec::with_capacity(planned.len()), Vec::new());
    for (n, PlannedPart { part, to }) in planned.into_iter().enumerate() {
        let Some(to) = to else {
            parts.push(part);
            continue;
        };
        let ProducePart { address, batch, origin } = part;
        match one(working, batch, to).await {
            Ok(batch) => parts.push(ProducePart { address, batch, origin }),
            Err(refusal) => refused.push((n, refusal)),
        }
    }
    (parts, refused)
}

async fn one(working: &mut Working<'_>, batch: CheckedBatch, to: TopicCompression) -> Result<CheckedBatch, Refusal> {
    if working.bytes() >= RECOMPRESSED_REQUEST_MAX {
        let why = "the request's batches are too large once recompressed; send fewer in a request";
        return Err(Refusal::new(ErrorCode::MESSAGE_TOO_LARGE, why));
    }
    working.recompress(batch, to).await.map_err(|error| {
        let code = match &error {
            RecompressError::Records(_) => ErrorCode::INVALID_RECORD,
            RecompressError::Interrupted => ErrorCode::KAFKA_STORAGE_ERROR,
            RecompressError::Made(_) => ErrorCode::UNKNOWN_SERVER_ERROR,
        };
        Refusal::new(code, error.to_string())
    })
}

/// Outcomes with the refusals put in at their places, which are in ascending order.
fn in_place(done: impl Iterator<Item = Outcome>, refused: Vec<(usize, Refusal)>) -> Vec<Outcome> {
    let mut out: Vec<Outcome> = done.collect();
    for (n, refusal) in refused {
        out.insert(n, Err(refusal));
    }
    out
}

/// The outcomes, or `None` when `timeout` has passed: then the append goes on by itself, and holds `lease()` until it
/// ends.
pub(super) async fn within(
    env: &Env,
    deadlines: &Deadlines,
    timeout: Duration,
    append: Append,
    lease: impl FnOnce() -> Lease,
) -> Option<Vec<Outcome>> {
    let deadline = pin!(deadlines.until(env.clock.now() + timeout));
    match select(append, deadline).await {
        Either::Left((outcomes, _)) => Some(outcomes),
        Either::Right(((), append)) => {
            let lease = lease();
            drop(env.tasks.spawn("late produce", async move {
                append.await;
                drop(lease);
            }));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tidewater_storage::env::sim::World;
    use tidewater_storage::model::Offset;

    use super::*;
    use crate::kafka::budget::Budget;

    fn done(offset: u64) -> Outcome {
        Ok(ProduceDone { base_offset: Offset::new(offset), log_append_time: None, log_start: Offset::ZERO })
    }

    #[test]
    fn refused_batches_keep_their_places() {
        let refusal = || Refusal::code(ErrorCode::INVALID_RECORD);
        let all = in_place([done(5), done(9)].into_iter(), vec![(0, refusal()), (2, refusal())]);
        let offsets: Vec<_> = all.iter().map(|outcome| outcome.as_ref().ok().map(|d| d.base_offset.get())).collect();
        assert_eq!(offsets, [None, Some(5), None, Some(9)]);
    }

    #[test]
    fn a_late_append_goes_on_without_its_client_and_stays_charged() {
        let world = World::new(1);
        let env = world.env();
        world.block_on(async move {
            let (deadlines, budget) = (Deadlines::new(env.clone()), Budget::new(1 << 20));
            let lease = || {
                let mut lease = budget.empty();
                lease.set(1000);
                lease
            };
            let committed = Rc::new(Cell::new(0));
            let append = |after: Duration| -> Append {
                let (env, committed) = (env.clone(), Rc::clone(&committed));
                Box::pin(async move {
                    env.tasks.sleep(after).await;
                    committed.set(committed.get() + 1);
                    vec![done(0)]
                })
            };
            let ms = Duration::from_millis;
            let soon = within(&env, &deadlines, ms(500), append(ms(100)), lease).await;
            assert_eq!((soon.map(|outcomes| outcomes.len()), committed.get(), budget.used()), (Some(1), 1, 0));
            let late = within(&env, &deadlines, ms(500), append(ms(2000)), lease).await;
            assert_eq!((late, committed.get(), budget.used()), (None, 1, 1000));
            env.tasks.sleep(ms(2000)).await;
            assert_eq!((committed.get(), budget.used()), (2, 0));
        });
    }
}
