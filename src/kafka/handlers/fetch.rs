//! `Fetch` (1): reads hot or cold, waits for more if there is too little, sends stored batches as they are.
//!
//! Owns: what a request wants (`Terms`) and which kind of answer it gets. Sessions (KIP-227): what one remembers is
//! `session`, how many there are and whose turn it is `sessions`, reading and waiting `poll`.

mod poll;
mod session;
mod sessions;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::FetchRequest;
use tidewater_storage::model::LeaderEpoch;

use crate::kafka::RequestContext;
use crate::kafka::connection::{CloseReason, Reply};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::{FETCH_BYTES_MAX, FETCH_WAIT_MAX};
use crate::kafka::naming::until_named;
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::view::Hints;
use crate::kafka::wire::fetch::{HINTS_FROM, PartitionAnswer, encode_response};
use crate::kafka::wire::leader::NodeEndpoint;
use crate::kafka::wire::request;
use crate::partition::message::Isolation;
use poll::{Found, poll};
use session::Kind;
pub use sessions::FetchSessions;
use sessions::Opened;

/// First version that names topics by id.
const IDS_FROM: i16 = 13;

/// Decodes, reads, perhaps waits and reads again, answers.
pub async fn serve(ctx: &RequestContext, body: BytesMut) -> Reply {
    let malformed = |why| Reply::Close(CloseReason::Malformed { key: ctx.key as i16, version: ctx.version, why });
    let checked = match request::check(ctx.key, ctx.version, body) {
        Ok(checked) => checked,
        Err(why) => return malformed(why),
    };
    let _decoded = ctx.room(checked.decoding_bytes()).await;
    let request: FetchRequest = match request::decode(checked) {
        Ok(request) => request,
        Err(why) => return malformed(why),
    };
    let refuse = |error| {
        ctx.broker.metrics.count_code(ctx.key, error);
        Reply::Send(encode_response(ctx.correlation_id, ctx.version, error, 0, Vec::new(), &[]), None)
    };
    let terms = Terms::of(&request);
    let (broker, by_id) = (&ctx.broker, ctx.version >= IDS_FROM);
    let (opened, loan) = match broker.fetches.open(&request, by_id, terms.isolation, broker.env.clock.now()) {
        Ok(opened) => opened,
        Err(error) => return refuse(error),
    };
    let (mut topics, id, mut lease) = match opened {
        Opened::Once(mut watching) => {
            let Found { outcomes, lease } = poll(ctx, &mut watching, &terms, Kind::Once).await;
            (watching.session.whole(outcomes), 0, lease)
        }
        Opened::Full(mut watching) => {
            let Found { outcomes, lease } = poll(ctx, &mut watching, &terms, Kind::Full).await;
            let topics = watching.session.whole(outcomes);
            (topics, broker.fetches.keep(watching, &broker.env.rng, broker.env.clock.now()), lease)
        }
        Opened::Incremental(id, mut watching) => {
            let Found { outcomes, lease } = poll(ctx, &mut watching, &terms, Kind::Incremental).await;
            let topics = watching.session.changed(outcomes);
            if !broker.fetches.give_back(loan, watching) {
                return refuse(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
            }
            (topics, id, lease)
        }
    };
    for partition in topics.iter().flat_map(|(_, partitions)| partitions) {
        broker.metrics.count_code(ctx.key, partition.error);
    }
    let nodes = name_leaders(ctx, &mut topics).await;
    let pieces = encode_response(ctx.correlation_id, ctx.version, ErrorCode::NONE, id, topics, &nodes);
    lease.set(pieces.iter().map(Bytes::len).sum());
    Reply::Send(pieces, Some(lease))
}

/// Puts the leader beside each error that says that it is not here; the brokers named.
async fn name_leaders(ctx: &RequestContext, topics: &mut [(TopicRef, Vec<PartitionAnswer>)]) -> Vec<NodeEndpoint> {
    if ctx.version < HINTS_FROM || topics.iter().flat_map(|(_, of)| of).all(|answer| answer.error.is_none()) {
        return Vec::new();
    }
    until_named(ctx, topics.iter().flat_map(|(topic, of)| of.iter().map(move |a| (topic, a.index, a.error)))).await;
    let (image, leaders) = (ctx.image(), ctx.leaders());
    let mut hints = Hints::new(&image, &leaders);
    for (topic, partitions) in topics {
        partitions.iter_mut().for_each(|answer| answer.leader = hints.beside(answer.error, topic, answer.index));
    }
    hints.nodes()
}

/// What the client wants of the answer as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    min_bytes: usize,
    max_bytes: usize,
    wait: Duration,
    isolation: Isolation,
}

impl Terms {
    fn of(request: &FetchRequest) -> Self {
        let natural = |n: i32| usize::try_from(n).unwrap_or(0);
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let max_bytes = natural(request.max_bytes).min(FETCH_BYTES_MAX);
        Self {
            min_bytes: natural(request.min_bytes).min(max_bytes),
            max_bytes,
            wait: wait.min(FETCH_WAIT_MAX),
            isolation: if request.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted },
        }
    }
}

/// The leader epoch that a client claims to know; -1 is "does not say".
pub(super) fn claimed_epoch(claimed: i32) -> Option<LeaderEpoch> {
    (claimed >= 0).then_some(LeaderEpoch(claimed))
}

#[cfg(test)]
mod tests;
