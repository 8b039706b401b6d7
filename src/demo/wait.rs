//! Waits, over the admin port, until the broker has archived, trimmed local segments and filled the table.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::broker::DemoBroker;
use super::error::DemoError;
use super::progress::Phase;
use super::{Bounds, count, output};
use crate::console::admin;

/// Between two requests.
const LOOK: Duration = Duration::from_millis(100);
/// How long a step may make no progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// The fields of `GET /v1/topics/{topic}` that the demo uses.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TopicStatus {
    pub(super) partitions: Vec<PartitionStatus>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PartitionStatus {
    pub(super) partition: i32,
    pub(super) local_start_offset: u64,
    pub(super) archived_end_offset: u64,
    pub(super) high_watermark: u64,
    pub(super) archived_bytes: u64,
    pub(super) archive_stopped: Option<String>,
    pub(super) table_offset: Option<u64>,
    pub(super) table_skipped: Vec<String>,
    pub(super) table_paused: Option<String>,
}

pub(super) async fn status(broker: &DemoBroker, topic: &str) -> Result<TopicStatus, DemoError> {
    let silent = |what: String| DemoError::Silent { of: "the admin port", what };
    let found = admin::get(&broker.admin, &format!("/v1/topics/{topic}")).await?;
    let found = found.ok_or_else(|| silent(format!("topic {topic}")))?;
    serde_json::from_value(found).map_err(|e| silent(format!("a field that the demo reads: {e}")))
}

/// Waits until all of `log` is in the bucket.
pub(super) async fn archived(broker: &DemoBroker, topic: &str, log: &Bounds) -> Result<(), DemoError> {
    let phase = Phase::begin("archiving to the bucket", Some(count(log)));
    let ended = until(broker, topic, log, "archiving", &phase, |p| Some(p.archived_end_offset)).await?;
    let bytes = ended.partitions.iter().map(|p| p.archived_bytes).sum();
    phase.done(&format!("all records in the bucket, {} at {}", output::bytes(bytes), broker.bucket));
    Ok(())
}

/// Waits until no local segment has records of `log`.
pub(super) async fn trimmed(broker: &DemoBroker, topic: &str, log: &Bounds) -> Result<(), DemoError> {
    let phase = Phase::begin("trimming the local disk", Some(count(log)));
    until(broker, topic, log, "trimming the local disk", &phase, |p| Some(p.local_start_offset)).await?;
    phase.done("local segments trimmed; reads now come from the bucket");
    Ok(())
}

/// Waits until all of `log` is in the table.
pub(super) async fn in_table(
    broker: &DemoBroker,
    topic: &str,
    log: &Bounds,
    phase: &Phase,
) -> Result<TopicStatus, DemoError> {
    until(broker, topic, log, "the table", phase, |p| p.table_offset).await
}

/// Waits until `reached` of every partition is at the end of `log`.
async fn until(
    broker: &DemoBroker,
    topic: &str,
    log: &Bounds,
    step: &'static str,
    phase: &Phase,
    reached: impl Fn(&PartitionStatus) -> Option<u64>,
) -> Result<TopicStatus, DemoError> {
    let (mut moved, mut best) = (Instant::now(), None);
    loop {
        let status = status(broker, topic).await?;
        let done = progress(log, &status, &reached);
        if done >= count(log) && status.partitions.len() >= log.len() {
            return Ok(status);
        }
        phase.at(done);
        if best.is_none_or(|best| done > best) {
            (moved, best) = (Instant::now(), Some(done));
        }
        if moved.elapsed() > PATIENCE {
            return Err(DemoError::Stalled { step, after: PATIENCE, why: why(&status) });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Records of `log` below the reached offsets.
fn progress(log: &Bounds, status: &TopicStatus, reached: impl Fn(&PartitionStatus) -> Option<u64>) -> u64 {
    let at = |n: i32| status.partitions.iter().find(|p| p.partition == n).and_then(&reached).unwrap_or(0);
    log.iter().map(|(n, (start, end))| at(*n).min(*end).saturating_sub(*start)).sum()
}

/// The broker's reason for no progress, or the offsets reached.
fn why(status: &TopicStatus) -> String {
    let reason = status.partitions.iter().find_map(|p| p.archive_stopped.clone().or_else(|| p.table_paused.clone()));
    reason.unwrap_or_else(|| {
        let at = status.partitions.iter().map(|p| {
            let (n, end, local, archived) =
                (p.partition, p.high_watermark, p.local_start_offset, p.archived_end_offset);
            let table = p.table_offset.map_or("none".to_owned(), |offset| offset.to_string());
            format!("partition {n} ends at {end}, local start {local}, archived to {archived}, table {table}")
        });
        format!("the broker gives no reason; {}", at.collect::<Vec<_>>().join("; "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(n: i32, archived: u64) -> PartitionStatus {
        PartitionStatus {
            partition: n,
            local_start_offset: 0,
            archived_end_offset: archived,
            high_watermark: 100,
            archived_bytes: 0,
            archive_stopped: None,
            table_offset: None,
            table_skipped: Vec::new(),
            table_paused: None,
        }
    }

    #[test]
    fn progress_counts_from_log_start_to_the_end_before_waiting() {
        let log = Bounds::from([(0, (10, 100)), (1, (0, 50))]);
        let status = TopicStatus { partitions: vec![partition(0, 40), partition(1, 70)] };
        assert_eq!(progress(&log, &status, |p| Some(p.archived_end_offset)), 30 + 50);
        assert_eq!(progress(&log, &status, |p| p.table_offset), 0);
    }
}
