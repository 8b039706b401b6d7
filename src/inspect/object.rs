//! A data object of the bucket (bundle, part, segment, gathered): its index, and whether its bytes match the checksums.

use std::collections::BTreeMap;

use serde::Serialize;
use tidewater_storage::model::{PartitionId, TimestampMs};
use tidewater_tiering::format::{
    Body, DataIndex, DataKind, Extent, ExtentObject, LaneEvent, PartitionEntry, TRAILER_LEN, Trailer, decode_index,
};

use super::error::InspectError;
use super::source::Source;
use super::{View, print_damage};
use crate::console::{CliError, output};

#[derive(Debug, Serialize)]
pub(super) struct ObjectView {
    name: String,
    size: u64,
    kind: &'static str,
    cluster: String,
    epoch: u32,
    lane: u32,
    sequence: u64,
    term: u64,
    log_index: u64,
    written: i64,
    index_offset: u64,
    index_bytes: u32,
    partitions: Vec<PartitionView>,
    events: Vec<String>,
    seal: Option<String>,
    cut: Option<u64>,
    damage: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PartitionView {
    partition: String,
    start: u64,
    end: u64,
    log_start: u64,
    bytes: u64,
    max_timestamp: i64,
    epochs: BTreeMap<i32, u64>,
    extents: Vec<ExtentView>,
}

#[derive(Debug, Serialize)]
struct ExtentView {
    /// `None` is this object.
    object: Option<String>,
    position: u64,
    bytes: u64,
    runs: usize,
    /// Runs of this object whose bytes match; other objects are not read.
    sound: usize,
}

/// Reads the trailer, the index and each run.
pub(super) async fn view(source: &Source) -> Result<ObjectView, InspectError> {
    let wrong = |error| InspectError::Format { what: source.name.clone(), source: error };
    let trailer = trailer(source).await?;
    if trailer.body != Body::Index {
        let (what, found) = (source.name.clone(), super::manifest::called(trailer.body));
        return Err(InspectError::Other { what, found, instead: "manifest" });
    }
    let bytes = source.read(trailer.index.offset, trailer.index.len.into()).await?;
    trailer.index.verify(&bytes).map_err(wrong)?;
    let index = decode_index(&bytes).map_err(wrong)?;
    let mut damage = Vec::new();
    let mut partitions = Vec::with_capacity(index.partitions.len());
    for entry in &index.partitions {
        partitions.push(partition(source, trailer.index.offset, entry, &mut damage).await?);
    }
    Ok(show(source, &trailer, &index, partitions, damage))
}

/// The trailer of any binary object.
pub(super) async fn trailer(source: &Source) -> Result<Trailer, InspectError> {
    let tail = source.read(source.size.saturating_sub(TRAILER_LEN as u64), TRAILER_LEN as u64).await?;
    let parsed = Trailer::parse(&tail, source.size);
    parsed.map_err(|error| InspectError::Format { what: source.name.clone(), source: error })
}

async fn partition(
    source: &Source,
    data_end: u64,
    entry: &PartitionEntry,
    damage: &mut Vec<String>,
) -> Result<PartitionView, InspectError> {
    let mut extents = Vec::with_capacity(entry.extents.len());
    for part in &entry.extents {
        extents.push(extent(source, data_end, entry.partition, part, damage).await?);
    }
    Ok(PartitionView {
        partition: entry.partition.to_string(),
        start: entry.offsets.start.get(),
        end: entry.offsets.end.get(),
        log_start: entry.log_start.get(),
        bytes: entry.bytes(),
        max_timestamp: entry.max_timestamp.0,
        epochs: entry.epochs.iter().map(|epoch| (epoch.epoch.0, epoch.start.get())).collect(),
        extents,
    })
}

async fn extent(
    source: &Source,
    data_end: u64,
    partition: PartitionId,
    extent: &Extent,
    damage: &mut Vec<String>,
) -> Result<ExtentView, InspectError> {
    let object = match extent.object {
        ExtentObject::Here => None,
        ExtentObject::Part(name) => Some(name.to_string()),
    };
    let (mut sound, mut at) = (0, extent.position);
    for run in extent.runs.iter().filter(|_| object.is_none()) {
        let end = at.saturating_add(run.sum.len.into());
        let bytes = if end <= data_end { source.read(at, run.sum.len.into()).await? } else { bytes::Bytes::new() };
        if run.sum.matches(partition, &bytes) {
            sound += 1;
        } else {
            damage.push(format!(
                "at byte {at}: offsets {} of partition {partition} do not match their checksum",
                run.sum.offsets
            ));
        }
        at = end;
    }
    Ok(ExtentView { object, position: extent.position, bytes: extent.bytes(), runs: extent.runs.len(), sound })
}

fn show(
    source: &Source,
    trailer: &Trailer,
    index: &DataIndex,
    partitions: Vec<PartitionView>,
    damage: Vec<String>,
) -> ObjectView {
    ObjectView {
        name: source.name.clone(),
        size: source.size,
        kind: match index.kind {
            DataKind::Bundle if index.seal.is_some() => "seal",
            DataKind::Bundle => "bundle",
            DataKind::Part => "part",
            DataKind::Segment => "segment",
            DataKind::Gathered => "gathered",
        },
        cluster: index.home.cluster.to_string(),
        epoch: index.home.epoch.0,
        lane: index.lane.0,
        sequence: index.sequence.0,
        term: index.term.0,
        log_index: index.log_index.0,
        written: index.written.0,
        index_offset: trailer.index.offset,
        index_bytes: trailer.index.len,
        partitions,
        events: index.events.iter().map(event).collect(),
        seal: index.seal.map(|seal| format!("last bundle {}, continues in epoch {}", seal.last, seal.next_epoch)),
        cut: index.cut.as_ref().map(|cut| cut.number),
        damage,
    }
}

fn event(event: &LaneEvent) -> String {
    match event {
        LaneEvent::Created { partition, topic, start, .. } => {
            format!("partition {partition} of topic {topic} created at offset {start}")
        }
        LaneEvent::Dropped { partition } => format!("partition {partition} dropped"),
        LaneEvent::LogStartMoved { partition, to } => format!("partition {partition}: log start moved to {to}"),
        LaneEvent::Departed { partition, to, at } => format!("partition {partition} departed to lane {to} at {at}"),
        LaneEvent::Arrived { partition, from, at } => format!("partition {partition} arrived from lane {from} at {at}"),
    }
}

impl View for ObjectView {
    fn print(&self) -> Result<(), CliError> {
        let Self { kind, name, lane, sequence, term, log_index, cluster, epoch, .. } = self;
        output::line(&format!("{kind} {name}: {}", output::bytes(self.size)))?;
        output::line(&format!(
            "cluster {cluster}, epoch {epoch}, lane {lane}, sequence {sequence}, term {term}, log index {log_index}, written {}",
            output::when(TimestampMs(self.written))
        ))?;
        output::line(&format!("index: {} at byte {}", output::bytes(self.index_bytes.into()), self.index_offset))?;
        output::line("")?;
        let mut table = output::table(&["PARTITION", "OFFSETS", "LOG START", "SIZE", "RUNS", "MAX TIMESTAMP", "WHERE"]);
        for partition in &self.partitions {
            let runs: usize = partition.extents.iter().map(|extent| extent.runs).sum();
            let places = partition.extents.iter().map(|extent| match &extent.object {
                None => format!("byte {}", extent.position),
                Some(object) => format!("byte {} of {object}", extent.position),
            });
            table.add_row([
                partition.partition.clone(),
                format!("[{}, {})", partition.start, partition.end),
                partition.log_start.to_string(),
                output::bytes(partition.bytes),
                runs.to_string(),
                output::when(TimestampMs(partition.max_timestamp)),
                places.collect::<Vec<_>>().join(", "),
            ]);
        }
        output::print(&table)?;
        for event in &self.events {
            output::line(&format!("event: {event}"))?;
        }
        if let Some(seal) = &self.seal {
            output::line(&format!("seal: {seal}"))?;
        }
        if let Some(cut) = self.cut {
            output::line(&format!("closes cut {cut}"))?;
        }
        print_damage(&self.damage)
    }

    fn damage(&self) -> &[String] {
        &self.damage
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), index in 0u32..300) {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            let len = index.min(bytes.len() as u32);
            let reference = tidewater_tiering::format::IndexRef {
                offset: (bytes.len() as u32 - len).into(),
                len,
                crc: crc32c::crc32c(&bytes[bytes.len() - len as usize..]),
            };
            file.write_all(&bytes).expect("written");
            file.write_all(&Trailer { index: reference, body: Body::Index }.encode()).expect("written");
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let source = Source::file(file.path()).expect("opens");
            prop_assert!(runtime.block_on(view(&source)).is_err());
            prop_assert!(runtime.block_on(super::super::manifest::view(&source)).is_err());
        }
    }
}
