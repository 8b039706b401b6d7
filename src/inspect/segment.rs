//! A segment file: its batches, and its index if that is beside it.

use std::path::Path;

use bytes::Bytes;
use serde::Serialize;
use tidewater_storage::model::batch::HEADER_LEN;
use tidewater_storage::model::record::read;
use tidewater_storage::model::{BatchError, BatchHeader};
use tidewater_storage::segment::IndexFile;

use super::error::InspectError;
use super::source::Source;
use super::{View, print_damage};
use crate::console::{CliError, output};

/// Bytes of one read.
const PIECE: u64 = 4 << 20;
/// No batch is larger: above the highest `max.message.bytes`.
const BATCH_MAX: u64 = 128 << 20;
/// Bytes that a batch may unpack to.
const UNPACKED_MAX: usize = 1 << 30;

#[derive(Debug, Default, Serialize)]
pub(super) struct SegmentView {
    name: String,
    size: u64,
    batches: Vec<BatchView>,
    records: u64,
    used: u64,
    /// Zeroes after the last batch: blocks written ahead.
    free: u64,
    index: Option<IndexView>,
    damage: Vec<String>,
}

#[derive(Debug, Serialize)]
struct BatchView {
    position: u64,
    base_offset: u64,
    last_offset: u64,
    records: u32,
    bytes: u32,
    compression: &'static str,
    leader_epoch: i32,
    max_timestamp: i64,
    producer: Option<i64>,
    sequence: i32,
    control: bool,
}

#[derive(Debug, Serialize)]
struct IndexView {
    partition: String,
    start: u64,
    end: u64,
    bytes: u64,
    runs: usize,
}

pub(super) async fn view(source: &Source) -> Result<SegmentView, InspectError> {
    let mut view = SegmentView { name: source.name.clone(), size: source.size, ..SegmentView::default() };
    let mut have = Have { at: 0, bytes: Bytes::new() };
    let mut next = None;
    while view.used < source.size {
        let rest = have.reach(source, view.used, HEADER_LEN as u64).await?;
        let header = match BatchHeader::parse_prefix(&rest) {
            Ok(header) if u64::from(header.len) <= BATCH_MAX => header,
            Ok(header) => {
                view.broken(&BatchError::Length(i32::try_from(header.len).unwrap_or(i32::MAX)));
                break;
            }
            Err(error) => {
                if !all_zero(source, view.used).await? {
                    view.broken(&error);
                }
                break;
            }
        };
        let batch = have.reach(source, view.used, header.len.into()).await?;
        if let Err(error) = BatchHeader::parse(&batch).and_then(|_| header.verify_crc(&batch)) {
            view.broken(&error);
            break;
        }
        if let Some(expected) = next.filter(|next| *next != header.base_offset) {
            let at = view.used;
            view.damage.push(format!("at byte {at}: offset {} instead of {expected}", header.base_offset));
        }
        next = Some(header.next_offset());
        view.take(&header, &batch);
    }
    view.free = source.size - view.used.min(source.size);
    view.index(source).await?;
    Ok(view)
}

/// A window over the source.
struct Have {
    at: u64,
    bytes: Bytes,
}

impl Have {
    /// `len` bytes from `at` on; fewer only at the source's end.
    async fn reach(&mut self, source: &Source, at: u64, len: u64) -> Result<Bytes, InspectError> {
        let covered = at >= self.at && at + len <= self.at + self.bytes.len() as u64;
        if !covered {
            (self.at, self.bytes) = (at, source.read(at, len.max(PIECE)).await?);
        }
        let from = usize::try_from(at - self.at).unwrap_or(usize::MAX).min(self.bytes.len());
        let to = from.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(self.bytes.len());
        Ok(self.bytes.slice(from..to))
    }
}

async fn all_zero(source: &Source, from: u64) -> Result<bool, InspectError> {
    let mut at = from;
    while at < source.size {
        let piece = source.read(at, PIECE).await?;
        if piece.is_empty() || piece.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}

impl SegmentView {
    fn broken(&mut self, error: &BatchError) {
        self.damage.push(format!("at byte {}: {error}", self.used));
    }

    fn take(&mut self, header: &BatchHeader, batch: &Bytes) {
        let read = read(header, batch, UNPACKED_MAX);
        if let Err(error) = read.and_then(|mut records| records.try_for_each(|record| record.map(drop))) {
            self.damage.push(format!("at byte {}: {error}", self.used));
        }
        self.batches.push(BatchView {
            position: self.used,
            base_offset: header.base_offset.get(),
            last_offset: header.next_offset().get().saturating_sub(1),
            records: header.record_count,
            bytes: header.len,
            compression: header.compression().map_or("unknown", |codec| codec.name()),
            leader_epoch: header.leader_epoch.0,
            max_timestamp: header.max_timestamp.0,
            producer: header.producer_id.map(|id| id.0),
            sequence: header.base_sequence,
            control: header.is_control(),
        });
        self.records += u64::from(header.record_count);
        self.used += u64::from(header.len);
    }

    /// Reads the index beside the segment file and compares its checksums with the file's bytes.
    async fn index(&mut self, source: &Source) -> Result<(), InspectError> {
        let path = Path::new(&source.name).with_extension("idx");
        let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
        let index = match IndexFile::decode(&bytes.into()) {
            Ok(index) => index,
            Err(error) => {
                self.damage.push(format!("its index {}: {error}; it is made again when needed", path.display()));
                return Ok(());
            }
        };
        for run in index.index.runs() {
            let bytes = source.read(run.pos.0, run.sum.len.into()).await?;
            if !run.sum.matches(index.partition, &bytes) {
                self.damage
                    .push(format!("at byte {}: the run of {} does not match its checksum", run.pos, run.sum.offsets));
            }
        }
        self.index = Some(IndexView {
            partition: index.partition.to_string(),
            start: index.offsets.start.get(),
            end: index.offsets.end.get(),
            bytes: index.bytes,
            runs: index.index.runs().len(),
        });
        Ok(())
    }
}

impl View for SegmentView {
    fn print(&self) -> Result<(), CliError> {
        let mut table = output::table(&[
            "POSITION",
            "OFFSETS",
            "RECORDS",
            "SIZE",
            "CODEC",
            "EPOCH",
            "MAX TIMESTAMP",
            "PRODUCER",
            "SEQUENCE",
        ]);
        for batch in &self.batches {
            table.add_row([
                batch.position.to_string(),
                format!("{}-{}", batch.base_offset, batch.last_offset),
                format!("{}{}", batch.records, if batch.control { " (control)" } else { "" }),
                output::bytes(batch.bytes.into()),
                batch.compression.into(),
                batch.leader_epoch.to_string(),
                output::when(tidewater_storage::model::TimestampMs(batch.max_timestamp)),
                batch.producer.map_or("-".into(), |id| id.to_string()),
                batch.sequence.to_string(),
            ]);
        }
        output::print(&table)?;
        output::line("")?;
        output::line(&format!(
            "{} batches, {} records, {} of {} used",
            output::count(self.batches.len() as u64),
            output::count(self.records),
            output::bytes(self.used),
            output::bytes(self.size)
        ))?;
        if let Some(index) = &self.index {
            let IndexView { partition, start, end, runs, .. } = index;
            output::line(&format!("index: partition {partition}, offsets [{start}, {end}), {runs} runs"))?;
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

    use bytes::BytesMut;

    use proptest::prelude::*;
    use tidewater_storage::model::batch::patch;
    use tidewater_storage::model::record::{BatchBuilder, Record};
    use tidewater_storage::model::{Compression, LeaderEpoch, Offset, TimestampMs};

    use super::*;

    fn batches(n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        for at in 0..n {
            let mut builder = BatchBuilder::new(Compression::None);
            (0..3).for_each(|i| builder.push(Record::new(TimestampMs(i), None, Some(Bytes::from_static(b"v")))));
            let mut bytes = BytesMut::from(&builder.build()[..]);
            patch(&mut bytes, Offset::new(at * 3), LeaderEpoch(1));
            out.extend_from_slice(&bytes);
        }
        out
    }

    fn look(bytes: &[u8]) -> SegmentView {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("written");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(view(&Source::file(file.path()).expect("opens"))).expect("a view")
    }

    #[test]
    fn whole_segments_and_their_free_blocks() {
        let mut bytes = batches(4);
        bytes.resize(8192, 0);
        let seen = look(&bytes);
        assert_eq!((seen.batches.len(), seen.records, seen.damage.len()), (4, 12, 0));
        assert_eq!(seen.used + seen.free, 8192);
    }

    #[test]
    fn damage_is_placed() {
        let mut bytes = batches(4);
        let len = bytes.len();
        bytes[len - 1] ^= 1;
        let seen = look(&bytes);
        assert_eq!((seen.batches.len(), seen.damage.len()), (3, 1));
        assert!(seen.damage[0].starts_with(&format!("at byte {}: batch checksum", len / 4 * 3)), "{:?}", seen.damage);
        assert_eq!(look(&batches(2)[..100]).damage.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn hostile_bytes_never_panic(flips in proptest::collection::vec((0usize..400, any::<u8>()), 1..8), cut in 0usize..400) {
            let mut bytes = batches(4);
            for (at, to) in flips {
                let len = bytes.len();
                bytes[at % len] = to;
            }
            bytes.truncate(cut);
            look(&bytes);
        }
    }
}
