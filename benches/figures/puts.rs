//! PUTs an hour of topics into which a record trickles per partition and second, at default settings.
//!
//! Two brokers run side by side, one with 10 partitions and one with 1,000. After a warm-up the PUTs that `/metrics`
//! counts are scaled to an hour. A lane manifest is published at most once a minute, so the scaled number is off by up
//! to one publication (± 3600 / window).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewater_storage::model::record::Record;

use crate::report::Table;
use crate::support::broker::http_get;
use crate::upload::objects;
use crate::{Run, topic};

const PARTITIONS: [i32; 2] = [10, 1000];

/// Counts of one broker.
struct Seen {
    partitions: i32,
    window: Duration,
    records: u64,
    puts: u64,
    /// New objects by folder.
    folders: BTreeMap<String, usize>,
}

pub fn run(run: &Run) {
    let (warm_up, window) = run.pick((12, 40), (1, 2));
    let seconds = (Duration::from_secs(warm_up), Duration::from_secs(window));
    let dirs = PARTITIONS.map(|partitions| (partitions, run.dir("puts")));
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let watched = dirs.iter().map(|(partitions, dir)| scope.spawn(move || watch(dir.path(), *partitions, seconds)));
        let watched: Vec<_> = watched.collect();
        watched.into_iter().map(|thread| thread.join().expect("watched")).collect()
    });
    let table = Table::new(&["partitions", "records/s", "window", "PUTs", "PUTs an hour", "objects by folder"]);
    for one in seen {
        let seconds = one.window.as_secs_f64();
        let folders: Vec<String> = one.folders.iter().map(|(folder, count)| format!("{folder} {count}")).collect();
        table.row(&[
            one.partitions.to_string(),
            format!("{:.0}", one.records as f64 / seconds),
            format!("{seconds:.0} s"),
            one.puts.to_string(),
            format!("**{:.0}**", one.puts as f64 * 3600.0 / seconds),
            folders.join(", "),
        ]);
    }
}

fn watch(dir: &Path, partitions: i32, (warm_up, window): (Duration, Duration)) -> Seen {
    let (data, bucket) = (dir.join("data"), topic::bucket(dir, "puts"));
    let broker = topic::broker(&data, &bucket);
    let runtime = topic::runtime();
    let mut producer = runtime.block_on(async {
        topic::create(&broker.kafka, partitions, &[]).await;
        topic::producer(&broker.kafka).await
    });
    let value = Bytes::from_static(&[b'.'; 100]);
    let mut trickle = |time: Duration| -> u64 {
        let (start, mut records) = (Instant::now(), 0);
        for second in 1.. {
            runtime.block_on(async {
                for partition in 0..partitions {
                    let record = Record::new(topic::now(), None, Some(value.clone()));
                    producer.send(partition, vec![record]).await.expect("sent");
                    records += 1;
                }
                producer.flush().await.expect("acknowledged");
            });
            std::thread::sleep(Duration::from_secs(second).saturating_sub(start.elapsed()));
            if start.elapsed() >= time {
                break;
            }
        }
        records
    };
    trickle(warm_up);
    let (start, puts, before) = (Instant::now(), put_requests(&broker.admin), objects(&bucket));
    let records = trickle(window);
    let (window, puts) = (start.elapsed(), put_requests(&broker.admin) - puts);
    let mut folders = BTreeMap::new();
    for (key, _) in objects(&bucket).into_iter().filter(|object| !before.contains(object)) {
        // <cluster>/<epoch>/<folder>/…; any other key counts under its first part.
        let parts: Vec<&str> = key.split('/').filter(|part| !part.is_empty()).collect();
        let folder = parts.get(2).or(parts.first()).copied().unwrap_or_default();
        *folders.entry(folder.to_owned()).or_default() += 1;
    }
    broker.stop();
    Seen { partitions, window, records, puts, folders }
}

/// PUTs that the broker has sent since its start.
fn put_requests(admin: &str) -> u64 {
    let (_, text) = http_get(admin, "/metrics").expect("metrics");
    let counts = text.lines().filter(|line| line.starts_with("tidewater_bucket_requests_total{kind=\"put"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
