//! `tidewater topic produce`: lines of standard input or a file become records.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::Compression;
use tidewater_storage::model::record::Record;
use tokio::sync::mpsc;

use super::{Remote, is_stdin, partitioner, topic};
use crate::client::{Client, Producer};
use crate::console::{CliError, output};

/// Lines that the reading thread may be ahead.
const AHEAD: usize = 65_536;
/// A batch is sent at this many bytes of keys and values, or when no line is ready.
const BATCH_BYTES: usize = 256 * 1024;

#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    /// The topic
    topic: String,
    /// Read lines from here instead of standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Split each line here into key and value
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,
    /// Write to this partition [default: by key, or in turns]
    #[arg(long, short)]
    partition: Option<i32>,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, short = 'z', default_value = "none", value_parser = compression)]
    compression: Compression,
    /// At most this many records a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    #[command(flatten)]
    remote: Remote,
}

fn compression(text: &str) -> Result<Compression, String> {
    let found = Compression::ALL.into_iter().find(|codec| codec.name() == text);
    found.ok_or_else(|| format!("{text:?}: write none, gzip, snappy, lz4 or zstd"))
}

pub(super) async fn run(args: ProduceArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.remote.bootstrap).await?;
    let info = client.topic(&args.topic).await?;
    let partitions = topic::chosen(&info, args.partition)?;
    let producer = Producer::new(client, &args.topic, args.compression).await?;
    let progress = progress(&args);
    let mut writer = Writer { producer, partitions, turn: 0, open: BTreeMap::new(), sent: 0, progress };
    let mut lines = read_lines(args.file.clone());
    let start = tokio::time::Instant::now();
    while let Some(line) = next(&mut lines, &mut writer).await? {
        let line = line.map_err(|source| CliError::Input { path: args.file.clone().unwrap_or("-".into()), source })?;
        writer.push(line, args.key_separator.as_deref()).await?;
        if let Some(rate) = args.rate {
            let due = start + Duration::from_secs_f64(writer.taken() as f64 / f64::from(rate));
            if due > tokio::time::Instant::now() {
                writer.send_all().await?;
                tokio::time::sleep_until(due).await;
            }
        }
    }
    writer.send_all().await?;
    let acknowledged = writer.producer.flush().await?.len();
    tracing::debug!(acknowledged, "last batches");
    writer.progress.finish_and_clear();
    output::line(&format!("wrote {} records to {}", output::count(writer.sent), args.topic))
}

fn progress(args: &ProduceArgs) -> ProgressBar {
    if is_stdin(args.file.as_ref()) {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {human_pos} records, {per_sec}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

/// Lines, read on a separate thread, since reads of standard input block.
fn read_lines(file: Option<PathBuf>) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let input: std::io::Result<Box<dyn BufRead>> = match file.filter(|path| !is_stdin(Some(path))) {
            None => Ok(Box::new(std::io::BufReader::new(std::io::stdin()))),
            Some(path) => std::fs::File::open(path).map(|f| Box::new(std::io::BufReader::new(f)) as _),
        };
        match input {
            Ok(input) => {
                for line in input.split(b'\n') {
                    if sender.blocking_send(line).is_err() {
                        return;
                    }
                }
            }
            Err(error) => drop(sender.blocking_send(Err(error))),
        }
    });
    receiver
}

type Line = std::io::Result<Vec<u8>>;

/// The next line. If none is ready, sends the open batches before it waits.
async fn next(lines: &mut mpsc::Receiver<Line>, writer: &mut Writer) -> Result<Option<Line>, CliError> {
    match lines.try_recv() {
        Ok(line) => Ok(Some(line)),
        Err(_) => {
            writer.send_all().await?;
            Ok(lines.recv().await)
        }
    }
}

struct Writer {
    producer: Producer,
    partitions: Vec<i32>,
    turn: usize,
    open: BTreeMap<i32, (Vec<Record>, usize)>,
    sent: u64,
    progress: ProgressBar,
}

impl Writer {
    fn taken(&self) -> u64 {
        self.sent + self.open.values().map(|(records, _)| records.len() as u64).sum::<u64>()
    }

    async fn push(&mut self, mut line: Vec<u8>, separator: Option<&str>) -> Result<(), CliError> {
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let (key, value) = split(Bytes::from(line), separator);
        let partition = self.partition(key.as_ref());
        let bytes = value.len() + key.as_ref().map_or(0, Bytes::len);
        let (records, size) = self.open.entry(partition).or_default();
        records.push(Record::new(wall(), key, Some(value)));
        *size += bytes + 16;
        if *size >= BATCH_BYTES {
            self.send(partition).await?;
        }
        Ok(())
    }

    /// By the key's hash; without a key, one partition until its batch is full, then the next.
    fn partition(&self, key: Option<&Bytes>) -> i32 {
        let count = self.partitions.len();
        let at = match key {
            Some(key) => partitioner::partition_of(key, i32::try_from(count).unwrap_or(i32::MAX)) as usize,
            None => self.turn % count.max(1),
        };
        self.partitions.get(at).copied().unwrap_or(0)
    }

    async fn send(&mut self, partition: i32) -> Result<(), CliError> {
        let Some((records, _)) = self.open.remove(&partition) else { return Ok(()) };
        self.turn = self.turn.wrapping_add(1);
        self.sent += records.len() as u64;
        self.progress.set_position(self.sent);
        self.producer.send(partition, records).await?;
        Ok(())
    }

    async fn send_all(&mut self) -> Result<(), CliError> {
        for partition in self.open.keys().copied().collect::<Vec<_>>() {
            self.send(partition).await?;
        }
        Ok(())
    }
}

fn split(line: Bytes, separator: Option<&str>) -> (Option<Bytes>, Bytes) {
    let Some(separator) = separator.map(str::as_bytes).filter(|s| !s.is_empty()) else { return (None, line) };
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => (Some(line.slice(..at)), line.slice(at + separator.len()..)),
        None => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_at_the_first_separator() {
        let line = || Bytes::from_static(b"k::v::w");
        assert_eq!(split(line(), Some("::")), (Some(Bytes::from_static(b"k")), Bytes::from_static(b"v::w")));
        assert_eq!(split(line(), None), (None, line()));
        assert_eq!(split(line(), Some("#")), (None, line()));
    }
}
