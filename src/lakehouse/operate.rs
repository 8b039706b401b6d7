//! What operators ask of the task that fills a topic's table, carried out between two of its turns.
//!
//! Runs on the side runtime, in the sink's task. Does not own: what happens to a table (`tidewater_iceberg::sink`), who
//! may ask (`admin::tables`).

use std::time::Duration;

use tidewater_iceberg::plan::Offsets;
use tidewater_iceberg::rewind::Leaving;
use tidewater_iceberg::sink::{AdoptAsk, AdoptFrom, RewindAsk, RewindTo, TableSink};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::{Offset, PartitionIndex, TimestampMs};

use super::drive::{MaintenanceTask, Stop, state_of};
use super::orders::{
    AdoptOrder, AdoptStart, AdoptedTable, DetachedTables, LeavingRows, RewindOrder, RewoundPartition, RewoundTables,
    SinkOrder,
};
use crate::controller::ask::{Answered, Ask, ConfigChange, ConfigOp, ControllerRequest};
use crate::controller::client::CONTROLLER_SHARD;
use crate::limits::CONTROLLER_PATIENCE;

/// How long the sink of a table that was given up waits for its end, before it looks at the table again.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Carries `order` out. A failure is in the answer; the asking side may have gone.
pub(super) async fn carry_out(sink: &mut TableSink, order: SinkOrder, task: &mut MaintenanceTask) {
    match order {
        SinkOrder::Detach(reply) => {
            let done = detach(sink, task).await;
            let is_done = done.is_ok();
            let _ = reply.send(done);
            if is_done {
                let ended = task.stopped.wait_for(|stop| *stop != Stop::Not);
                let _ = tokio::time::timeout(END_PATIENCE, ended).await;
            }
        }
        SinkOrder::Hurry => sink.hurry(),
        SinkOrder::Rewind(order, reply) => {
            let done = rewind(sink, &order, task).await;
            let _ = reply.send(done);
        }
        SinkOrder::Adopt(order, reply) => {
            let done = adopt(sink, order, task).await;
            let _ = reply.send(done);
        }
    }
}

async fn adopt(sink: &mut TableSink, order: AdoptOrder, task: &MaintenanceTask) -> Result<AdoptedTable, String> {
    let AdoptOrder { table, start, offsets, plan } = order;
    let offsets: Offsets = offsets.iter().map(|(at, next)| (PartitionIndex(*at), Offset::new(*next))).collect();
    let from = match start {
        AdoptStart::Earliest => AdoptFrom::Earliest,
        AdoptStart::Offsets => AdoptFrom::Offsets(offsets),
        AdoptStart::Resume => AdoptFrom::Resume(offsets),
    };
    let ask = AdoptAsk { table, from, is_plan: plan };
    let done = {
        let _turn = task.turns.acquire().await;
        sink.adopt(&ask, wall()).await.map_err(|error| error.to_string())?
    };
    let topic = task.config.topic.to_string();
    if !plan && !done.was_ours {
        let (table, rows) = (&done.table, done.rows);
        tracing::info!(%table, topic, ?rows, "a table that another program made was adopted; its topic goes on in it");
    }
    Ok(AdoptedTable {
        topic,
        table: done.table.to_string(),
        plan,
        was_adopted: done.was_ours,
        rows: done.rows,
        snapshots: done.snapshots,
        partition_spec: done.spec,
        added_columns: done.added,
        columns: done.columns,
        offsets: done.offsets.iter().map(|(at, next)| (at.0, next.get())).collect(),
        dead_letters: done.dead_letters.map(|table| table.to_string()),
    })
}

async fn rewind(sink: &mut TableSink, order: &RewindOrder, task: &MaintenanceTask) -> Result<RewoundTables, String> {
    let to = match order {
        RewindOrder { at_ms: Some(at), .. } => RewindTo::Time(TimestampMs(*at)),
        RewindOrder { to_log: true, .. } => RewindTo::Log,
        RewindOrder { offsets, .. } => {
            RewindTo::Offsets(offsets.iter().map(|(at, to)| (PartitionIndex(*at), Offset::new(*to))).collect())
        }
    };
    let ask = RewindAsk { to, is_plan: order.plan, is_forced: order.force };
    let done = {
        let _turn = task.turns.acquire().await;
        sink.rewind(&ask, wall()).await.map_err(|error| error.to_string())?
    };
    // Who asks next sees the table as it is now.
    task.states.set(task.config.topic_id, state_of(&task.config, sink.status()));
    let (table, topic) = (done.table.to_string(), task.config.topic.to_string());
    let partitions = done.partitions.iter().map(|(at, step)| RewoundPartition {
        partition: at.0,
        from: step.from.get(),
        to: step.to.get(),
        lost: step.lost,
    });
    let partitions: Vec<_> = partitions.collect();
    if !order.plan && !partitions.is_empty() {
        let rows = done.leaving.rows;
        tracing::info!(%table, rows, ?partitions, "the table was taken back and is filled again from there");
    }
    let dead = done.dead_letters;
    Ok(RewoundTables {
        topic,
        table,
        plan: order.plan,
        snapshot: done.snapshot.map(|(id, _)| id),
        snapshot_at_ms: done.snapshot.map(|(_, at)| at.0),
        partitions,
        leaving: leaving(done.leaving),
        dead_letters: dead.as_ref().map(|(table, _)| table.to_string()),
        dead_letters_leaving: dead.map(|(_, found)| leaving(found)),
    })
}

fn leaving(found: Leaving) -> LeavingRows {
    let Leaving { rows, files, rewritten, bytes } = found;
    LeavingRows { rows, files, rewritten_files: rewritten, bytes }
}

/// The table first: a sink without its table pauses, while a table whose topic has no sink would keep its owner.
async fn detach(sink: &mut TableSink, task: &MaintenanceTask) -> Result<DetachedTables, String> {
    let detached = {
        let _turn = task.turns.acquire().await;
        sink.detach(wall()).await.map_err(|error| error.to_string())?
    };
    let topic = task.config.topic.as_str();
    let change = ConfigChange::Set("disabled".to_owned());
    let ops = vec![ConfigOp { key: "iceberg.mode".to_owned(), change }];
    let ask = Ask::Configs { topic: topic.to_owned(), ops, validate_only: false };
    let asked = task.controller.call(CONTROLLER_SHARD, |reply| ControllerRequest::Ask {
        ask,
        patience: CONTROLLER_PATIENCE,
        reply,
    });
    let why = match asked.await {
        Ok(Ok(Answered::Done { .. })) => {
            let table = detached.table.to_string();
            tracing::info!(%table, topic, "the table was given up; its topic has no table from now on");
            return Ok(DetachedTables { table, dead_letters: detached.dead_letters.map(|table| table.to_string()) });
        }
        Ok(Ok(other)) => format!("the controller answered a change of settings with {other:?}"),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Err(format!(
        "table {} was given up, but iceberg.mode of topic {topic} is not disabled yet: {why}; ask again",
        detached.table
    ))
}
