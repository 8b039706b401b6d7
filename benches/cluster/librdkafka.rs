//! A producer of librdkafka at its defaults beside our own: what its users wait for after a leader has died.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::python;

/// An acknowledged record; times since 1970.
#[derive(Clone, Copy)]
struct Record {
    partition: i32,
    due: Duration,
    acknowledged: Duration,
}

/// The producer. Dropping it kills it.
pub struct Librdkafka {
    child: Child,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Librdkafka {
    /// `rate` records a second over the partitions in turn.
    pub fn start(bootstrap: &str, topic: &str, partitions: i32, rate: u64) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/cluster/librdkafka.py");
        let mut command = Command::new(python::kafka_clients());
        command.arg(script).args([bootstrap, topic, &partitions.to_string(), &rate.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("python runs");
        let (lines, records) = (BufReader::new(child.stdout.take().expect("a pipe")), Arc::new(Mutex::new(Vec::new())));
        let into = Arc::clone(&records);
        // Ends with the child.
        std::thread::spawn(move || {
            for line in lines.lines() {
                let record = parse(&line.expect("the script's text"));
                into.lock().expect("no thread panics").push(record);
            }
        });
        Self { child, records }
    }

    /// Since 1970, as its records count.
    pub fn now() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock")
    }

    /// For each of the partitions, from `since` to the acknowledgement of the first record that was due after it.
    pub fn waits(&mut self, since: Duration, partitions: impl IntoIterator<Item = i32>) -> Vec<Duration> {
        if let Some(status) = self.child.try_wait().expect("wait") {
            panic!("the producer of librdkafka ended with {status}");
        }
        let records = self.records.lock().expect("no thread panics");
        let first = |partition: i32| {
            let of = records.iter().filter(|record| record.partition == partition && record.due >= since);
            let first = of.map(|record| record.acknowledged).min();
            first.unwrap_or_else(|| panic!("librdkafka wrote nothing to partition {partition}")) - since
        };
        partitions.into_iter().map(first).collect()
    }
}

impl Drop for Librdkafka {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Record {
    let mut numbers = line.split(' ').map(|word| word.parse::<u64>().expect("a number"));
    let mut next = || numbers.next().expect("three numbers in a line");
    let partition = i32::try_from(next()).expect("a partition");
    Record { partition, due: Duration::from_nanos(next()), acknowledged: Duration::from_nanos(next()) }
}
