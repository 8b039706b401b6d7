//! `tidewater topic consume`: records to standard output.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use clap::Args;
use serde_json::{Value, json};
use tidewater_storage::model::record::Record;

use super::Reading;
use super::seek::{of, within};
use super::topic::{Target, chosen};
use crate::client::{Client, OffsetQuery};
use crate::console::CliError;

const MAX_WAIT_MS: i32 = 500;
const MAX_BYTES: i32 = 8 << 20;

#[derive(Debug, Args)]
pub(super) struct ConsumeArgs {
    /// The topic
    topic: String,
    /// Where to begin: earliest, latest, an offset, or @ and a time in ms [default: the group's offsets, else earliest]
    #[arg(long, value_name = "WHERE")]
    from: Option<Target>,
    /// Begin at this offset
    #[arg(long, short, conflicts_with = "from", value_name = "OFFSET")]
    offset: Option<u64>,
    /// Read this partition only
    #[arg(long, short)]
    partition: Option<i32>,
    /// Stop after this number of records
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,
    /// Stop at the present end of each partition
    #[arg(long, short)]
    end: bool,
    /// Begin at this group's offsets and commit to it when done or interrupted (without joining it)
    #[arg(long, short)]
    group: Option<String>,
    /// Format of a record: %t topic, %p partition, %o offset, %T time in ms, %k key, %v value, %h headers
    #[arg(long, short, default_value = "%v", value_name = "FORMAT")]
    format: String,
    #[command(flatten)]
    reading: Reading,
}

pub(super) async fn run(args: ConsumeArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.reading.remote.bootstrap).await?;
    let mut at = begin(&mut client, &args).await?;
    let partitions = at.keys().copied().collect::<Vec<_>>();
    let ends = match args.end {
        true => Some(client.list_offsets(&args.topic, &partitions, OffsetQuery::Latest).await?),
        false => None,
    };
    let mut printer = Printer { args: &args, left: args.count, out: BufWriter::new(std::io::stdout()) };
    let mut interrupted = std::pin::pin!(interrupted(args.group.is_some()));
    loop {
        let open = still_open(&at, ends.as_deref());
        if open.is_empty() || printer.left == Some(0) {
            break;
        }
        let found = tokio::select! {
            found = client.fetch(&args.topic, &open, MAX_WAIT_MS, MAX_BYTES) => found?,
            // The answer of the fetch is still to come on the old connection.
            () = &mut interrupted => {
                client = Client::connect(&args.reading.remote.bootstrap).await?;
                break;
            }
        };
        for found in found {
            let end = ends.iter().flatten().find(|(n, _)| *n == found.partition).and_then(|(_, end)| *end);
            let reached = printer.print(found.partition, &found.records, end)?;
            at.insert(found.partition, reached.unwrap_or(found.next_offset));
        }
        printer.out.flush()?;
    }
    if let Some(group) = &args.group {
        client.commit(group, &args.topic, &at.into_iter().collect::<Vec<_>>()).await?;
    }
    Ok(())
}

/// Completes on Ctrl-C if `listen`; else never, and Ctrl-C ends the process.
async fn interrupted(listen: bool) {
    if !listen || tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The first offset to read of each partition.
async fn begin(client: &mut Client, args: &ConsumeArgs) -> Result<BTreeMap<i32, u64>, CliError> {
    let target = args.offset.map(Target::Offset).or(args.from);
    let mut at: BTreeMap<i32, u64> =
        target.unwrap_or(Target::Earliest).resolve(client, &args.topic, args.partition).await?.into_iter().collect();
    if let (None, Some(group)) = (target, &args.group) {
        let committed = client.group_offsets(group).await?;
        let committed = committed.into_iter().filter(|offset| offset.topic == args.topic);
        let committed = committed.map(|offset| (offset.partition, offset.offset)).collect::<Vec<_>>();
        let partitions = at.keys().copied().collect::<Vec<_>>();
        let ends = client.list_offsets(&args.topic, &partitions, OffsetQuery::Latest).await?;
        resume(&mut at, &committed, &ends);
    }
    if at.is_empty() {
        chosen(&client.topic(&args.topic).await?, args.partition)?;
    }
    Ok(at)
}

/// Moves partitions from their log start to the group's offsets. An offset outside the log (its records were deleted,
/// or the topic was deleted and created again) is moved to the nearer end, as by `group seek`.
fn resume(at: &mut BTreeMap<i32, u64>, committed: &[(i32, u64)], ends: &[(i32, Option<u64>)]) {
    for (partition, offset) in committed {
        at.entry(*partition).and_modify(|at| *at = within(*offset, Some(*at), of(ends, *partition)));
    }
}

/// The partitions that have not reached their end, with the next offset.
fn still_open(at: &BTreeMap<i32, u64>, ends: Option<&[(i32, Option<u64>)]>) -> Vec<(i32, u64)> {
    let done = |n: i32, at: u64| match ends {
        None => false,
        Some(ends) => ends.iter().any(|(m, end)| *m == n && end.unwrap_or(0) <= at),
    };
    at.iter().map(|(n, at)| (*n, *at)).filter(|(n, at)| !done(*n, *at)).collect()
}

struct Printer<'a> {
    args: &'a ConsumeArgs,
    left: Option<u64>,
    out: BufWriter<std::io::Stdout>,
}

impl Printer<'_> {
    /// Prints the records before `end`, up to the number left. Returns the first offset that it did not print, if any.
    fn print(&mut self, partition: i32, records: &[Record], end: Option<u64>) -> Result<Option<u64>, CliError> {
        for record in records {
            let offset = record.offset.get();
            if end.is_some_and(|end| offset >= end) || self.left == Some(0) {
                return Ok(Some(offset));
            }
            if self.args.reading.json {
                serde_json::to_writer(&mut self.out, &as_json(partition, record)).map_err(std::io::Error::from)?;
            } else {
                formatted(&mut self.out, &self.args.format, &self.args.topic, partition, record)?;
            }
            self.out.write_all(b"\n")?;
            self.left = self.left.map(|left| left - 1);
        }
        Ok(None)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn as_json(partition: i32, record: &Record) -> Value {
    let word = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map(|bytes| text(bytes));
    let headers = record.headers.iter().map(|header| json!({ "key": text(&header.key), "value": word(&header.value) }));
    json!({
        "partition": partition,
        "offset": record.offset.get(),
        "timestamp": record.timestamp.0,
        "key": word(&record.key),
        "value": word(&record.value),
        "headers": headers.collect::<Vec<_>>(),
    })
}

/// Keys and values are written byte for byte, null ones as nothing. `%%` is a percent sign, `\n` a new line, `\t` a
/// tab.
fn formatted(out: &mut impl Write, format: &str, topic: &str, partition: i32, record: &Record) -> std::io::Result<()> {
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, if matches!(c, '%' | '\\') { chars.next() } else { None }) {
            ('%', Some('t')) => write!(out, "{topic}")?,
            ('%', Some('p')) => write!(out, "{partition}")?,
            ('%', Some('o')) => write!(out, "{}", record.offset)?,
            ('%', Some('T')) => write!(out, "{}", record.timestamp)?,
            ('%', Some('k')) => out.write_all(record.key.as_deref().unwrap_or_default())?,
            ('%', Some('v')) => out.write_all(record.value.as_deref().unwrap_or_default())?,
            ('%', Some('h')) => {
                for (n, header) in record.headers.iter().enumerate() {
                    let comma = if n > 0 { "," } else { "" };
                    let value = header.value.as_deref().unwrap_or_default();
                    write!(out, "{comma}{}={}", text(&header.key), text(value))?;
                }
            }
            ('%', Some('%')) => write!(out, "%")?,
            ('\\', Some('n')) => writeln!(out)?,
            ('\\', Some('t')) => write!(out, "\t")?,
            (c, Some(next)) => write!(out, "{c}{next}")?,
            (c, None) => write!(out, "{c}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidewater_storage::model::record::RecordHeader;
    use tidewater_storage::model::{Offset, TimestampMs};

    use super::*;

    #[test]
    fn records_are_formatted() {
        let mut record = Record::new(TimestampMs(7), Some(Bytes::from_static(b"k")), None);
        record.offset = Offset::new(5);
        record.headers = vec![RecordHeader { key: Bytes::from_static(b"a"), value: Some(Bytes::from_static(b"b")) }];
        let mut out = Vec::new();
        formatted(&mut out, "%t/%p@%o %T %k=%v [%h]\\t100%%", "topic", 3, &record).expect("writes");
        assert_eq!(String::from_utf8_lossy(&out), "topic/3@5 7 k= [a=b]\t100%");
    }

    #[test]
    fn a_group_resumes_within_the_log() {
        let mut at = BTreeMap::from([(0, 10), (1, 10), (2, 10), (3, 10)]);
        let ends = [(0, Some(20)), (1, Some(20)), (2, Some(20)), (3, Some(20))];
        resume(&mut at, &[(0, 5), (1, 15), (2, 5000), (7, 1)], &ends);
        assert_eq!(at, BTreeMap::from([(0, 10), (1, 15), (2, 20), (3, 10)]));
    }

    #[test]
    fn partitions_close_at_their_end() {
        let at = BTreeMap::from([(0, 5), (1, 5)]);
        assert_eq!(still_open(&at, None), [(0, 5), (1, 5)]);
        assert_eq!(still_open(&at, Some(&[(0, Some(5)), (1, Some(6))])), [(1, 5)]);
    }
}
