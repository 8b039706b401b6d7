//! The waiting half of a fetch: reads what its session says, arms alarms, waits for them or for the deadline.
//!
//! One look reads the queued partitions shard by shard within the bytes allowed. If that is too little, alarms are
//! registered where the client stands (once each, however many wake-ups there are), memory is given back, and the next
//! look reads only what rang, and what brought too little before. Shard-local.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tidewater_storage::env::Mono;
use tidewater_storage::model::{LeaderEpoch, ShardId};

use super::Terms;
use super::session::{Kind, Look, Outcome, SlotId};
use super::sessions::Watching;
use crate::kafka::RequestContext;
use crate::kafka::budget::Lease;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::{FETCH_BYTES_FLOOR, FETCH_LOOK_PARTITIONS, FETCH_LOOK_PAUSE};
use crate::kafka::metrics::Stage;
use crate::partition::message::{EpochEnd, PartitionAddress, ReadDone};
use crate::partition::read::watch::{Alarms, Watched};

/// What a fetch found, and the memory it holds.
pub(super) struct Found {
    pub outcomes: Vec<(SlotId, Outcome)>,
    pub lease: Lease,
}

/// Looks, waits and looks again until there is enough, an error, or the time is up.
pub(super) async fn poll(ctx: &RequestContext, watching: &mut Watching, terms: &Terms, kind: Kind) -> Found {
    let deadline = ctx.broker.env.clock.now() + terms.wait;
    loop {
        hear(watching);
        let begun = ctx.broker.env.clock.now();
        let wanted = watching.session.wanted(terms.max_bytes.max(1));
        let mut lease = ctx.budget.up_to(wanted, FETCH_BYTES_FLOOR);
        let outcomes = look(ctx, watching, lease.bytes(), kind).await;
        let looked = ctx.broker.env.clock.now();
        ctx.broker.metrics.stage(Stage::FetchRead, looked.since(begun));
        let waits = !watching.session.is_empty()
            && !is_enough(&outcomes, terms.min_bytes.min(lease.bytes()))
            && !watching.session.is_full(&outcomes)
            && !deadline.since(looked).is_zero();
        let watched = watching.session.settle(&outcomes, kind, waits);
        if !waits {
            register(ctx, watching, watched).await;
            lease.set(bytes(&outcomes));
            return Found { outcomes, lease };
        }
        let found_some = bytes(&outcomes) > 0;
        drop(outcomes);
        // What is waited for holds no memory.
        lease.set(0);
        register(ctx, watching, watched).await;
        wait(ctx, watching, deadline).await;
        if found_some {
            let left = deadline.since(ctx.broker.env.clock.now());
            ctx.broker.env.tasks.sleep(FETCH_LOOK_PAUSE.min(left)).await;
        }
        ctx.broker.metrics.stage(Stage::FetchWait, ctx.broker.env.clock.now().since(looked));
    }
}

fn bytes(outcomes: &[(SlotId, Outcome)]) -> usize {
    let of = |outcome: &Outcome| if let Outcome::Read(done) = outcome { done.bytes() } else { 0 };
    outcomes.iter().map(|(_, outcome)| of(outcome)).sum()
}

/// Errors are answered at once; otherwise there must be enough bytes.
pub(super) fn is_enough(outcomes: &[(SlotId, Outcome)], min_bytes: usize) -> bool {
    let final_now = |outcome: &Outcome| matches!(outcome, Outcome::Refused(_) | Outcome::Diverges(..));
    outcomes.iter().any(|(_, outcome)| final_now(outcome)) || bytes(outcomes) >= min_bytes
}

/// Reads what is queued.
async fn look(ctx: &RequestContext, watching: &mut Watching, max_bytes: usize, kind: Kind) -> Vec<(SlotId, Outcome)> {
    let image = ctx.image();
    let ids = watching.session.take_queue();
    let mut outcomes = Vec::with_capacity(ids.len());
    // Shards in the order in which the rotation comes to them.
    let mut shards: Vec<(ShardId, Vec<(usize, Look)>)> = Vec::new();
    for (n, id) in ids.into_iter().enumerate() {
        let outcome = match watching.session.look(id, &image) {
            Err(error) => Outcome::Refused(error),
            Ok(look) => {
                let shard = look.part.address.shard;
                match shards.iter_mut().find(|(known, _)| *known == shard) {
                    Some((_, looks)) => looks.push((n, look)),
                    None => shards.push((shard, vec![(n, look)])),
                }
                Outcome::Unread
            }
        };
        outcomes.push((id, outcome));
    }
    drop(image);
    let (mut left, mut first) = (max_bytes, true);
    for looks in shards.iter().flat_map(|(_, looks)| looks.chunks(FETCH_LOOK_PARTITIONS)) {
        if left == 0 && !kind.is_whole() {
            break;
        }
        let parts = looks.iter().map(|(_, look)| look.part).collect();
        let read = ctx.broker.router.read(parts, left).await;
        for ((n, look), read) in looks.iter().zip(read) {
            let outcome = match read {
                Err(error) => Outcome::Refused(ErrorCode::from(&error)),
                Ok(done) => match diverges(ctx, look).await {
                    Ok(None) => Outcome::Read(done.within(&mut left, &mut first)),
                    Ok(Some(end)) => Outcome::Diverges(ReadDone { batches: Vec::new(), ..done }, end),
                    Err(error) => Outcome::Refused(error),
                },
            };
            if let Some((_, place)) = outcomes.get_mut(*n) {
                *place = outcome;
            }
        }
    }
    outcomes
}

/// Does the client's log diverge from the partition's (KIP-595)? It can be checked if the client sent its last epoch.
async fn diverges(ctx: &RequestContext, look: &Look) -> Result<Option<EpochEnd>, ErrorCode> {
    let Some(last) = look.last_epoch else { return Ok(None) };
    let end = ctx.broker.router.epoch_end(look.part.address, None, LeaderEpoch(last)).await;
    let end = end.map_err(|error| ErrorCode::from(&error))?.ok_or(ErrorCode::OFFSET_OUT_OF_RANGE)?;
    Ok((end.epoch.0 < last || end.end < look.part.from).then_some(end))
}

/// Registers alarms, one message a shard.
async fn register(ctx: &RequestContext, watching: &mut Watching, watched: Vec<(PartitionAddress, Watched)>) {
    if watched.is_empty() {
        return;
    }
    let (alarm, _) = watching.alarms.get_or_insert_with(Alarms::new);
    let mut shards: Vec<(ShardId, Vec<_>)> = Vec::new();
    for (place, watched) in watched {
        match shards.iter_mut().find(|(known, _)| *known == place.shard) {
            Some((_, list)) => list.push(watched),
            None => shards.push((place.shard, vec![watched])),
        }
    }
    for (shard, watched) in shards {
        ctx.broker.router.watch(shard, watched, alarm).await;
    }
}

/// Queues the partitions whose alarm rang; false when there is none.
fn hear(watching: &mut Watching) -> bool {
    let Some((_, alarms)) = &mut watching.alarms else { return false };
    let mut any = false;
    while let Some(token) = alarms.try_ring() {
        any |= watching.session.rang(token);
    }
    any
}

/// Until an alarm rings or the deadline passes.
async fn wait(ctx: &RequestContext, watching: &mut Watching, deadline: Mono) {
    let mut until = pin!(ctx.broker.deadlines.until(deadline));
    poll_fn(|cx| {
        let Watching { session, alarms } = watching;
        if let Some((_, alarms)) = alarms {
            let mut rang = false;
            while let Poll::Ready(Some(token)) = alarms.poll_ring(cx) {
                rang |= session.rang(token);
            }
            if rang {
                return Poll::Ready(());
            }
        }
        until.as_mut().poll(cx)
    })
    .await;
}
